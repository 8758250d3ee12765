"""Kernels against plain formulas, and the kernel sets against each other."""

import importlib.util

import numpy as np
import pytest

from llmlab import kernels
from llmlab.errors import ConfigError
from llmlab.kernels import numpy_kernels
from llmlab.streams import stream
from llmlab.workspace import Context


def context(dtype=np.float64, batch=1, time=1, **begin):
    ctx = Context(numpy_kernels, dtype)
    ctx.begin(batch, time, **begin)
    return ctx


def normal(name, *shape):
    return stream(0, name).standard_normal(shape)


def generators(count):
    return [stream(7, row) for row in range(count)]


# Softmax and the loss


def test_softmax_is_the_formula_whatever_the_size_of_the_scores():
    ctx, scores = context(), normal("scores", 3, 4, 5)
    odds = np.exp(scores)
    wanted = odds / odds.sum(axis=-1, keepdims=True)
    assert np.allclose(ctx.kernels.softmax(ctx, scores.copy(), None), wanted, atol=1e-15)
    for shift in (-1e4, -60, 60, 1e4):
        found = ctx.kernels.softmax(ctx, scores + shift, None)
        assert np.allclose(found, wanted, atol=1e-11)


@pytest.mark.every_day(2)
@pytest.mark.parametrize("name", kernels.NAMES)
@pytest.mark.parametrize("scale", [1, 15, 1e3])
def test_softmax_in_float32_of_moderate_and_of_large_scores(name, scale):
    if name == "numba":
        pytest.importorskip("numba")
    used, ctx = kernels.load(name), context(np.float32)
    scores = scale * normal("scores", 2, 8, 24)
    mask = np.triu(np.full((8, 8), -np.inf), 1)
    masked = scores.copy()
    masked[..., 16:] += mask
    odds = np.exp(masked - masked.max(axis=-1, keepdims=True))
    wanted = odds / odds.sum(axis=-1, keepdims=True)
    found = used.softmax(ctx, scores.astype(np.float32), mask.astype(np.float32))
    assert np.allclose(found, wanted, rtol=1e-5 * scale**0.5, atol=1e-7)
    assert (found[:, 0, 17:] == 0).all()
    poisoned = scores.astype(np.float32)
    poisoned[1, 2, 3] = np.nan
    with np.errstate(invalid="ignore"):
        found = used.softmax(ctx, poisoned, mask.astype(np.float32))
    assert np.isnan(found[1, 2, :16]).all() and np.isfinite(found[0]).all()


def test_softmax_masks_the_last_keys():
    ctx, scores = context(), normal("scores", 2, 3, 5)
    mask = np.triu(np.full((3, 3), -np.inf), 1)
    found = ctx.kernels.softmax(ctx, scores.copy(), mask)
    for query in range(3):
        seen = 3 + query
        alone = ctx.kernels.softmax(ctx, scores[:, query : query + 1, :seen].copy(), None)
        assert np.allclose(found[:, query, :seen], alone[:, 0])
        assert (found[:, query, seen:] == 0).all()


def test_softmax_works_in_place():
    ctx, scores = context(), normal("scores", 2, 3)
    assert ctx.kernels.softmax(ctx, scores, None) is scores
    dp = normal("dp", 2, 3)
    wanted = scores * (dp - (dp * scores).sum(axis=-1, keepdims=True))
    dots = (dp * scores).sum(axis=-1, keepdims=True)
    assert ctx.kernels.softmax_backward(ctx, dp, scores, dots) is dp
    assert np.allclose(dp, wanted, atol=1e-15)


def test_cross_entropy_is_a_weighted_sum_and_its_gradient():
    ctx, logits = context(), 3 * normal("logits", 6, 5)
    targets, weights = np.array([0, 4, 2, 2, 1, 3]), np.array([1, 0, 0.5, 1, 2, 1])
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    each = -np.log(odds[np.arange(6), targets])
    given = logits.copy()
    loss, dlogits = ctx.kernels.cross_entropy(ctx, logits, targets, weights, 0.25)
    assert loss == pytest.approx(float(each @ weights), rel=1e-13)
    wanted = 0.25 * weights[:, None] * (odds - np.eye(5)[targets])
    assert np.allclose(dlogits, wanted, atol=1e-15)
    assert (dlogits[1] == 0).all() and np.array_equal(logits, given)
    assert np.allclose(dlogits.sum(axis=1), 0, atol=1e-15)


