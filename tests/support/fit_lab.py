"""A training loop over numbers."""

from math import ceil

import numpy as np
from trainer_lab import batch, trainer

from llmlab.optim import SCHEDULES
from llmlab.streams import stream
from llmlab.train.fit import Callback


class Numbers:
    """A dataset of random rows, shuffled by seed and epoch."""

    def __init__(self, samples=11):
        self.samples = samples
        self.asked = []

    def num_batches(self, batch_size):
        return ceil(self.samples / batch_size)

    def batches(self, batch_size, seed, epoch, start=0):
        self.asked.append((epoch, start))
        order = stream(seed, "data", epoch).permutation(self.samples)
        for first in range(start * batch_size, self.samples, batch_size):
            chosen = order[first : first + batch_size]
            yield batch([1 + int(i) % 6 for i in chosen], seed=int(chosen.sum()), time=7)


class Log(Callback):
    def __init__(self):
        self.rows, self.calls = [], []

    def on_start(self, progress):
        self.calls.append(("start", progress.step))

    def on_step(self, progress, result, row):
        self.rows.append(dict(row))

    def on_end(self, progress):
        self.calls.append(("end", progress.step))


OPTIONS = {"stage": "test", "batch_size": 2, "seed": 5, "accumulate": 2}


def make(threads=1):
    warm_up = SCHEDULES.build({"type": "constant", "warmup_steps": 6}, "schedule")
    return trainer(np.float32, dropout=0.2, schedule=warm_up, threads=threads, lr=0.01)
