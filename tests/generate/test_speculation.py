"""Decoding with guesses: the same tokens, and the same distribution, as without."""

from itertools import product

import numpy as np
import pytest
from decoding_lab import PROMPTS, STACKS, engine
from networks import gpt_stack

from llmlab.errors import ConfigError
from llmlab.generate import SAMPLERS, Draft, Engine, NetworkDraft, NgramDraft, lagging
from llmlab.generate.drafts import Drafting, Guess
from llmlab.generate.samplers import Rows
from llmlab.layers import build_stack
from llmlab.layers.lora import ADAPTERS
from llmlab.network import Network
from llmlab.params import Layout
from llmlab.streams import stream

STEPS = {"type": "sample", "temperature": 0, "repetition_penalty": 1.4, "no_repeat_ngram": 3}
OTHERS = {"type": "sample", "temperature": 0, "frequency_penalty": 0.2, "num_samples": 2}


class Wild(Draft):
    """Guess tokens at random, some rows more than others."""

    def start(self, texts, sampler, rows):
        return Wilderness(len(texts))


class Wilderness(Drafting):
    def __init__(self, batch):
        self.rng = np.random.default_rng(batch)

    def guess(self, texts, counts):
        sizes = [self.rng.integers(0, max(count, 0) + 1) for count in counts]
        return [Guess(self.rng.integers(0, 11, size).tolist()) for size in sizes]

    def select(self, rows):
        pass


def drafts(own):
    smaller = engine(gpt_stack(num_heads=2, num_blocks=1), dtype=own.network.ctx.dtype, seed=5)
    return [
        NgramDraft(3),
        NetworkDraft(smaller.network, 4),
        NetworkDraft(own.network, 2),
        Wild(15),
    ]


QUICK = {"learned": "greedy", "window and alibi": OTHERS}


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        pytest.param(name, sampler, marks=[] if QUICK.get(name) == sampler else pytest.mark.slow)
        for name, sampler in product(STACKS, ("greedy", STEPS, OTHERS))
    ],
)
def test_greedy_tokens_are_the_same(name, sampler):
    own = engine(STACKS[name](), dtype=np.float32)
    stop = own.generate(PROMPTS, max_new_tokens=24, refill=True)[0].ids[15]
    options = {"sampler": SAMPLERS.build(sampler, ""), "max_new_tokens": 24}
    for more in ({"stop_ids": [stop], "refill": True}, {"max_new_tokens": 3}):
        plain = own.generate(PROMPTS, **options | more)
        for draft in drafts(own):
            assert own.generate(PROMPTS, draft=draft, **options | more) == plain


def with_adapter(stack, seed):
    """Return an engine whose network has small maps beside it that have learned something."""
    ADAPTERS.build({"type": "lora", "rank": 2, "on": ["q", "v", "out", "up"]}, "").apply(stack)
    params = Layout(stack).init(seed, np.float32)
    rng = np.random.default_rng(seed)
    for name in params.layout.trained.shapes:  # they begin as zeros
        params[name][...] = rng.normal(0, 0.5, params[name].shape)
    return Engine(Network(stack, params, 12))


@pytest.mark.parametrize("sampler", ["greedy", OTHERS])
def test_networks_with_adapters_guess_and_are_guessed(sampler):
    own, plain = with_adapter(gpt_stack(), 3), engine(gpt_stack(), dtype=np.float32, seed=3)
    smaller = with_adapter(gpt_stack(num_heads=2, num_blocks=1), 5)
    options = {"sampler": SAMPLERS.build(sampler, ""), "max_new_tokens": 24, "refill": True}
    texts = own.generate(PROMPTS, **options)
    assert texts != plain.generate(PROMPTS, **options)
    for draft in (NetworkDraft(smaller.network, 4), NetworkDraft(plain.network, 3), NgramDraft(3)):
        assert own.generate(PROMPTS, draft=draft, **options) == texts
    assert plain.generate(PROMPTS, draft=NetworkDraft(own.network, 3), **options) == (
        plain.generate(PROMPTS, **options)
    )
    itself = NetworkDraft(own.network, 4)  # all of its guesses are right
    own.generate([[3, 1]], sampler=SAMPLERS.build("greedy", ""), max_new_tokens=11, draft=itself)
    assert (itself.tally.drafted, itself.tally.accepted) == (8, 8)


