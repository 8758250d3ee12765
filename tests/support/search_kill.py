"""Kill a search with SIGKILL again and again; it must end as if nothing had happened.

    python tests/support/search_kill.py                                # 40 trials, 10 kills
    python tests/support/search_kill.py --trials 12 --kills 3          # short
    python tests/support/search_kill.py --workers 4                    # all of them on one journal
    python tests/support/search_kill.py --workers 4 --postgresql       # on Debian's postgresql

With one worker, trials, reports and pruning, metrics and last checkpoints must equal those of a
search that was left alone. With several, no trial may be lost or there twice, and each must hold
what its run says.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from postgres import postgres

SPACE = [
    "lr=tag(log,interval(1e-4,1e-1))",
    "model.num_blocks=range(1,3)",
    "optimizer=choice(adam,lion)",
    "model.stack.blocks.layers.feed_forward.layer.activation=choice(relu,gelu_tanh)",
]
KEYS = ["phase=search", "experiment=tiny", "data.pretrain.val_fraction=0.2", "threads=1"]
KEYS += ["epochs=6", "eval_every=2", "save_every=4", *SPACE]
REPRODUCIBLE = ("params", "state", "values", "reports", "pruning", "constraints")


def start(folder: Path, keys: list[str], name: str = "out") -> subprocess.Popen:
    """Start a worker of the search in `folder`."""
    command = [sys.executable, "-m", "llmlab", *KEYS, *keys, f"hydra.sweep.dir={folder}"]
    log = open(folder.parent / f"{folder.name}.{name}", "ab")  # noqa: SIM115 - ends with the child
    return subprocess.Popen(
        command, cwd=folder.parent, stdout=log, stderr=log, start_new_session=True
    )


def kill(process: subprocess.Popen) -> None:
    """End a worker and whatever it has started, without a word."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def trials(folder: Path) -> list[dict]:
    """Return what the storage holds of each trial, without times."""
    from llmlab.search.storage import import_optuna, open_storage

    optuna, record = import_optuna(), json.loads((folder / "search.json").read_text())
    storage = open_storage(folder, record["storage"])
    study = optuna.load_study(study_name=record["study"], storage=storage)
    return [
        {
            "number": trial.number,
            "params": trial.params,
            "state": trial.state.name,
            "values": trial.values,
            "reports": trial.intermediate_values,
            "pruning": trial.user_attrs.get("pruning"),
            "constraints": trial.constraints,
        }
        for trial in study.get_trials()
    ]


def check(folder: Path, count: int) -> list[dict]:
    """Return the trials; leave if one is lost, there twice, or not what its run says."""
    found = trials(folder)
    if [trial["number"] for trial in found] != list(range(count)):
        sys.exit(f"FAILED: {len(found)} trials, not {count}")
    for trial in found:
        run = folder / f"trial-{trial['number']:04d}"
        result = json.loads((run / "result.json").read_text())
        states = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
        if states.get(trial["state"]) != result["status"]:
            sys.exit(f"FAILED: {run.name}: {trial['state']}, but its job is {result['status']}")
        if trial["values"] != [result["val_loss"]]:
            sys.exit(f"FAILED: {run.name}: {trial['values']}, but its job {result['val_loss']}")
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        losses = [row["val_loss"] for row in rows if "val_loss" in row]
        if list(trial["reports"].values()) != losses:
            sys.exit(f"FAILED: {run.name}: reports differ from its metrics")
        own = {key: result["overrides"][key] for key in trial["params"]}
        if own != {k: v if isinstance(v, str) else repr(v) for k, v in trial["params"].items()}:
            sys.exit(f"FAILED: {run.name}: trained with {own}")
    return found


def killed(folder: Path, keys: list[str], kills: int, workers: int, rng: random.Random) -> int:
    """Run the workers to the end, with so many kills on the way; return how many there were.

    They are spread over the trials, each some moments after another trial has ended.
    """
    done, deadline = 0, time.monotonic() + 3600
    count = int(keys[0].partition("=")[2])
    running = [start(folder, keys, f"out{n}") for n in range(workers)]
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        time.sleep(0.01)
        ended = sum(1 for _ in folder.glob("trial-*/result.json"))
        if done < kills and ended >= (done + 1) * count // (kills + 2):
            time.sleep(rng.uniform(0, 0.5))
            which = rng.randrange(workers)
            if running[which].poll() is None:
                kill(running[which])
                done += 1
                running[which] = start(folder, keys, f"out{which}")
    # One that was killed last may have left a trial when all others had ended.
    if start(folder, keys).wait():
        sys.exit((folder.parent / f"{folder.name}.out").read_text()[-3000:])
    return done


def compare(calm: Path, other: Path) -> None:
    """Leave if two searches of one worker differ in anything but times."""
    for one, two in zip(trials(calm), trials(other), strict=True):
        for key in REPRODUCIBLE:
            if one[key] != two[key]:
                sys.exit(f"FAILED: trial {one['number']}: {key}: {one[key]} and {two[key]}")
    for folder in sorted(calm.glob("trial-*")):
        newest = max((folder / "checkpoints").glob("step-*.npz"))
        for path in (folder / "metrics.jsonl", newest):
            its = other / path.relative_to(calm)
            if not its.exists() or its.read_bytes() != path.read_bytes():
                sys.exit(f"FAILED: {path.relative_to(calm)} differs")


def main() -> None:
    """Run the searches and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--pruner", default="median")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    keys = [f"search.trials={options.trials}", f"search.sampler={options.sampler}"]
    keys += [f"search.pruner={options.pruner}"]
    with postgres() if options.postgresql else nullcontext() as url:
        keys += [f"search.storage={url}"] if url else []
        said, done = trial_of(options, keys, rng)
    print(said)
    if done < options.kills:
        sys.exit(f"FAILED: only {done} kills")


def trial_of(options: argparse.Namespace, keys: list[str], rng: random.Random) -> tuple[str, int]:
    """Run one search with kills and check it; return what to print, and how many there were."""
    with tempfile.TemporaryDirectory() as name:
        other = Path(name) / "killed"
        done = killed(other, keys, options.kills, options.workers, rng)
        found = check(other, options.trials)
        verdict = "no trial lost or there twice"
        if options.workers == 1:
            calm = Path(name) / "calm"
            if start(calm, keys).wait():
                sys.exit((Path(name) / "calm.out").read_text()[-3000:])
            compare(calm, other)
            verdict = "equal to the undisturbed search"
    pruned = sum(trial["state"] == "PRUNED" for trial in found)
    count = f"{options.workers} worker{'s' * (options.workers > 1)}, {len(found)} trials"
    return f"{count}, {pruned} pruned, {done} kills: {verdict}", done


if __name__ == "__main__":
    main()
