"""What a part is tried with when nothing is said: arguments, inputs, circumstances."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmlab.contract.bench import Bench, Case
from llmlab.errors import ConfigError, LlmlabError
from llmlab.registry import Registry
from llmlab.schema import Nested

SIZES = {"embedding_dim": 8, "vocab_size": 7, "max_seq_len": 9, "num_blocks": 2}
_USUAL = {
    **{"num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "hidden_dim": 5, "output_dim": 8},
    **{"num_experts": 4, "top_k": 2, "window": 3, "rate": 0.4, "dropout": 0.4},
}
_OF_TYPE = {int: 2, float: 0.5, bool: True}
_INNER = {"layer": "linear", "activation": "gelu", "initialisation": "normal", "position": "rope"}
_CIRCUMSTANCES: dict[str, dict[str, Any]] = {
    "": {},
    "one token": {"time": 1},
    "packed samples": {"time": 5, "segments": True, "positions": True},
    "random": {"random": True},
    "targets with weights": {"weights": True},
}


def probe(
    registry: Registry, name: str, given: Mapping[str, Any], where: str, known: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a spec with all that the factory requires."""
    spec = {"type": name, **given}
    nested, missing = registry.nested(name), []
    for key, parameter in registry.signature(name).items():
        needed = parameter.default is inspect.Parameter.empty
        if key in spec or key in registry.supplied or not needed:
            continue
        if key in known:
            spec[key] = known[key]
        elif key in nested and nested[key].registry.kind in _INNER:
            spec[key] = _inner(nested[key])
        elif key in _USUAL or parameter.annotation in _OF_TYPE:
            spec[key] = _USUAL.get(key, _OF_TYPE.get(parameter.annotation))
        else:
            missing.append(f"{where}.{key}: missing; say what to try it with: {where}.{key}=...")
    if problems := missing or registry.check(spec, where):
        raise ConfigError(problems)
    return spec


def _inner(part: Nested) -> Any:
    usual = _INNER[part.registry.kind]
    return {"first": usual, "second": usual} if part.by_name else usual


def layer_cases(spec: Mapping[str, Any]) -> dict[str, Case]:
    """Return the cases of a layer by what is particular about them.

    It takes rows, or else token ids; a layer that shares an array of the embedding follows one.
    """
    first: Exception | None = None
    for before, ids in (({}, False), ({}, True), ({"tokens": "token_embedding"}, True)):
        case = Case({**before, "layer": spec}, ids=ids, context=SIZES)
        try:
            Bench(case)
        except LlmlabError:
            raise
        except Exception as error:
            first = first or error
        else:
            return {title: replace(case, **each) for title, each in _CIRCUMSTANCES.items()}
    assert first is not None
    raise first
