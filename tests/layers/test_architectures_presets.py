"""The presets: their sizes and first values, text to train on, and the same networks in PyTorch."""

import re
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from llmlab import kernels
from llmlab.batch import Batch
from llmlab.build import new_model, new_tokenizer
from llmlab.cli.places import conf_folder
from llmlab.cli.start import compose
from llmlab.errors import ConfigError
from llmlab.generate import Engine
from llmlab.layers import ACTIVATIONS, INITIALISATIONS, LAYERS, POSITIONS, build_stack
from llmlab.network import Network
from llmlab.optim.adam import AdamW
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.train.trainer import Trainer
from llmlab.workspace import Context

SMALL = (
    *("model.embedding_dim=24", "model.hidden_dim=40", "model.num_blocks=2"),
    *("model.max_seq_len=100", "model.num_heads=6", "model.dropout=0"),
)
SIZES = {  # without embedding, positions and head
    "gpt2": 12 * (12 * 768**2 + 13 * 768) + 2 * 768,
    "nano": 6 * (12 * 384**2 + 2 * 384) + 384,
    "llama": 6 * (4 * 288**2 + 3 * 288 * 768 + 2 * 288) + 288,
    "mistral": 6 * (2 * 288**2 + 2 * 288 * 96 + 3 * 288 * 768 + 2 * 288) + 288,
    "mixtral": 6 * (2 * 288**2 + 2 * 288 * 96 + 8 * 3 * 288 * 768 + 10 * 288) + 288,
}


