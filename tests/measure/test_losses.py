"""Losses of a network on batches: means, their standard errors, bits for each byte."""

from dataclasses import replace
from math import isnan, log, sqrt

import numpy as np
import pytest
from networks import gpt_stack

from llmlab.batch import Batch
from llmlab.measure import Evaluator, wilson
from llmlab.network import Network
from llmlab.params import Layout

V = 11


@pytest.fixture(scope="module")
def evaluator():
    stack = gpt_stack(vocab_size=V)
    return Evaluator(Network(stack, Layout(stack).init(0, "float64")))


def batch(rows=4, time=6, seed=0):
    rng = np.random.default_rng(seed)
    inputs, targets = rng.integers(0, V, (2, rows, time))
    weights = np.ones((rows, time), np.float32)
    weights[1, 4:] = 0
    return Batch(inputs, targets, weights)


@pytest.mark.parametrize("seed", range(6))
def test_the_accuracys_interval_is_never_that_of_more_trials_than_targets(evaluator, seed):
    """Few rows that happen to be alike say nothing about how sure a share is."""
    found = evaluator.measure([batch(rows=2, time=10, seed=seed)])
    low, high = wilson(found.accuracy, found.tokens)
    assert found.accuracy_interval[0] <= low + 1e-12
    assert found.accuracy_interval[1] >= high - 1e-12


def log_probabilities(evaluator, batch):
    """Return log probabilities (B, T, V) by plain means."""
    logits = evaluator.network.forward(batch.inputs)
    return np.log(np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True))


def by_hand(evaluator, batches):
    nats, hits, weights = [], [], []
    for b in batches:
        logs = log_probabilities(evaluator, b)
        nats.append(-np.take_along_axis(logs, b.targets[..., None], 2)[..., 0] * b.weights)
        hits.append((logs.argmax(axis=2) == b.targets) * b.weights)
        weights.append(b.weights.astype(float))
    return [np.concatenate([part.sum(axis=1) for part in parts]) for parts in (nats, hits, weights)]


def test_means_and_errors(evaluator):
    batches = [batch(), batch(rows=3, time=5, seed=1)]
    nats, hits, weights = by_hand(evaluator, batches)
    found = evaluator.measure(batches)
    assert found.tokens == weights.sum() == 4 * 6 - 2 + 3 * 5 - 1
    assert found.loss == pytest.approx(nats.sum() / weights.sum(), rel=1e-12)
    assert found.accuracy == pytest.approx(hits.sum() / weights.sum(), rel=1e-12)
    assert found.perplexity == pytest.approx(np.exp(found.loss))
    for error, totals, mean in (
        (found.loss_error, nats, found.loss),
        (found.accuracy_error, hits, found.accuracy),
    ):
        n = len(weights)
        expected = sqrt(((totals - mean * weights) ** 2).sum() * n / (n - 1)) / weights.sum()
        assert error == pytest.approx(expected, rel=1e-9)
    assert found.bits_per_byte is None


def test_the_error_is_how_far_means_of_samples_lie_apart(evaluator):
    found = [evaluator.measure([batch(rows=40, seed=seed)]) for seed in range(60)]
    spread = np.std([losses.loss for losses in found], ddof=1)
    assert np.mean([losses.loss_error for losses in found]) == pytest.approx(spread, rel=0.3)


def test_a_single_row_has_no_error(evaluator):
    assert evaluator.measure([batch(rows=2)]).loss_error > 0
    b = batch()
    single = replace(b, inputs=b.inputs[:1], targets=b.targets[:1], weights=b.weights[:1])
    assert isnan(evaluator.measure([single]).loss_error)


def test_bits_for_each_byte(evaluator):
    b = batch()
    lengths = np.arange(V)
    size = (lengths[b.targets] * b.weights).sum()
    found = evaluator.measure([b], lengths)
    assert found.bits_per_byte == pytest.approx(found.loss * found.tokens / log(2) / size)
    assert evaluator.measure([b], np.zeros(V)).bits_per_byte is None


def test_targets_without_weight_count_for_nothing(evaluator):
    b = batch()
    changed = b.targets.copy()
    changed[1, 4:] = (changed[1, 4:] + 1) % V
    assert evaluator.measure([replace(b, targets=changed)]) == evaluator.measure([b])


def test_two_tokenizations_of_one_text_have_the_same_bits_for_equal_probabilities():
    # Two bytes at p each, or one token for both at p squared.
    stack = gpt_stack(vocab_size=V)
    params = Layout(stack).init(0, "float64")
    params.flat[:] = 0  # every token is equally probable
    found = Evaluator(Network(stack, params)).measure([batch()], np.full(V, 2))
    assert found.bits_per_byte == pytest.approx(np.log2(V) / 2)
