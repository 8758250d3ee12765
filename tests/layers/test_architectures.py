"""Variants of attention: what each token sees, and that decoding agrees with whole passes."""

from math import erf, sqrt

import numpy as np
import pytest

from llmlab import kernels
from llmlab.batch import Batch
from llmlab.errors import ConfigError
from llmlab.generate import Engine, KVCache
from llmlab.generate.kv_cache import SLACK
from llmlab.layers import ACTIVATIONS, build_stack
from llmlab.network import Network
from llmlab.optim.adam import Adam
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.train.trainer import Trainer
from llmlab.workspace import Context

VOCABULARY, LENGTH = 11, 90  # more than a block of queries, and more than a ring
SIZES = {"vocab_size": VOCABULARY, "embedding_dim": 8, "max_seq_len": LENGTH}
ALL = {"positions": "rope", "window": 5, "qk_norm": True, "logit_softcap": 3.0, "num_kv_heads": 1}
VARIANTS = {
    "rope": {"positions": "rope"},
    "interleaved rope": {"positions": {"type": "rope", "interleaved": True}},
    "scaled rope": {"positions": {"type": "rope", "scaling": "ntk", "factor": 4}},
    "alibi": {"positions": "alibi"},
    "window": {"window": 5},
    "window of one": {"window": 1},
    "wide window": {"window": 60},
    "window alibi": {"positions": "alibi", "window": 7},
    "qk norm": {"qk_norm": True},
    "softcap": {"logit_softcap": 1.5},
    "all": ALL,
}
PROMPTS = {
    "one": [[3, 1, 4]],
    "equal": [[3, 1, 4], [1, 5, 9]],
    "unequal": [[3], [1, 4, 1, 5, 9, 2, 6, 5, 3] * 5, [2, 7, 1, 8, 2, 8], [5] * 70],
}


def specs(attention, positions=None):
    layer = {"type": "attention", "num_heads": 2, **attention}
    norm = {"type": "rms_norm"}
    return {
        "tokens": {"type": "token_embedding", "init": {"type": "normal", "std": 1.0}},
        **({"positions": {"type": positions}} if positions else {}),
        "blocks": {
            "type": "block",
            "repeat": 2,
            "layers": {"attention": {"type": "pre_norm", "layer": layer, "norm": norm}},
        },
        "output": {"type": "output_projection"},
    }


def network(attention, positions=None):
    stack = build_stack(specs(attention, positions), **SIZES)
    params = Layout(stack).init(1, np.float64)
    for key, view in params.items():
        if view.ndim == 1:
            view += 0.3 * stream(4, key).standard_normal(view.shape)
    return stack, params


def whole(stack, params, ids):
    ctx = Context(kernels.load("numpy"), np.float64)
    ctx.begin(1, len(ids))
    return stack.forward(params.tree, np.array(ids), ctx)[0].copy()


def without_cache(stack, params, prompt, limit):
    ids = list(prompt)
    for _ in range(limit):
        ids.append(int(np.argmax(whole(stack, params, ids)[-1])))
    return ids[len(prompt) :]


@pytest.mark.every_day(11)
@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("name", VARIANTS)
def test_decoding_with_cache_is_decoding_without(name, prompts):
    stack, params = network(VARIANTS[name])
    engine = Engine(Network(stack, params, LENGTH))
    replies = engine.generate(prompts, max_new_tokens=18)
    for prompt, reply in zip(prompts, replies, strict=True):
        assert reply.ids == without_cache(stack, params, prompt, 18)


class Reader:
    """Feed tokens through a cache; compare all logits with those of a whole pass."""

    def __init__(self, attention, batch, positions=None):
        self.stack, self.params = network(attention, positions)
        self.cache = KVCache(self.stack, batch, LENGTH, np.float64)
        self.ctx = Context(kernels.load("numpy"), np.float64)
        self.texts = [[] for _ in range(batch)]

    def feed(self, rows):
        counts = np.array([len(row) for row in rows])
        time = counts.max()
        tokens = np.full((len(rows), time), 1)
        for row, new in enumerate(rows):
            tokens[row, : len(new)] = new
            self.texts[row] = self.texts[row] + list(new)
        self.cache.prepare(time)
        self.ctx.begin(len(rows), time, kv_cache=self.cache)
        logits, _ = self.stack.forward(self.params.tree, tokens.reshape(-1), self.ctx)
        self.cache.advance(counts)
        for row, text in enumerate(self.texts):
            wanted = whole(self.stack, self.params, text)[len(text) - counts[row] :]
            found = logits.reshape(len(rows), time, -1)[row, : counts[row]]
            assert np.abs(found - wanted).max() <= 1e-10, (row, text)


