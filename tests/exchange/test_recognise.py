"""Which of llmlab's models have a form at Hugging Face, and why the others have none."""

import json

import numpy as np
import pytest
from hf_folders import GPT2, LLAMA
from networks import RUSTGPT, gpt_specs

from llmlab.errors import CheckpointError
from llmlab.exchange import names as naming
from llmlab.exchange.config_json import read_config
from llmlab.exchange.recognise import recognise
from llmlab.exchange.spec import model_spec
from llmlab.layers import build_stack
from llmlab.params import Layout


def model(stack, **sizes):
    keys = {"embedding_dim": 8, "max_seq_len": 12, "num_blocks": 2, "num_heads": 4}
    return {"stack": stack, **keys, **sizes}


def changed(spec, path, value):
    """Return a copy with another value at a path of keys."""
    spec = json.loads(json.dumps(spec))
    node = spec
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return spec


BLOCKS = ("stack", "blocks", "layers")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ((*BLOCKS, "attention", "type"), "post_norm", "post_norm"),
        ((*BLOCKS, "feed_forward", "layer", "type"), "feed_forward", "gated_feed_forward"),
        ((*BLOCKS, "attention", "layer", "qk_norm"), True, "qk_norm=True: must be False"),
        (
            (*BLOCKS, "attention", "layer", "logit_softcap"),
            30.0,
            "logit_softcap=30.0: must be None",
        ),
        ((*BLOCKS, "attention", "layer", "output_projection"), False, "output_projection=False"),
        ((*BLOCKS, "attention", "layer", "positions"), {"type": "alibi"}, "alibi, must be rope"),
        ((*BLOCKS, "attention", "layer", "positions", "interleaved"), True, "interleaved"),
        ((*BLOCKS, "attention", "norm", "eps"), 1e-3, "norms of a block differ"),
        (("stack", "norm", "eps"), 1e-3, "norm.eps"),
        (("stack", "output", "bias"), True, "output.bias=True: must be False"),
        (("stack", "norm", "type"), "layer_norm", "norm is layer_norm, not rms_norm"),
        (("stack", "blocks", "repeat"), 1, None),
    ],
)
def test_models_without_a_form_there_are_refused_by_name(path, value, said):
    spec = changed(model_spec(read_config(LLAMA)), path, value)
    if said is None:
        assert recognise(spec, 11)[0].num_blocks == 1
        return
    with pytest.raises(CheckpointError, match="the model can't be exported") as caught:
        recognise(spec, 11)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_rustgpts_network_is_refused():
    with pytest.raises(CheckpointError, match="presets gpt2, llama and mistral"):
        recognise(model(RUSTGPT, num_blocks=3, embedding_dim=128, max_seq_len=80), 533)


def test_blocks_that_differ_are_refused():
    spec = model_spec(read_config(GPT2))
    one = {**spec["stack"].pop("blocks"), "repeat": 1}
    wide = changed(one, ("layers", "feed_forward", "layer", "hidden_dim"), 20)
    spec["stack"] |= {"first": {**one, "after": "positions"}, "second": {**wide, "after": "first"}}
    with pytest.raises(CheckpointError, match=r"second\.0\.feed_forward is another layer"):
        recognise(spec, 11)


def test_a_gpt2_of_other_names_and_without_biases_fits():
    stack = gpt_specs(num_kv_heads=4)
    for spec in stack["blocks"]["layers"].values():
        spec["layer"] = spec["layer"] | {"bias": False}
    stack["towers"] = {**stack.pop("blocks"), "after": "positions"}
    net, names = recognise(model(stack), 11)
    assert (net.family, net.tied, net.activation) == ("gpt2", True, "relu")
    params = Layout(build_stack(stack, vocab_size=11, embedding_dim=8, max_seq_len=12)).init(0)
    tensors = naming.to_theirs(naming.tensor_slices(net, names), dict(params.items()))
    assert not tensors["transformer.h.0.mlp.c_fc.bias"].any()
    found = tensors["transformer.h.1.mlp.c_fc.weight"]
    np.testing.assert_array_equal(found, params["towers.1.feed_forward.up.weight"])


def test_ntk_scaling_goes_out_as_another_theta():
    spec = model_spec(read_config(LLAMA))
    rope = {"type": "rope", "theta": 100.0, "scaling": "ntk", "factor": 2.0}
    wide = spec | {"embedding_dim": 16}
    net, _ = recognise(changed(wide, (*BLOCKS, "attention", "layer", "positions"), rope), 11)
    assert net.theta == pytest.approx(100 * 2 ** (4 / 2)) and net.stretch == 1
