"""The workspace: the same memory at the same place of every step, and no more than needed."""

import numpy as np
from networks import gpt_stack

from llmlab import kernels, workspace
from llmlab.params import ALIGN, Layout
from llmlab.streams import stream
from llmlab.workspace import Context, Workspace

NUMPY = kernels.load("numpy")


def take(space):
    space.reset()
    arrays = [space.empty((3, 4)), space.empty((5,), np.bool_), space.empty((2, 3, 4))]
    with space:
        arrays.append(space.empty((7,)))
    return [*arrays, space.empty((6, 1))]


def test_arrays_are_disjoint_aligned_and_of_the_asked_shape():
    space = Workspace(np.float32)
    for _ in range(3):
        arrays = take(space)
        assert [a.shape for a in arrays] == [(3, 4), (5,), (2, 3, 4), (7,), (6, 1)]
        assert [a.dtype.char for a in arrays] == ["f", "?", "f", "f", "f"]
        assert all(a.flags.c_contiguous and a.flags.writeable for a in arrays)
        kept = [*arrays[:3], arrays[4]]
        for i, one in enumerate(kept):
            assert not any(np.shares_memory(one, other) for other in kept[i + 1 :])
    assert all(a.ctypes.data % ALIGN == 0 for a in arrays)  # in the buffer by now


def test_every_step_gets_the_same_memory():
    space = Workspace()
    take(space)
    second, third = take(space), take(space)
    assert all(one is two for one, two in zip(second, third, strict=True))


def test_scratch_is_given_back():
    space = Workspace()
    for _ in range(2):
        space.reset()
        with space:
            one = space.empty((100,))
            with space:
                inner = space.empty((50,))
            again = space.empty((50,))
        two = space.empty((100,))
    assert inner is again and one is two
    assert space.peak == 100 * 4 // ALIGN * ALIGN + ALIGN + 50 * 4 // ALIGN * ALIGN + ALIGN


def test_arrays_of_a_growing_step_stay_whole():
    # The first step of a larger shape gets its pieces from NumPy.
    space = Workspace()
    take(space)
    space.reset()
    arrays = [space.empty((n,)) for n in (4, 50_000, 3)]
    for value, array in enumerate(arrays):
        array.fill(value)
    assert [set(array) for array in arrays] == [{0}, {1}, {2}]
    peak = space.peak
    space.reset()
    assert peak == space.peak and peak < 50_000 * 4 + 3 * ALIGN


def test_views_are_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(workspace, "MAX_VIEWS", 10)
    space = Workspace()
    space.reset()
    space.empty((1000,))
    for size in range(1, 200):
        space.reset()
        space.empty((size,)).fill(size)
        assert len(space._views) <= 11


def test_ones_and_gradients():
    ctx = Context(NUMPY, np.float64)
    for size in (3, 200, 5):  # one vector serves all sizes
        assert ctx.ones(size).tolist() == [1] * size
    assert np.shares_memory(ctx.ones(200), ctx.ones(3))
    assert ctx.ones(3).dtype == np.float64
    a, b, out = np.array([[1.0, 2]]), np.array([[3.0], [4]]), np.array([[100.0]])
    ctx.add_product(a, b, out)
    assert out == 111
    ctx.fresh = {id(out)}
    ctx.add_product(a, b, out)
    assert out == 11 and not ctx.fresh
    assert ctx.gradient(out) == 11
    ctx.fresh = {id(out)}
    assert ctx.gradient(out) == 0 and not ctx.fresh


def test_begin_forgets_the_last_pass():
    ctx = Context(NUMPY)
    ctx.begin(2, 3, rng=[stream(0)], segments=np.zeros((2, 3)), rows=np.arange(2))
    ctx.add_loss(np.zeros(2))
    ctx.begin(4, 5)
    assert (ctx.batch, ctx.time, ctx.losses) == (4, 5, [])
    given = (ctx.rng, ctx.segments, ctx.positions, ctx.kv_cache, ctx.position, ctx.rows)
    assert given == (None,) * 6


def used(stack, vocabulary, batch, time, dropout=False, repeat=1):
    """Return the numbers that forward, loss and backward take from the workspace."""
    layout = Layout(stack)
    params, grads, ctx = layout.init(0), layout.zeros(), Context(NUMPY)
    tokens = np.zeros(batch * time, np.intp)
    for _ in range(repeat):
        ctx.fresh = set(grads.ids)
        rng = [stream(0, row) for row in range(batch)] if dropout else None
        ctx.begin(batch, time, rng=rng)
        logits, cache = stack.forward(params.tree, tokens, ctx)
        weights = np.ones(batch * time, np.float32)
        _, dlogits = NUMPY.cross_entropy(ctx, logits, tokens, weights, 1.0)
        stack.backward(params.tree, grads.tree, dlogits, cache, ctx)
    return ctx.workspace.peak / 4


def test_a_second_step_needs_no_more_than_the_first():
    stack = gpt_stack()
    assert used(stack, 11, 2, 5, repeat=3) == used(stack, 11, 2, 5)
