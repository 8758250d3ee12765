"""Which sampler a request asks for."""

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from llmlab.errors import ConfigError
from llmlab.generate import SAMPLERS, Sampler, Search
from llmlab.serve.errors import RequestError
from llmlab.serve.fields import own_arguments
from llmlab.serve.models import Served


def sampler_of(data: Mapping[str, Any], served: Served) -> Sampler:
    """Return the sampler of a request: the server's, with what the request says."""
    given = {name: data[name] for name in own_arguments() if name in data}
    named, base = data.get("sampler"), dict(served.sampler)
    if isinstance(named, str):
        named = {"type": named}
    if named is not None:
        base = named if named.get("type") != base["type"] else {**base, **named}
    elif given and base["type"] != "sample":
        base = {"type": "sample"}
    spec = {**base, **given}
    if "logit_bias" in data:
        spec |= {"logit_bias": _biases(data["logit_bias"])}
        spec["type"] = "sample" if spec["type"] == "greedy" else spec["type"]
        if base["type"] == "greedy" and "temperature" not in spec:
            spec["temperature"] = 0.0
    spec.pop("num_samples", None)
    vocab_size = served.model.tokenizer.vocab_size
    try:
        sampler = SAMPLERS.build(spec, "sampler", seed=0, vocab_size=vocab_size)
    except ConfigError as error:
        _refuse("; ".join(error.problems))
    except (TypeError, ValueError) as error:
        raise RequestError(f"sampler: {error}", "sampler") from None
    if isinstance(sampler, Search):
        raise RequestError(
            f"sampler: '{spec['type']}' knows its first token only at the end, so it isn't served",
            "sampler",
        )
    return sampler


def _refuse(problem: str) -> NoReturn:
    """Raise what is wrong with a sampler, with the field that it is about."""
    found = re.match(r"sampler\.(\w+)", problem)
    name = found[1] if found else "sampler"
    raise RequestError(problem.removeprefix("sampler."), name)


def _biases(given: Mapping[str, Any]) -> dict[int, float]:
    """Return biases by token id; JSON's keys are texts."""
    try:
        return {int(key): float(value) for key, value in given.items()}
    except ValueError:
        bad = next(key for key in given if not re.fullmatch(r"\s*\d+\s*", key))
        raise RequestError(
            f"logit_bias.{bad[:40]}: expected the id of a token", "logit_bias"
        ) from None
