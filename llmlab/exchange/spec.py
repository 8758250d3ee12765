"""A network as the keys of `model`, in the form of the presets."""

from typing import Any

from llmlab.exchange.architecture import Architecture
from llmlab.named import ordered


def model_spec(network: Architecture) -> dict[str, Any]:
    """Return the keys of `model` that describe the network, with everything resolved."""
    gpt2 = network.family == "gpt2"
    stack: dict[str, Any] = {"tokens": {"type": "token_embedding"}}
    if gpt2:
        length = network.max_seq_len
        stack["positions"] = {"type": "learned_positions", "max_seq_len": length}
    if network.embedding_dropout:
        stack["dropout"] = {"type": "dropout", "rate": network.embedding_dropout}
    norm = {"type": "layer_norm" if gpt2 else "rms_norm", "eps": network.eps}
    layers = {"attention": _attention(network), "feed_forward": _feed_forward(network)}
    parts = {
        name: {"type": "pre_norm", "dropout": network.dropout, "norm": dict(norm), "layer": layer}
        for name, layer in layers.items()
    }
    stack["blocks"] = {"type": "block", "repeat": network.num_blocks, "layers": ordered(parts)}
    stack["norm"] = norm
    stack["output"] = (
        {"type": "tied_output_projection", "tied_to": "tokens.weight"}
        if network.tied
        else {"type": "output_projection", "bias": False}
    )
    sizes = ("embedding_dim", "hidden_dim", "max_seq_len", "num_blocks", "num_heads")
    return {
        "name": network.family,
        **{key: getattr(network, key) for key in sizes},
        "num_kv_heads": network.num_kv_heads,
        "dropout": network.dropout,
        "stack": ordered(stack),
    }


def _attention(network: Architecture) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "type": "attention",
        "num_heads": network.num_heads,
        "num_kv_heads": network.num_kv_heads,
        "bias": network.attention_bias,
        "dropout": network.attention_dropout,
    }
    if network.family == "gpt2":
        return spec
    rope: dict[str, Any] = {"type": "rope", "theta": network.theta}
    if network.stretch != 1:
        rope |= {"scaling": "linear", "factor": network.stretch}
    return {**spec, "positions": rope, "window": network.window}


def _feed_forward(network: Architecture) -> dict[str, Any]:
    return {
        "type": "feed_forward" if network.family == "gpt2" else "gated_feed_forward",
        "hidden_dim": network.hidden_dim,
        "activation": network.activation,
        "bias": network.feed_forward_bias,
    }
