"""LoRA: what is frozen, gradients, merging, resuming; and the library peft in float64."""

import numpy as np
import pytest
from trainer_lab import LENGTHS, batch, trainer

from llmlab.errors import ConfigError
from llmlab.layers import build_stack
from llmlab.layers.lora import ADAPTERS
from llmlab.network import Network
from llmlab.params import Layout

ON = ["q", "v", "out", "gate", "up", "down"]
SPEC = {
    "tokens": {"type": "token_embedding"},
    "attention": {
        "type": "pre_norm",
        "norm": {"type": "rms_norm"},
        "layer": {
            "type": "attention",
            "num_heads": 4,
            "num_kv_heads": 2,
            "positions": {"type": "rope"},
        },
    },
    "feed_forward": {
        "type": "pre_norm",
        "norm": {"type": "rms_norm"},
        "layer": {"type": "gated_feed_forward", "hidden_dim": 12},
    },
    "output": {"type": "tied_output_projection", "tied_to": "tokens.weight"},
}


def plain():
    sizes = {"embedding_dim": 8, "max_seq_len": 16, "num_blocks": 1}
    return build_stack(SPEC, vocab_size=11, **sizes)


def adapted(**options):
    adapter = ADAPTERS.build({"type": "lora", "rank": 3, "on": ON, **options}, "adapter")
    stack = plain()
    adapter.apply(stack)
    return adapter, stack


def test_all_else_is_frozen_and_keeps_its_name():
    _, stack = adapted()
    layout, before = Layout(stack), Layout(plain())
    assert layout.shapes.keys() - layout.trained.shapes.keys() == before.shapes.keys()
    maps = {name.rsplit(".", 1)[0] for name in layout.trained.shapes}
    assert {name.rsplit(".", 1)[1] for name in maps} == set(ON)
    assert layout.trained.num_parameters < before.num_parameters


def test_it_begins_as_the_network_itself():
    _, stack = adapted()
    params, base = Layout(stack).init(1), Layout(plain()).init(1)
    ids = np.arange(8).reshape(2, 4)
    ours = Network(stack, params, kernels="numpy").forward(ids)
    assert np.array_equal(ours, Network(plain(), base, kernels="numpy").forward(ids))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_the_maps_change_and_a_resumed_run_is_the_unbroken_one(optimizer):
    steps = [[batch(LENGTHS, seed)] for seed in range(6)]

    def fresh():
        return trainer(stack=adapted()[1], optimizer=optimizer, dtype=np.float32)

    with fresh() as whole:
        start = {name: view.copy() for name, view in whole.params.items()}
        assert all(arena.layout is whole.layout.trained for arena in whole.state.values())
        losses = [whole.step(part).loss for part in steps]
        changed = {n for n, view in whole.params.items() if not np.array_equal(view, start[n])}
        assert changed == whole.layout.trained.shapes.keys()
        expected = whole.params.flat.copy()
    with fresh() as first:
        for part in steps[:3]:
            first.step(part)
        arrays = {name: view.copy() for name, view in first.arrays().items()}
    with fresh() as second:
        second.load(arrays, 3, 3)
        again = [second.step(part).loss for part in steps[3:]]
        assert again == losses[3:]
        assert np.array_equal(second.params.flat, expected)


