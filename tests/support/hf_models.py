"""Random models of transformers, built offline; imported by parity tests alone."""

from pathlib import Path

import numpy as np
import torch
import transformers

from llmlab import kernels
from llmlab.exchange.config_json import read_config
from llmlab.exchange.files import read_object
from llmlab.exchange.folder import read_arrays
from llmlab.exchange.spec import model_spec
from llmlab.layers import build_stack
from llmlab.params import Layout
from llmlab.workspace import Context

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

V, T = 37, 64
_IDS = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": None}
# Width, heads and hidden width so that every matrix of attention is square where it can be.
_GPT2 = {"vocab_size": V, "n_positions": T, "n_embd": 24, "n_layer": 2, "n_head": 4, **_IDS}
_GPT2 |= dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
_LLAMA = {"vocab_size": V, "max_position_embeddings": T, "hidden_size": 24, "num_hidden_layers": 2}
_LLAMA |= {"intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, **_IDS}
_ROPE = {"rope_theta": 500.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}

MODELS = {
    "gpt2": ("GPT2", _GPT2),
    "gpt2-untied": ("GPT2", _GPT2 | {"tie_word_embeddings": False, "n_inner": 24}),
    "gpt2-relu": ("GPT2", _GPT2 | {"activation_function": "relu", "layer_norm_epsilon": 1e-3}),
    "llama": ("Llama", _LLAMA | _ROPE),
    "llama-tied": ("Llama", _LLAMA | {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-biases": ("Llama", _LLAMA | _ROPE | {"attention_bias": True, "mlp_bias": True}),
    "llama-one-key": ("Llama", _LLAMA | {"num_key_value_heads": 1, "rms_norm_eps": 1e-3}),
    "mistral": ("Mistral", _LLAMA | {"sliding_window": 7}),
    "mistral-tied": (
        "Mistral",
        _LLAMA | _ROPE | {"sliding_window": 3, "tie_word_embeddings": True},
    ),
}


def make(name, seed=0, dtype=torch.float32):
    """Return a model whose every array, norms and biases too, is random."""
    family, options = MODELS[name]
    # Some versions take part of a dictionary away.
    options = {k: dict(v) if isinstance(v, dict) else v for k, v in options.items()}
    config = getattr(transformers, f"{family}Config")(**options)
    kind = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    model = getattr(transformers, kind)(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * values + (parameter.ndim == 1))
    return model


def save(model, folder, **options):
    """Save a model as users do."""
    model.save_pretrained(folder, **options)
    return Path(folder)


def read(folder, dtype):
    """Return llmlab's network, stack and parameters of a folder without a tokenizer."""
    network = read_config(read_object(folder / "config.json"))
    arrays = read_arrays(folder, network)
    stack = stack_of(network)
    layout = Layout(stack)
    assert {name: array.shape for name, array in arrays.items()} == layout.shapes
    params = layout.zeros(dtype)
    for name, view in params.items():
        view[...] = arrays[name]
    return network, stack, params


def stack_of(network):
    """Return the stack of a network."""
    sizes = {key: getattr(network, key) for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    return build_stack(model_spec(network)["stack"], vocab_size=network.vocab_size, **sizes)


def our_logits(stack, params, ids):
    """Return llmlab's logits (B, T, V)."""
    ctx = Context(kernels.load("numpy"), params.flat.dtype)
    ctx.begin(*ids.shape)
    logits, _ = stack.forward(params.tree, ids.reshape(-1), ctx)
    return logits.reshape(*ids.shape, -1).copy()


def their_logits(model, ids):
    """Return transformers' logits (B, T, V)."""
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits.numpy()


def some_ids(shape, seed=0):
    """Return random token ids."""
    return np.random.default_rng(seed).integers(V, size=shape)
