"""Beam search against the enumeration of every reply."""

from itertools import product

import numpy as np
import pytest
from networks import gpt_stack

from llmlab.errors import ConfigError
from llmlab.generate import SAMPLERS, Engine
from llmlab.network import Network
from llmlab.params import Layout
from llmlab.workspace import Context

VOCABULARY, CONTEXT, END = 4, 8, 0
LIMIT = 4
PROMPTS = [[1, 2], [3], [2, 2, 1, 3]]


@pytest.fixture(scope="module")
def engine():
    stack = gpt_stack(VOCABULARY, max_seq_len=CONTEXT)
    return Engine(Network(stack, Layout(stack).init(4, np.float64), CONTEXT))


def beam(**options):
    return SAMPLERS.build({"type": "beam", **options}, "sampler")


def log_probability(engine, prompt, reply):
    """Of the reply after the prompt, in one pass without a cache."""
    from llmlab import kernels

    ids, ctx = np.array([*prompt, *reply]), Context(kernels.load("numpy"), np.float64)
    ctx.begin(1, len(ids) - 1)
    logits, _ = engine.network.stack.forward(engine.network.params.tree, ids[:-1], ctx)
    logits = logits[len(prompt) - 1 :]
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logs[np.arange(len(reply)), reply].sum()


def every_reply(limit):
    """All that end with the end token, and all of full length that don't."""
    others = [id for id in range(VOCABULARY) if id != END]
    for length in range(limit):
        yield from ([*ids, END] for ids in product(others, repeat=length))
    yield from (list(ids) for ids in product(others, repeat=limit))


def exhaustive(engine, prompt, limit, length_penalty):
    scored = [
        (log_probability(engine, prompt, reply) / len(reply) ** length_penalty, reply)
        for reply in every_reply(limit)
    ]
    return [reply for _, reply in sorted(scored, reverse=True)]


@pytest.mark.every_day(2)
@pytest.mark.parametrize("length_penalty", [0, 0.6, 1, 3, -1])
def test_wide_enough_it_equals_exhaustive_search(engine, length_penalty):
    sampler = beam(num_beams=VOCABULARY**LIMIT, num_samples=5, length_penalty=length_penalty)
    replies = engine.generate(PROMPTS, sampler=sampler, max_new_tokens=LIMIT, stop_ids=[END])
    for row, prompt in enumerate(PROMPTS):
        expected = exhaustive(engine, prompt, LIMIT, length_penalty)[:5]
        found = replies[5 * row : 5 * row + 5]
        assert [[*r.ids, *([END] if r.reason == "stop" else [])] for r in found] == expected


def test_the_penalty_changes_what_is_found(engine):
    found = {
        tuple(
            engine.generate(
                [[1, 2]],
                sampler=beam(num_beams=64, length_penalty=length_penalty),
                max_new_tokens=LIMIT,
                stop_ids=[END],
            )[0].ids
        )
        for length_penalty in (-1, 0, 1, 3)
    }
    assert len(found) > 1


@pytest.mark.parametrize("prompt", PROMPTS)
def test_one_beam_is_greedy(engine, prompt):
    options = {"max_new_tokens": 6, "stop_ids": [END]}
    one = engine.generate([prompt], sampler=beam(num_beams=1, length_penalty=0), **options)
    assert one == engine.generate([prompt], **options)


def test_more_beams_find_nothing_worse(engine):
    """Not a law, but so for these prompts; a search that loses its rows breaks it."""
    for prompt in PROMPTS:
        scores = []
        for num_beams in (1, 3, 64):
            sampler = beam(num_beams=num_beams, length_penalty=0)
            (reply,) = engine.generate([prompt], sampler=sampler, max_new_tokens=LIMIT)
            scores.append(log_probability(engine, prompt, reply.ids))
        assert scores == sorted(scores)


def test_a_batch_equals_its_rows(engine):
    options = {"sampler": beam(num_samples=2), "max_new_tokens": LIMIT, "stop_ids": [END]}
    together = engine.generate(PROMPTS, **options)
    assert together == [r for p in PROMPTS for r in engine.generate([p], **options)]


def test_it_ends_where_the_context_is_full(engine):
    (reply,) = engine.generate([[1, 2, 3]], sampler=beam())
    assert reply.reason == "context"
    assert len(reply.ids) == CONTEXT - 3 + 1


def test_stream_gives_the_best_reply(engine):
    options = {"sampler": beam(num_samples=2), "max_new_tokens": LIMIT}
    assert list(engine.stream_ids([1, 2], **options)) == engine.generate([[1, 2]], **options)[0].ids


def test_no_ngram_twice(engine):
    sampler = beam(no_repeat_ngram=1)
    (reply,) = engine.generate([[1]], sampler=sampler, max_new_tokens=3)
    assert sorted([1, *reply.ids]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_beams", 0), ("num_samples", 5), ("num_samples", 0), ("length_penalty", float("nan"))],
)
def test_out_of_range(key, value):
    with pytest.raises(ConfigError, match=rf"^sampler\.{key}={value}: must be "):
        beam(**{key: value})