def test_gradients_are_the_differences():
    _, stack = adapted(alpha=5)
    with trainer(stack=stack, clip_norm=None, lr=0.0, optimizer="sgd") as t:
        rng = np.random.default_rng(0)
        for name, view in t.params.items():
            if name.endswith(".b"):
                view[...] = rng.standard_normal(view.shape)
        part = [batch([5, 3])]
        t.step(part)
        gradients = {name: view.copy() for name, view in t.grads.items()}
        for name, gradient in gradients.items():
            view, at = t.params[name], tuple(n // 2 for n in gradient.shape)
            kept, found = view[at], []
            for change in (1e-5, -1e-5):
                view[at] = kept + change
                found.append(t.step(part).loss)
            view[at] = kept
            assert (found[0] - found[1]) / 2e-5 == pytest.approx(gradient[at], abs=1e-8)


def test_merging_computes_the_same():
    adapter, stack = adapted()
    params, base = Layout(stack).init(1, np.float64), Layout(plain()).zeros(np.float64)
    params.flat[:] += np.random.default_rng(0).standard_normal(len(params.flat)) / 9
    merged = adapter.merge(dict(params.items()), stack)
    assert merged.keys() == dict(base.items()).keys()
    for name, view in base.items():
        view[...] = merged[name]
    ids = np.arange(8).reshape(2, 4)
    ours = Network(stack, params, kernels="numpy").forward(ids)
    assert np.abs(ours - Network(plain(), base, kernels="numpy").forward(ids)).max() < 1e-12


@pytest.mark.parametrize(
    "options, said",
    [
        ({"on": ["x"]}, "adapter.on=x: the network has no such map; it has down, gate, k, out"),
        ({"on": ["qkv", "q"]}, "qkv is q, k and v"),
        ({"on": []}, "expected names of maps"),
        ({"rank": 0}, "rank=0"),
        ({"alpha": 0.0}, "alpha=0"),
    ],
)
def test_what_cannot_be(options, said):
    with pytest.raises(ConfigError, match=said):
        adapted(**options)


PEFT = {"qkv": "attn.c_attn", "out": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks an old name of transformers
def test_forward_gradients_and_a_step_are_those_of_peft():
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from hf_models import make

    from llmlab.exchange import names as naming
    from llmlab.exchange.architecture import Names
    from llmlab.exchange.config_json import read_config
    from llmlab.exchange.spec import model_spec

    model = make("gpt2", dtype=torch.float64)
    architecture = read_config(model.config.to_dict())
    slices = naming.tensor_slices(architecture, Names.usual(2))
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    arrays = naming.to_ours(slices, tensors)
    options = {"r": 3, "lora_alpha": 7, "lora_dropout": 0.0, "fan_in_fan_out": True}
    names = [name.split(".")[1] if name != "attn.c_attn" else "c_attn" for name in PEFT.values()]
    theirs = peft.get_peft_model(model, peft.LoraConfig(target_modules=names, **options)).double()
    spec = model_spec(architecture)
    sizes = {key: spec[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    stack = build_stack(spec["stack"], vocab_size=architecture.vocab_size, **sizes)
    adapter = {"type": "lora", "rank": 3, "alpha": 7.0, "on": list(PEFT)}
    ADAPTERS.build(adapter, "adapter").apply(stack)
    adamw = {"type": "adamw", "weight_decay": 0.0}
    part = batch([6, 6], time=6)
    with trainer(stack=stack, clip_norm=None, lr=1e-2, optimizer=adamw) as t:
        known = dict(theirs.named_parameters())
        rng, pairs = np.random.default_rng(0), {}
        for name, view in t.params.items():
            if name in arrays:
                view[...] = arrays[name]
                continue
            view[...] = rng.standard_normal(view.shape) / 3
            _, block, _, *_, own, letter = name.split(".")
            path = f"base_model.model.transformer.h.{block}.{PEFT[own]}"
            pairs[name] = known[f"{path}.lora_{letter.upper()}.default.weight"]
            pairs[name].data = torch.tensor(view.T.copy())
        assert len(pairs) == 16
        rows = theirs(torch.tensor(part.inputs)).logits.flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(rows, torch.tensor(part.targets).flatten())
        loss.backward()
        ours = Network(stack, t.params, kernels="numpy").forward(part.inputs)
        assert np.abs(ours.reshape(rows.shape) - rows.detach().numpy()).max() < 1e-10
        assert t.step([part]).loss == pytest.approx(loss.item(), abs=1e-10)
        for name, parameter in pairs.items():
            assert np.abs(t.grads[name].T - parameter.grad.numpy()).max() < 1e-10
        torch.optim.AdamW(pairs.values(), lr=1e-2, weight_decay=0.0, eps=1e-8).step()
        for name, parameter in pairs.items():
            assert np.abs(t.params[name].T - parameter.detach().numpy()).max() < 1e-10
