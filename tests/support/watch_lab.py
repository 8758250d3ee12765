"""Small trainings that are watched, sound ones and ones with a planted fault."""

import copy
import json

import numpy as np
from networks import gpt_specs

from llmlab.batch import Batch
from llmlab.layers import build_stack
from llmlab.layers.linear import Linear
from llmlab.optim import OPTIMIZERS, SCHEDULES
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.train.callbacks.metrics import Metrics, MetricsFile
from llmlab.train.callbacks.watch import Watch
from llmlab.train.fit import fit
from llmlab.train.trackers import NoTracker
from llmlab.train.trainer import Trainer

VOCABULARY, TIME, STEPS = 16, 16, 40


class Chain:
    """Rows in which a token mostly decides the next one."""

    def num_batches(self, batch_size):
        return 8

    def batches(self, batch_size, seed, epoch, start=0):
        follow = stream(seed, "chain").permutation(VOCABULARY)
        for index in range(start, 8):
            rng = stream(seed, "rows", epoch, index)
            rows = np.empty((batch_size, TIME + 1), np.intp)
            rows[:, 0] = rng.integers(VOCABULARY, size=batch_size)
            for place in range(TIME):
                noise = rng.integers(VOCABULARY, size=batch_size)
                sure = rng.random(batch_size) < 0.9
                rows[:, place + 1] = np.where(sure, follow[rows[:, place]], noise)
            weights = np.ones((batch_size, TIME), np.float32)
            yield Batch(rows[:, :-1].copy(), rows[:, 1:].copy(), weights)


class Untouched(Linear):
    """A map whose backward pass forgets its weights."""

    def backward(self, p, g, dy, cache, ctx):
        for value in g.values():
            ctx.gradient(value)
        dx = ctx.empty(cache.shape)
        ctx.kernels.product(dy, p["weight"].T, dx)
        return dx


class Scaled(Linear):
    """A map whose output leaves the range of float32."""

    def forward(self, p, x, ctx):
        y, cache = super().forward(p, x, ctx)
        y *= np.float32(1e30)
        y *= y
        return y, cache


def chain_batches():
    return Chain().batches(8, 0, 0)


def specs(**options):
    """A pre-norm network as `networks.gpt_specs` makes it, with usual sizes."""
    normal = {"num_heads": 2, "num_kv_heads": 2, "hidden_dim": 32, "std": 0.1, "tied": False}
    return copy.deepcopy(gpt_specs(**{**normal, **options}))


def watched(
    folder,
    spec,
    *,
    lr=3e-3,
    warmup=5,
    every=5,
    steps=STEPS,
    clip_norm=5.0,
    threads=1,
    optimizer="adam",
    change=None,
    callbacks=(),
    progress=None,
    prepare=None,
    tracker=None,
):
    """Train, and return the stack; the rows are in the folder.

    `change` is called with the stack and its parameters by name before training.
    """
    stack = build_stack(
        spec, vocab_size=VOCABULARY, embedding_dim=16, max_seq_len=TIME, num_blocks=2
    )
    params = Layout(stack).init(1)
    if change is not None:
        change(stack, params)
    schedule = {"type": "constant", "warmup_steps": warmup}
    options = {"threads": threads, "clip_norm": clip_norm, "prepare": prepare}
    with Trainer(
        stack,
        params,
        OPTIMIZERS.build(optimizer, "optimizer"),
        lr=lr,
        schedule=SCHEDULES.build(schedule, "schedule"),
        **options,
    ) as trainer:
        file = MetricsFile(folder / "metrics.jsonl")
        tracker = tracker or NoTracker()
        watch = Watch(trainer, folder, "test", file, tracker, chain_batches, every)
        named = {"watch": watch, "metrics": Metrics(file, tracker)}
        fit(
            trainer,
            Chain(),
            stage="test",
            batch_size=8,
            steps=steps,
            seed=0,
            progress=progress,
            max_bad_steps=1000,
            callbacks=named | dict(callbacks),
        )
    return stack


def rows_of(folder, name="watch.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def layer_of(stack, number, name):
    """Return the inner layer of a residual connection of a block."""
    return stack.layers[f"blocks.{number}"].layers[name].layer
