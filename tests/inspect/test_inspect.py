"""What is read out of a network: the same numbers by other ways, on every preset."""

import numpy as np
import pytest
from networks import gpt_stack

from llmlab.batch import Batch
from llmlab.cli.start import compose
from llmlab.errors import ConfigError
from llmlab.inspect import (
    ablated,
    attribute,
    effective_rank,
    effects,
    head_scores,
    lens,
    linear_cka,
    log_softmax,
    neighbours,
    parts_of,
    patch_effects,
    repeated_tokens,
    sparsity,
    surprise,
    token_losses,
    top_tokens,
    trace,
)
from llmlab.inspect.ablation import Part, mean_outputs
from llmlab.layers import build_stack
from llmlab.layers.attention import Attention
from llmlab.network import Network
from llmlab.params import Layout

PRESETS = ("gpt2", "llama", "mistral", "mixtral", "nano", "rustgpt", "mixed", "alibi", "sinusoidal")
OTHERS = {
    "mixed": ("experiment=mixed",),
    "alibi": ("model=mistral", "positions=alibi"),
    "sinusoidal": ("model=rustgpt", "positions=sinusoidal"),
}
SMALL = ("model.embedding_dim=24", "model.hidden_dim=20", "model.num_blocks=2")
V, T = 31, 11


