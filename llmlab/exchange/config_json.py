"""config.json: what transformers says of a network, read strictly and written in full."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.errors import CheckpointError, suggest
from llmlab.exchange.architecture import ACTIVATIONS, Architecture
from llmlab.exchange.config_keys import (
    CLASSES,
    FIELDS,
    FIXED,
    FIXED_IN,
    HARMLESS,
    PRIVATE,
    Field,
)

_CODE = ("auto_map", "custom_pipelines")
_ROPE_KEYS = {"rope_type", "type", "rope_theta", "factor", "partial_rotary_factor"}


def read_config(config: Mapping[str, Any]) -> Architecture:
    """Return the network that a config.json describes."""
    family = str(config.get("model_type"))
    if family not in FIELDS:
        known = ", ".join(FIELDS)
        raise CheckpointError(
            f"model_type={family!r}: llmlab reads {known}{suggest(family, FIELDS)}"
        )
    problems = _strangers(config, family)
    biased = family == "gpt2"  # always; Llama says it by keys, Mistral has none
    facts: dict[str, Any] = {"family": family, "attention_bias": biased}
    facts["feed_forward_bias"] = biased
    for key, field in FIELDS[family].items():
        try:
            facts[field.name] = _value(config.get(key, field.default), field)
        except ValueError as error:
            problems.append(f"{key}={_short(config.get(key))}: {error}")
    if family != "gpt2":
        facts |= _rope(config, problems)
    if not problems:
        problems += _complete(facts, config) + _layer_types(facts, config)
    if problems:
        raise CheckpointError("; ".join(problems))
    return Architecture(**facts)


def write_config(network: Architecture, dtype: str, end_ids: Sequence[int]) -> dict[str, Any]:
    """Return the content of config.json for transformers 4.57 and later."""
    config: dict[str, Any] = {
        "architectures": [CLASSES[network.family][0]],
        "model_type": network.family,
    }
    theirs = {ours: name for name, ours in reversed(ACTIVATIONS.items())}
    for key, field in FIELDS[network.family].items():
        value = network.head_dim if key == "head_dim" else getattr(network, field.name)
        config[key] = theirs[str(value)] if field.kind == "activation" else value
    if network.family == "gpt2":
        config |= {"n_ctx": network.max_seq_len}
        config |= {key: value for key, value in FIXED.items() if key.startswith("scale_")}
    else:
        stretched = {"rope_type": "linear", "factor": network.stretch}
        scaling = stretched if network.stretch != 1 else {"rope_type": "default"}
        config |= {
            "rope_theta": network.theta,
            "rope_scaling": scaling if network.stretch != 1 else None,  # for 4.57
            "rope_parameters": {**scaling, "rope_theta": network.theta},
        }
    ends = list(end_ids) if len(end_ids) > 1 else end_ids[0]
    ids = {"bos_token_id": None, "eos_token_id": ends, "pad_token_id": None}
    return config | ids | {"dtype": dtype, "torch_dtype": dtype, "use_cache": True}


def _strangers(config: Mapping[str, Any], family: str) -> list[str]:
    """Return what is wrong with keys that are no sizes."""
    problems = []
    fixed = FIXED | FIXED_IN[family]
    known = {*FIELDS[family], *fixed, *HARMLESS, "rope_theta", "rope_scaling", "rope_parameters"}
    known.add("layer_types")
    for key, value in config.items():
        if key in _CODE:
            problems.append(f"{key}: the model has code of its own, which llmlab never runs")
        elif key == "quantization_config" and value is not None:
            problems.append(f"{key}: quantised; take the model's float32, float16 or bfloat16 form")
        elif key in fixed:
            if value != fixed[key]:
                problems.append(f"{key}={_short(value)}: llmlab can only do {fixed[key]}")
        elif key not in known and not key.startswith(PRIVATE):
            problems.append(
                f"{key}={_short(value)}: unknown key of {family}{suggest(key, known, 0.85)}; "
                "delete it if it changes no numbers"
            )
    classes = config.get("architectures") or CLASSES[family]
    if not isinstance(classes, list) or not set(map(str, classes)) <= set(CLASSES[family]):
        wanted = CLASSES[family][0]
        problems.append(f"architectures={_short(classes)}: llmlab reads {wanted}")
    return problems


def _value(value: Any, field: Field) -> Any:
    """Return a checked value; ValueError says what is expected."""
    if value is ...:
        raise ValueError("missing")
    if value is None and field.optional:
        return None
    if field.kind == "activation":
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise ValueError(f"unknown activation; llmlab has {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]
    if field.kind == "bool":
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value
    whole = field.kind == "int"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"must be a {'whole ' * whole}number")
    if not field.low <= value <= field.high or not math.isfinite(value):
        raise ValueError(f"must be between {field.low:,} and {field.high:,}")
    return value if whole else float(value)


def _rope(config: Mapping[str, Any], problems: list[str]) -> dict[str, float]:
    """Return theta and stretch from whichever of the three keys are there."""
    thetas, stretches = [], []
    if config.get("rope_theta") is not None:
        thetas.append(config["rope_theta"])
    for key in ("rope_scaling", "rope_parameters"):
        spec = config.get(key)
        if spec is None:
            continue
        if not isinstance(spec, Mapping):
            problems.append(f"{key}={_short(spec)}: must be a mapping")
            continue
        kind = spec.get("rope_type", spec.get("type", "default"))
        if kind not in ("default", "linear"):
            problems.append(f"{key}: rope type {kind!r}; llmlab has 'default' and 'linear'")
            continue
        problems += [
            f"{key}.{name}={_short(value)}: llmlab doesn't know what it changes"
            for name, value in spec.items()
            if name not in _ROPE_KEYS or (name == "partial_rotary_factor" and value != 1)
        ]
        if spec.get("rope_theta") is not None:
            thetas.append(spec["rope_theta"])
        stretches.append(spec.get("factor") if kind == "linear" else 1.0)
    result = {}
    for name, values, default in (("theta", thetas, 10_000.0), ("stretch", stretches, 1.0)):
        try:
            checked = {_value(v, Field(name, "float", low=1, high=1e12)) for v in values}
        except ValueError as error:
            problems.append(f"rope {name}={_short(values)}: {error}")
            continue
        if len(checked) > 1:
            found = " and ".join(map(str, sorted(checked)))
            problems.append(f"rope {name}: config.json says {found}, which contradict each other")
        result[name] = checked.pop() if checked else default
    if result.get("theta") == 1:
        problems.append("rope theta=1: must be more than 1")
    return result


def _complete(facts: dict[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Fill in what derives from other sizes; return what doesn't fit together."""
    width, heads = facts["embedding_dim"], facts["num_heads"]
    if facts.get("num_kv_heads") is None:
        facts["num_kv_heads"] = heads
    if facts["hidden_dim"] is None:
        facts["hidden_dim"] = 4 * width
    head_dim = facts.pop("head_dim", None)
    if width % heads:
        return [f"a width of {width} isn't divisible by {heads} heads"]
    if heads % facts["num_kv_heads"]:
        return [f"{heads} heads can't share {facts['num_kv_heads']} key heads evenly"]
    if head_dim not in (None, width // heads):
        return [
            f"head_dim={head_dim}: llmlab's heads have the width {width} / {heads} = "
            f"{width // heads}"
        ]
    if facts["family"] != "gpt2" and (width // heads) % 2:
        return [f"a head width of {width // heads}: RoPE turns pairs, so it must be even"]
    return []


def _layer_types(facts: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the list of the layers' kinds, which must say what is computed."""
    kind = "full_attention" if facts.get("window") is None else "sliding_attention"
    said = config.get("layer_types")
    if said is None or said == [kind] * facts["num_blocks"]:
        return []
    return [f"layer_types={_short(said)}: llmlab can only do {kind!r} in every layer"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
