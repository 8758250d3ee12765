"""What layers compute, against the formulas of their papers written out number by number.

The gradients can't tell: they fit whatever forward computes.
"""

from math import cos, sin

import numpy as np
import pytest
from layer_cases import ATTENTION, FEED_FORWARD, NORM, TABLE, case, small_blocks  # noqa: F401

from llmlab.contract import NUMPY, Bench
from llmlab.errors import ConfigError
from llmlab.layers import ACTIVATIONS, LAYERS, build_stack
from llmlab.layers.dropout import attention_masks
from llmlab.layers.positions import once_a_pass, table_size
from llmlab.layers.routing import balance_loss, choose
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.workspace import Context


def output(bench):
    """Return the output (B, T, C) of a case."""
    y, _ = bench.forward(bench.context())
    return y.reshape(bench.case.batch, bench.case.time, -1)


def turned(head, position, rope):
    """Return a head's queries or keys of one token, turned by its position."""
    d, kind = len(head), {"type": rope} if isinstance(rope, str) else rope
    theta, factor = 10_000.0, kind.get("factor", 1)
    if kind.get("scaling") == "ntk":
        theta *= factor ** (d / (d - 2))
    if kind.get("scaling") == "linear":
        position /= factor
    new = np.empty(d)
    for i in range(d // 2):
        a, b = (2 * i, 2 * i + 1) if kind.get("interleaved") else (i, i + d // 2)
        angle = position * theta ** (-2 * i / d)
        new[a] = head[a] * cos(angle) - head[b] * sin(angle)
        new[b] = head[a] * sin(angle) + head[b] * cos(angle)
    return new


def normed(head, weight, eps=1e-6):
    return weight * head / np.sqrt(np.mean(head**2) + eps)


def attention(bench, spec):
    """Return softmax(cap(q · k / √D) + bias) v for each head, token by token."""
    p, case = bench.params, bench.case
    rows = bench.x.reshape(case.batch, case.time, -1)
    heads = spec.get("num_heads", 1)
    shared = heads // (spec.get("num_kv_heads") or heads)
    kinds = (heads, heads // shared, heads // shared)
    d = rows.shape[-1] // heads
    rope = spec.get("positions") if spec.get("positions") != "alibi" else None
    slopes = [2 ** (-8 * h / heads) for h in range(1, heads + 1)]
    if heads in (3, 6):  # those of 2 or 4 heads, then every other one of 4 or 8
        slopes = {3: [2**-4, 2**-8, 2**-2], 6: [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]}[heads]
    result = np.empty((case.batch, case.time, heads * d))
    for b in range(case.batch):
        seen = []  # queries, keys and values of each token, head by head
        for t in range(case.time):
            row = rows[b, t] @ p["layer.qkv.weight"]
            row = row + (p["layer.qkv.bias"] if spec.get("bias", True) else 0)
            parts, at = [], 0
            for kind, count in zip(("query", "key", "value"), kinds, strict=True):
                own = [row[at + d * h : at + d * h + d] for h in range(count)]
                at += d * count
                if spec.get("qk_norm") and kind != "value":
                    own = [normed(head, p[f"layer.qk_norm.{kind}.weight"]) for head in own]
                if rope and kind != "value":
                    position = bench.positions[b, t] if case.positions else t
                    own = [turned(head, position, rope) for head in own]
                parts.append(own)
            seen.append(parts)
        for t in range(case.time):
            first = max(0, t - (spec.get("window") or case.time) + 1)
            keys = [
                s
                for s in range(first, t + 1)
                if not case.segments or bench.segments[b, s] == bench.segments[b, t]
            ]
            for h in range(heads):
                scores = np.array([seen[t][0][h] @ seen[s][1][h // shared] for s in keys])
                scores /= np.sqrt(d)
                if spec.get("logit_softcap"):
                    scores = spec["logit_softcap"] * np.tanh(scores / spec["logit_softcap"])
                if spec.get("positions") == "alibi":
                    scores -= slopes[h] * (t - np.array(keys))
                shares = np.exp(scores) / np.exp(scores).sum()
                values = np.array([seen[s][2][h // shared] for s in keys])
                result[b, t, d * h : d * h + d] = shares @ values
    if not spec.get("output_projection", True):
        return result
    y = result @ p["layer.out.weight"]
    return y + p["layer.out.bias"] if spec.get("bias", True) else y


PLAIN = {name: row for name, row in TABLE["attention"].items() if not row.random}


@pytest.mark.parametrize("name", PLAIN)
def test_attention(name):
    bench = Bench(PLAIN[name])
    wanted = attention(bench, PLAIN[name].specs["layer"])
    np.testing.assert_allclose(output(bench), wanted, rtol=1e-10)


def test_theta_of_rope_counts():
    rope = {"type": "rope", "theta": 100.0}
    given, usual = (
        Bench(case("attention", positions_=positions)) for positions in (rope, {"type": "rope"})
    )
    usual.params.flat[:], usual.x = given.params.flat, given.x
    assert not np.allclose(output(given), output(usual))


@pytest.mark.parametrize("name", ["plain", "packed", "narrow"])
def test_sinusoidal_positions(name):
    row = TABLE["sinusoidal_positions"][name]
    bench, theta = Bench(row), row.specs["layer"].get("theta", 10_000.0)
    x = bench.x.reshape(row.batch, row.time, -1)
    c = x.shape[-1]
    for b, t, i in np.ndindex(row.batch, row.time, c // 2):
        position = bench.positions[b, t] if row.positions else t
        angle = position * theta ** (-2 * i / c)
        wanted = x[b, t, 2 * i : 2 * i + 2] + [sin(angle), cos(angle)]
        assert output(bench)[b, t, 2 * i : 2 * i + 2] == pytest.approx(wanted, rel=1e-12)


def test_a_token_just_behind_a_table():
    layer = LAYERS.build("sinusoidal_positions", "", embedding_dim=2)
    ctx = Context(NUMPY, np.float64)
    ctx.begin(1, 1, positions=np.array([[64]]))
    y, _ = layer.forward({}, np.zeros((1, 2)), ctx)
    assert y[0] == pytest.approx([sin(64), cos(64)])
    other = LAYERS.build("sinusoidal_positions", "", embedding_dim=4, theta=9.0)
    y, _ = other.forward({}, np.zeros((1, 4)), ctx)
    assert y[0] == pytest.approx([sin(64), cos(64), sin(64 / 3), cos(64 / 3)])
    usual = LAYERS.build("sinusoidal_positions", "", embedding_dim=4)
    assert not np.allclose(usual.forward({}, np.zeros((1, 4)), ctx)[0], y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tables_of_positions_are_kept_and_have_the_dtype(dtype):
    rows = [case("attention", num_heads=3, positions_=name) for name in ("rope", "alibi")]
    for row in (*rows, case("sinusoidal_positions")):
        bench = Bench(row, dtype)
        ctx = bench.context()
        bench.run(ctx)
        kept = dict(ctx.memo)
        assert kept and {table.dtype for table in kept.values()} == {np.dtype(dtype)}
        bench.run(ctx)
        assert kept.keys() == ctx.memo.keys()
        assert all(ctx.memo[key] is table for key, table in kept.items())


def test_cached_biases_of_alibi_have_the_dtype():
    layer = LAYERS.build({"type": "attention", "positions": "alibi"}, "", embedding_dim=6)
    found = layer.core.bias.cached(np.zeros((2, 3), int), Context(NUMPY, np.float32))
    assert found.dtype == np.float32


def test_layers_on_a_way_round():
    inner = {"a": ATTENTION, "b": FEED_FORWARD}
    rms = {"type": "rms_norm"}
    sizes = {"embedding_dim": 6}
    sandwich = {"layer": FEED_FORWARD, "norm": NORM, "output_norm": rms}
    parallel = {"layers": inner, "norm": NORM}
    both = ("sandwich_norm", sandwich, None), ("parallel", parallel, inner)
    for name, spec, parts in both:
        bench = Bench(case(name, **spec))
        p, ctx = bench.params.tree["layer"], bench.context()
        bench.begin(ctx)

        def part(spec, names, x, ctx=ctx):
            return build_stack({"x": spec}, **sizes).layers["x"].forward(names, x, ctx)[0]

        h = part(NORM, p["norm"], bench.x)
        if parts:
            h = sum(part(spec, p[name], h) for name, spec in parts.items())
        else:
            h = part(rms, p["output_norm"], part(FEED_FORWARD, p[""], h))
        wanted = bench.x + h
        np.testing.assert_allclose(output(bench).reshape(wanted.shape), wanted, rtol=1e-12)


@pytest.mark.parametrize("name", ["pre_norm", "post_norm", "sandwich_norm", "parallel"])
def test_dropout_on_a_way_round(name):
    assert Bench(TABLE[name]["dropout"]).stack.layers["layer"].rate == 0.4
    other = {"type": name, "norm": NORM, "dropout": 1.0}
    inner = {"layers": {"a": ATTENTION}} if name == "parallel" else {"layer": ATTENTION}
    with pytest.raises(ConfigError, match="must be in"):
        build_stack({"x": {**other, **inner}}, embedding_dim=6)


def test_a_shared_norm_keeps_its_name():
    layers = {"norm": ATTENTION}
    with pytest.raises(ConfigError, match="'norm' is the name of the shared norm"):
        build_stack(
            {"parallel": {"type": "parallel", "layers": layers, "norm": NORM}}, embedding_dim=6
        )


def test_blocks_of_queries_draw_their_own_masks():
    ctx = Context(NUMPY, np.float64)
    ctx.begin(2, 9, rng=[stream(0, "rng", row) for row in range(2)])
    masks = attention_masks(ctx, 0.5, 3, 4, [4, 8, 12])
    assert [mask.shape for mask in masks] == [(2, 3, 4, 4), (2, 3, 4, 8), (2, 3, 1, 9)]
    ctx = Context(NUMPY, np.float64)
    ctx.begin(2, 9, rng=[stream(0, "rng", row) for row in range(2)])
    drawn = NUMPY.dropout_mask(ctx, 3 * (4 * 4 + 4 * 8 + 1 * 12), 0.5)
    at = 0
    for mask, queries, keys in zip(masks, (4, 4, 1), (4, 8, 12), strict=True):
        for query in range(queries):
            for head in range(3):
                own = drawn[:, at : at + keys][:, : mask.shape[-1]]
                assert np.array_equal(mask[:, head, query], own)
                at += keys


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
def test_a_share_to_drop_is_below_one(rate):
    with pytest.raises(ConfigError, match="must be in"):
        LAYERS.build({"type": "dropout", "rate": rate}, "model", embedding_dim=6)


@pytest.mark.parametrize(("top_k", "scale"), [(1, 1.0), (2, 0.25)])
def test_the_balance_loss(top_k, scale):
    batch, time, experts, balance = 3, 4, 5, 0.7
    rng = np.random.default_rng(0)
    p = rng.random((batch * time, experts))
    p /= p.sum(axis=1, keepdims=True)
    w = np.array([[1.0, 1, 0.5, 0], [1, 1, 1, 1], [0, 0, 0, 0]])  # the last is padding alone
    ctx = Context(NUMPY, np.float64)
    ctx.begin(batch, time, weights=w.reshape(-1), loss_scale=scale)
    dp = balance_loss(p, choose(p, top_k, True, ctx), balance, ctx).reshape(batch, time, experts)
    p = p.reshape(batch, time, experts)
    for b in range(batch):
        tokens = w[b].sum()
        chosen, mean = np.zeros(experts), np.zeros(experts)
        for t in range(time):
            for e in np.argsort(-p[b, t])[:top_k]:
                chosen[e] += w[b, t] / top_k
            mean += w[b, t] * p[b, t]
        if not tokens:
            assert ctx.losses[0][b] == 0 and not dp[b].any()
            continue
        wanted = tokens * balance * experts * (chosen / tokens) @ (mean / tokens)
        assert ctx.losses[0][b] == pytest.approx(wanted, rel=1e-12)
        slope = balance * experts * chosen / tokens * scale
        np.testing.assert_allclose(dp[b], w[b][:, None] * slope, rtol=1e-12)


@pytest.mark.parametrize(("window", "time", "pairs"), [(None, 5, 15), (3, 5, 12), (9, 5, 15)])
def test_operations_of_attention(window, time, pairs):
    sizes = {"num_heads": 3, "num_kv_heads": 1, "window": window}
    layer = LAYERS.build({"type": "attention", **sizes}, "", embedding_dim=6)
    maps = 2 * time * 6 * (6 + 2 * 2 + 6)
    assert layer.flops(2, time) == 2 * (maps + 4 * pairs * 6)


def test_operations_of_the_rest():
    sizes = {"embedding_dim": 6, "vocab_size": 7}
    feed_forward = {"feed_forward": 2, "gated_feed_forward": 3}
    for name, maps in feed_forward.items():
        layer = LAYERS.build({"type": name, "hidden_dim": 5}, "", **sizes)
        assert layer.flops(3, 4) == 2 * 12 * maps * 6 * 5
    for name in ("output_projection", "tied_output_projection"):
        assert LAYERS.build({"type": name}, "", **sizes).flops(3, 4) == 2 * 12 * 6 * 7
    experts = {"type": "mixture_of_experts", "hidden_dim": 5, "num_experts": 4, "top_k": 2}
    both = 2 * 12 * 6 * 4 + 2 * (2 * 12 * 3 * 6 * 5)
    assert LAYERS.build(experts, "", **sizes).flops(3, 4) == both


def gated(rows, p):
    """Return (silu(x @ gate) · (x @ up)) @ down, an expert."""
    h = rows @ p["gate"]["weight"]
    return (h / (1 + np.exp(-h)) * (rows @ p["up"]["weight"])) @ p["down"]["weight"]


@pytest.mark.parametrize("normalize", [True, False])
def test_experts(normalize):
    sizes = {"hidden_dim": 3, "num_experts": 4, "top_k": 2, "normalize": normalize}
    bench = Bench(case("mixture_of_experts", **sizes))
    p = bench.params.tree["layer"]
    scores = np.exp(bench.x @ p["router"]["weight"])
    for x, share, found in zip(bench.x, scores, output(bench).reshape(bench.x.shape), strict=True):
        share /= share.sum()
        best = np.argsort(-share)[:2]
        gates = share[best] / (share[best].sum() if normalize else 1)
        wanted = sum(
            gate * gated(x, p[f"experts.{e}"]) for e, gate in zip(best, gates, strict=True)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-10)


INIT = {"init": "ones", "output_init": "zeros"}
MATRICES = {
    # name: arguments, matrices that are what `init` says, those that are what `output_init` says
    "attention": ({}, ["qkv"], ["out"]),
    "feed_forward": ({"hidden_dim": 5}, ["up"], ["down"]),
    "gated_feed_forward": ({"hidden_dim": 5}, ["gate", "up"], ["down"]),
    "mixture_of_experts": (
        {"hidden_dim": 5, "num_experts": 2},
        ["router", *(f"experts.{e}.{part}" for e in range(2) for part in ("gate", "up"))],
        [f"experts.{e}.down" for e in range(2)],
    ),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", MATRICES)
def test_first_values_and_biases(name, bias):
    arguments, inner, outer = MATRICES[name]
    spec = {"type": name, "bias": bias, **arguments}
    params = Layout(build_stack({"x": {**spec, **INIT}}, embedding_dim=6)).init(0)
    matrices = {part: 1.0 for part in inner} | {part: 0.0 for part in outer}
    wanted = {f"x.{part}.weight": value for part, value in matrices.items()}
    if bias:
        wanted |= {f"x.{part}.bias": 0.0 for part in matrices if part != "router"}
    assert {name: float(view.mean()) for name, view in params.items()} == wanted
    both = Layout(build_stack({"x": {**spec, "init": "ones"}}, embedding_dim=6)).init(0)
    assert all(both[f"x.{part}.weight"].all() for part in outer)


def test_defaults():
    sizes = {"embedding_dim": 6, "hidden_dim": 5}
    experts = LAYERS.build("mixture_of_experts", "", **sizes)
    assert (experts.num_experts, experts.top_k, experts.balance) == (8, 2, 0.01)
    built = build_stack(
        {
            "mixture_of_experts": {"type": "mixture_of_experts"},
            "gated_feed_forward": {"type": "gated_feed_forward"},
        },
        **sizes,
    )
    assert not [name for name in Layout(built).shapes if "bias" in name]
    assert {"gate", "up", "down"} == experts.expert.children().keys()
    plain = LAYERS.build({"type": "mixture_of_experts", "gated": False}, "", **sizes)
    assert {"up", "down"} == plain.expert.children().keys()
    feed_forward = LAYERS.build("feed_forward", "", **sizes)
    assert all("bias" in part.params() for part in feed_forward.children().values())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "attention", "num_heads": 5}, "num_heads=5: .* nearest: 4 or 6$"),
        ({"type": "attention", "num_heads": 13}, "nearest: 12$"),
        ({"type": "attention", "num_heads": 0}, "nearest: 1$"),
        ({"type": "attention", "num_heads": 4, "num_kv_heads": 3}, "nearest: 2 or 4$"),
        ({"type": "attention", "num_heads": 4, "positions": "rope"}, "nearest: 2 or 4$"),
        ({"type": "attention", "num_heads": 12, "positions": "rope"}, "nearest: 2 or 2$"),
        (
            {"type": "attention", "num_heads": 6, "positions": {"type": "rope", "scaling": "ntk"}},
            "at least 4, got 2$",
        ),
        ({"type": "attention", "positions": {"type": "rope", "theta": 1}}, "theta=1: "),
        ({"type": "sinusoidal_positions", "theta": 1}, "theta=1: must be more than 1"),
        (
            {"type": "mixture_of_experts", "hidden_dim": 5, "num_experts": 2, "top_k": 1},
            "set normalize=false, or top_k=2$",
        ),
    ],
)
def test_what_does_not_fit_is_refused(spec, said):
    with pytest.raises(ConfigError, match=said):
        build_stack({"x": spec}, embedding_dim=12)


def test_sinusoidal_positions_name_the_next_even_widths():
    for width, nearest in ((7, "6 or 8"), (1, "2 or 2")):
        with pytest.raises(ConfigError, match=f"nearest: {nearest}$"):
            LAYERS.build("sinusoidal_positions", "", embedding_dim=width)


def test_a_theta_just_over_one_is_taken():
    rope = {"type": "rope", "theta": 1.5}
    build_stack({"attention": {"type": "attention", "positions": rope}}, embedding_dim=12)
    build_stack(
        {"sinusoidal_positions": {"type": "sinusoidal_positions", "theta": 1.5}}, embedding_dim=12
    )


def test_tables_grow_by_powers_of_two():
    assert [table_size(n) for n in (1, 64, 65, 128, 129)] == [64, 64, 128, 128, 256]


def test_what_layers_share_is_made_once_a_pass():
    ctx, made = Context(NUMPY), []
    for _ in range(2):
        ctx.begin(1, 1)
        for _ in range(3):
            once_a_pass(ctx, "key", lambda: made.append(1) or np.ones(1))
        once_a_pass(ctx, "other", lambda: made.append(1) or np.ones(1))
    assert len(made) == 4


GROUPS = {
    "layer_norm": {"weight": "undecayed", "bias": "undecayed"},
    "learned_positions": {"weight": "decayed"},
    "linear": {"weight": "matrix", "bias": "undecayed"},
    "output_projection": {"weight": "decayed", "bias": "undecayed"},
    "rms_norm": {"weight": "undecayed"},
    "tied_output_projection": {"weight": "decayed"},
    "token_embedding": {"weight": "decayed"},
}


@pytest.mark.parametrize("name", GROUPS)
def test_what_weight_decay_may_shrink(name):
    sizes = {"embedding_dim": 6, "vocab_size": 7, "max_seq_len": 9}
    params = LAYERS.build(name, "", **sizes).params()
    assert {name: param.group for name, param in params.items()} == GROUPS[name]


def test_the_output_starts_as_it_is_told():
    spec = {"type": "output_projection", "init": "ones"}
    assert (
        Layout(build_stack({"x": spec}, embedding_dim=6, vocab_size=7)).init(0).flat.sum() == 6 * 7
    )


def test_norms_add_little_to_the_variance():
    for name in ("layer_norm", "rms_norm"):
        assert LAYERS.build(name, "", embedding_dim=6).eps <= 1e-5


def test_two_rotations_of_one_pass_have_their_own_angles():
    one, other = (
        LAYERS.build({"type": "attention", "positions": rope}, "", embedding_dim=6).rotation
        for rope in ("rope", {"type": "rope", "theta": 100.0})
    )
    ctx = Context(NUMPY, np.float64)
    ctx.begin(1, 2, positions=np.array([[0, 1]]))
    first, second = (rotation._angles(ctx)[0].copy() for rotation in (one, other))
    assert not np.allclose(first, second)
    assert np.array_equal(first, one._angles(ctx)[0])


def test_tables_of_one_row():
    ctx = Context(NUMPY, np.float64)
    ctx.begin(1, 1, positions=np.zeros((1, 1), np.intp))
    tokens = LAYERS.build("token_embedding", "", vocab_size=1, embedding_dim=2)
    y, _ = tokens.forward({"weight": np.ones((1, 2))}, np.zeros(1, np.intp), ctx)
    positions = LAYERS.build("learned_positions", "", max_seq_len=1, embedding_dim=2)
    assert positions.forward({"weight": np.ones((1, 2))}, y, ctx)[0].tolist() == [[2, 2]]
    with pytest.raises(ConfigError, match="max_seq_len=0: must be at least 1"):
        LAYERS.build("learned_positions", "", max_seq_len=0, embedding_dim=2)


def test_an_activation_that_is_built_already():
    own = ACTIVATIONS.build("relu2", "")
    layer = LAYERS.build("feed_forward", "", embedding_dim=6, hidden_dim=5, activation=own)
    assert layer.activation is own
    with pytest.raises(ConfigError, match="activation: unknown activation 'rlu'"):
        LAYERS.build("feed_forward", "", embedding_dim=6, hidden_dim=5, activation="rlu")


HEADS = {"type": "attention", "num_heads": 5}
PLACES = [
    ({"type": "pre_norm", "layer": HEADS, "norm": {**NORM, "eps": -1}}, "layer.num_heads norm.eps"),
    ({"type": "block", "layers": {"a": HEADS}}, "layers.a.num_heads"),
    ({"type": "linear", "init": {"type": "normal", "std": -1}}, "init.std"),
    ({"type": "attention", "positions": {"type": "rope", "theta": 0}}, "positions.theta"),
]


@pytest.mark.parametrize(("spec", "keys"), PLACES)
def test_a_problem_has_its_place_in_the_stack(spec, keys):
    with pytest.raises(ConfigError) as caught:
        build_stack({"x": spec}, embedding_dim=12)
    found = [problem.partition("=")[0] for problem in caught.value.problems]
    assert found == [f"model.stack.x.{key}" for key in keys.split()]
