"""Frozen parameters: no gradient, no moments, no change; what is trained doesn't notice."""

from dataclasses import replace

import numpy as np
import pytest
from networks import gpt_stack
from trainer_lab import LENGTHS, VOCABULARY, batch, trainer

from llmlab import kernels
from llmlab.optim import OPTIMIZERS
from llmlab.params import Layout, walk_layers
from llmlab.train.memory import training_memory
from llmlab.train.workers_forked import can_fork
from llmlab.workspace import Context

FROZEN = ("tokens", "blocks.0", "norm")
STEPS = [[batch(LENGTHS, seed), batch(LENGTHS[::-1], seed + 9)] for seed in range(4)]


def freeze(stack, names=FROZEN):
    """Return the stack with the layers of these names frozen."""
    for path, layer in walk_layers(stack):
        if any(path == name or path.startswith(f"{name}.") for name in names):
            declared = layer.params()
            layer.params = lambda declared=declared: {
                name: replace(param, group="frozen") for name, param in declared.items()
            }
    return stack


def is_frozen(name):
    return name.startswith(tuple(f"{each}." for each in FROZEN))


class Restored:
    """A trainer of the whole network, whose frozen part is put back after each step."""

    def __init__(self, **options):
        self.trainer = trainer(**options)
        self.first = {name: view.copy() for name, view in self.trainer.params.items()}

    def step(self, batches):
        self.trainer.step(batches)
        for name, view in self.trainer.params.items():
            if is_frozen(name):
                view[...] = self.first[name]


def test_frozen_arrays_come_last_and_have_no_room_elsewhere():
    whole, layout = Layout(gpt_stack()), Layout(freeze(gpt_stack()))
    assert layout.shapes == {name: whole.shapes[name] for name in layout.shapes}
    assert layout.num_parameters == whole.num_parameters
    names = list(layout.slices)
    assert sorted(names, key=is_frozen) == names  # sorting is stable
    trained = layout.trained
    assert list(trained.slices) == [name for name in names if not is_frozen(name)]
    assert trained.slices == {name: layout.slices[name] for name in trained.slices}
    assert trained.size == layout.ranges["frozen"].start < layout.size
    assert trained.trained is trained and whole.trained is whole
    grads = layout.gradients()
    assert len(grads.flat) == trained.size and list(grads) == list(trained.slices)
    assert grads.tree["tokens"]["weight"].shape == layout.shapes["tokens.weight"]
    # The table is shared with the head.
    assert grads.tree["output"]["weight"] is grads.tree["tokens"]["weight"]


@pytest.mark.every_day(3)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "lion", "muon", "sgd"])
def test_the_rest_trains_as_if_the_frozen_part_were_put_back(optimizer, threads):
    if threads > 1 and not can_fork():
        pytest.skip("workers are forked on Linux alone")
    options = {"optimizer": optimizer, "clip_norm": None, "dropout": 0.2, "threads": threads}
    options["dtype"] = np.float32
    whole = Restored(**options, stack=gpt_stack(VOCABULARY, dropout=0.2))
    with whole.trainer, trainer(**options, stack=freeze(gpt_stack(VOCABULARY, dropout=0.2))) as t:
        for step in STEPS:
            whole.step(step)
            t.step(step)
        for name, view in t.params.items():
            assert np.array_equal(view, whole.trainer.params[name]), name
            assert np.array_equal(view, whole.first[name]) == is_frozen(name), name
        for name, arena in t.state.items():
            assert len(arena.flat) == t.layout.trained.size
            for parameter, view in arena.items():
                assert np.array_equal(view, whole.trainer.state[name][parameter])


def test_the_norm_that_is_clipped_is_of_what_is_trained():
    with trainer(clip_norm=None, stack=freeze(gpt_stack(VOCABULARY))) as t:
        result = t.step(STEPS[0])
        assert not any(map(is_frozen, dict(t.grads.items())))
        assert result.grad_norm == pytest.approx(np.linalg.norm(t.grads.flat), rel=1e-12)


def test_checkpoints_hold_them_once_and_continue():
    options = {"dtype": np.float32, "ema": 0.9}
    with trainer(**options, stack=freeze(gpt_stack(VOCABULARY))) as t:
        first = {name: view.copy() for name, view in t.params.items()}
        t.step(STEPS[0])
        arrays = {name: view.copy() for name, view in t.arrays().items()}
        t.step(STEPS[1])
        wanted = t.params.flat.copy(), t.averaged.flat.copy()
    for name, array in arrays.items():
        kind, _, parameter = name.rpartition("/")
        if is_frozen(parameter):
            assert kind in ("params", "ema") and np.array_equal(array, first[parameter])
    with trainer(**options, stack=freeze(gpt_stack(VOCABULARY))) as t:
        t.load(arrays, 1, 1)
        t.step(STEPS[1])
        assert np.array_equal(t.params.flat, wanted[0])
        assert np.array_equal(t.averaged.flat, wanted[1])


def test_a_network_that_is_all_frozen_changes_nothing():
    stack = freeze(gpt_stack(VOCABULARY), ("tokens", "positions", "blocks.0", "blocks.1", "norm"))
    with trainer(stack=stack) as t:
        before = t.params.flat.copy()
        result = t.step(STEPS[0])
        assert result.grad_norm == 0 and np.array_equal(t.params.flat, before)


def test_products_for_frozen_weights_are_left_out():
    class Counting:
        calls = 0

        def __getattr__(self, name):
            return getattr(kernels.load("numpy"), name)

        def product(self, a, b, out):
            Counting.calls += 1
            return kernels.load("numpy").product(a, b, out)

    def products(stack):
        Counting.calls = 0
        with trainer(stack=stack, kernels=Counting()) as t:
            t.step([batch([4])])
        return Counting.calls

    every = ("tokens", "positions", "blocks.0", "blocks.1", "norm")
    whole, less = products(gpt_stack(VOCABULARY)), products(freeze(gpt_stack(VOCABULARY), every))
    matrices = sum(name.endswith(("weight", "bias")) for name in Layout(gpt_stack()).shapes)
    # Each array has a product of its own; the tied table one more, for the head; the positions'
    # sum over the batch is taken and thrown away.
    assert whole - less == matrices - 1 + 1


def test_wants():
    layout = Layout(freeze(gpt_stack()))
    grads, ctx = layout.gradients(), Context(kernels.load("numpy"))
    ctx.unwanted = grads.unwanted
    assert ctx.wants(grads["blocks.1.attention.qkv.weight"])
    assert not ctx.wants(grads.tree["tokens"]["weight"])


def test_memory_counts_no_gradients_and_moments_of_them():
    stacks = gpt_stack(), freeze(gpt_stack())
    adam = OPTIMIZERS.build("adam", "")
    whole, part = (training_memory(stack, Layout(stack), adam, batch=1, time=4) for stack in stacks)
    trained = Layout(stacks[1]).trained.size
    assert part.parameters == whole.parameters
    assert part.optimizer == 2 * 4 * trained < whole.optimizer
    assert 4 * trained <= part.gradients < whole.gradients
