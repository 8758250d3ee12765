"""Decoding beyond the context: the cache, filled again, against passes over what is in view."""

import numpy as np
import pytest
from decoding_lab import CONTEXT, PROMPTS, STACKS, Recorded, engine
from networks import gpt_stack

from llmlab.errors import ConfigError
from llmlab.generate import SAMPLERS
from llmlab.generate.decoding import in_view, kept_of


@pytest.mark.parametrize("context", [1, 2, 3, 4, 7, 12, 64])
def test_how_much_is_in_view(context):
    view = 0
    for length in range(5 * context):
        assert in_view(length, context) == view
        view = kept_of(context) if view == context else view + 1
    assert kept_of(64) == 32


@pytest.mark.every_day(2)
@pytest.mark.parametrize("name", STACKS)
def test_cached_equals_uncached(name):
    own, recorded = engine(STACKS[name]()), Recorded()
    replies = own.generate(PROMPTS, max_new_tokens=31, sampler=recorded, refill=True)
    for row, (prompt, reply) in enumerate(zip(PROMPTS, replies, strict=True)):
        ids = list(prompt)
        for cached in recorded.seen:
            view = ids[-in_view(len(ids), CONTEXT) :]
            logits = own.network.forward(view)[-1]
            assert np.abs(cached[row] - logits).max() <= 1e-10
            ids.append(int(np.argmax(logits)))
        assert (reply.ids, reply.reason) == (ids[len(prompt) :], "length")
    assert replies == [
        own.generate([prompt], max_new_tokens=31, refill=True)[0] for prompt in PROMPTS
    ]


@pytest.mark.every_day(2)
@pytest.mark.parametrize("context", [1, 2, 3, CONTEXT])
def test_a_reply_has_as_many_tokens_as_were_asked_for(context):
    own = engine(gpt_stack(max_seq_len=context), context)
    (reply,) = own.generate([[3]], max_new_tokens=200, refill=True)
    assert (len(reply.ids), reply.reason) == (200, "length")
    # The last token isn't given to the network.
    each = context - kept_of(context) + 1
    assert reply.refills == max(0, 1 + (200 - context - 1) // each)
    assert list(own.stream_ids([3], max_new_tokens=200, refill=True)) == reply.ids
    (stopped,) = own.generate([[3]], max_new_tokens=200)
    assert (len(stopped.ids), stopped.reason) == (context, "context")
    assert stopped.refills == 0 and stopped.ids == reply.ids[:context]


def test_without_a_limit_it_is_as_many_as_the_context_has():
    (reply,) = engine(gpt_stack()).generate([[3, 1]], refill=True)
    assert (len(reply.ids), reply.reason) == (CONTEXT, "length")


def test_rows_that_end_leave_the_others_alone():
    own = engine(STACKS["rope"](), seed=2)
    free = own.generate(PROMPTS, max_new_tokens=40, refill=True)
    stop = free[0].ids[15]
    replies = own.generate(PROMPTS, max_new_tokens=40, refill=True, stop_ids=[stop])
    for one, other in zip(free, replies, strict=True):
        until = one.ids.index(stop) if stop in one.ids else 40
        assert other.ids == one.ids[:until]
        assert other.reason == ("length" if until == 40 else "stop")
    assert {reply.reason for reply in replies} == {"length", "stop"}


def test_samples_of_one_prompt():
    sampler = SAMPLERS.build({"type": "sample", "temperature": 0, "num_samples": 2}, "")
    own = engine(gpt_stack())
    one, other = own.generate([[3, 1]], sampler=sampler, max_new_tokens=30, refill=True)
    assert one == other and one.refills == 3


def test_a_search_refuses_what_it_cannot_do():
    own, beam = engine(gpt_stack()), SAMPLERS.build("beam", "")
    told = r"max_new_tokens=9: sampler=beam can't go on beyond the context, 12 tokens.* at most 8"
    with pytest.raises(ConfigError, match=told):
        own.generate([[1] * 5], sampler=beam, max_new_tokens=9, refill=True)
    for options in ({"max_new_tokens": 8, "refill": True}, {"refill": True}, {"max_new_tokens": 9}):
        (reply,) = own.generate([[1] * 5], sampler=beam, **options)
        assert len(reply.ids) == 8