def test_what_was_accepted_is_counted():
    own = engine(gpt_stack())
    draft = NetworkDraft(own.network, 4)
    (reply,) = own.generate([[3, 1]], max_new_tokens=11, draft=draft)
    # One token of the prompt's pass, then two passes with four guesses and a token each.
    tally = draft.tally
    assert (tally.passes, tally.tokens, tally.drafted, tally.accepted) == (2, 11, 8, 8)
    assert len(reply.ids) == 11
    wild = Wild(15)
    own.generate([[3, 1]], max_new_tokens=11, draft=wild)
    assert wild.tally.accepted < wild.tally.drafted and wild.tally.tokens == 11


def test_until_ends_a_reply_within_a_guess():
    own = engine(gpt_stack())
    options = {"max_new_tokens": 30, "refill": True, "until": lambda ids: sum(ids) > 60}
    plain = own.generate(PROMPTS, **options)
    assert {reply.reason for reply in plain} == {"stop"}
    assert own.generate(PROMPTS, draft=NetworkDraft(own.network, 5), **options) == plain
    streamed = own.stream_ids(PROMPTS[0], draft=NetworkDraft(own.network, 5), **options)
    found = []
    for id in streamed:
        found.append(id)
        own.generate([[8]], max_new_tokens=2)  # the network is used meanwhile
    assert found == plain[0].ids


def doubled(dtype=np.float32):
    """Return a network whose tokens come in pairs that differ by rounding: without `Lagging`, none
    of the replies of this file's prompts is that of plain decoding."""
    stack = gpt_stack(vocab_size=16, tied=False)
    params = Layout(stack).init(3, dtype)
    ulps = np.random.default_rng(3).integers(-1, 2, (8, 8)) * np.finfo(dtype).eps
    for name, view in params.items():
        if name.startswith("output"):
            view[..., 8:] = view[..., :8] * (1 + ulps[: len(view) if view.ndim > 1 else 1])
    return Engine(Network(stack, params, 12))


@pytest.mark.slow
def test_ties_are_decided_as_without_guesses(monkeypatch):
    asked = []
    behind = lagging.Lagging.logits_after
    monkeypatch.setattr(
        lagging.Lagging, "logits_after", lambda self, n: asked.append(n) or behind(self, n)
    )
    own = doubled()
    for prompts in (PROMPTS, PROMPTS[:1]):
        for sampler in ("greedy", OTHERS):
            options = {"sampler": SAMPLERS.build(sampler, ""), "refill": True, "max_new_tokens": 20}
            plain = own.generate(prompts, **options)
            stop = plain[0].ids[10]
            for more in ({}, {"stop_ids": [stop]}):
                wanted = own.generate(prompts, **options | more)
                for draft in (NetworkDraft(own.network, 3), Wild(15)):
                    assert own.generate(prompts, draft=draft, **options | more) == wanted
    assert asked


def test_everything_may_be_a_tie(monkeypatch):
    monkeypatch.setattr(lagging, "ROUNDING", 1e9)
    own = engine(gpt_stack(), dtype=np.float32)
    plain = own.generate(PROMPTS, max_new_tokens=30, refill=True)
    for draft in (NgramDraft(3), Wild(15)):
        assert own.generate(PROMPTS, max_new_tokens=30, refill=True, draft=draft) == plain


def test_which_scores_are_too_close():
    eps = np.finfo(np.float32).eps
    scores = np.zeros((5, 3), np.float32)
    scores[0] = 0, 4, 4
    scores[1] = 4, 4 - 400 * 4 * eps, -1
    scores[2] = 4, 4 - 600 * 4 * eps, -1
    scores[3] = 4, np.nan, -np.inf
    scores[4] = 1, 0, -np.inf
    assert lagging.too_close(scores, scores) == [True, True, False, True, False]
    # What a penalty made small was rounded when it was large.
    assert lagging.too_close(scores / 1e3, scores)[2] is True


def test_rounding_is_far_below_what_counts_as_close():
    """Passes over several tokens against one at a time, on the largest difference of a score."""
    own = engine(STACKS["rope"](), dtype=np.float32)
    ids = np.random.default_rng(0).integers(0, 11, (20, 12))
    whole = own.network.forward(ids).copy()
    alone = [[own.network.forward(row[: n + 1])[-1].copy() for n in range(12)] for row in ids]
    apart = np.abs(whole - np.array(alone)).max() / np.abs(whole).max()
    assert apart < lagging.ROUNDING / 10 * np.finfo(np.float32).eps


