"""Hugging Face folders without their libraries: names, shapes, config.json, and the way back."""

import json
import resource
from dataclasses import replace

import numpy as np
import pytest
from hf_folders import GPT2, LLAMA, MISTRAL, gpt2_tensors, llama_tensors, write, write_shards

from llmlab.errors import CheckpointError, ResourceError
from llmlab.exchange import names as naming
from llmlab.exchange.architecture import Names
from llmlab.exchange.config_json import read_config, write_config
from llmlab.exchange.folder import read_arrays
from llmlab.exchange.recognise import recognise
from llmlab.exchange.safetensors_files import write_tensors
from llmlab.exchange.spec import model_spec
from llmlab.layers import build_stack
from llmlab.params import Layout

CASES = {
    "gpt2": (GPT2, gpt2_tensors),
    "llama": (LLAMA, llama_tensors),
    "mistral": (MISTRAL, llama_tensors),
}
VARIANTS = {
    "gpt2": {},
    "gpt2 untied": {"tie_word_embeddings": False, "n_inner": 20, "activation_function": "relu"},
    "gpt2 dropout": {"resid_pdrop": 0.1, "attn_pdrop": 0.2, "embd_pdrop": 0.3},
    "llama": {},
    "llama biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "llama stretched": {
        "rope_parameters": None,
        "rope_theta": 77.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "mistral": {},
    "mistral without window": {"sliding_window": None},
}


def network(variant):
    return read_config(CASES[variant.split()[0]][0] | VARIANTS[variant])