def test_cross_entropy_of_extreme_logits_is_finite():
    ctx = context(np.float32)
    logits = np.array([[1e4, -1e4, 0], [0, 0, 0]], np.float32)
    ones = np.ones(2, np.float32)
    loss, dlogits = ctx.kernels.cross_entropy(ctx, logits, np.array([1, 2]), ones, 1.0)
    assert loss == pytest.approx(2e4 + np.log(3)) and np.isfinite(dlogits).all()


# Dropout


def test_dropout_keeps_the_expectation():
    ctx = context(batch=4, time=500, rng=generators(4))
    y, mask = ctx.kernels.dropout(ctx, np.ones((2000, 20)), 0.3)
    assert set(np.unique(y)) == {0.0, 1 / 0.7}
    assert y.mean() == pytest.approx(1, abs=0.02)
    dy = normal("dy", 2000, 20)
    assert np.array_equal(ctx.kernels.dropout_backward(ctx, dy, mask), dy * mask)
    rows = mask.reshape(4, -1)
    assert abs(np.corrcoef(rows) - np.eye(4)).max() < 0.05


@pytest.mark.parametrize("rng", [None, generators(2)])
def test_dropout_that_is_off_is_a_copy(rng):
    ctx, x = context(batch=2, time=3, rng=rng), normal("x", 6, 4)
    y, mask = ctx.kernels.dropout(ctx, x, 0.5 if rng is None else 0.0)
    dx = ctx.kernels.dropout_backward(ctx, x, mask)
    for copy in (y, dx):
        assert np.array_equal(copy, x) and not np.shares_memory(copy, x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masks_do_not_depend_on_padding_or_on_other_rows(dtype):
    def masks(rows, time):
        ctx = context(dtype, len(rows), time, rng=[stream(7, row) for row in rows])
        x = np.ones((len(rows) * time, 3), dtype)
        drawn = [ctx.kernels.dropout(ctx, x, 0.5)[1] for _ in range(3)]
        return [mask.reshape(len(rows), time, 3).copy() for mask in drawn]

    wide, narrow = masks([0, 1, 2], 9), masks([2, 0], 5)
    for one, two in zip(wide, narrow, strict=True):
        assert np.array_equal(one[[2, 0], :5], two)
    assert not np.array_equal(wide[0], wide[1])


# Rows


@pytest.mark.parametrize("vocabulary", [7, 70_000])  # one product, or sorted
@pytest.mark.parametrize("fresh", [False, True])
def test_add_rows(vocabulary, fresh):
    ctx, index = context(), np.array([3, 0, 3, 5, 3, 6])
    rows, out = normal("rows", 6, 4), normal("out", vocabulary, 4)
    wanted = np.zeros_like(out) if fresh else out.copy()
    np.add.at(wanted, index, rows)
    ctx.fresh = {id(out)} if fresh else set()
    ctx.kernels.add_rows(ctx, index, rows, out)
    assert np.allclose(out, wanted, atol=1e-14) and not ctx.fresh


# The sets


def test_sets_are_known_by_name():
    assert kernels.load("numpy") is numpy_kernels
    assert kernels.resolve("numpy") == "numpy"
    assert kernels.resolve("auto") in kernels.NAMES
    with pytest.raises(ConfigError, match="kernels=nunpy: unknown; known: auto, numpy"):
        kernels.load("nunpy")


needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="needs the extra 'fast'"
)


@needs_numba
@pytest.mark.slow
def test_sets_agree():
    """One training step of two networks, float32: every gradient by name."""
    from networks import gpt_stack, rustgpt_stack
    from trainer_lab import LENGTHS, batch, run

    fast = kernels.load("numba")
    assert set(fast.__all__) == set(numpy_kernels.__all__)
    for stack in (rustgpt_stack(11, 16, 12), gpt_stack(dropout=0.2)):
        steps = [[batch(LENGTHS, seed)] for seed in range(3)]
        options = {"stack": stack, "dtype": np.float32, "clip_norm": 1.0}
        one, two = run(steps, **options), run(steps, kernels="numba", **options)
        for a, b in zip(one[0], two[0], strict=True):
            assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert np.abs(one[1] - two[1]).max() <= 1e-4 * np.abs(one[1]).max()


@needs_numba
def test_sets_have_the_same_functions():
    listed = importlib.util.find_spec("llmlab.kernels.numba_kernels").origin
    with open(listed, encoding="utf-8") as file:
        text = file.read()
    assert [name for name in numpy_kernels.__all__ if f'"{name}"' not in text] == []


@pytest.mark.parametrize("name", sorted(numpy_kernels.__all__))
def test_every_kernel_is_documented(name):
    assert getattr(numpy_kernels, name).__doc__
