"""Does TPE find better values than drawing at random? The same searches with both, by seed.

    python benchmarks/search.py                # 10 seeds, 30 trials each: about 10 minutes
    python benchmarks/search.py --seeds 2 --trials 12 --again 1

Each seed is a search by each sampler, on the statements that ship with llmlab; of the same seed
both begin with the same ten random trials. What is compared is the best value that a search saw,
and what its best configuration reaches with new seeds, which is what it is worth.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

from llmlab.cli import main as llmlab
from llmlab.cli import search_end
from llmlab.report import page
from llmlab.report.study import read_study
from llmlab.study.statistics import paired_difference

SAMPLERS = ("tpe", "random")
BASE = ["experiment=tiny", "epochs=5", "data.pretrain.val_fraction=0.2", "threads=1"]
SPACE = [
    "lr=tag(log,interval(1e-4,1e-1))",
    "optimizer=choice(adam,adamw,lion,sgd)",
    "clip_norm=tag(log,interval(0.1,10))",
    "batch_size=choice(2,4,8)",
    "model.embedding_dim=choice(16,32,64)",
    "model.num_blocks=range(1,4)",
    "model.dropout=interval(0,0.4)",
]


def quiet(*argv: str) -> None:
    """Run a command line; show what it printed only if it fails."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = llmlab(list(argv))
    if code:
        sys.exit(f"{' '.join(argv)}\n{out.getvalue()[-3000:]}")


def searched(folder: Path, sampler: str, seed: int, trials: int, again: int) -> dict[str, float]:
    """Search once; return the best value, and its mean over new seeds."""
    keys = [f"search.sampler={sampler}", f"search.seed={seed}", f"search.trials={trials}"]
    quiet("phase=search", *BASE, *SPACE, *keys, f"hydra.sweep.dir={folder}")
    best = json.loads((folder / "best.json").read_text())["value"]
    sweep = folder.with_name(f"{folder.name}-best")
    new = ",".join(str(1 + n) for n in range(again))
    quiet(
        *("-m", "--config-dir", str(folder), "experiment=best"),
        *(f"seed={new}", f"hydra.sweep.dir={sweep}"),
    )
    values = [v for arm in read_study(sweep).arms for v in arm.values("val_loss").values()]
    return {"best": best, "again": sum(values) / len(values)}


def verdict(what: str, tpe: dict[int, float], random: dict[int, float]) -> str:
    """Return a sentence on the paired difference."""
    found = paired_difference(tpe, random)
    word = "cannot be told apart from" if found.low <= 0 <= found.high else "differs from"
    return (
        f"{what}: tpe {word} random: {found.mean:+.4f} (95 % interval {found.low:+.4f} to "
        f"{found.high:+.4f}, p = {found.p:.2g}, {len(tpe)} seeds; lower is better)"
    )


def main() -> None:
    """Run all searches and print a row a seed, and the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--begin", type=int, default=0, help="first seed")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--again", type=int, default=3, help="new seeds of each best")
    options = parser.parse_args()
    page.can_draw = search_end.can_draw = lambda: False  # pages take as long as the trainings
    found: dict[str, dict[int, dict[str, float]]] = {sampler: {} for sampler in SAMPLERS}
    print("| seed | tpe | random | tpe, new seeds | random, new seeds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        for seed in range(options.begin, options.begin + options.seeds):
            for sampler in SAMPLERS:
                folder = Path(name) / f"{sampler}-{seed}"
                own = searched(folder, sampler, seed, options.trials, options.again)
                found[sampler][seed] = own
            row = [found[s][seed][which] for which in ("best", "again") for s in SAMPLERS]
            print(f"| {seed} | {' | '.join(f'{value:.4f}' for value in row)} |", flush=True)
    if options.seeds > 1:
        for which, what in (("best", "best value seen"), ("again", "with new seeds")):
            values = [{k: v[which] for k, v in found[s].items()} for s in SAMPLERS]
            print(verdict(what, *values))
        gaps = [own["again"] - own["best"] for each in found.values() for own in each.values()]
        print(f"a search's best value was optimistic by {sum(gaps) / len(gaps):.4f} on average")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
