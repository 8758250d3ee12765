"""Samplers: distributions against closed forms, options out of range, seeds, batches."""

import math
from itertools import pairwise

import numpy as np
import pytest
from networks import gpt_stack

from llmlab.errors import ConfigError
from llmlab.generate import SAMPLERS, Engine, Rows
from llmlab.network import Network
from llmlab.params import Layout
from llmlab.streams import stream

P = np.array([0.4, 0.05, 0.25, 0.1, 0.2])  # of token 0 to 4
NOTHING_SAID = Rows([[]], [[]])


def sampler(**options):
    return SAMPLERS.build({"type": "sample", **options}, "sampler", vocab_size=5)


def distribution(p=P, rows=NOTHING_SAID, **options):
    return sampler(**options).distribution(np.log(p)[None], rows)[0]


def kept(*ids):
    """P with only these tokens left."""
    left = np.where(np.isin(np.arange(5), ids), P, 0)
    return left / left.sum()


def powered(exponent):
    return P**exponent / (P**exponent).sum()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, P),
        ({"temperature": 0.5}, powered(2)),
        ({"temperature": 3}, powered(1 / 3)),
        ({"temperature": 1e-300}, kept(0)),
        ({"top_k": 2}, kept(0, 2)),
        ({"top_k": 1}, kept(0)),
        ({"top_k": 99}, P),
        ({"top_p": 0.3}, kept(0)),
        ({"top_p": 0.41}, kept(0, 2)),
        ({"top_p": 0.84}, kept(0, 2, 4)),
        ({"top_p": 1e-9}, kept(0)),
        ({"top_p": 0.999}, P),
        ({"min_p": 0.3}, kept(0, 2, 4)),
        ({"min_p": 1}, kept(0)),
        # Each step sees what the one before left: 0.4 of 0.65 reaches 0.6.
        ({"top_k": 2, "top_p": 0.6}, kept(0)),
        ({"top_p": 0.6}, kept(0, 2)),
        # A temperature before top-p: 0.4² of the sum of squares is 0.58.
        ({"temperature": 0.5, "top_p": 0.55}, kept(0)),
    ],
)
def test_filtered_distribution(options, expected):
    assert distribution(**options) == pytest.approx(expected, abs=1e-12)


def test_top_p_keeps_the_first_of_equal_tokens():
    assert distribution(np.full(5, 0.2), top_p=0.39).tolist() == pytest.approx([0.5, 0.5, 0, 0, 0])


def test_top_k_keeps_tokens_equal_to_the_last():
    assert distribution(np.full(5, 0.2), top_k=2) == pytest.approx(np.full(5, 0.2))


def test_presence_and_frequency_count_the_reply_only():
    rows = Rows([[0, 0, 1]], [[2, 3, 2]])
    found = distribution(rows=rows, presence_penalty=0.5, frequency_penalty=0.25)
    expected = P * np.exp([0, 0, -0.5 - 0.5, -0.5 - 0.25, 0])
    assert found == pytest.approx(expected / expected.sum())


def test_repetition_penalty_divides_positive_and_multiplies_negative_scores():
    rows, scores = Rows([[0]], [[3, 3]]), np.array([[2.0, 1, 0.5, -1, 0]])
    found = sampler(repetition_penalty=2.0).distribution(scores, rows)[0]
    expected = np.exp([1, 1, 0.5, -2, 0])
    assert found == pytest.approx(expected / expected.sum())


@pytest.mark.parametrize(
    ("n", "seen", "ruled"),
    [
        (1, [3, 1], [1, 3]),
        (2, [1, 2, 1], [2]),
        (2, [1, 2, 1, 3, 1], [2, 3]),
        (3, [0, 1, 2, 0, 1], [2]),
        (3, [0, 1, 2, 1], []),
        (3, [0], []),
        (2, [4, 4], [4]),
    ],
)
def test_no_ngram_twice(n, seen, ruled):
    expected = kept(*(set(range(5)) - set(ruled)))
    for split in range(len(seen) + 1):
        rows = Rows([seen[:split]], [seen[split:]])
        assert distribution(rows=rows, no_repeat_ngram=n) == pytest.approx(expected)


def test_no_ngram_leaves_something_to_say():
    assert distribution(rows=Rows([[0, 1, 2, 3, 4]], [[]]), no_repeat_ngram=1) == pytest.approx(P)


def test_penalties_leave_the_end_token_alone():
    rows = Rows([[2, 2]], [[2, 2]], frozenset([2]))
    options = {"no_repeat_ngram": 1, "repetition_penalty": 3}
    assert distribution(rows=rows, **options) == pytest.approx(P)


def test_logit_bias():
    found = distribution(logit_bias={1: math.log(8), 4: -1e9})
    expected = P * [1, 8, 1, 1, 0]
    assert found == pytest.approx(expected / expected.sum())


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_p": 0.8, "min_p": 0.1}])
def test_draws_follow_the_distribution(options):
    """Chi-square of 8,000 draws: beyond 4 degrees' 99.99 % point, 23.5, something is wrong."""
    n = 8_000
    rows = Rows([[]] * n, [[]] * n, rngs=[stream(0, "draws")] * n)
    chosen = sampler(**options).choose(np.tile(np.log(P), (n, 1)), rows)
    counts, p = np.bincount(chosen, minlength=5), distribution(**options)
    assert not counts[p == 0].any()
    expected = n * p[p > 0]
    assert ((counts[p > 0] - expected) ** 2 / expected).sum() < 23.5