def test_drawing_with_ngrams_takes_the_draws_of_plain_sampling():
    own = engine(gpt_stack())
    sampler = SAMPLERS.build({"type": "sample", "num_samples": 3, "presence_penalty": 0.1}, "")
    options = {"sampler": sampler, "max_new_tokens": 40, "refill": True}

    def rngs():
        return [stream(0, "sampling", row) for row in range(3 * len(PROMPTS))]

    draft = NgramDraft(4)
    plain = own.generate(PROMPTS, rngs=rngs(), **options)
    assert own.generate(PROMPTS, rngs=rngs(), draft=draft, **options) == plain
    assert draft.tally.accepted


def chi_square(counts, expected):
    """Return the statistic over cells that are expected at least five times, and their number."""
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    return float(((counts - expected) ** 2 / expected).sum()), len(counts)


def distribution(network, sampler, prompt, length, size):
    """Return the probability of each reply of so many tokens, from whole passes."""
    found = np.empty((size,) * length)
    for ids in product(range(size), repeat=length):
        p = 1.0
        for n, id in enumerate(ids):
            logits = network.forward([*prompt, *ids[:n]])[-1:]
            p *= sampler.distribution(logits, Rows([prompt], [list(ids[:n])]))[0, id]
        found[ids] = p
    return found


SHAPED = {"top_k": 3, "presence_penalty": 0.7}


@pytest.mark.parametrize(
    ("options", "draws"),
    [
        (SHAPED, 1_000),
        pytest.param(SHAPED, 100_000, marks=pytest.mark.slow),
        pytest.param({"temperature": 1.3}, 100_000, marks=pytest.mark.slow),
    ],
)
def test_draws_have_the_distribution_of_plain_sampling(options, draws):
    """A chi-square test of replies of four tokens: two passes, or one guess of three."""
    size, length, prompt = 4, 4, [1, 2, 3]
    large, small = (
        Network(stack, Layout(stack).init(seed, np.float64), 12)
        for stack, seed in ((gpt_stack(size), 1), (gpt_stack(size, num_blocks=1), 7))
    )
    sampler = SAMPLERS.build({"type": "sample", "num_samples": draws, **options}, "")
    draft = NetworkDraft(small, 3)
    rngs = [np.random.Generator(np.random.PCG64(row)) for row in range(draws)]
    replies = Engine(large).generate(
        [prompt], sampler=sampler, rngs=rngs, draft=draft, max_new_tokens=length
    )
    counts = np.zeros((size,) * length)
    np.add.at(counts, tuple(np.array([reply.ids for reply in replies]).T), 1)
    wanted = distribution(large, sampler, prompt, length, size)
    statistic, cells = chi_square(counts, draws * wanted)
    # Mean k − 1 and variance 2 (k − 1): five standard deviations.
    assert abs(statistic - (cells - 1)) < 5 * np.sqrt(2 * (cells - 1))
    assert 0.1 < draft.tally.accepted / draft.tally.drafted < 0.95
    other = distribution(small, sampler, prompt, length, size)
    assert chi_square(counts, draws * other)[0] > 4 * cells  # the guesses alone would be found out


def test_a_smaller_context_of_the_draft():
    own = engine(gpt_stack())
    stack = build_stack(
        {"tokens": "token_embedding", "output": "tied_output_projection"},
        vocab_size=11,
        embedding_dim=8,
        max_seq_len=3,
    )
    small = Network(stack, Layout(stack).init(0, np.float64), 3)
    plain = own.generate(PROMPTS, max_new_tokens=40, refill=True)
    assert own.generate(PROMPTS, max_new_tokens=40, refill=True, draft=NetworkDraft(small)) == plain


def test_what_a_draft_cannot_do():
    own = engine(gpt_stack())
    with pytest.raises(ConfigError, match="draft: not for sampler=beam"):
        own.generate([[1]], sampler=SAMPLERS.build("beam", ""), draft=NgramDraft())
    for tokens in (0, 16):
        with pytest.raises(ValueError, match="1 to 15 tokens"):
            NgramDraft(tokens)