def build(*overrides, vocab_size=31):
    """Return the stack of a configuration."""
    model = compose(*overrides).model
    sizes = {key: model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    return build_stack(model["stack"], vocab_size=vocab_size, **sizes)


@pytest.mark.every_day(1)
@pytest.mark.parametrize("name", SIZES)
def test_presets_have_their_sizes(name):
    layout = Layout(build(f"model={name}"))
    outside = {"tokens.weight", "positions.weight", "output.weight"}
    inside = sum(np.prod(s) for n, s in layout.shapes.items() if n not in outside)
    assert inside == SIZES[name]


def test_gpt2_starts_as_gpt2():
    params = Layout(build("model=gpt2", *SMALL[:1], "model.num_blocks=8")).init(0, np.float64)
    stds = {
        "tokens.weight": 0.02,
        "positions.weight": 0.02,
        "blocks.3.attention.qkv.weight": 0.02,
        "blocks.3.attention.out.weight": 0.02 / sqrt(16),
        "blocks.3.feed_forward.up.weight": 0.02,
        "blocks.3.feed_forward.down.weight": 0.02 / sqrt(16),
    }
    for name, std in stds.items():
        assert params[name].std() == pytest.approx(std, rel=0.1), name
    assert not params["blocks.3.attention.qkv.bias"].any()
    assert "output.weight" in params.layout.aliases


@pytest.mark.every_day(1)
@pytest.mark.parametrize("name", ["mixed", "rustgpt", *SIZES])
def test_listeners_leave_every_bit_of_the_logits(name):
    chosen = ["experiment=mixed"] if name == "mixed" else [f"model={name}", *SMALL]
    stack, heard = build(*chosen), set()
    network = Network(stack, Layout(stack).init(0))
    ids = stream(0, "ids").integers(31, size=(2, 70))
    alone = network.forward(ids).copy()

    def post(path, layer, y, cache):
        heard.add(path)

    with network.listening(pre=lambda path, layer, x: None, post=post):
        assert np.array_equal(network.forward(ids), alone)
    unheard = {path for path, *_ in network.walk()} - heard
    assert {path for path in unheard if ".experts." not in path} == set()
    assert np.array_equal(network.forward(ids), alone)


@pytest.mark.slow
def test_presets_differ_by_what_they_say():
    blocks = {
        name: compose(f"model={name}").model["stack"]["blocks"]["layers"]["attention"]["layer"]
        for name in SIZES
    }
    assert "window" not in blocks["llama"] and blocks["llama"]["num_kv_heads"] is None
    assert blocks["mistral"]["window"] == 64 and blocks["mistral"]["num_kv_heads"] == 2
    assert blocks["mixtral"]["window"] is None
    assert blocks["mixtral"]["positions"] == {"type": "rope", "theta": 1_000_000.0}
    assert blocks["gpt2"]["bias"] and not blocks["nano"]["bias"]


@pytest.mark.every_day(1)
@pytest.mark.parametrize("name", ["mixed", *SIZES])
def test_trains_on_text_and_decodes_with_cache_as_without(name):
    chosen = ["experiment=mixed"] if name == "mixed" else [f"model={name}", *SMALL]
    config = compose(*chosen, "model.max_seq_len=40", "model.dropout=0", "dtype=float64")
    model = new_model(config, new_tokenizer(config))
    lines = [model.tokenizer.encode(text)[:30] for text in TEXTS]
    ids = np.zeros((len(lines), 30), np.intp)
    used = np.zeros(ids.shape, np.float32)
    for row, line in enumerate(lines):
        ids[row, : len(line)], used[row, : len(line) - 1] = line, 1
    whole = Batch(ids, np.roll(ids, -1, axis=1), used)
    with Trainer(model.stack, model.params, AdamW(), lr=1e-2, threads=2) as trainer:
        losses = [trainer.step([whole]).loss for _ in range(25)]
        params = trainer.params
    assert losses[-1] < 0.6 * losses[0]
    prompts = [line[:cut] for line, cut in zip(lines, (2, 9, 25), strict=True)]
    replies = Engine(Network(model.stack, params, 40)).generate(prompts, max_new_tokens=8)
    ctx = Context(kernels.load("numpy"), np.float64)
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = list(prompt)
        for _ in range(8):
            ctx.begin(1, len(ids))
            logits, _ = model.stack.forward(params.tree, np.array(ids), ctx)
            ids.append(int(np.argmax(logits[-1])))
        assert reply.ids == ids[len(prompt) :]


TEXTS = (
    "The sun heats the earth, and the warm air rises over the land all day long.",
    "Rain falls from clouds, rivers carry the water to the sea, and the sun lifts it up again.",
    "Mountains form when plates of the earth push against each other over millions of years, and "
    "wind and water wear them down again, grain by grain, until only hills are left of them.",
)


# The same networks in PyTorch


def split(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def gpt2(torch, p, ids, blocks, heads):
    F = torch.nn.functional

    def affine(x, name):
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], 1e-5)

    x = p["tokens.weight"][ids] + p["positions.weight"][: ids.shape[1]]
    for i in range(blocks):
        at = f"blocks.{i}.attention"
        parts = affine(norm(x, f"{at}.norm"), f"{at}.qkv").chunk(3, -1)
        q, k, v = (split(part, heads) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + affine(mixed.transpose(1, 2).flatten(2), f"{at}.out")
        at = f"blocks.{i}.feed_forward"
        hidden = F.gelu(affine(norm(x, f"{at}.norm"), f"{at}.up"), approximate="tanh")
        x = x + affine(hidden, f"{at}.down")
    return norm(x, "norm") @ p["tokens.weight"].T


def llama(torch, p, ids, blocks, heads, kv_heads):
    F = torch.nn.functional

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], p[f"{name}.weight"], 1e-5)

    def turn(x):
        d = x.shape[-1]
        speeds = 1.0 / (10_000.0 ** (torch.arange(0, d, 2).double() / d))
        angles = torch.outer(torch.arange(x.shape[-2]).double(), speeds)
        angles = torch.cat([angles, angles], -1)
        swapped = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1)
        return x * angles.cos() + swapped * angles.sin()

    x = p["tokens.weight"][ids]
    c = x.shape[-1]
    d = c // heads
    for i in range(blocks):
        at = f"blocks.{i}.attention"
        qkv = norm(x, f"{at}.norm") @ p[f"{at}.qkv.weight"]
        q, k, v = qkv.split([c, kv_heads * d, kv_heads * d], -1)
        q, k, v = turn(split(q, heads)), turn(split(k, kv_heads)), split(v, kv_heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + mixed.transpose(1, 2).flatten(2) @ p[f"{at}.out.weight"]
        at = f"blocks.{i}.feed_forward"
        h = norm(x, f"{at}.norm")
        gate = F.silu(h @ p[f"{at}.gate.weight"])
        x = x + (gate * (h @ p[f"{at}.up.weight"])) @ p[f"{at}.down.weight"]
    return norm(x, "norm") @ p["output.weight"]


NETWORKS = {
    "gpt2": (("model=gpt2", *SMALL), lambda t, p, ids: gpt2(t, p, ids, 2, 6)),
    "llama": (("model=llama", *SMALL), lambda t, p, ids: llama(t, p, ids, 2, 6, 6)),
    "grouped llama": (
        ("model=llama", *SMALL, "model.num_kv_heads=2"),
        lambda t, p, ids: llama(t, p, ids, 2, 6, 2),
    ),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", NETWORKS)
def test_one_step_is_that_of_pytorch(name):
    torch = pytest.importorskip("torch")
    overrides, forward = NETWORKS[name]
    stack = build(*overrides)
    layout = Layout(stack)
    params = layout.init(0, np.float64)
    for key, view in params.items():  # scales that show mistakes
        view += 0.2 * stream(5, key).standard_normal(view.shape)
    inputs, targets = stream(6, "ids").integers(31, size=(2, 3, 80))
    used = (np.arange(80) < np.array([80, 33, 61])[:, None]).astype(np.float32)

    tensors = {n: torch.from_numpy(v.copy()).requires_grad_() for n, v in params.items()}
    logits = forward(torch, tensors, torch.from_numpy(inputs))
    wanted = np.where(used > 0, targets, -100)
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(wanted).flatten()
    )
    loss.backward()
    decay = [t for n, t in tensors.items() if t.ndim == 2]
    rest = [t for n, t in tensors.items() if t.ndim == 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95)).step()

    ctx = Context(kernels.load("numpy"), np.float64)
    ctx.begin(3, 80)
    found, _ = stack.forward(params.tree, inputs.reshape(-1), ctx)
    close("logits", found.reshape(logits.shape), logits.detach().numpy())
    with Trainer(stack, params, AdamW(), lr=1e-3, clip_norm=None, seed=None) as trainer:
        result = trainer.step([Batch(inputs, targets, used)])
        assert abs(result.loss - loss.item()) <= 1e-10
        assert set(tensors) == set(params)
        for key, tensor in tensors.items():
            close(f"gradient of {key}", trainer.grads[key], tensor.grad.numpy())
            close(key, trainer.params[key], tensor.detach().numpy(), 1e-8)


