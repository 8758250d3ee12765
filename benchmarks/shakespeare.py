"""Tiny Shakespeare by letters: our recipes, nanoGPT's here and in PyTorch, and five letters.

    python benchmarks/shakespeare.py FILE [--seeds 3] [--only torch --only long ...]
                                     [--threads auto] [--torch-threads 1 ...] [KEY=VALUE ...]

FILE is https://github.com/karpathy/char-rnn/blob/master/data/tinyshakespeare/input.txt or any
other text. Its first 90 % train, its last 10 % are measured whole, in windows of the training
context side by side, as `phase=evaluate` does. Every run is a process of its own, timed from
start to end with all its preparation; seed by seed all take turns. PyTorch runs eagerly, with the
number of threads that suits it best. Further arguments, `kernels=numba` say, go to our commands.
At last nanoGPT's recipe runs some steps more, with a clock round the loading of batches.
"""

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from quality import figure, llmlab
from timing import cores, table

from llmlab import build
from llmlab.batch import Batch
from llmlab.checkpoints import load
from llmlab.cli.start import compose
from llmlab.phases.training import stage_data, stage_model
from llmlab.text import DATASETS, Dataset, train_tokenizer
from llmlab.train.fit import fit
from llmlab.train.trainer import Trainer

NAMES = {
    "nanogpt": "nanoGPT's recipe, llmlab",
    "torch": "nanoGPT's recipe, PyTorch",
    "ours": "our recipe",
    "long": "our recipe, long",
}
EXPERIMENTS = {"nanogpt": "shakespeare_char", "ours": "shakespeare", "long": "shakespeare_long"}
PEER = "torch"
BASELINE = "5-gram"
STEPS, WARMUP, BATCH, LR = 2000, 100, 12, 1e-3
TRIAL = 100  # steps, to find the number of threads


