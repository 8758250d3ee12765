"""A Hugging Face folder as a whole: read it, write it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.errors import CheckpointError
from llmlab.exchange import names as naming
from llmlab.exchange.architecture import Architecture, Names
from llmlab.exchange.chat_template import chat_template, read_template, template_tokens
from llmlab.exchange.config_json import read_config, write_config
from llmlab.exchange.files import new_folder, read_object, write_object
from llmlab.exchange.recognise import recognise
from llmlab.exchange.safetensors_files import INDEX, Tensors, find_tensors, write_tensors
from llmlab.exchange.spec import model_spec
from llmlab.exchange.tokenizer_import import FILE, SETTINGS, read_settings, read_tokenizer
from llmlab.exchange.tokenizer_json import tokenizer_json
from llmlab.text import Tokenizer

SHARD_BYTES = 5 * 10**9
_CONFIG, _GENERATION = "config.json", "generation_config.json"
_SHOWN = 5


@dataclass(frozen=True)
class Imported:
    """What a folder held."""

    network: Architecture  # what its config.json describes
    model: dict[str, Any]  # the keys of `model` for that
    arrays: dict[str, np.ndarray]  # parameters by llmlab's names
    tokenizer: Tokenizer  # its own
    template: Any = None  # the spec of its own chat template; None if it has none


def read_folder(source: Path) -> Imported:
    """Read a folder of GPT-2, Llama or Mistral.

    What is missing, damaged, contradictory or unknown to llmlab is a CheckpointError.
    """
    if not source.is_dir():
        raise CheckpointError(
            f"source={source}: no folder; name one with {_CONFIG}, model.safetensors and {FILE}"
        )
    config = read_object(source / _CONFIG)
    try:
        network = read_config(config)
    except CheckpointError as error:
        raise CheckpointError(f"{source / _CONFIG}: {error}") from None
    arrays = read_arrays(source, network)
    ends = _ids(config.get("eos_token_id"))
    if (source / _GENERATION).exists():
        ends += _ids(read_object(source / _GENERATION).get("eos_token_id"))
    tokenizer = read_tokenizer(source, network.vocab_size, ends)
    template = read_template(source, read_settings(source))
    return Imported(network, model_spec(network), arrays, tokenizer, template)


def read_arrays(source: Path, network: Architecture) -> dict[str, np.ndarray]:
    """Return the parameters in a folder; every tensor must be there and have its shape."""
    tensors = _renamed(source, find_tensors(source), network)
    every = naming.tensor_slices(network, Names.usual(network.num_blocks))
    wanted = {each.theirs: each.shape for each in every}
    found = {name: entry.shape for name, entry in tensors.entries.items()}
    _refuse(source, "missing tensors", wanted.keys() - found.keys())
    spare = found.keys() - wanted.keys()
    if network.tied and naming.HEAD in spare:
        wanted[naming.HEAD] = wanted[naming.embedding(network)]
        spare -= {naming.HEAD}
    _refuse(source, "tensors that such a model doesn't have", spare)
    bad = [
        f"{n} is {found[n]}, expected {shape}" for n, shape in wanted.items() if found[n] != shape
    ]
    _refuse(source, "shapes", bad)
    if network.tied and naming.HEAD in found:
        table = tensors[naming.embedding(network)]
        if not np.array_equal(table, tensors[naming.HEAD]):
            raise CheckpointError(
                f"{source}: {_CONFIG} says that the head is tied to the embedding, but "
                f"{naming.HEAD} differs from it; one of the two is wrong"
            )
    return naming.to_ours(every, tensors)


def write_folder(
    target: Path,  # a folder that is empty or isn't there yet
    *,
    model: Mapping[str, Any],  # the keys of `model` that the arrays belong to
    arrays: Mapping[str, np.ndarray],
    tokenizer: Tokenizer,
    # How a chat is written, and what ends an answer
    template: Any,
    stop_ids: Iterable[int],
    shard_bytes: int = SHARD_BYTES,
) -> Architecture:
    """Write a folder that transformers loads, all of it or nothing.

    `model` holds the keys of `model` that the arrays belong to, `template` how a chat is written,
    and `stop_ids` what ends an answer. What has no form there is a CheckpointError, which says what
    would have to change; a folder that isn't empty is a ConfigError.
    """
    network, names = recognise(model, tokenizer.vocab_size)
    every = naming.tensor_slices(network, names)
    owned = {each.ours for each in every}
    lost = arrays.keys() - owned
    lacking = {n for n in owned - arrays.keys() if not n.endswith(".bias")}
    _refuse(target, "parameters without a place", lost | lacking)
    dtype = str(next(iter(arrays.values())).dtype)
    contents = _contents(network, dtype, tokenizer, template, stop_ids)
    with new_folder(target) as beside:
        index = write_tensors(beside, naming.to_theirs(every, arrays), shard_bytes)
        if index is not None:
            contents[INDEX] = index
        for name, content in contents.items():
            write_object(content, beside / name)
    return network


def _contents(
    network: Architecture, dtype: str, tokenizer: Tokenizer, template: Any, stop_ids: Iterable[int]
) -> dict[str, Any]:
    """Return the JSON files of a folder by name."""
    end = tokenizer.end_id
    contents: dict[str, Any] = {
        _CONFIG: write_config(network, dtype, tokenizer.stop_ids or (end,)),
        _GENERATION: {
            "eos_token_id": sorted({end, *stop_ids}),
            "pad_token_id": end,
            "max_length": network.max_seq_len,
            "do_sample": False,
        },
        FILE: tokenizer_json(tokenizer),
        SETTINGS: {
            **template_tokens(template),
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": tokenizer.token(end),
            "model_max_length": network.max_seq_len,
            "clean_up_tokenization_spaces": False,
        },
    }
    chat = chat_template(template)
    if chat is not None:
        contents[SETTINGS]["chat_template"] = chat
    return contents


def _ids(value: Any) -> list[int]:
    """Return the ids in `eos_token_id`, which is a number, a list of them, or null."""
    return [id for id in (value if isinstance(value, list) else [value]) if type(id) is int]


def _renamed(source: Path, tensors: Tensors, network: Architecture) -> Tensors:
    """Return the tensors by their full names, without buffers."""
    before = naming.prefix(network)
    entries = {}
    for name, entry in tensors.entries.items():
        if f".{name}".endswith(naming.IGNORED):
            continue
        full = name if name.startswith((before, "lm_head.")) else before + name
        if full in entries:
            raise CheckpointError(f"{source}: {full} is there twice, with and without '{before}'")
        entries[full] = entry
    return Tensors(entries)


def _refuse(where: Path, what: str, names: Iterable[str]) -> None:
    """Raise a CheckpointError if there are any names."""
    every = sorted(names)
    if every:
        more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
        raise CheckpointError(f"{where}: {what}: {', '.join(map(repr, every[:_SHOWN]))}{more}")
