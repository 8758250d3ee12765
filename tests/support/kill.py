"""Kill a training run with SIGKILL again and again; it must end as if nothing had happened.

    python tests/support/kill.py                # 20 kills
    python tests/support/kill.py --kills 200    # the long form

The same command line is started until it exits with 0; then the newest checkpoint and the
metrics must be byte for byte those of a run that was left alone. A part of the kills waits for
the temporary file of a save, so that they fall inside one.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMON = [
    "model.embedding_dim=32",
    "model.hidden_dim=64",
    "model.num_blocks=1",
    "model.dropout=0.1",
    "batch_size=4",
    "accumulate=2",
    "schedule.warmup_steps=5",
    "save_every=3",
    "eval_every=7",
    "threads=2",
]
RUNS = {
    "pretrain": ["phase=pretrain", "epochs=EPOCHS", "data.pretrain.val_fraction=0.2"],
    "tune": ["phase=tune", "epochs=EPOCHS", "data.tune.val_fraction=0.2"],
}


def start(folder: Path, keys: list[str]) -> subprocess.Popen:
    """Start or continue the run in `folder`."""
    command = [sys.executable, "-m", "llmlab", f"resume={folder}", *keys]
    log = open(folder.parent / f"{folder.name}.out", "ab")  # noqa: SIM115 - ends with the child
    return subprocess.Popen(command, cwd=folder.parent, stdout=log, stderr=log)


def saving(folder: Path) -> bool:
    """Return whether a checkpoint is being written at this moment."""
    try:
        return any(entry.name.endswith(".tmp") for entry in os.scandir(folder / "checkpoints"))
    except FileNotFoundError:
        return False


def kill_one(folder: Path, keys: list[str], rng: random.Random, wait_for_save: bool) -> str:
    """Start, kill at a random moment; return "save", "run", or "end" if it ended before."""
    process = start(folder, keys)
    began = time.monotonic()
    moment = began + rng.uniform(0.3, 2.5)
    skip = rng.randrange(3)  # saves to let pass
    while process.poll() is None:
        if wait_for_save and saving(folder):
            if skip == 0:
                break
            skip -= 1
            while saving(folder) and process.poll() is None:
                pass
        if not wait_for_save and time.monotonic() > moment:
            break
        time.sleep(0.0002)
    if process.poll() is not None:
        if process.returncode:
            sys.exit((folder.parent / f"{folder.name}.out").read_text())
        return "end"
    process.kill()
    process.wait()
    # What counts is what the kill left: a temporary file is a save that was cut.
    return "save" if saving(folder) else "run"


def newest(folder: Path) -> Path:
    """Return the checkpoint of the highest step."""
    return max((folder / "checkpoints").glob("step-*.npz"))


def trial(stage: str, kills: int, epochs: int, rng: random.Random) -> dict[str, int]:
    """Kill `kills` runs' starts of one stage and compare each finished run; count the kills."""
    keys = [key.replace("EPOCHS", str(epochs)) for key in RUNS[stage]] + COMMON
    counts = {"save": 0, "run": 0, "runs": 0}
    with tempfile.TemporaryDirectory() as name:
        calm = Path(name) / "calm"
        if start(calm, keys).wait():
            sys.exit((Path(name) / "calm.out").read_text())
        while counts["save"] + counts["run"] < kills:
            folder = Path(name) / f"killed-{counts['runs']}"
            while True:
                enough = counts["save"] + counts["run"] >= kills
                if enough and start(folder, keys).wait() == 0:
                    break
                fate = kill_one(folder, keys, rng, rng.random() < 0.6)
                if fate == "end":
                    break
                counts[fate] += 1
            counts["runs"] += 1
            for path in (newest(calm), calm / "metrics.jsonl"):
                other = folder / path.relative_to(calm)
                if not other.exists() or other.read_bytes() != path.read_bytes():
                    sys.exit(f"FAILED: {stage}: {other.name} differs from the calm run's")
    return counts


def main() -> None:
    """Run the trials and print how many kills there were."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    total = {"save": 0, "run": 0, "runs": 0}
    for index, stage in enumerate(RUNS):
        kills = (options.kills + 1 - index) // 2
        for key, value in trial(stage, kills, options.epochs, rng).items():
            total[key] += value
    kills = total["save"] + total["run"]
    print(f"{kills} kills in {total['runs']} runs, {total['save']} inside a save: all equal")
    if total["save"] * 4 < kills:
        sys.exit("FAILED: fewer than a quarter of the kills fell inside a save")


if __name__ == "__main__":
    main()
