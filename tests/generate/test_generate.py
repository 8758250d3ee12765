"""Decoding: with the cache as without it, for one prompt and for many of unequal lengths."""

import numpy as np
import pytest
from decoding_lab import Recorded
from networks import gpt_stack, rustgpt_stack

from llmlab import kernels
from llmlab.generate import SAMPLERS, Engine, KVCache
from llmlab.layers import Stack
from llmlab.network import Network
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.workspace import Context

VOCABULARY, CONTEXT = 11, 12

STACKS = {
    "rustgpt": lambda: rustgpt_stack(VOCABULARY, 16, CONTEXT),
    "one head": lambda: gpt_stack(num_heads=1, num_kv_heads=1),
    "heads": lambda: gpt_stack(num_heads=4, num_kv_heads=4, tied=False),
    "grouped": lambda: gpt_stack(num_heads=4, num_kv_heads=2),
    "one key head": lambda: gpt_stack(num_heads=4, num_kv_heads=1, norm="post_norm"),
    "with dropout": lambda: gpt_stack(dropout=0.5),
}
PROMPTS = {
    "single": [[3, 1, 4]],
    "one token": [[7]],
    "equal": [[3, 1, 4], [1, 5, 9], [2, 6, 5]],
    "unequal": [[3], [1, 4, 1, 5, 9, 2, 6], [5, 3, 5], [8, 9, 7]],
    "full": [[1] * CONTEXT, [2]],
}


def make(name="grouped", dtype=np.float64):
    stack = STACKS[name]()
    params = Layout(stack).init(1, dtype)
    for key, view in params.items():
        if view.ndim == 1:
            view += 0.3 * stream(4, key).standard_normal(view.shape)
    return stack, params


def logits_without_cache(stack, params, ids):
    """Return the logits after the last of `ids`, from a whole forward pass."""
    ctx = Context(kernels.load("numpy"), params.flat.dtype)
    ctx.begin(1, len(ids))
    return stack.forward(params.tree, np.array(ids), ctx)[0][-1].copy()


def without_cache(stack, params, prompt, limit, stops=()):
    """Return (tokens, logits at each choice, reason) of greedy decoding."""
    ids, found, seen = list(prompt), [], []
    for _ in range(CONTEXT if limit is None else limit):
        seen.append(logits_without_cache(stack, params, ids))
        token = int(np.argmax(seen[-1]))
        if token in stops:
            return found, seen, "stop"
        found.append(token)
        if len(ids) == CONTEXT:
            return found, seen, "context"
        ids.append(token)
    return found, seen, "length"


@pytest.mark.every_day(20)
@pytest.mark.parametrize("limit", [4, None])
@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("name", STACKS)
def test_cached_equals_uncached(name, prompts, limit):
    stack, params = make(name)
    recorded = Recorded()
    engine = Engine(Network(stack, params, CONTEXT))
    replies = engine.generate(prompts, max_new_tokens=limit, sampler=recorded)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        ids, seen, reason = without_cache(stack, params, prompt, limit)
        assert (reply.ids, reply.reason) == (ids, reason)
        for cached, uncached in zip(recorded.seen, seen, strict=False):
            assert np.abs(cached[row] - uncached).max() <= 1e-10


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
def test_a_batch_gives_what_its_rows_give(prompts):
    engine = Engine(Network(*make(), CONTEXT))
    together = engine.generate(prompts)
    assert together == [engine.generate([prompt])[0] for prompt in prompts]


def test_stop_tokens_end_a_row_and_not_the_others():
    stack, params = make()
    engine = Engine(Network(stack, params, CONTEXT))
    prompts = PROMPTS["unequal"]
    free = engine.generate(prompts)
    stop = free[0].ids[1]
    replies = engine.generate(prompts, stop_ids=[stop])
    reasons = set()
    for prompt, reply in zip(prompts, replies, strict=True):
        ids, _, reason = without_cache(stack, params, prompt, None, {stop})
        assert (reply.ids, reply.reason) == (ids, reason)
        reasons.add(reason)
    assert replies[0].reason == "stop" and stop not in replies[0].ids
    first = free[0].ids[0]
    at_once = engine.generate([prompts[0]], stop_ids=[first, stop])[0]
    assert (at_once.ids, at_once.reason) == ([], "stop")


def test_limits():
    engine = Engine(Network(*make(), CONTEXT))
    assert engine.generate([[1, 2]], max_new_tokens=0)[0].ids == []
    assert engine.generate([]) == []
    one = engine.generate([[1, 2]], max_new_tokens=1)[0]
    assert (len(one.ids), one.reason) == (1, "length")
    # The last token of the context is given to the network; what it says is still a token.
    full = engine.generate([[1] * CONTEXT])[0]
    assert (len(full.ids), full.reason) == (1, "context")
    long = engine.generate([[1, 2]], max_new_tokens=1000)[0]
    assert (len(long.ids), long.reason) == (CONTEXT - 1, "context")
    for wrong in ([[]], [[1], []], [[1] * (CONTEXT + 1)]):
        with pytest.raises(ValueError, match="1 to 12 tokens"):
            engine.generate(wrong)


