"""The network of a configuration: its sizes, its layers, and `positions=`."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llmlab.config.specs import Reader, stated
from llmlab.config.stored import touched
from llmlab.errors import ConfigError
from llmlab.named import ORDER, as_mapping, ordered, walk
from llmlab.registry import Registry

log = logging.getLogger("llmlab")

ADDED = {"learned": "learned_positions", "sinusoidal": "sinusoidal_positions"}
POSITIONS = ("preset", *ADDED, "rope", "alibi", "none")
_PROBE_VOCABULARY = 8  # layers are descriptions, so the vocabulary's size doesn't matter here


def check_network(
    values: dict[str, Any], typed: Collection[str], continued: bool, problems: list[str]
) -> None:
    """Resolve the stack of `values["model"]` and add to `problems` all that is wrong with it.

    `continued` says that the configuration is a checkpoint's.
    """
    from llmlab.layers import LAYERS, build_stack

    model, choice = values["model"], values["positions"]
    problems += _check_heads(model)
    if choice != "preset" and (continued or values.get("checkpoint") is not None):
        if "positions" in typed:
            problems.append(
                f"positions={choice}: the checkpoint's network has its own positions, and their "
                "parameters; leave this key out, or train without a checkpoint"
            )
        choice = "preset"
    if _wrong(problems):
        return  # what the layers would say follows from these
    stack = Reader(typed, problems).read_named(model["stack"], LAYERS, "model.stack")
    if _wrong(problems):
        return
    if choice != "preset":
        stack = _Positions(choice, typed).in_stack(stack)
    model["stack"] = stack
    sizes = {key: model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    try:
        build_stack(stack, vocab_size=_PROBE_VOCABULARY, **sizes)
    except ConfigError as error:
        problems += error.problems
        return
    _warn_of_two_kinds(stack)


def refuse_former_names(model: Any, typed: Collection[str], problems: list[str]) -> None:
    """Refuse keys of layers that presets used to keep beside the stack; name the new keys."""
    for name in ("attention", "feed_forward"):
        if isinstance(model, dict) and name in model:
            del model[name]
            old = f"model.{name}"
            for key in sorted(key for key in typed if touched(old, [key])) or [old]:
                new = key.replace(old, f"model.stack.blocks.layers.{name}.layer", 1)
                problems.append(f"{key}: layers are changed in the stack: {new}")


def _wrong(problems: Sequence[str]) -> bool:
    return any(problem.startswith(("model.", "positions=")) for problem in problems)


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


def _adds_positions(spec: Any) -> bool:
    from llmlab.layers import LAYERS

    return getattr(LAYERS.factory(as_mapping(spec).get("type")), "adds_positions", False)


def positions_in(stack: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the types of a resolved stack's positions by key: layers, and in attention."""
    from llmlab.layers import LAYERS, POSITIONS

    added, inside = {}, {}
    for where, spec, registry in walk(stack, LAYERS, "model.stack"):
        if registry is LAYERS and _adds_positions(spec):
            added[where] = spec["type"]
        elif registry is POSITIONS and spec["type"] != "none":
            inside[where] = spec["type"]
    return added, inside


def _warn_of_two_kinds(stack: Mapping[str, Any]) -> None:
    """Warn if tokens get their positions twice, usually because one kind wasn't removed."""
    added, inside = positions_in(stack)
    found = [*added.items(), *list(inside.items())[: bool(added)]]
    if len(found) > 1:
        log.warning(
            "two kinds of positions at once: %s; positions=learned, rope, ... keeps only one",
            " and ".join(f"{where} ({kind})" for where, kind in found),
        )


class _Positions:
    """Replace a network's positions with one kind; keys that were typed stay."""

    def __init__(self, choice: str, typed: Collection[str]):
        self.choice, self.typed = choice, typed
        self.inside = choice if choice not in (*ADDED, "none") else None

    def in_stack(self, stack: Mapping[str, Any]) -> dict[str, Any]:
        """Return the whole stack, with a layer of positions after the first if one is wanted."""
        from llmlab.layers import LAYERS

        found = self._in_named(stack, LAYERS, "model.stack")
        if self.choice in ADDED and not any(_adds_positions(found[n]) for n in found[ORDER]):
            name = "positions" if "positions" not in found else ADDED[self.choice]
            first, *rest = found[ORDER]
            entry = {name: {"type": ADDED[self.choice]}}
            found = ordered({first: found[first], **entry, **{n: found[n] for n in rest}})
        return found

    def _in_named(self, parts: Mapping[str, Any], registry: Registry, where: str) -> dict[str, Any]:
        result = {}
        for name in parts[ORDER]:
            here, spec = f"{where}.{name}", as_mapping(parts[name])
            stays = spec.get("type") == ADDED.get(self.choice) or touched(here, self.typed)
            if stays or not _adds_positions(spec):
                result[name] = self._in_spec(spec, registry, here)
        return ordered(result)

    def _in_spec(self, spec: dict[str, Any], registry: Registry, where: str) -> dict[str, Any]:
        from llmlab.layers import POSITIONS

        result = dict(spec)
        for key, part in registry.nested(spec.get("type")).items():
            value, here = spec.get(key), f"{where}.{key}"
            if part.registry is POSITIONS:
                told = self._told(value, here)
                if told != value:
                    result[key] = told
            elif part.by_name and isinstance(value, Mapping):
                result[key] = self._in_named(value, part.registry, here)
            elif isinstance(value, Mapping):
                result[key] = self._in_spec(value, part.registry, here)  # pyright: ignore[reportArgumentType]
            elif isinstance(value, str):
                whole = self._in_spec(as_mapping(value), part.registry, here)
                result[key] = whole if len(whole) > 1 else value
        if "each" in spec:
            base = {key: value for key, value in spec.items() if key not in ("repeat", "each")}
            result["each"] = {
                number: stated(over, self._in_spec(registry.merged(base, over), registry, where))
                for number, over in spec["each"].items()
            }
        return result

    def _told(self, value: Any, where: str) -> Any:
        """Return the argument `positions` of an attention."""
        now = {"type": None} if value is None else as_mapping(value)
        if where in self.typed or f"{where}.type" in self.typed or now.get("type") == self.inside:
            return value
        typed = {key: item for key, item in now.items() if touched(f"{where}.{key}", self.typed)}
        return {"type": self.inside, **typed} if self.inside else None
