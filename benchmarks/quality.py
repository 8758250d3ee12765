"""Train the default run for several seeds and evaluate each stage on its own data.

    python benchmarks/quality.py                    # seeds 0 to 4
    python benchmarks/quality.py --seeds 3 batch_size=1

Runs the command line as a user would; further arguments go to the training command.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def llmlab(folder: Path, *arguments: str) -> str:
    """Run one command line in `folder` and return what it prints."""
    command = [sys.executable, "-m", "llmlab", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}: {done.stderr}")
    return done.stdout


def figure(text: str, name: str) -> float:
    """Return the first number of the line that starts with `name`."""
    found = re.search(rf"^{name}\s+(-?[\d.]+)", text, re.MULTILINE)
    if found is None:
        sys.exit(f"no {name} in:\n{text}")
    return float(found[1])


def main() -> None:
    """Print a table row per seed, and the figures over all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    options, overrides = parser.parse_known_args()
    excesses, recalls = [], []
    print("| seed | pre-training: excess over the floor, nats/token | chats word for word |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for seed in range(options.seeds):
            folder = Path(name) / str(seed)
            folder.mkdir()
            llmlab(folder, "chat=false", f"seed={seed}", "hydra.run.dir=run", *overrides)
            first = llmlab(folder, "phase=evaluate", "checkpoint=run/pretrain")
            second = llmlab(folder, "phase=evaluate", "checkpoint=run/tune")
            excesses.append(figure(first, "excess"))
            recalls.append(int(figure(second, "recall")))
            print(f"| {seed} | {excesses[-1]:.4f} | {recalls[-1]} of 53 |", flush=True)
    median, worst = statistics.median(excesses), max(excesses)
    print(
        f"\nmedian excess {median:.4f}, worst {worst:.4f}; {sum(recalls)} of {53 * len(recalls)} "
        f"answers word for word, fewest {min(recalls)}"
    )


if __name__ == "__main__":
    main()