def text(seed, *lengths):
    return [
        stream(seed, row).integers(VOCABULARY, size=n).tolist() for row, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("name", ["window", "window alibi", "alibi", "all", "rope"])
def test_cache_in_pieces_of_any_size(name):
    reader = Reader(VARIANTS[name], 3)
    for seed, lengths in enumerate([(30, 2, 7), (1, 1, 1), (3, 9, 1), (25, 30, 2), (1, 1, 1)]):
        reader.feed(text(seed, *lengths))
    reader.cache.select(np.array([2, 0, 0]))
    reader.texts = [reader.texts[2], reader.texts[0], reader.texts[0]]
    for seed in range(9, 14):
        reader.feed(text(seed, 1, 1, 1))


@pytest.mark.parametrize("back", [1, 7, SLACK])
def test_a_window_can_take_back_some_tokens(back):
    reader = Reader(VARIANTS["window"], 2)
    reader.feed(text(0, 50, 12))
    for _ in range(2):
        lengths = reader.cache.lengths - np.array([back, 3])
        reader.cache.truncate(lengths)
        reader.texts = [t[:n] for t, n in zip(reader.texts, lengths, strict=True)]
        reader.feed(text(1, back, 3))  # up to where it was, so that it can go back again
    for seed in range(4):
        reader.feed(text(seed, 1, 1))
    with pytest.raises(ValueError, match=f"more than {SLACK} tokens"):
        reader.cache.truncate(reader.cache.lengths - SLACK - 1)
    reader.cache.truncate(np.zeros(2, np.intp))
    reader.texts = [[], []]
    reader.feed(text(5, 3, 8))


def test_the_cache_of_a_window_is_bounded():
    stack, _ = network({"window": 5})
    cache = KVCache(stack, 1, 10_000, np.float32)
    assert {k.shape[-1] for k in cache._keys.values()} == {5 + SLACK}
    assert {v.shape[2] for v in cache._values.values()} == {5 + SLACK}


def test_sinusoidal_positions_are_decoded_where_they_stand():
    reader = Reader({}, 2, "sinusoidal_positions")
    reader.feed(text(0, 9, 4))
    reader.feed(text(1, 1, 1))


@pytest.mark.parametrize(("window", "time"), [(1, 5), (3, 9), (64, 70), (65, 140), (100, 90)])
def test_a_window_is_seen_and_nothing_else(window, time):
    stack = build_stack({"attention": {"type": "attention", "window": window}}, embedding_dim=4)
    params = Layout(stack).init(0, np.float64)
    ctx = Context(kernels.load("numpy"), np.float64)
    x = stream(0, "x").standard_normal((time, 4))

    def run(x):
        ctx.begin(1, time)
        return stack.forward(params.tree, x, ctx)[0].copy()

    for changed in (0, time // 2):
        moved = x.copy()
        moved[changed] += 1
        seen = (run(x) != run(moved)).any(axis=1)
        assert np.flatnonzero(seen).tolist() == list(range(changed, min(time, changed + window)))


def test_hidden_blocks_of_a_window_are_not_computed():
    class Counting:
        def __init__(self):
            self.items = 0

        def __getattr__(self, name):
            return getattr(kernels.load("numpy"), name)

        def softmax(self, ctx, scores, mask):
            self.items += scores.size
            return kernels.load("numpy").softmax(ctx, scores, mask)

    counting = Counting()
    stack = build_stack({"attention": {"type": "attention", "window": 10}}, embedding_dim=4)
    ctx = Context(counting)
    ctx.begin(1, 1024)
    stack.forward(Layout(stack).init(0).tree, np.zeros((1024, 4), np.float32), ctx)
    assert counting.items <= 1024 * (64 + 10)


def test_rope_depends_on_the_distance_alone():
    stack = build_stack({"attention": {"type": "attention", "positions": "rope"}}, embedding_dim=6)
    rotation = stack.layers["attention"].rotation
    ctx = Context(kernels.load("numpy"), np.float64)
    q, k = stream(0, "qk").standard_normal((2, 6))

    def score(a, b):
        rows = np.stack([q, k])
        ctx.begin(1, 2, positions=np.array([[a, b]]))
        rotation.rotate(rows, 1, ctx)
        return rows[0] @ rows[1]

    assert score(7, 3) == pytest.approx(score(104, 100), rel=1e-12)
    assert score(7, 3) != pytest.approx(score(7, 4), rel=1e-3)
    assert score(5, 5) == pytest.approx(q @ k, rel=1e-12)


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 12])
def test_slopes_of_alibi(heads):
    from llmlab.layers.positions import ALiBi

    known = {
        1: [2**-8],
        2: [2**-4, 2**-8],
        6: [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3],
        8: [2**-h for h in range(1, 9)],
        12: [*(2**-h for h in range(1, 9)), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5],
    }
    assert ALiBi(heads, heads).slopes.tolist() == pytest.approx(known[heads])


