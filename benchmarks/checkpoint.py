"""How much longer than plain `np.savez` + fsync a durable, hashed checkpoint takes.

    python benchmarks/checkpoint.py [--repeats 15] [--folder DIR]

Both write the same arrays (parameters and Adam's two moments of a transformer), taking turns, each
time under a new name, keeping the last two; the median of each and their ratio are printed. Ours
is what training pays: writing, hashing, both syncs, the small files and the pruning.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from llmlab.checkpoints import CheckpointFolder, load

SIZES = {
    "rustgpt 0.5 M": (128, 256, 3, 533),
    "5 M": (256, 1024, 6, 2000),
    "25 M": (512, 2048, 8, 1000),
}


def state(width: int, hidden: int, blocks: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Return arrays with the names and shapes of a small transformer and its optimizer."""
    shapes = {"embedding.weight": (vocabulary, width), "head.weight": (width, vocabulary)}
    for block in range(blocks):
        shapes[f"blocks.{block}.attention.qkv.weight"] = (width, 3 * width)
        shapes[f"blocks.{block}.attention.out.weight"] = (width, width)
        shapes[f"blocks.{block}.up.weight"] = (width, hidden)
        shapes[f"blocks.{block}.up.bias"] = (hidden,)
        shapes[f"blocks.{block}.down.weight"] = (hidden, width)
        shapes[f"blocks.{block}.norm.weight"] = (width,)
    rng = np.random.default_rng(0)
    return {
        f"{kind}/{name}": rng.random(shape, dtype=np.float32)
        for kind in ("params", "optimizer/m", "optimizer/v")
        for name, shape in shapes.items()
    }


def plain(folder: Path, step: int, arrays: dict[str, np.ndarray]) -> None:
    """Save as most programs do, with the one sync that they leave out."""
    with open(folder / f"plain-{step}.npz", "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    (folder / f"plain-{step - 2}.npz").unlink(missing_ok=True)


def seconds(function, *arguments) -> float:
    """Time one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def main() -> None:
    """Measure each size and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--folder", help="where to write (default: the temporary folder)")
    options = parser.parse_args()
    heads = ("size", "arrays", "MB", "savez ms", "save ms", "ratio", "load ms")
    print("".join(head.rjust(14) for head in heads))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, size in SIZES.items():
            arrays = state(*size)
            meta = {"step": 1, "tokenizer": [f"word{i}" for i in range(size[3])]}
            ours, theirs, loads = [], [], []
            ours_in = CheckpointFolder(Path(folder) / name)
            for step in range(options.repeats + 1):
                theirs.append(seconds(plain, Path(folder), step, arrays))
                ours.append(seconds(ours_in.save, step, arrays, meta))
                loads.append(seconds(load, ours_in.path(step)))
            a, b, c = (1e3 * statistics.median(times[1:]) for times in (theirs, ours, loads))
            megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
            cells = (name, len(arrays), f"{megabytes:.1f}", f"{a:.1f}", f"{b:.1f}", f"{b / a:.2f}")
            print("".join(str(cell).rjust(14) for cell in (*cells, f"{c:.1f}")))


if __name__ == "__main__":
    main()
