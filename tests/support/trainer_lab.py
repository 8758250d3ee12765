"""A trainer on small batches."""

import numpy as np
from networks import gpt_stack

from llmlab.batch import Batch
from llmlab.optim import OPTIMIZERS
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.train.trainer import Trainer

VOCABULARY = 11


def batch(lengths, seed=0, time=None, segments=False):
    """Rows of the given lengths, padded on the right."""
    rng = stream(seed, "batch")
    shape = (len(lengths), time or max(lengths))
    inputs, targets = rng.integers(VOCABULARY, size=(2, *shape))
    used = np.arange(shape[1]) < np.array(lengths)[:, None]
    packed = np.broadcast_to((np.arange(shape[1]) >= 2).astype(np.intp), shape)
    return Batch(
        inputs * used,
        targets * used,
        used.astype(np.float32),
        segments=packed if segments else None,
        positions=np.maximum(np.arange(shape[1]) - 2 * packed, 0) if segments else None,
    )


def trainer(dtype=np.float64, dropout=0.0, lr=1e-2, optimizer="adam", stack=None, **options):
    stack = stack or gpt_stack(VOCABULARY, dropout=dropout)
    params = Layout(stack).init(3, dtype)
    return Trainer(stack, params, OPTIMIZERS.build(optimizer, "optimizer"), lr=lr, **options)


def run(steps, **options):
    """Return losses, the last gradient and the parameters after some steps."""
    with trainer(**options) as t:
        results = [t.step(batches) for batches in steps]
        return results, t.grads.flat.copy(), t.params.flat.copy()


LENGTHS = [7, 3, 1, 5, 7, 2, 4, 6]
