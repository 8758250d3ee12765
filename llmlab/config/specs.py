"""The parts of a configuration that registries know: `type` and its arguments."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.config.values import Unfit, convert, shown
from llmlab.errors import ConfigError, suggest
from llmlab.registry import Registry

STAGES = ("pretrain", "tune")
# What the builders supply to a factory whose signature names it.
OFFERED: dict[str, tuple[str, ...]] = {
    "dataset": ("tokenizer", "max_seq_len", "template"),
    "schedule": ("total_steps",),
    "sampler": ("seed", "vocab_size"),
    "tracker": ("folder", "name"),
    "position": ("head_dim", "num_heads", "num_kv_heads"),
}
_INNER = {
    "layer": "layer",
    "norm": "layer",
    "output_norm": "layer",
    "layers": "layer",
    "init": "initialisation",
    "output_init": "initialisation",
    "activation": "activation",
    "positions": "position",
}
_PROBE_VOCABULARY = 8  # layers are descriptions, so the vocabulary's size doesn't matter here


def registries() -> dict[str, Registry]:
    """Return every registry by its kind, in the order that a reader wants them."""
    from llmlab.generate.samplers import SAMPLERS
    from llmlab.layers import ACTIVATIONS, INITIALISATIONS, LAYERS, POSITIONS
    from llmlab.optim import OPTIMIZERS, SCHEDULES
    from llmlab.text import DATASETS, TEMPLATES, TOKENIZERS
    from llmlab.train.trackers import TRACKERS

    parts = (LAYERS, ACTIVATIONS, POSITIONS, INITIALISATIONS)
    every = (*parts, OPTIMIZERS, SCHEDULES, TOKENIZERS, DATASETS)
    return {r.kind: r for r in (*every, TEMPLATES, SAMPLERS, TRACKERS)}


def check_specs(values: dict[str, Any], problems: list[str]) -> None:
    """Add to `problems` all that is wrong with the registered parts of `values`.

    Whole floats are made integers where the factory's signature says `int`.
    """
    known = registries()
    for kind in ("optimizer", "schedule", "template", "sampler", "tracker"):
        values[kind] = _checked(values[kind], known, kind, kind, problems)
    values["tokenizer"] = _tokenizer(values["tokenizer"], known, problems)
    data = values["data"] if isinstance(values["data"], Mapping) else {}
    unknown = [name for name in data if name not in STAGES]
    problems += [f"data.{n}: unknown stage{suggest(n, STAGES)}" for n in unknown]
    values["data"] = {
        name: _checked(spec, known, "dataset", f"data.{name}", problems)
        for name, spec in data.items()
        if name in STAGES
    }
    problems += [f"data.{n}: missing" for n in STAGES if n not in data]
    nowhere = [
        f"data.{name}.path: null; name a file: data.{name}.path=my.txt"
        for name, spec in values["data"].items()
        if isinstance(spec, Mapping) and "path" in spec and spec["path"] is None
    ]
    if nowhere:  # what the corpus lacks then follows from it
        problems[:] = [told for told in problems if not told.startswith("tokenizer.corpus=")]
        problems += nowhere
    _check_stack(values["model"], known, problems)


def _tokenizer(spec: Any, known: Mapping[str, Registry], problems: list[str]) -> Any:
    """Check a tokenizer's spec, and `corpus`, which says what it is trained on."""
    if not isinstance(spec, Mapping):
        return _checked(spec, known, "tokenizer", "tokenizer", problems)
    own = {key: value for key, value in spec.items() if key != "corpus"}
    corpus = spec.get("corpus")
    corpus = [corpus] if isinstance(corpus, str) else corpus
    if not isinstance(corpus, list) or not all(isinstance(path, str) for path in corpus):
        problems.append(
            f"tokenizer.corpus={shown(corpus)}: expected a list of files: [a.txt,b.txt]"
        )
    return _checked(own, known, "tokenizer", "tokenizer", problems) | {"corpus": corpus}


