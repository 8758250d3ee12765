"""What counting and compressing make of a text."""

import bz2
import lzma
import zlib
from collections import Counter, defaultdict
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.measure import baselines, compressed_bits, ngram_losses


def witten_bell(training, text, V, order):
    """Return the mean nats per token, straight from the formula."""
    counts = defaultdict(Counter)
    for i, w in enumerate(training):
        for n in range(order):
            if i >= n:
                counts[tuple(training[i - n : i])][w] += 1

    def p(history, w):
        if history is None:
            return 1 / V
        seen = counts.get(history)
        shorter = p(history[1:] if history else None, w)
        if not seen:
            return shorter
        c, t = sum(seen.values()), len(seen)
        return (seen[w] + t * shorter) / (c + t)

    logs = [log(p(tuple(text[max(0, i - order + 1) : i]), text[i])) for i in range(1, len(text))]
    return -sum(logs) / len(logs)


ids = st.lists(st.integers(0, 3), min_size=2, max_size=40)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(ids, ids)
def test_n_grams_are_the_formula(training, text):
    found = ngram_losses(np.array(training), np.array(text), 5)
    expected = [witten_bell(training, text, 5, order) for order in range(1, 7)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_probabilities_sum_to_one():
    training = np.array([0, 1, 2, 0, 1, 1, 3, 0, 1])
    for context in ([0], [0, 1], [3, 2, 1]):
        losses = [np.array(ngram_losses(training, np.array([*context, w]), 5)) for w in range(5)]
        # The mean over all targets; the last one alone is what differs.
        n = len(context)
        before = np.array(ngram_losses(training, np.array(context), 5)) if n > 1 else 0
        last = [loss * n - before * (n - 1) for loss in losses]
        assert np.exp(-np.array(last)).sum(axis=0) == pytest.approx(np.ones(6))


def test_a_longer_context_helps_where_it_decides():
    training = np.tile([0, 1, 0, 2], 200)  # what follows 0 depends on what came before it
    found = ngram_losses(training, training[:100], 3)
    assert found[1] > 0.3 and found[2] < 0.05


def test_large_ids():
    rng = np.random.default_rng(0)
    training = rng.integers(0, 60_000, 3000).astype(np.uint16)
    found = ngram_losses(training, training[:500], 60_000)
    assert all(np.isfinite(found)) and found[5] < found[0]


def test_compressors():
    text = b"The quick brown fox jumps over the lazy dog. " * 3
    fresh = bytes(np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8))
    found = compressed_bits(fresh, text)
    sizes = {
        "zlib": len(zlib.compress(fresh + text, 9)) - len(zlib.compress(fresh, 9)),
        "bz2": len(bz2.compress(fresh + text, 9)) - len(bz2.compress(fresh, 9)),
        "lzma": len(lzma.compress(fresh + text)) - len(lzma.compress(fresh)),
    }
    assert found == {name: 8 * size for name, size in sizes.items()}
    # What was seen before costs next to nothing.
    assert compressed_bits(fresh, fresh)["lzma"] < 0.05 * compressed_bits(b"", fresh)["lzma"]


def test_all_in_the_same_unit():
    text = "to be or not to be, that is the question. " * 20
    coded = np.frombuffer(text.encode(), np.uint8)
    rows = baselines(coded[:600], coded[600:], 257, text[:600].encode(), text[600:].encode())
    names = [f"{n}-gram" for n in range(1, 7)] + ["zlib", "bz2", "lzma"]
    assert [row.name for row in rows] == names
    bits = compressed_bits(text[:600].encode(), text[600:].encode())
    assert rows[-1].loss * (len(coded) - 601) / log(2) == pytest.approx(bits["lzma"])
    assert [row.name for row in baselines(coded[:600], coded[600:], 257)] == names[:6]