def peer(path: str, seed: int, threads: int, steps: int) -> None:
    """Train nanoGPT's network in PyTorch, as nanoGPT does; print what `ours` reads."""
    import torch
    from peers import Network, Sizes, tensors
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    tokenizer = train_tokenizer("char", [Path(path)])
    s = Sizes(False, tokenizer.vocab_size, 128, 512, 4, 4, 64, "gelu_tanh")
    spec = {"type": "text", "path": path, "max_seq_len": s.context}
    whole = DATASETS.build(spec, "data", tokenizer=tokenizer)
    training, validation = whole.split(whole.val_fraction, seed)
    ids = np.empty(training.length, np.intp)
    training.read(0, ids)
    letters = torch.from_numpy(ids)
    net = Network(s)
    for name, p in net.named_parameters():
        if p.dim() > 1:
            small = name.endswith(("out.weight", "down.weight"))
            nn.init.normal_(p, std=0.02 / math.sqrt(2 * s.blocks) if small else 0.02)
    matrices = [p for p in net.parameters() if p.dim() > 1]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": [p for p in net.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.99))
    begin = time.perf_counter()
    for step in range(steps):
        rise = (step + 1) / (WARMUP + 1)
        fall = (1 + math.cos(math.pi * max(0, step - WARMUP) / (STEPS - WARMUP))) / 2
        for group in optimizer.param_groups:
            group["lr"] = LR * min(rise, 0.1 + 0.9 * fall)
        starts = torch.randint(len(letters) - s.context, (BATCH,)).tolist()
        x = torch.stack([letters[a : a + s.context] for a in starts])
        y = torch.stack([letters[a + 1 : a + 1 + s.context] for a in starts])
        loss = net(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    print(f"seconds {time.perf_counter() - begin:.3f}")
    if steps == TRIAL:
        return
    total = tokens = 0.0
    with torch.inference_mode():
        for batch in validation.batches(64, 0, 0):
            total += net(*tensors(batch)).item() * batch.tokens
            tokens += batch.tokens
    print(f"loss {total / tokens:.6f}")
    print(f"parameters {sum(p.numel() for p in net.parameters())}")


def ask_peer(path: Path, seed: int, threads: int, steps: int = STEPS) -> str:
    """Run `peer` in a process of its own and return what it prints."""
    words = [str(path), "--peer", str(seed), str(threads), str(steps)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"PyTorch failed with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def ours(folder: Path, experiment: str, path: Path, words: list[str]) -> tuple[float, str]:
    """Train one of our experiments; return the seconds and what `phase=evaluate` prints."""
    text = f"data.pretrain.path={path}"
    begin = time.perf_counter()
    command = [f"experiment={experiment}", "phase=pretrain", text, "hydra.run.dir=run", *words]
    llmlab(folder, *command)
    took = time.perf_counter() - begin
    return took, llmlab(folder, "phase=evaluate", "checkpoint=run")


def parameters(folder: Path) -> int:
    """Return how many parameters the checkpoint of a run has."""
    newest = max((folder / "run" / "checkpoints").glob("step-*.npz"))
    arrays = load(newest).arrays
    return sum(array.size for name, array in arrays.items() if name.startswith("params/"))


class Watched:
    """Batches of a dataset, with a clock.

    Attributes
    ----------
    seconds
        What training has waited for them.
    """

    def __init__(self, dataset: Dataset):
        self.dataset, self.num_batches, self.seconds = dataset, dataset.num_batches, 0.0

    def batches(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the dataset's batches."""
        iterator = self.dataset.batches(batch_size, seed, epoch, start)
        while True:
            begin = time.perf_counter()
            batch = next(iterator, None)
            self.seconds += time.perf_counter() - begin
            if batch is None:
                return
            yield batch


def loading(path: Path, overrides: list[str]) -> tuple[float, float]:
    """Return the milliseconds that a step takes, and those that it waits for its batch."""
    text = f"data.pretrain.path={path}"
    config = compose("experiment=shakespeare_char", "phase=pretrain", text, *overrides)
    model = stage_model(config, None, None)
    watched = Watched(stage_data(config, model, "pretrain")[0])
    with Trainer(
        model.stack,
        model.params,
        build.new_optimizer(config),
        lr=LR,
        threads=build.resolve_threads(config.threads, config.batch_size, model.max_seq_len),
        kernels=config.kernels,
    ) as trainer:
        where = {"stage": "pretrain", "batch_size": config.batch_size, "seed": config.seed}
        progress = fit(trainer, watched, steps=TRIAL // 10, **where)
        watched.seconds, begin = 0.0, time.perf_counter()
        fit(trainer, watched, steps=TRIAL + TRIAL // 10, progress=progress, **where)
        took = time.perf_counter() - begin
    return 1e3 * took / TRIAL, 1e3 * watched.seconds / TRIAL


def main() -> None:
    """Train everything, then print one table."""
    assert __doc__
    known = [name for name in NAMES if name != PEER or find_spec("torch")]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=known)
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--torch-threads", type=int, action="append")
    parser.add_argument("--peer", nargs=3, type=int, help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    path = options.file.resolve()
    if options.peer:
        peer(str(path), *options.peer)
        return
    chosen = [name for name in known if name in (options.only or known)]
    counts = options.torch_threads or sorted({1, cores()})
    threads = counts[0]
    if PEER in chosen and len(counts) > 1:
        trials = {n: figure(ask_peer(path, 0, n, TRIAL), "seconds") for n in counts}
        threads = min(trials, key=trials.__getitem__)
        print(f"PyTorch is fastest with {threads} of {counts} threads", file=sys.stderr)
    losses: dict[str, list[float]] = {name: [] for name in chosen}
    times: dict[str, list[float]] = {name: [] for name in chosen}
    sizes: dict[str, str] = {}
    simple = ""
    for seed in range(options.seeds):
        for name in chosen:
            with tempfile.TemporaryDirectory() as scratch:
                if name == PEER:
                    begin = time.perf_counter()
                    answer = ask_peer(path, seed, threads)
                    took, size = time.perf_counter() - begin, figure(answer, "parameters")
                else:
                    words = [f"seed={seed}", f"threads={options.threads}", *overrides]
                    took, answer = ours(Path(scratch), EXPERIMENTS[name], path, words)
                    size = parameters(Path(scratch))
                    simple = f"{figure(answer, BASELINE):.4f}"
            losses[name].append(figure(answer, "loss"))
            times[name].append(took)
            sizes[name] = f"{size:,.0f}"
            print(
                f"seed {seed}, {NAMES[name]}: {losses[name][-1]:.4f}, {took:.0f} s", file=sys.stderr
            )
    rows = [
        (
            NAMES[name],
            f"{statistics.mean(found):.4f}",
            f"{min(found):.4f} to {max(found):.4f}",
            sizes[name],
            f"{statistics.median(times[name]):.0f}",
        )
        for name, found in losses.items()
    ]
    rows.append((BASELINE, simple, "", "", ""))
    print(table(("", "loss, mean", "of the seeds", "parameters", "seconds"), rows))
    step, wait = loading(path, [f"threads={options.threads}", *overrides])
    print(f"\na step of {step:.1f} ms waits {wait:.2f} ms for its batch, {wait / step:.2%}")


if __name__ == "__main__":
    main()