def stack_of(net):
    sizes = {key: getattr(net, key) for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    return build_stack(model_spec(net)["stack"], vocab_size=net.vocab_size, **sizes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_array_has_its_pieces(variant):
    net = network(variant)
    every = naming.tensor_slices(net, Names.usual(net.num_blocks))
    assert len({each.theirs for each in every}) == len(every)
    layout = Layout(stack_of(net))
    covered = {name: np.zeros(shape, int) for name, shape in layout.shapes.items()}
    for each in every:
        covered[each.ours][..., each.start : each.stop] += 1
        part = covered[each.ours][..., each.start : each.stop]
        assert part.shape == (each.shape[::-1] if each.transposed else each.shape)
    assert all((found == 1).all() for found in covered.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_survives_both_ways(variant):
    net = network(variant)
    config = json.loads(json.dumps(write_config(net, "float32", [1])))
    assert read_config(config) == net
    found, names = recognise(model_spec(net), net.vocab_size)
    if net.family == "mistral" and net.window is None:
        net = replace(net, family="llama")  # the same network
    assert found == net
    usual = Names.usual(net.num_blocks)
    assert (names.tokens, names.blocks, names.norm) == (usual.tokens, usual.blocks, usual.norm)


def test_names_and_turns_by_hand(tmp_path):
    # Square matrices can't show a wrong transpose by their shapes.
    tensors = gpt2_tensors()
    arrays = read_arrays(write(tmp_path / "g", GPT2, tensors), read_config(GPT2))
    same = {
        "tokens.weight": "transformer.wte.weight",
        "positions.weight": "transformer.wpe.weight",
        "blocks.1.attention.norm.bias": "transformer.h.1.ln_1.bias",
        "blocks.1.attention.qkv.weight": "transformer.h.1.attn.c_attn.weight",
        "blocks.0.attention.out.weight": "transformer.h.0.attn.c_proj.weight",
        "blocks.0.feed_forward.norm.weight": "transformer.h.0.ln_2.weight",
        "blocks.0.feed_forward.down.bias": "transformer.h.0.mlp.c_proj.bias",
        "norm.weight": "transformer.ln_f.weight",
    }
    for ours, theirs in same.items():
        np.testing.assert_array_equal(arrays[ours], tensors[theirs])
    tensors = llama_tensors()
    arrays = read_arrays(write(tmp_path / "l", LLAMA, tensors), read_config(LLAMA))
    qkv = arrays["blocks.1.attention.qkv.weight"]
    block = "model.layers.1.self_attn"
    np.testing.assert_array_equal(qkv[:, :8], tensors[f"{block}.q_proj.weight"].T)
    np.testing.assert_array_equal(qkv[:, 8:12], tensors[f"{block}.k_proj.weight"].T)
    np.testing.assert_array_equal(qkv[:, 12:], tensors[f"{block}.v_proj.weight"].T)
    out = arrays["blocks.1.attention.out.weight"]
    np.testing.assert_array_equal(out, tensors[f"{block}.o_proj.weight"].T)
    np.testing.assert_array_equal(arrays["output.weight"], tensors["lm_head.weight"].T)


@pytest.mark.parametrize("family", CASES)
def test_there_and_back_is_byte_identical(tmp_path, family):
    config, make = CASES[family]
    net, tensors = read_config(config), make()
    arrays = read_arrays(write(tmp_path, config, tensors), net)
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == Layout(stack_of(net)).shapes
    back = naming.to_theirs(naming.tensor_slices(net, Names.usual(2)), arrays)
    assert back.keys() == tensors.keys()
    for name, tensor in back.items():
        # The library writes the memory as it lies.
        assert tensor.flags.c_contiguous and tensor.tobytes() == tensors[name].tobytes()


def test_shards_prefixes_buffers_and_a_repeated_head(tmp_path):
    net, tensors = read_config(GPT2), gpt2_tensors()
    plain = read_arrays(write(tmp_path / "one", GPT2, tensors), net)
    odd = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    odd |= {"h.0.attn.bias": np.ones((1, 1, 4, 4)), "h.1.attn.masked_bias": np.zeros(())}
    odd["lm_head.weight"] = tensors["transformer.wte.weight"]
    for folder in (
        write_shards(tmp_path / "shards", GPT2, tensors),
        write(tmp_path / "odd", GPT2 | {"architectures": ["GPT2Model"]}, odd),
    ):
        found = read_arrays(folder, net)
        assert found.keys() == plain.keys()
        assert all(found[name].tobytes() == plain[name].tobytes() for name in plain)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_other_widths_are_read_exactly(tmp_path, dtype):
    tensors = gpt2_tensors()
    arrays = read_arrays(write(tmp_path, GPT2, tensors, dtype), read_config(GPT2))
    table, source = arrays["tokens.weight"], tensors["transformer.wte.weight"]
    if dtype == "BF16":
        wanted = (source.view(np.uint32) & 0xFFFF0000).view(np.float32)
    else:
        wanted = source.astype(np.float16) if dtype == "F16" else source.astype(np.float64)
    assert table.dtype == (np.float64 if dtype == "F64" else np.float32)
    np.testing.assert_array_equal(table, wanted)


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("gpt2", {"model_type": "gptj"}, "model_type='gptj'"),
        ("gpt2", {"architectures": ["GPT2ForSequenceClassification"]}, "architectures"),
        ("gpt2", {"auto_map": {"AutoModel": "code.Model"}}, "code of its own"),
        ("gpt2", {"activation_function": "gelu_fast"}, "gelu_fast"),
        ("gpt2", {"n_head": 3}, "divisible by 3"),
        ("gpt2", {"n_layer": 10**9}, "n_layer"),
        ("gpt2", {"n_embd": "8"}, "whole number"),
        ("gpt2", {"n_positions": True}, "whole number"),
        ("gpt2", {"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"tie_word_embedding": False}, "did you mean 'tie_word_embeddings'"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantised"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ("llama", {"rope_theta": 10_000.0}, "contradict"),
        ("llama", {"rope_parameters": {"rope_type": "default", "beta_fast": 3}}, "beta_fast"),
        ("llama", {"head_dim": 4}, "head_dim=4"),
        ("llama", {"num_key_value_heads": 3}, "4 heads can't share 3"),
        ("llama", {"sliding_window": 4}, "sliding_window"),
        ("mistral", {"attention_bias": True}, "attention_bias"),
        ("mistral", {"sliding_window": 0}, "sliding_window=0"),
    ],
)
def test_what_llmlab_cannot_do_is_refused_by_name(family, change, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        read_config(CASES[family][0] | change)
    assert "\n" not in str(caught.value)


def test_every_problem_is_named_at_once():
    with pytest.raises(CheckpointError) as caught:
        read_config(LLAMA | {"hidden_act": "mish", "vocab_size": 0, "surprise": 1})
    for word in ("mish", "vocab_size=0", "surprise"):
        assert word in str(caught.value)


def test_configurations_as_they_are_published():
    gpt2 = """{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024,
        "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1,
        "summary_activation": null, "summary_first_dropout": 0.1, "summary_proj_to_labels": true,
        "summary_type": "cls_index", "summary_use_proj": true, "task_specific_params":
        {"text-generation": {"do_sample": true, "max_length": 50}}, "vocab_size": 50257}"""
    net = read_config(json.loads(gpt2))
    assert (net.hidden_dim, net.tied, net.activation, net.dropout) == (3072, True, "gelu_tanh", 0.1)
    mistral = """{"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size":
        14336, "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta":
        10000.0, "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.34.0.dev0", "use_cache": true, "vocab_size": 32000}"""
    net = read_config(json.loads(mistral))
    assert (net.window, net.num_kv_heads, net.theta, net.tied) == (4096, 8, 10_000, False)


def test_a_disk_that_is_full_is_told(tmp_path):
    # Before the limit: what is imported under it would be compiled into a torn file.
    pytest.importorskip("safetensors.numpy")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ResourceError, match=r"cannot be written: .*File too large"):
            write_tensors(tmp_path, {"a": np.ones(1000)}, 10**6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