@pytest.fixture(scope="module")
def networks():
    """Return every preset, small, in float32, with no array as it starts."""
    found = {}
    for name in PRESETS:
        model = compose(*OTHERS.get(name, (f"model={name}",)), *SMALL).model
        sizes = {key: model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
        stack = build_stack(model["stack"], vocab_size=V, **sizes)
        params = Layout(stack).init(0, np.float32)
        noise = np.random.default_rng(1).standard_normal(params.flat.shape)
        params.flat += (0.15 * noise).astype(np.float32)
        found[name] = Network(stack, params, model["max_seq_len"])
    return found


@pytest.fixture
def small():
    """Return a network in float64, for derivatives."""
    stack = gpt_stack(num_kv_heads=2, max_seq_len=16)
    return Network(stack, Layout(stack).init(3, np.float64), 16)


IDS = np.random.default_rng(0).integers(V, size=T)
_DRAWN = np.random.default_rng(5).integers(11, size=(4, 10))
_WEIGHTS = np.tri(4, 9, 5, np.float32)[:, ::-1].copy()  # 6 to 9 targets count, at the end
ROWS = Batch(_DRAWN[:, :-1], _DRAWN[:, 1:], _WEIGHTS)


@pytest.mark.every_day(1)
@pytest.mark.parametrize("name", PRESETS)
def test_looking_changes_no_bit(networks, name):
    network = networks[name]
    before = network.forward(IDS).copy()
    found = trace(network, IDS)
    assert np.array_equal(found.logits, before)
    assert np.array_equal(network.forward(IDS), before)
    for maps in found.maps.values():
        np.testing.assert_allclose(maps.sum(axis=2), 1, atol=1e-6)
        assert not np.triu(maps, 1).any()


@pytest.mark.parametrize("name", PRESETS)
def test_the_last_reading_of_the_lens_is_the_answer(networks, name):
    found = trace(networks[name], IDS)
    readings = lens(networks[name], found)
    assert np.array_equal(readings[-1].logits, found.logits)
    assert not readings[-1].divergence.any()
    assert readings[0].divergence.max() > 0
    wanted = [-log_softmax(found.logits)[t, IDS[t + 1]] for t in range(T - 1)]
    np.testing.assert_allclose(readings[-1].loss, wanted, rtol=1e-12)


@pytest.mark.parametrize("name", PRESETS)
def test_parts_add_up_to_every_logit(networks, name):
    found = trace(networks[name], IDS)
    attribution = attribute(networks[name], found)
    heads = sum(layer.num_heads for _, layer, _ in networks[name].walk() if is_attention(layer))
    assert sum(".head." in each for each in attribution.names) == heads > 0
    scale = np.abs(found.logits).max()
    for token in range(V):
        sums = attribution.logits(np.full(T, token)).sum(axis=0)
        assert np.abs(sums - found.logits[:, token]).max() < 1e-5 * scale
    centred = attribution.logits(IDS, centred=True).sum(axis=0)
    wanted = found.logits[np.arange(T), IDS] - found.logits.mean(axis=1)
    np.testing.assert_allclose(centred, wanted, atol=1e-5 * scale)


@pytest.mark.parametrize("name", PRESETS)
def test_mean_ablation_is_that_of_a_plain_loop(networks, name):
    """The heads are put together by hand, from the shares that `trace` gives."""
    network = networks[name]
    inputs, targets = np.stack([IDS[:-1], IDS[1:]]), np.stack([IDS[1:], IDS[:-1]])
    rows = Batch(inputs, targets, np.ones((2, T - 1), np.float32))
    attention = next(part for part in parts_of(network) if part.head is not None)
    layer = next(
        each for at, each, _ in network.walk() if at == attention.path and is_attention(each)
    )
    chosen = Part(attention.path, layer.num_heads - 1)
    shares = np.concatenate(
        [
            next(r.heads for r in trace(network, x).records if r.layer is layer)[:, chosen.head]
            for x in inputs
        ]
    )
    mean = shares.astype(np.float64).mean(axis=0)

    def without(path, each, y, cache):
        if each is not layer or path != chosen.path:
            return None
        p = next(p for at, one, p in network.walk() if one is layer and at == path)
        share = layer.heads(cache, p, network.ctx)[:, :, chosen.head].reshape(y.shape)
        return (y - share + mean).astype(y.dtype)

    plain = token_losses(network, rows).sum(axis=1)
    with network.listening(post=without):
        changes = token_losses(network, rows).sum(axis=1) - plain
    wanted = changes.sum() / (2 * (T - 1))
    found = effects(network, rows, mean=True, parts=[chosen])[chosen]
    assert found.change == pytest.approx(wanted, abs=2e-6)
    totals = changes / (T - 1)
    assert found.error == pytest.approx(totals.std(ddof=1) / np.sqrt(2), abs=2e-6)


def is_attention(layer):
    return isinstance(layer, Attention)


def test_a_part_that_is_left_out_gives_nothing(small):
    """Zeros in the map behind the head, or in the layer's own last map, are the same."""
    before, ids = small.params.flat.copy(), IDS % 11
    for part in parts_of(small):
        with ablated(small, part):
            found = small.forward(ids).copy()
        layer = "down" if part.head is None else "out"
        weight = small.params[f"{part.path}.{layer}.weight"]
        if part.head is None:
            weight[:] = 0
            small.params[f"{part.path}.{layer}.bias"][:] = 0
        else:
            weight[part.head * 2 : part.head * 2 + 2] = 0
        np.testing.assert_allclose(found, small.forward(ids), atol=1e-12)
        small.params.flat[:] = before
    assert [part.name for part in parts_of(small)][3:6] == [
        "blocks.0.attention.head.3",
        "blocks.0.feed_forward",
        "blocks.1.attention.head.0",
    ]


def test_means_leave_padding_out(small):
    means = mean_outputs(small, ROWS)
    plain = {path: [] for path in means}
    for x, weights in zip(ROWS.inputs, ROWS.weights, strict=True):
        found = trace(small, x)
        for path, each in plain.items():
            inner = f"{path}.out" if path.endswith("attention") else path
            record = next(r for r in found.records if r.path == inner)
            values = record.x if path.endswith("attention") else record.y
            each.append(values[weights > 0])
    for path, each in plain.items():
        np.testing.assert_allclose(means[path], np.concatenate(each).mean(axis=0), atol=1e-12)


def test_errors_are_those_of_rows_with_different_weights(small):
    part = parts_of(small)[0]
    found = effects(small, ROWS, parts=[part])[part]
    plain = token_losses(small, ROWS)
    with ablated(small, part):
        changes = token_losses(small, ROWS) - plain
    sums, weights = (changes * ROWS.weights).sum(axis=1), ROWS.weights.sum(axis=1)
    mean = sums.sum() / weights.sum()
    deviations = sums - mean * weights
    assert found.change == pytest.approx(mean)
    wanted = np.sqrt((deviations**2).sum() * 4 / 3) / weights.sum()
    assert found.error == pytest.approx(wanted)
    one = ROWS.rows(np.array([1]), 9)
    assert np.isnan(effects(small, one, parts=[part])[part].error)


def test_rows_are_measured_in_pieces(small, monkeypatch):
    """As many rows at once as fit into a bounded array of logits."""
    found = effects(small, ROWS, mean=True)
    monkeypatch.setattr("llmlab.inspect.ablation.MOST_LOGITS", 2 * 9 * 11)
    asked, forward = [], small.forward
    monkeypatch.setattr(
        small, "forward", lambda x, **more: asked.append(len(x)) or forward(x, **more)
    )
    again = effects(small, ROWS, mean=True)
    assert set(asked) == {1, 2}
    for part, each in found.items():
        np.testing.assert_allclose(each, again[part], rtol=1e-9, atol=1e-12)


def test_attribution_is_the_derivative_along_a_part_with_the_norm_held(small):
    """Integrated by finite differences: scale a head before the last norm, the norm held."""
    ids = IDS % 11
    found = trace(small, ids)
    attribution = attribute(small, found)
    part = Part("blocks.1.attention", 2)
    share = attribution.logits(np.full(T, 4))[attribution.names.index(part.name)]
    stream = list(found.stream.values())[-1]
    norm = next(r for r in found.records if r.path == "norm")
    vector = found.of(*attention_at(small, part.path)).heads[:, part.head]
    weight = attribution.weight[:, 4]

    def logit(scale):
        x = stream + scale * vector
        held = (x - x.mean(axis=1, keepdims=True)) * norm.inverse
        return (held * norm.params["weight"] + norm.params["bias"]) @ weight

    np.testing.assert_allclose((logit(1e-3) - logit(-1e-3)) / 2e-3, share, rtol=1e-8, atol=1e-12)


def attention_at(network, path):
    return next(
        (layer, at) for at, layer, _ in network.walk() if at == path and is_attention(layer)
    )


def test_a_patch_of_everything_is_the_other_text(small):
    ids, other = np.array([1, 2, 3, 4, 5, 6]), np.array([1, 2, 7, 4, 5, 6])
    paths, found = patch_effects(small, ids, other)
    assert found.shape == (len(paths), 6)
    assert not found[:, :2].any()  # both texts are the same there
    assert found[0, 2] == pytest.approx(1)  # the embedding of the one token that differs
    assert found[0, 3:] == pytest.approx(0)
    assert found[-1, 5] == pytest.approx(1)  # the last stream of the last place
    assert not found[-1, :5].any()
    plain = log_softmax(small.forward(ids)[-1]).copy()
    wanted = log_softmax(small.forward(other)[-1]).copy()
    token = int(np.argmax(wanted))
    stream = trace(small, other).stream[paths[3]]

    def patch(path, layer, y, cache):
        if path != paths[3] or type(layer).__name__ != "PreNorm":
            return None
        y = y.copy()
        y[4] = stream[4]
        return y

    with small.listening(post=patch):
        here = log_softmax(small.forward(ids)[-1])[token]
    assert found[3, 4] == pytest.approx((here - plain[token]) / (wanted - plain)[token])
    with pytest.raises(ConfigError, match="equally many"):
        patch_effects(small, ids, other[:5])
    with pytest.raises(ConfigError, match="no difference"):
        patch_effects(small, ids, ids)


def test_scores_of_maps_that_are_known(small, monkeypatch):
    period = 5
    row = np.arange(2 * period)
    plain = {
        "previous": np.where(row > 0, row - 1, 0),
        "duplicate": np.where(row >= period, row - period, row),
        "induction": np.where(row >= period, row - period + 1, row),
    }
    maps = np.stack([np.eye(2 * period)[where] for where in plain.values()])
    monkeypatch.setattr(Attention, "maps", lambda self, cache, ctx: maps[None])
    rows = repeated_tokens(11, period, 2)
    assert np.array_equal(rows[:, :period], rows[:, period:])
    for each in head_scores(small, rows).values():
        for head, name in enumerate(plain):
            assert getattr(each, name)[head] == 1
            assert sum(getattr(each, other)[head] for other in plain) == 1
        assert np.array_equal(each.entropy, [0, 0, 0])
    assert not np.isin(repeated_tokens(11, 50, 4, avoid=(1, 2)), (1, 2)).any()


def test_surprise_and_the_most_probable_tokens():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(surprise(logits, [0, 1, 2]), [np.log(4), -np.log(0.7)])
    ids, p = top_tokens(logits, 2)
    assert ids[:2].tolist() == [[0, 1], [2, 1]]
    np.testing.assert_allclose(p[1], [0.7, 0.2])


def test_similarity():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 5)), rng.standard_normal((40, 3))
    turn, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    assert linear_cka(x, 3 * x @ turn + 1) == pytest.approx(1)
    gram = [(a - a.mean(0)) @ (a - a.mean(0)).T for a in (x, y)]
    wanted = (gram[0] * gram[1]).sum() / np.sqrt((gram[0] ** 2).sum() * (gram[1] ** 2).sum())
    assert linear_cka(x, y) == pytest.approx(wanted)
    assert np.isnan(linear_cka(np.ones((4, 2)), x[:4]))
    assert effective_rank(np.eye(4)) == pytest.approx(4)
    assert effective_rank(np.ones((4, 6))) == pytest.approx(1)
    table = np.array([[1.0, 0], [2, 0.1], [0, 3], [-1, 0], [0, 0]])
    assert [n for n, _ in neighbours(table, 0, 2)] == [1, 2]
    share, dead = sparsity(np.array([[0.0, 1, 0], [0.0, 0, 2]]))
    assert share == pytest.approx(4 / 6) and dead.tolist() == [True, False, False]