def test_temperature_zero_is_greedy_after_penalties():
    logits = np.log(P)[None]
    assert sampler(temperature=0).choose(logits, NOTHING_SAID).tolist() == [0]
    rows = Rows([[]], [[0]])
    assert sampler(temperature=0, no_repeat_ngram=1).choose(logits, rows).tolist() == [2]


def test_logits_stay_as_they_are():
    logits = np.log(P)[None].astype(np.float32)
    before = logits.copy()
    rows = Rows([[0]], [[1]], rngs=[stream(0)])
    sampler(top_k=2, repetition_penalty=2, temperature=0.3).choose(logits, rows)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("logits", [[np.nan, 0, 0, 0, 0], [np.inf, 0, 0, 0, 0]])
def test_logits_that_are_no_numbers_give_some_token(logits):
    rows = Rows([[0]], [[1]], rngs=[stream(0)])
    chosen = sampler(temperature=0.5, top_k=2, top_p=0.5, min_p=0.1).choose(
        np.array([logits]), rows
    )
    assert 0 <= chosen[0] < 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("presence_penalty", math.nan),
        ("frequency_penalty", math.inf),
        ("no_repeat_ngram", -1),
        ("logit_bias", {5: 1}),
        ("logit_bias", {-1: 1}),
        ("logit_bias", {0: math.nan}),
        ("num_samples", 0),
        ("stop", [""]),
    ],
)
def test_out_of_range(key, value):
    with pytest.raises(ConfigError, match=rf"^sampler\.{key}.*=.*: must be "):
        sampler(**{key: value})


def test_all_problems_at_once():
    with pytest.raises(ConfigError) as caught:
        sampler(temperature=-1, top_k=-1, top_p=2)
    assert len(caught.value.problems) == 3


@pytest.fixture(scope="module")
def engine():
    stack = gpt_stack()
    return Engine(Network(stack, Layout(stack).init(1, np.float64), 12))


def rngs(*rows):
    return [stream(7, "sampling", row) for row in rows]


def test_a_batch_equals_its_rows(engine):
    prompts, drawn = [[1, 2, 3], [4], [5, 6]], SAMPLERS.build("sample", "")
    options = {"sampler": drawn, "stop_ids": [0]}
    together = engine.generate(prompts, rngs=rngs(0, 1, 2), **options)
    alone = [engine.generate([p], rngs=rngs(r), **options)[0] for r, p in enumerate(prompts)]
    assert together == alone
    assert len({tuple(reply.ids) for reply in together}) == 3


def test_several_samples_equal_single_ones(engine):
    one, three = (SAMPLERS.build({"type": "sample", "num_samples": n}, "") for n in (1, 3))
    together = engine.generate([[1, 2], [3]], rngs=rngs(*range(6)), sampler=three)
    alone = [
        engine.generate([prompt], rngs=rngs(row), sampler=one)[0]
        for row, prompt in enumerate([[1, 2]] * 3 + [[3]] * 3)
    ]
    assert together == alone


def test_the_same_seed_gives_the_same_reply(engine):
    drawn = SAMPLERS.build("sample", "")
    first, again, other = (
        engine.generate([[1, 2]], sampler=drawn, rngs=rngs(row))[0].ids for row in (0, 0, 1)
    )
    assert first == again != other
    assert list(engine.stream_ids([1, 2], sampler=drawn, rngs=rngs(0))) == first


def test_drawing_without_generators_is_refused(engine):
    with pytest.raises(ValueError, match="rngs"):
        engine.generate([[1]], sampler=SAMPLERS.build("sample", ""))


def test_no_ngram_twice_in_what_is_generated(engine):
    strict = SAMPLERS.build({"type": "sample", "temperature": 0, "no_repeat_ngram": 2}, "")
    free = [3, *engine.generate([[3]])[0].ids]
    held = [3, *engine.generate([[3]], sampler=strict)[0].ids]
    pairs = list(pairwise(held))
    assert len(set(pairs)) == len(pairs)
    assert len(set(pairwise(free))) < len(free) - 1


def test_until_ends_a_reply(engine):
    whole = engine.generate([[3], [4]])
    cut = engine.generate([[3], [4]], until=lambda ids: len(ids) == 2 and ids == whole[0].ids[:2])
    assert cut[0].ids == whole[0].ids[:2]
    assert cut[0].reason == "stop"
    assert cut[1] == whole[1]


def test_stream_returns_the_reply(engine):
    streamed = engine.stream_ids([3], max_new_tokens=4)
    ids = []
    while True:
        try:
            ids.append(next(streamed))
        except StopIteration as end:
            assert end.value == engine.generate([[3]], max_new_tokens=4)[0]
            assert end.value.ids == ids
            return
