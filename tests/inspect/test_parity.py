"""The same numbers as TransformerLens, from models of transformers with random weights."""

import json
import os

import numpy as np
import pytest

from llmlab.batch import Batch
from llmlab.inspect import ablated, attribute, lens, parts_of, token_losses, trace
from llmlab.network import Network

pytestmark = pytest.mark.parity
LEAST = 1e-6  # of the largest value; float32 has 6e-8
NAMES = ("gpt2", "gpt2-untied", "llama", "llama-tied", "llama-biases", "llama-one-key")


@pytest.fixture(scope="module", params=NAMES)
def both(request, tmp_path_factory):
    """Return llmlab's network, TransformerLens' bridge to the same weights, ids, and its cache."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    hf_models = pytest.importorskip("hf_models")
    torch = pytest.importorskip("torch")
    bridges = pytest.importorskip(
        "transformer_lens.model_bridge", reason="pip install 'llmlab[parity]'"
    )
    from hf_folders import char_tokenizer

    model = hf_models.make(request.param, seed=4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(0.4)  # 0.12: six times what such models start with
    folder = hf_models.save(model, tmp_path_factory.mktemp("hf"))
    (folder / "tokenizer.json").write_text(json.dumps(char_tokenizer(28)))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    bridge = bridges.TransformerBridge.boot_transformers(str(folder), hf_model=model, device="cpu")
    ids = hf_models.some_ids((1, 13))
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(torch.from_numpy(ids))
    _, stack, params = hf_models.read(folder, np.float32)
    return Network(stack, params), bridge, ids[0], logits.numpy()[0], cache


def alike(found, wanted):
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= LEAST * np.abs(wanted).max()


def test_a_pass_is_that_of_transformer_lens(both):
    network, bridge, ids, logits, cache = both
    found = trace(network, ids)
    alike(found.logits, logits)
    for n in range(2):
        path = f"blocks.{n}.attention"
        alike(found.maps[path], cache[f"blocks.{n}.attn.hook_pattern"][0])
        alike(found.stream[path], cache[f"blocks.{n}.hook_resid_mid"][0])
        alike(found.stream[f"blocks.{n}.feed_forward"], cache[f"blocks.{n}.hook_resid_post"][0])
        heads = next(r.heads for r in found.records if r.path == path and r.heads is not None)
        z = cache[f"blocks.{n}.attn.hook_z"][0].detach()
        width = z.shape[-1]
        out = z.reshape(len(ids), -1, width).numpy()
        weight = np.asarray(bridge.blocks[n].attn.W_O.detach())  # (H, D, C)
        alike(heads, np.einsum("thd,hdc->thc", out, weight))


def test_the_lens_is_that_of_transformer_lens(both):
    network, bridge, ids, _, cache = both
    import torch

    readings = {each.path: each.logits for each in lens(network, trace(network, ids))}
    with torch.no_grad():
        for n in range(2):
            for path, hook in (("attention", "resid_mid"), ("feed_forward", "resid_post")):
                stream = cache[f"blocks.{n}.hook_{hook}"]
                wanted = bridge.unembed(bridge.ln_final(stream))[0]
                alike(readings[f"blocks.{n}.{path}"], wanted.numpy())
        wanted = bridge.unembed(bridge.ln_final(cache["blocks.0.hook_in"]))[0]
    first = "positions" if "positions" in readings else "tokens"
    alike(readings[first], wanted.numpy())
    assert len(readings) == 5 + (first == "positions")


def test_ablations_are_those_of_transformer_lens(both):
    network, bridge, ids, *_ = both
    import torch

    def losses(hooks):
        with torch.no_grad():
            logits = bridge.run_with_hooks(torch.from_numpy(ids[None]), fwd_hooks=hooks)[0]
        logs = torch.log_softmax(logits, -1)
        return -logs[torch.arange(len(ids) - 1), torch.from_numpy(ids[1:])].numpy()

    row = Batch(ids[None, :-1], ids[None, 1:], np.ones((1, len(ids) - 1), np.float32))
    seen = []
    for part in parts_of(network):
        n = part.path.split(".")[1]

        def zero(values, hook, part=part):
            values = values.clone()
            if part.head is None:
                values[:] = 0
            else:
                values[:, :, part.head] = 0
            return values

        hook = "mlp.hook_out" if part.head is None else "attn.hook_z"
        wanted = losses([(f"blocks.{n}.{hook}", zero)])
        with ablated(network, part):
            alike(token_losses(network, row)[0], wanted)
        seen.append(wanted)
    assert len(seen) == 10  # two layers of four heads and a feed-forward
    assert min(np.ptp([each[5] for each in seen], axis=0, keepdims=True)) > 1e-3


def test_attribution_is_that_of_transformer_lens(both):
    """Its decomposition leaves the final norm's weight out; the unembedding takes it in here."""
    network, bridge, ids, logits, cache = both
    import torch

    attribution = attribute(network, trace(network, ids))
    with torch.no_grad():
        heads = cache.stack_head_results(layer=-1, incl_remainder=False, apply_ln=True)[:, 0]
        layers, labels = cache.decompose_resid(apply_ln=True, return_labels=True, mode="all")
        weight = bridge.ln_final.weight.numpy()[:, None] * bridge.unembed.W_U.numpy()
    shares = {name: at for at, name in enumerate(attribution.names)}
    token = int(np.argmax(logits[-1]))
    found = attribution.logits(np.full(len(ids), token))
    scale = np.abs(logits).max()

    def near(name, vectors):
        assert (
            np.abs(found[shares[name]] - vectors.numpy() @ weight[:, token]).max() < LEAST * scale
        )

    for n in range(2):
        for head in range(4):
            near(f"blocks.{n}.attention.head.{head}", heads[4 * n + head])
    whole = dict(zip(labels, layers[:, 0], strict=True))
    near("tokens", whole["embed"])
    if "positions" in shares:
        near("positions", whole["pos_embed"])
    for n in range(2):
        near(f"blocks.{n}.feed_forward", whole[f"{n}_mlp_out"])
    assert np.abs(found.sum(axis=0) - logits[:, token]).max() < 1e-5 * scale
