"""How long it takes until a command has started, as ratios to an empty Hydra app.

    python benchmarks/startup.py [--rounds 11] [--only NAME ...]

Whole processes, from start to end; all take turns; medians over the rounds with quartiles.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from timing import ratios, spread, table

EMPTY = "empty Hydra app"
APP = """
import hydra

@hydra.main(version_base=None, config_path=None)
def main(config):
    pass

main()
"""


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the arguments of Python by name."""
    app = folder / "empty_app.py"
    app.write_text(APP)
    wanted = {
        "python -c pass": ["-c", "pass"],
        "import numpy": ["-c", "import numpy"],
        "import hydra": ["-c", "import hydra"],
        "import numba": ["-c", "import numba"],
        "import torch": ["-c", "import torch"],
        "import llmlab": ["-c", "import llmlab"],
        EMPTY: [str(app), "hydra.run.dir=.", "hydra.output_subdir=null"],
        "python -m llmlab --help": ["-m", "llmlab", "--help"],
        "python -m llmlab phase=list": ["-m", "llmlab", "phase=list"],
        "python -m llmlab phase=summary": ["-m", "llmlab", "phase=summary"],
    }
    missing = {f"import {name}" for name in ("numba", "torch") if find_spec(name) is None}
    return {name: words for name, words in wanted.items() if name not in missing}


def seconds(words: list[str], folder: Path) -> float:
    """Run Python with `words` in `folder` and return the time; end if it fails."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    took = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr[-500:]}")
    return took


def main() -> None:
    """Measure all commands."""
    assert __doc__
    # Byte code is written once and then read, as for any user.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = commands(folder)
        parser = argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--rounds", type=int, default=11)
        parser.add_argument("--only", nargs="+", choices=known, default=list(known))
        options = parser.parse_args()
        chosen = [*dict.fromkeys([EMPTY, *options.only])]
        times: dict[str, list[float]] = {command: [] for command in chosen}
        for command in chosen:
            seconds(known[command], folder)
        for number in range(options.rounds):
            shift = number % len(chosen)
            for command in chosen[shift:] + chosen[:shift]:
                times[command].append(seconds(known[command], folder))
    rows = [
        (name, f"{statistics.median(found):.3f}", spread(ratios(found, times[EMPTY])))
        for name, found in times.items()
    ]
    print(table(("process", "seconds", f"time / time of the {EMPTY}"), rows))


if __name__ == "__main__":
    main()