def test_gelu_is_exact():
    ctx = Context(kernels.load("numpy"), np.float64)
    ctx.begin(0, 0)
    x = np.concatenate([np.linspace(-12, 12, 4001), [0.0, -0.0, 1e3, -1e3, 1e30, -1e30]])
    y, slope = ctx.kernels.gelu(ctx, x.copy())
    normal = np.array([0.5 * (1 + erf(v / sqrt(2))) for v in x])
    bell = np.exp(-np.minimum(x * x, 1e3) / 2) / sqrt(2 * np.pi)
    assert (np.abs(y - x * normal) <= 1e-15 * np.maximum(1, np.abs(x))).all()
    assert np.abs(slope - normal - np.clip(x, -50, 50) * bell).max() <= 1e-15


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS.names())
def test_activations_neither_overflow_nor_hide_nan(name, dtype):
    ctx = Context(kernels.load("numpy"), dtype)
    ctx.begin(0, 0)
    x = np.array([-1e4, 1e4, 0], dtype)
    y, cache = ACTIVATIONS.build(name, "").forward(x, ctx)
    dx = ACTIVATIONS.build(name, "").backward(np.ones_like(x), cache, ctx)
    assert np.isfinite(y).all() and np.isfinite(dx).all() and y[0] == 0 and y[1] >= 1e4
    x[0] = np.nan
    assert np.isnan(ACTIVATIONS.build(name, "").forward(x, ctx)[0][0])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"positions": "rope", "num_heads": 2}, "embedding_dim / num_heads=3, must be even"),
        ({"positions": {"type": "rope", "theta": 0}}, "theta=0"),
        ({"positions": {"type": "rope", "scaling": "yarn"}}, "scaling=yarn: must be one of none"),
        ({"positions": {"type": "rope", "factor": 2.0}}, "factor=2.0: has no effect"),
        ({"positions": {"type": "rope", "scaling": "linear", "factor": 0.5}}, "factor=0.5"),
        ({"positions": "rop"}, "did you mean 'rope'"),
        ({"window": 0}, "window=0: must be at least 1"),
        ({"logit_softcap": 0.0}, "logit_softcap=0.0: must be positive"),
        ({"qk_norm": True, "qk_norm_eps": 0}, "eps=0"),
    ],
)
def test_attention_that_does_not_fit(spec, said):
    with pytest.raises(ConfigError) as error:
        build_stack({"attention": {"type": "attention", **spec}}, embedding_dim=6)
    assert any(said in problem for problem in error.value.problems), error.value.problems


def test_sinusoidal_positions_need_pairs():
    with pytest.raises(ConfigError, match="embedding_dim=5: must be even"):
        build_stack({"sinusoidal_positions": {"type": "sinusoidal_positions"}}, embedding_dim=5)


# Experts

EXPERTS = {"type": "mixture_of_experts", "hidden_dim": 12, "num_experts": 4, "top_k": 2}