def test_stream_gives_what_generate_gives():
    engine = Engine(Network(*make(), CONTEXT))
    ids = engine.generate([[3, 1]])[0].ids
    assert list(engine.stream_ids([3, 1])) == ids
    assert list(engine.stream_ids([3, 1], max_new_tokens=3)) == ids[:3]
    assert list(engine.stream_ids([3, 1], stop_ids=[ids[2]])) == ids[: ids.index(ids[2])]
    # Each stream has its cache: two at a time, and a generation between them.
    other = engine.generate([[5, 9, 2]])[0].ids
    one, two = engine.stream_ids([3, 1]), engine.stream_ids([5, 9, 2])
    mixed = [], []
    for _ in range(5):
        mixed[0].append(next(one))
        engine.generate([[8]], max_new_tokens=2)
        mixed[1].append(next(two))
    assert mixed == (ids[:5], other[:5])


def test_generation_repeats_and_leaves_the_parameters_alone():
    stack, params = make(dtype=np.float32)
    before = params.flat.copy()
    engine = Engine(Network(stack, params, CONTEXT))
    first = engine.generate(PROMPTS["unequal"])
    assert engine.generate(PROMPTS["unequal"]) == first
    assert Engine(Network(stack, params, CONTEXT)).generate(PROMPTS["unequal"]) == first
    assert np.array_equal(params.flat, before)
    recorded = Recorded()
    engine.generate([[1]], sampler=recorded)
    assert recorded.seen[0].dtype == np.float32


def test_greedy_takes_the_first_of_equal_logits():
    assert SAMPLERS.build("greedy", "").choose(
        np.array([[0.0, 2, 2], [3, 1, 3]]), None
    ).tolist() == [
        1,
        0,
    ]


class Reader:
    """Feed tokens to a network through a cache, several a row if wanted."""

    def __init__(self, name, batch, capacity=CONTEXT):
        self.stack, self.params = make(name)
        self.cache = KVCache(self.stack, batch, capacity, np.float64)
        self.ctx = Context(kernels.load("numpy"), np.float64)
        self.texts = [[] for _ in range(batch)]

    def feed(self, rows):
        """Give each row its new tokens; compare the logits after each row's last one."""
        counts = np.array([len(row) for row in rows])
        time = counts.max()
        tokens = np.zeros((len(rows), time), np.intp)
        for row, new in enumerate(rows):
            tokens[row, : len(new)] = new
            self.texts[row] = self.texts[row] + new
        self.cache.prepare(time)
        self.ctx.begin(len(rows), time, kv_cache=self.cache)
        logits, _ = self.stack.forward(self.params.tree, tokens.reshape(-1), self.ctx)
        self.cache.advance(counts)
        assert self.cache.lengths.tolist() == [len(text) for text in self.texts]
        for row, text in enumerate(self.texts):
            wanted = logits_without_cache(self.stack, self.params, text)
            found = logits.reshape(len(rows), time, -1)[row, counts[row] - 1]
            assert np.abs(found - wanted).max() <= 1e-10, (row, text)


@pytest.mark.parametrize("name", ["rustgpt", "grouped", "one key head"])
class TestKVCache:
    def test_several_tokens_at_a_time(self, name):
        reader = Reader(name, 2)
        reader.feed([[1, 2], [3, 4]])
        reader.feed([[5, 6, 7], [8, 9, 1]])  # rows of one length
        reader.feed([[2], [3, 4, 5]])
        reader.feed([[6, 7], [8]])  # and of two
        reader.feed([[9], [9]])

    def test_truncate(self, name):
        reader = Reader(name, 3)
        reader.feed([[1, 2, 3, 4], [5, 6], [7, 8, 9]])
        reader.cache.truncate(np.array([2, 9, 1]))
        reader.texts = [[1, 2], [5, 6], [7]]
        reader.feed([[5], [6], [7]])
        reader.cache.truncate(np.zeros(3, np.intp))
        reader.texts = [[], [], []]
        reader.feed([[4, 3], [2], [1, 1, 1]])

    def test_select(self, name):
        reader = Reader(name, 3)
        reader.feed([[1, 2, 3, 4], [5, 6], [7, 8, 9]])
        for rows in ([2, 0, 0, 1], [3], [0, 0]):
            reader.cache.select(np.array(rows))
            reader.texts = [reader.texts[row] for row in rows]
            reader.feed([[row + 1] for row in range(len(rows))])

    def test_select_of_all_in_order_copies_nothing(self, name):
        reader = Reader(name, 2)
        reader.feed([[1, 2, 3], [4]])
        before = list(reader.cache._keys.values())
        reader.cache.select(np.array([0, 1]))
        assert all(a is b for a, b in zip(before, reader.cache._keys.values(), strict=True))
        reader.feed([[5], [6]])

    def test_capacity(self, name):
        reader = Reader(name, 1, capacity=5)
        reader.feed([[1, 2, 3]])
        reader.feed([[4, 5]])
        with pytest.raises(ValueError, match="6 tokens in a cache for 5"):
            reader.cache.prepare(1)


def test_one_attention_layer_under_two_names_is_refused():
    block = gpt_stack().layers["blocks.0"]
    with pytest.raises(ValueError, match=r"b.*attention.*under another name"):
        KVCache(Stack({"a": block, "b": block}), 1, 9, np.float32)
