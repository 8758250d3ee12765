"""Hugging Face folders by hand, as transformers writes them; no library of theirs is needed."""

import json

import numpy as np

_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}

GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_embd": 8,
    "n_head": 2,
    "n_inner": None,
    "n_layer": 2,
    "n_positions": 12,
    "vocab_size": 11,
    "resid_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "transformers_version": "5.23.0",
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "tie_word_embeddings": False,
    "vocab_size": 11,
}
MISTRAL = {
    **LLAMA,
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "sliding_window": 4,
}


def gpt2_tensors(seed=0, config=GPT2):
    """Return the tensors of a GPT-2 in float32, names and shapes written out."""
    c, v, t = config["n_embd"], config["vocab_size"], config["n_positions"]
    shapes = {"transformer.wte.weight": (v, c), "transformer.wpe.weight": (t, c)}
    for i in range(config["n_layer"]):
        block = f"transformer.h.{i}"
        for name, shape in {
            "ln_1.weight": (c,),
            "ln_1.bias": (c,),
            "attn.c_attn.weight": (c, 3 * c),
            "attn.c_attn.bias": (3 * c,),
            "attn.c_proj.weight": (c, c),
            "attn.c_proj.bias": (c,),
            "ln_2.weight": (c,),
            "ln_2.bias": (c,),
            "mlp.c_fc.weight": (c, 4 * c),
            "mlp.c_fc.bias": (4 * c,),
            "mlp.c_proj.weight": (4 * c, c),
            "mlp.c_proj.bias": (c,),
        }.items():
            shapes[f"{block}.{name}"] = shape
    return _random(
        shapes | dict.fromkeys(("transformer.ln_f.weight", "transformer.ln_f.bias"), (c,)), seed
    )


def llama_tensors(seed=0, config=LLAMA):
    """Return the tensors of a Llama or Mistral without biases."""
    c, v, hidden = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    keys = c // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {
        "model.embed_tokens.weight": (v, c),
        "lm_head.weight": (v, c),
        "model.norm.weight": (c,),
    }
    for i in range(config["num_hidden_layers"]):
        for name, shape in {
            "input_layernorm": (c,),
            "post_attention_layernorm": (c,),
            "self_attn.q_proj": (c, c),
            "self_attn.k_proj": (keys, c),
            "self_attn.v_proj": (keys, c),
            "self_attn.o_proj": (c, c),
            "mlp.gate_proj": (hidden, c),
            "mlp.up_proj": (hidden, c),
            "mlp.down_proj": (c, hidden),
        }.items():
            shapes[f"model.layers.{i}.{name}.weight"] = shape
    return _random(shapes, seed)


def _random(shapes, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def safetensors(tensors, dtype="F32", header=None):
    """Return the bytes of a safetensors file; `header` replaces entries of the header."""
    entries, parts, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, tensor in tensors.items():
        data = encoded(tensor, dtype)
        end = at + len(data)
        entries[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        parts.append(data)
        at = end
    text = json.dumps(entries | (header or {})).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def encoded(tensor, dtype):
    """Return a tensor's bytes; BF16 is the upper half of float32, cut off."""
    if dtype == "BF16":
        return (np.ascontiguousarray(tensor, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return np.ascontiguousarray(tensor, f"<f{_SIZES[dtype]}").tobytes()


def write(folder, config, tensors, dtype="F32", header=None):
    """Write config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors(tensors, dtype, header))
    return folder


def write_shards(folder, config, tensors, placed=None):
    """Write two shards and their index; `placed` replaces entries of its weight_map."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names, weight_map = list(tensors), {}
    for number, part in enumerate((names[:5], names[5:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        (folder / file).write_bytes(safetensors({name: tensors[name] for name in part}))
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map | (placed or {})}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def char_tokenizer(vocab_size=11):
    """Return a tokenizer.json of `</s>` and letters."""
    tokens = ["<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"][:vocab_size]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    cut = {
        "type": "Split",
        "pattern": {"Regex": r"[\s\S]"},
        "behavior": "Isolated",
        "invert": False,
    }
    vocabulary = {token: id for id, token in enumerate(tokens)}
    return {
        "version": "1.0",
        "added_tokens": [{"id": 1, "content": "</s>", "special": True, **flags}],
        "pre_tokenizer": cut,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }
