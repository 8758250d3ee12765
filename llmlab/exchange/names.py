"""Which of Hugging Face's tensors is which part of which of llmlab's arrays."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlab.exchange.architecture import Architecture, Names

# Buffers that older versions of transformers stored; nothing is learned in them.
IGNORED = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class TensorSlice:
    """One tensor of Hugging Face's, and where it lies in llmlab's."""

    # Its name and its shape in the file
    theirs: str
    shape: tuple[int, ...]
    ours: str  # the array of llmlab
    # The range of that array's last axis
    start: int
    stop: int
    transposed: bool  # whether their matrix is (d_out, d_in): llmlab's are (d_in, d_out)


def prefix(network: Architecture) -> str:
    """Return what most names begin with; files without it exist."""
    return "transformer." if network.family == "gpt2" else "model."


def tensor_slices(network: Architecture, names: Names) -> list[TensorSlice]:
    """Return every tensor of the network."""
    found = list(_gpt2(network, names) if network.family == "gpt2" else _llama(network, names))
    if not network.tied:
        shape = (network.vocab_size, network.embedding_dim)
        found += _parts(f"{names.output}.weight", {HEAD: shape}, transposed=True)
    return found


def embedding(network: Architecture) -> str:
    """Return their name of the token embedding, which a tied head shares."""
    return "transformer.wte.weight" if network.family == "gpt2" else "model.embed_tokens.weight"


def _gpt2(network: Architecture, names: Names) -> Iterator[TensorSlice]:
    c, hidden = network.embedding_dim, network.hidden_dim
    yield from _parts(f"{names.tokens}.weight", {embedding(network): (network.vocab_size, c)})
    where = {"transformer.wpe.weight": (network.max_seq_len, c)}
    yield from _parts(f"{names.positions}.weight", where)
    for index, (attention, feed_forward) in enumerate(names.blocks):
        for ours, theirs, d_in, d_out in (
            (f"{attention}.norm", "ln_1", None, c),
            (f"{attention}.qkv", "attn.c_attn", c, 3 * c),
            (f"{attention}.out", "attn.c_proj", c, c),
            (f"{feed_forward}.norm", "ln_2", None, c),
            (f"{feed_forward}.up", "mlp.c_fc", c, hidden),
            (f"{feed_forward}.down", "mlp.c_proj", hidden, c),
        ):
            full = f"transformer.h.{index}.{theirs}"
            shape = (d_out,) if d_in is None else (d_in, d_out)
            yield from _parts(f"{ours}.weight", {f"{full}.weight": shape})
            yield from _parts(f"{ours}.bias", {f"{full}.bias": (d_out,)})
    for kind in ("weight", "bias"):
        yield from _parts(f"{names.norm}.{kind}", {f"transformer.ln_f.{kind}": (c,)})


def _llama(network: Architecture, names: Names) -> Iterator[TensorSlice]:
    c, hidden = network.embedding_dim, network.hidden_dim
    keys = network.num_kv_heads * network.head_dim
    yield from _parts(f"{names.tokens}.weight", {embedding(network): (network.vocab_size, c)})
    for index, (attention, feed_forward) in enumerate(names.blocks):
        block = f"model.layers.{index}"
        norms = {attention: "input_layernorm", feed_forward: "post_attention_layernorm"}
        for ours, theirs in norms.items():
            yield from _parts(f"{ours}.norm.weight", {f"{block}.{theirs}.weight": (c,)})
        for ours, bias, theirs in (
            (
                f"{attention}.qkv",
                network.attention_bias,
                {
                    f"self_attn.{n}_proj": (w, c)
                    for n, w in zip("qkv", (c, keys, keys), strict=True)
                },
            ),
            (f"{attention}.out", network.attention_bias, {"self_attn.o_proj": (c, c)}),
            (f"{feed_forward}.gate", network.feed_forward_bias, {"mlp.gate_proj": (hidden, c)}),
            (f"{feed_forward}.up", network.feed_forward_bias, {"mlp.up_proj": (hidden, c)}),
            (f"{feed_forward}.down", network.feed_forward_bias, {"mlp.down_proj": (c, hidden)}),
        ):
            weights = {f"{block}.{name}.weight": shape for name, shape in theirs.items()}
            yield from _parts(f"{ours}.weight", weights, transposed=True)
            if bias:
                biases = {f"{block}.{name}.bias": shape[:1] for name, shape in theirs.items()}
                yield from _parts(f"{ours}.bias", biases)
    yield from _parts(f"{names.norm}.weight", {"model.norm.weight": (c,)})


def _parts(ours: str, theirs: Mapping[str, tuple[int, ...]], transposed: bool = False):
    """Yield tensors that lie side by side in one array."""
    at = 0
    for name, shape in theirs.items():
        width = shape[0] if transposed else shape[-1]
        yield TensorSlice(name, shape, ours, at, at + width, transposed)
        at += width


def to_ours(every: list[TensorSlice], tensors: Any) -> dict[str, np.ndarray]:
    """Return llmlab's arrays; `tensors[name]` gives Hugging Face's."""
    parts: dict[str, list[np.ndarray]] = {}
    for each in every:
        array = tensors[each.theirs]
        parts.setdefault(each.ours, []).append(array.T if each.transposed else array)
    return {
        name: np.ascontiguousarray(found[0] if len(found) == 1 else np.concatenate(found, axis=-1))
        for name, found in parts.items()
    }


def to_theirs(every: list[TensorSlice], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return Hugging Face's tensors, each in C order; an array that isn't there is all zeros."""
    dtype = next(iter(arrays.values())).dtype
    tensors = {}
    for each in every:
        if each.ours not in arrays:
            tensors[each.theirs] = np.zeros(each.shape, dtype)
            continue
        part = arrays[each.ours][..., each.start : each.stop]
        tensors[each.theirs] = np.ascontiguousarray(part.T if each.transposed else part)
    return tensors
