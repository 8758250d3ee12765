"""What watching costs: steps with and without the callback `watch`, taking turns.

    python benchmarks/watch.py [--rounds 20] [--every 20] [--batch 8]

Both trainings are in one process and take turns of `every` steps, so that whatever else the
machine does meets both; a ratio is that of neighbouring turns, the figure their median with
quartiles. Networks are the default one and a GPT-2 of 0.9 M parameters.
"""

import argparse
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from timing import quartiles, spread, table

from llmlab.batch import Batch
from llmlab.build import new_optimizer, new_stack
from llmlab.cli.start import compose
from llmlab.params import Layout
from llmlab.text.tokenizers.byte import ByteTokenizer
from llmlab.train.callbacks.metrics import MetricsFile
from llmlab.train.callbacks.watch import Watch
from llmlab.train.progress import Progress
from llmlab.train.trackers import NoTracker
from llmlab.train.trainer import Trainer

NETWORKS = {
    "default": (),
    "gpt2, 0.9 M": ("model=gpt2", "model.embedding_dim=128", "model.hidden_dim=512",
                  "model.num_blocks=4", "model.num_heads=4", "model.max_seq_len=128"),
}  # fmt: skip


class Turns:
    """A training that goes on for some steps at a time, watched or not."""

    def __init__(self, overrides: Any, options: argparse.Namespace, folder: Path | None):
        config = compose("phase=pretrain", "lr=1e-4", *overrides)
        stack = new_stack(config.model, ByteTokenizer())
        params = Layout(stack).init(0)
        self._trainer = Trainer(stack, params, new_optimizer(config), lr=1e-4,
                                threads=options.threads)  # fmt: skip
        time = config.model["max_seq_len"]
        ids = np.random.default_rng(0).integers(256, size=(options.batch, time + 1))
        weights = np.ones((options.batch, time), np.float32)
        self._batch = Batch(ids[:, :-1].copy(), ids[:, 1:].copy(), weights)
        self._progress, self._watch = Progress(), None
        if folder is not None:
            metrics, tracker = MetricsFile(folder / "metrics.jsonl"), NoTracker()
            batches = lambda: iter([self._batch])  # noqa: E731
            self._watch = Watch(
                self._trainer, folder, "x", metrics, tracker, batches, options.every
            )
            self._watch.on_start(self._progress)

    def turn(self, steps: int) -> float:
        """Return the processor seconds of some steps: other work disturbs them less."""
        began = process_time()
        for _ in range(steps):
            result = self._trainer.step([self._batch])
            self._progress.step += 1
            if self._watch is not None:
                self._watch.on_row(self._progress, result, {})
        return process_time() - began


def main() -> None:
    """Measure both networks."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, choices=[1])
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, overrides) in enumerate(NETWORKS.items()):
            folder = Path(scratch, str(number))
            plain, watched = Turns(overrides, options, None), Turns(overrides, options, folder)
            for each in (plain, watched):
                each.turn(options.every)
            ratios, steps = [], []
            for turn in range(options.rounds):
                order = (plain, watched) if turn % 2 else (watched, plain)
                seconds = {id(each): each.turn(options.every) for each in order}
                ratios.append(seconds[id(watched)] / seconds[id(plain)])
                steps.append(seconds[id(plain)] / options.every * 1e3)
            size = (folder / "watch.jsonl").stat().st_size / (options.rounds + 2) / 1024
            rows.append([name, spread(quartiles(steps), 1), spread(quartiles(ratios), 3),
                         f"{size:.1f}"])  # fmt: skip
    heads = ["network", "a step, ms", f"with watch every={options.every}", "a row, KiB"]
    print(table(heads, rows))


if __name__ == "__main__":
    main()