def close(name, found, wanted, limit=1e-10):
    error = np.abs(found - wanted).max()
    assert error <= limit * max(1.0, np.abs(wanted).max()), f"{name}: {error:.3g}"


def test_every_part_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "layers.md").read_text(encoding="utf-8")
    titles = [line for line in text.splitlines() if line.startswith("###")]
    named = {name for line in titles for name in re.findall(r"`(\w+)`", line)}
    for registry in (LAYERS, ACTIVATIONS, POSITIONS, INITIALISATIONS):
        own = {n for n, f in registry._factories.items() if f.__module__.startswith("llmlab.")}
        assert own <= named, (registry.kind, own - named)
    presets = {path.stem for path in (conf_folder() / "model").glob("*.yaml")}
    assert presets == set(re.findall(r"^\| `(\w+)` \|", text.split("## Presets")[1], re.MULTILINE))


@pytest.mark.every_day(3)
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("model.stack.blocks.layers.attention.layer.num_heads=7",),
            "num_heads=7: must divide embedding_dim=288",
        ),
        (("model.num_kv_heads=4",), "model.num_kv_heads=4: must divide model.num_heads=6"),
        (("model.num_heads=32",), "embedding_dim / num_heads=9, must be even; nearest: 8 or 10"),
        (("model.stack.blocks.layers.attention.layer.window=0",), "window=0: must be at least 1"),
        (("model.stack.blocks.layers.attention.layer.windw=5",), "did you mean 'window'"),
        (("model.attention.window=5",), "'model.stack.blocks.layers.attention.layer.window'"),
    ],
)
def test_what_does_not_fit_is_one_line(overrides, said):
    with pytest.raises(ConfigError) as error:
        compose("model=llama", *overrides)
    (problem,) = error.value.problems
    assert said in problem
