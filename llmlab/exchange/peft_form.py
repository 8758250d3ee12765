"""LoRA in the form of the library peft: adapter_config.json and adapter_model.safetensors."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmlab.errors import CheckpointError
from llmlab.exchange import names as naming
from llmlab.exchange.architecture import Architecture
from llmlab.exchange.files import new_folder, read_object, write_object
from llmlab.exchange.recognise import recognise
from llmlab.exchange.safetensors_files import read_file, write_file

FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_BEFORE = "base_model.model."
_FIXED = {
    "peft_type": "LORA",
    "bias": "none",
    "lora_bias": False,
    "use_dora": False,
    "use_rslora": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}


class LowRankMap(NamedTuple):
    """A low-rank map beside some columns of an array."""

    # The array's name, and which columns
    ours: str
    start: int
    stop: int
    # The matrices (d_in, rank) and (rank, d_out)
    a: np.ndarray
    b: np.ndarray


def peft_files(
    model: Mapping[str, Any], vocab_size: int, maps: Iterable[LowRankMap], scale: float
) -> tuple[Architecture, dict[str, Any], dict[str, np.ndarray]]:
    """Return the architecture, the content of adapter_config.json, and the tensors.

    Their matrices may be cut otherwise than ours: maps that share one stand side by side in it,
    and shorter ones are filled up with zeros.

    A model that has no form there is a CheckpointError.
    """
    architecture, names = recognise(model, vocab_size)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    every = list(maps)
    for each in naming.tensor_slices(architecture, names):
        for low in every:
            begin, end = max(each.start, low.start), min(each.stop, low.stop)
            if low.ours == each.ours and begin < end:
                b = np.zeros((each.stop - each.start, low.b.shape[0]), low.b.dtype)
                b[begin - each.start : end - each.start] = low.b[
                    :, begin - low.start : end - low.start
                ].T
                module = each.theirs.removesuffix(".weight")
                found.setdefault(module, []).append((low.a.T, b))
    rank = max(sum(len(a) for a, _ in parts) for parts in found.values())
    tensors = {}
    for module, parts in found.items():
        a, b = np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts], axis=1)
        more = rank - len(a)
        filled = {"A": np.pad(a, ((0, more), (0, 0))), "B": np.pad(b, ((0, 0), (0, more)))}
        tensors |= {
            f"{_BEFORE}{module}.lora_{letter}.weight": np.ascontiguousarray(matrix)
            for letter, matrix in filled.items()
        }
    config = {
        **_FIXED,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "fan_in_fan_out": architecture.family == "gpt2",
        "target_modules": sorted({".".join(module.split(".")[-2:]) for module in found}),
        "inference_mode": True,
    }
    return architecture, config, tensors


def write_adapter(
    target: Path,
    *,
    model: Mapping[str, Any],
    vocab_size: int,
    maps: Iterable[LowRankMap],
    scale: float,
) -> Architecture:
    """Write a folder that peft loads, all of it or nothing; errors as in `write_folder`."""
    architecture, config, tensors = peft_files(model, vocab_size, maps, scale)
    with new_folder(target) as beside:
        write_file(tensors, beside / FILE)
        write_object(config, beside / CONFIG)
    return architecture


def read_adapter(
    source: Path, model: Mapping[str, Any], vocab_size: int, columns: Mapping[Any, str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the spec of an adapter in peft's form, and its arrays by llmlab's names.

    `columns` says what `on` calls the columns (array, start, stop) of the network.
    """
    config = read_object(source / CONFIG)
    for key, value in _FIXED.items():
        if config.get(key, value) not in (value, None if value in ({}, False) else value):
            raise CheckpointError(f"{source / CONFIG}: {key}={config[key]!r:.60}: only {value!r}")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    numbers = type(rank) is int and isinstance(alpha, int | float) and type(alpha) is not bool
    if not numbers or rank < 1 or not alpha > 0:  # pyright: ignore[reportOptionalOperand]
        raise CheckpointError(f"{source / CONFIG}: r={rank!r:.20}, lora_alpha={alpha!r:.20}")
    architecture, names = recognise(model, vocab_size)
    slices = {s.theirs: s for s in naming.tensor_slices(architecture, names)}
    arrays, on = {}, {}
    tensors = read_file(source / FILE)
    for name in tensors:
        module, _, letter = name.removeprefix(_BEFORE).rpartition(".lora_")
        place = slices.get(f"{module}.weight")
        known = place and columns.get((place.ours, place.start, place.stop))
        if letter not in ("A.weight", "B.weight") or place is None or known is None:
            raise CheckpointError(f"{source / FILE}: {name:.80}: the network has no place for it")
        array = tensors[name].T
        path = place.ours.removesuffix(".weight")
        arrays[f"{path}.{known}.{letter[0].lower()}"] = np.ascontiguousarray(array)
        on[known] = None
    if not on:
        raise CheckpointError(f"{source / FILE}: no tensors in it")
    return {"type": "lora", "rank": rank, "alpha": float(alpha), "on": list(on)}, arrays  # pyright: ignore[reportArgumentType]