def expert_stack(balance):
    norm = {"type": "rms_norm"}
    layers = {"moe": {"type": "pre_norm", "norm": norm, "layer": {**EXPERTS}}}
    layers["moe"]["layer"]["balance"] = balance
    around = specs({})
    output = around.pop("output")
    return build_stack({**around, **layers, "output": output}, **SIZES)


def train(balance, threads=1, steps=3, cut=1):
    stack = expert_stack(balance)
    params = Layout(stack).init(2, np.float64)
    rng = stream(3, "batch")
    inputs, targets = rng.integers(VOCABULARY, size=(2, 8, 12))
    used = (np.arange(12) < rng.integers(1, 13, size=8)[:, None]).astype(np.float32)
    whole = Batch(inputs, targets, used)
    batches = [
        Batch(whole.inputs[rows], whole.targets[rows], whole.weights[rows])
        for rows in np.array_split(np.arange(8), cut)
    ]
    with Trainer(stack, params, Adam(), lr=1e-2, threads=threads) as trainer:
        results = [trainer.step(batches) for _ in range(steps)]
        return results, trainer.grads.flat.copy(), trainer.params.flat.copy()


@pytest.mark.parametrize("cut", [1, 4])
def test_the_balance_loss_does_not_depend_on_how_a_batch_is_divided(cut):
    results, grads, _ = train(0.5)
    others, others_grads, _ = train(0.5, threads=2, cut=cut)
    for a, b in zip(results, others, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-10)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-8)
    assert np.abs(grads - others_grads).max() <= 1e-8 * np.abs(grads).max()


def test_the_balance_loss_is_part_of_the_loss_and_at_least_its_weight():
    with_, without = train(0.5, steps=1)[0][0], train(0.0, steps=1)[0][0]
    assert 0.5 <= with_.loss - without.loss <= 0.5 * 4
    assert with_.grad_norm != without.grad_norm


def test_the_balance_loss_balances():
    def shares(balance):
        stack = build_stack(
            {"mixture_of_experts": {"type": "mixture_of_experts", **EXPERTS, "balance": balance}},
            **SIZES,
        )
        params = Layout(stack).init(0, np.float64)
        ctx = Context(kernels.load("numpy"), np.float64)
        x = stream(0, "x").standard_normal((200, 8)) + 1.0  # one side, so some experts win
        grads = Layout(stack).zeros(np.float64)
        for _ in range(200):
            ctx.begin(1, 200, weights=np.ones(200), loss_scale=1 / 200)
            y, cache = stack.forward(params.tree, x, ctx)
            grads.flat.fill(0)
            stack.backward(params.tree, grads.tree, np.zeros_like(y), cache, ctx)
            params.flat -= grads.flat
        choice = cache[0].choice
        return np.array([part.stop - part.start for part in choice.parts]) / 400

    free, balanced = shares(0.0), shares(0.3)
    assert balanced.max() < free.max() and balanced.min() > 0.1


def test_experts_decode_with_cache_as_without():
    stack = expert_stack(0.01)
    params = Layout(stack).init(2, np.float64)
    for prompts in PROMPTS.values():
        replies = Engine(Network(stack, params, LENGTH)).generate(prompts, max_new_tokens=6)
        for prompt, reply in zip(prompts, replies, strict=True):
            assert reply.ids == without_cache(stack, params, prompt, 6)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"top_k": 5}, "top_k=5: must be 1 to num_experts=4"),
        ({"top_k": 0}, "top_k=0"),
        ({"num_experts": 0}, "num_experts=0"),
        ({"num_experts": 2**31}, "num_experts=2147483648: must be 1 to 1,000"),
        ({"top_k": 1}, "top_k=1: with normalize=true"),
        ({"balance": -1}, "balance=-1"),
        ({"hidden_dim": 0}, "hidden_dim=0"),
    ],
)
def test_experts_that_do_not_fit(spec, said):
    with pytest.raises(ConfigError) as error:
        build_stack({"x": {**EXPERTS, **spec}}, embedding_dim=6)
    assert any(said in problem for problem in error.value.problems), error.value.problems
