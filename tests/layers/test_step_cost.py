"""What a warm training step may cost, without a clock: large allocations and calls of kernels.

Both are counted exactly, so a change that makes a step dearer fails here and not in somebody's
benchmark. Who makes a step cheaper lowers the figures.
"""

import linecache
import sys
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from networks import RUSTGPT

from llmlab.batch import Batch
from llmlab.kernels import load
from llmlab.layers import attention_core, build_stack
from llmlab.layers.positions import RoPE
from llmlab.optim.adam import Adam
from llmlab.params import Layout
from llmlab.train.trainer import Trainer

LARGE = 4096  # bytes
SMALL = {"type": "normal", "std": 0.02}
NORM = {"type": "layer_norm", "bias": False}
PLAIN = {"bias": False, "init": SMALL}
NANOGPT = {
    "tokens": {"type": "token_embedding", "init": SMALL},
    "positions": {"type": "learned_positions", "init": SMALL},
    "blocks": {
        "type": "block",
        "repeat": 4,
        "layers": {
            "attention": {
                "type": "pre_norm",
                "norm": NORM,
                "layer": {"type": "attention", "num_heads": 4, **PLAIN},
            },
            "feed_forward": {
                "type": "pre_norm",
                "norm": NORM,
                "layer": {
                    "type": "feed_forward",
                    "hidden_dim": 512,
                    "activation": "gelu_tanh",
                    **PLAIN,
                },
            },
        },
    },
    "norm": NORM,
    "output": {"type": "tied_output_projection"},
}

LLAMA = {
    "tokens": {"type": "token_embedding"},
    "blocks": {
        "type": "pre_norm",
        "repeat": 4,
        "norm": "rms_norm",
        "layer": {"type": "attention", "num_heads": 2, "positions": {"type": "rope"}, **PLAIN},
    },
    "output": {"type": "tied_output_projection"},
}

# Specs, vocabulary, context and the (B, T) of the batches that a step is given.
WORKLOADS = {
    "S": (RUSTGPT, 533, 80, [(1, 20), (1, 9), (1, 33)]),
    "C": (NANOGPT, 65, 64, [(12, 64)]),
    "packed": (LLAMA, 65, 100, [(6, 100)]),
}


class Counting:
    """A kernel set that counts the calls of its functions, also those of one another."""

    def __init__(self, kernels):
        self._kernels = kernels
        self.calls = Counter()

    def __getattr__(self, name):
        function = getattr(self._kernels, name)

        def counted(*arguments, **named):
            self.calls[name] += 1
            return function(*arguments, **named)

        return counted


def batches(name):
    rng = np.random.default_rng(0)
    _, vocabulary, _, shapes = WORKLOADS[name]
    found = []
    for shape in shapes:
        inputs, targets = rng.integers(0, vocabulary, (2, *shape))
        packed = None, None
        if name == "packed":
            packed = np.divmod(np.broadcast_to(np.arange(shape[1]), shape), 30)
        found.append(Batch(inputs, targets, np.ones(shape, np.float32), *packed))
    return found


def trainer(name, kernels):
    specs, vocabulary, context, _ = WORKLOADS[name]
    stack = build_stack(specs, vocab_size=vocabulary, embedding_dim=128, max_seq_len=context)
    return Trainer(stack, Layout(stack).init(0), Adam(), lr=1e-3, threads=1, kernels=kernels)


def large_allocations(work):
    """Run `work`, return Counter of "file:line: text" → most bytes taken at once by that line.

    Memory that a line takes and gives back at once counts too, which a snapshot wouldn't show:
    before each line the peak is reset, so that what it rose by belongs to that line.
    """
    found = Counter()
    state = {"at": None, "size": 0}

    def look(frame, event, argument):
        _, peak = tracemalloc.get_traced_memory()
        if state["at"] is not None and peak - state["size"] >= LARGE:
            file, number = state["at"]
            key = f"{file}:{number}: {linecache.getline(file, number).strip()}"
            found[key] = max(found[key], peak - state["size"])
        state["at"] = (frame.f_code.co_filename, frame.f_lineno)
        tracemalloc.reset_peak()
        state["size"] = tracemalloc.get_traced_memory()[0]
        return look

    before = sys.gettrace()
    tracemalloc.start()
    try:
        sys.settrace(look)
        work()
    finally:
        sys.settrace(before)
        tracemalloc.stop()
    return found


def kernel_sets():
    return [
        "numpy",
        pytest.param("numba", marks=pytest.mark.skipif(not has_numba(), reason="no numba")),
    ]


def has_numba():
    from importlib.util import find_spec

    return find_spec("numba") is not None


def test_the_guard_sees_what_a_line_takes_and_gives_back():
    a = np.ones(LARGE // 8)

    def work():
        b = a[:4] + 1
        c = float((a + 1).sum())
        return b, c

    (line,) = large_allocations(work)
    assert line.endswith("c = float((a + 1).sum())")


@pytest.mark.every_day(2)
@pytest.mark.parametrize("kernels", kernel_sets())
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_warm_step_allocates_nothing_large(name, kernels):
    steps = batches(name)
    with trainer(name, kernels) as warm:
        for batch in 3 * steps:
            warm.step([batch])

        def work():
            for batch in 2 * steps:
                warm.step([batch])

        # NumPy's own iterators buffer up to this many items where operands are broadcast or
        # strided; they don't grow with the batch, and with few items only arrays are left.
        size = np.setbufsize(128)
        try:
            warm.step([steps[0]])
            found = large_allocations(work)
        finally:
            np.setbufsize(size)
    assert not found, "\n".join(f"{size:>9} bytes {line}" for line, size in found.most_common())


# Calls of kernels in a step by name; "product" is a matrix product or a sum of rows by one.
CALLS = {
    "S": {
        "adam": 1,
        "add_rows": 1,
        "cross_entropy": 1,
        "layer_norm": 6,
        "layer_norm_backward": 6,
        "product": 69,
        "relu": 3,
        "relu_backward": 3,
        "softmax": 3,
        "softmax_backward": 3,
    },
    "packed": {
        "adam": 1,
        "add_rows": 1,
        "cross_entropy": 1,
        "product": 80,
        "rms_norm": 4,
        "rms_norm_backward": 4,
        "rotate": 8,
        "softmax": 8,
        "softmax_backward": 8,
    },
    "C": {
        "adam": 1,
        "add_rows": 1,
        "cross_entropy": 1,
        "gelu_tanh": 4,
        "multiply_slope": 4,
        "layer_norm": 9,
        "layer_norm_backward": 9,
        "product": 86,
        "softmax": 4,
        "softmax_backward": 4,
    },
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_step_calls_no_more_kernels_than_it_did(name):
    counting = Counting(load("numpy"))
    batch = batches(name)[0]
    with trainer(name, counting) as warm:
        warm.step([batch])
        counting.calls.clear()
        warm.step([batch])
    assert dict(counting.calls) == CALLS[name]


def test_packed_rows_get_their_masks_and_angles_once_for_all_layers(monkeypatch):
    made = Counter()
    for owner, name in ((attention_core, "_segment_mask"), (RoPE, "_taken")):
        make = getattr(owner, name)

        def counted(*arguments, make=make, name=name):
            made[name] += 1
            return make(*arguments)

        monkeypatch.setattr(owner, name, counted)
    with trainer("packed", "numpy") as warm:
        warm.step(batches("packed"))
        warm.step(batches("packed"))
    assert made == {"_segment_mask": 2 * 2, "_taken": 2}  # two blocks of queries, two steps