def _check_stack(model: dict[str, Any], known: Mapping[str, Registry], problems: list[str]) -> None:
    from llmlab.layers import build_stack

    problems += _check_heads(model)
    if any(problem.startswith("model.") for problem in problems):
        return  # what the layers would say follows from these
    stack = model["stack"]
    for index, spec in enumerate(stack):
        if isinstance(spec, Mapping):
            stack[index] = _layer(spec, known, f"model.stack.{index}", problems)
    if any(problem.startswith("model.") for problem in problems):
        return
    sizes = {key: model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    try:
        build_stack(stack, "model.stack", vocab_size=_PROBE_VOCABULARY, **sizes)
    except ConfigError as error:
        # As one types it: model.stack.2.layers.0, not model.stack[2].layers[0].
        told = [re.sub(r"\[(\d+)\]", r".\1", problem) for problem in error.problems]
        problems += [_by_name(problem, model) for problem in told]


def _by_name(problem: str, model: Mapping[str, Any]) -> str:
    """Say how to change a layer that a preset keeps under a name, if that is the problem."""
    named = [f"model.{key}" for key in ("attention", "feed_forward") if key in model]
    if ".layer: no 'type'" not in problem or not named:
        return problem
    where = problem.split(":")[0]
    return (
        f"{where}: no 'type'; this preset's layers are changed by name: {named[0]}.<argument>=... "
        f"(it has {' and '.join(named)})"
    )


def _check_heads(model: Mapping[str, Any]) -> list[str]:
    width, heads, kv_heads = (model[key] for key in ("embedding_dim", "num_heads", "num_kv_heads"))
    problems = []
    if not isinstance(width, int) or not isinstance(heads, int) or width < 1 or heads < 1:
        return problems
    if width % heads:
        fitting = [n for n in range(1, width + 1) if width % n == 0]
        widths = sorted({width - width % heads or heads, width - width % heads + heads})
        problems.append(
            f"model.embedding_dim={width}: must be divisible by model.num_heads={heads}; "
            f"nearest: embedding_dim {_either(widths)}, or num_heads {_nearest(heads, fitting)}"
        )
    if isinstance(kv_heads, int) and kv_heads >= 1 and heads % kv_heads:
        fitting = [n for n in range(1, heads + 1) if heads % n == 0]
        problems.append(
            f"model.num_kv_heads={kv_heads}: must divide model.num_heads={heads}; "
            f"nearest: {_nearest(kv_heads, fitting)}"
        )
    return problems


def _nearest(value: int, options: Sequence[int]) -> str:
    below = [option for option in options if option < value][-1:]
    return _either(below + [option for option in options if option > value][:1])


def _either(values: Sequence[int]) -> str:
    return " or ".join(map(str, values))


def _layer(
    spec: Mapping[str, Any], known: Mapping[str, Registry], where: str, problems: list[str]
) -> dict[str, Any]:
    """Convert a layer's arguments; what build_stack reports itself is left to it."""
    own = {key: value for key, value in spec.items() if key not in ("name", "repeat")}
    converted = _converted(own, known, "layer", where, problems)
    result = {key: converted.get(key, spec[key]) for key in spec}
    if isinstance(result.get("repeat"), float) and result["repeat"].is_integer():
        result["repeat"] = int(result["repeat"])
    return result


def _checked(
    spec: Any, known: Mapping[str, Registry], kind: str, where: str, problems: list[str]
) -> Any:
    found = known[kind].check(spec, where, OFFERED.get(kind, ()))
    problems += found
    if found or not isinstance(spec, Mapping):
        return spec
    return _converted(spec, known, kind, where, problems)


def _converted(
    spec: Mapping[str, Any],
    known: Mapping[str, Registry],
    kind: str,
    where: str,
    problems: list[str],
) -> dict[str, Any]:
    """Return `spec` with its arguments, and those of specs inside it, of their hints' types."""
    result = dict(spec)
    name = spec.get("type")
    if name not in known[kind].names():
        return result
    signature = known[kind].signature(str(name))
    for key, value in spec.items():
        here = f"{where}.{key}"
        inner = _INNER.get(key)
        if inner == "layer" and isinstance(value, list):
            result[key] = [
                _layer(item, known, f"{here}.{i}", problems) if isinstance(item, Mapping) else item
                for i, item in enumerate(value)
            ]
        elif inner == "layer" and isinstance(value, Mapping):
            result[key] = _layer(value, known, here, problems)
        elif inner == "layer":
            continue  # a layer's name alone: build_stack knows what is supplied
        elif inner and value is not None:
            result[key] = _checked(value, known, inner, here, problems)
        elif key in signature:
            try:
                result[key] = convert(value, _hint(signature[key]))
            except Unfit as error:
                problems.append(f"{here}={shown(value)}: {error}")
    return result


def _hint(parameter: inspect.Parameter) -> Any:
    hint = parameter.annotation
    if isinstance(hint, str):  # from a module with postponed annotations
        hint = {"int": int, "float": float, "bool": bool, "str": str}.get(hint, Any)
    return Any if hint is inspect.Parameter.empty else hint
