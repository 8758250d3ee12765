"""Hash what ten runs leave, arrays and metrics.jsonl: a rebuilding must change none of them.

    python tests/support/hashes.py > before.txt     # on one commit
    python tests/support/hashes.py > after.txt      # on the other, same machine
    diff before.txt after.txt

`--package FOLDER` runs another checkout. Threads are fixed, so the bits hang on the machine alone.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT / "data" / "winters_tale.txt"
SMALL = ["phase=pretrain", "threads=1", "steps=12", "eval_every=5", "schedule.warmup_steps=2"]
TALE = [f"data.pretrain.path={TEXT}", "data.pretrain.val_fraction=0.1"]
RUNS = {
    "default": ["chat=false", "threads=1"],
    "tune": ["phase=tune", "threads=1", "epochs=5"],
    "shakespeare_char": ["experiment=shakespeare_char", *TALE, *SMALL],
    "shakespeare": ["experiment=shakespeare", *TALE, *SMALL],
    "mixed": ["experiment=mixed", "chat=false", "threads=1", "epochs=3"],
    "mixture_packed": [
        "experiment=mixed",
        "phase=tune",
        "data.tune.packed=true",
        "threads=1",
        "steps=12",
    ],
    "dropout_accumulate_ema": [
        "experiment=tiny",
        "chat=false",
        "model.dropout=0.1",
        "accumulate=2",
        "ema=0.9",
        "threads=1",
    ],
    "float64": ["experiment=tiny", "chat=false", "dtype=float64", "threads=1"],
    "numba": ["experiment=tiny", "chat=false", "kernels=numba", "threads=1"],
    "threads": ["experiment=tiny", "chat=false", "batch_size=16", "threads=2"],
}


def hashes(folder: Path) -> str:
    """Return one digest of all arrays and metrics below a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        where = path.relative_to(folder)
        if path.name == "metrics.jsonl":
            total.update(f"{where}\n".encode() + path.read_bytes())
        elif path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    if not name.startswith("manifest"):
                        total.update(f"{where} {name}\n".encode() + archive.read(name))
    return total.hexdigest()


def main() -> None:
    """Print a line a run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--package", type=Path, default=ROOT, help="the checkout to run")
    parser.add_argument("runs", nargs="*", help=f"some of: {', '.join(RUNS)}")
    chosen = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(chosen.package.resolve())}
    for name in chosen.runs or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "llmlab", *RUNS[name], "hydra.run.dir=run"]
            subprocess.run(
                command, cwd=folder, env=environment, check=True, capture_output=True, text=True
            )
            print(f"{name:24}{hashes(Path(folder) / 'run')}", flush=True)


if __name__ == "__main__":
    main()
