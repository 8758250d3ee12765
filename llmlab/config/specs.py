"""The parts of a configuration that registries build: `type` and its arguments."""

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from llmlab.config.stored import touched
from llmlab.config.values import Unfit, convert, shown
from llmlab.errors import ConfigError, suggest
from llmlab.named import PLACES, entries, numbered, ordered, placed
from llmlab.registry import Registry

log = logging.getLogger("llmlab")

STAGES = ("pretrain", "tune")


def registries() -> dict[str, Registry]:
    """Return every registry by its kind, in the order that a reader wants them."""
    from llmlab.generate.samplers import SAMPLERS
    from llmlab.layers import ACTIVATIONS, INITIALISATIONS, LAYERS, POSITIONS
    from llmlab.layers.lora import ADAPTERS
    from llmlab.optim import OPTIMIZERS, SCHEDULES
    from llmlab.search.samplers import PRUNERS, SEARCH_SAMPLERS
    from llmlab.text import DATASETS, TEMPLATES, TOKENIZERS
    from llmlab.train.callbacks import CALLBACKS
    from llmlab.train.trackers import TRACKERS

    parts = (LAYERS, ACTIVATIONS, POSITIONS, INITIALISATIONS)
    every = (*parts, ADAPTERS, OPTIMIZERS, SCHEDULES, TOKENIZERS, DATASETS)
    every = (*every, TEMPLATES, SAMPLERS, TRACKERS, CALLBACKS, SEARCH_SAMPLERS, PRUNERS)
    return {r.kind: r for r in every}


def check_specs(values: dict[str, Any], typed: Collection[str], problems: list[str]) -> None:
    """Add to `problems` all that is wrong with the registered parts of `values`, but the network.

    Whole floats are made integers where the factory's signature says `int`.
    """
    known = registries()
    reader = Reader(typed, problems)
    for kind in ("optimizer", "schedule", "template", "sampler", "tracker"):
        if (kind, values[kind]) != ("template", "auto"):
            values[kind] = reader.checked(values[kind], known[kind], kind)
    if values["adapter"] is not None:
        values["adapter"] = reader.checked(values["adapter"], known["adapter"], "adapter")
    values["tokenizer"] = _tokenizer(values["tokenizer"], known["tokenizer"], reader)
    values["callbacks"] = _callbacks(values["callbacks"], known["callback"], reader)
    data = values["data"] if isinstance(values["data"], Mapping) else {}
    unknown = [name for name in data if name not in STAGES]
    problems += [f"data.{n}: unknown stage{suggest(n, STAGES)}" for n in unknown]
    values["data"] = {
        name: reader.checked(spec, known["dataset"], f"data.{name}")
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


def _callbacks(parts: Any, registry: Registry, reader: "Reader") -> Any:
    """Check callbacks by name; a run needs those that write."""
    count = len(reader.problems)
    found = reader.read_named(parts, registry, "callbacks")
    if len(reader.problems) == count:
        for _, where, spec in entries(found, "callbacks", registry):
            reader.problems += registry.check(spec, where) or _unfit(spec, where)
        reader.problems += [
            f"callbacks.{name}=null: a run can't do without it; {key}=N makes it rarer"
            for name, key in (("metrics", "log_every"), ("checkpoints", "save_every"))
            if name not in found
        ]
    return found


def _unfit(spec: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield what is wrong with values of a callback, before a run begins."""
    every, prompts = spec.get("every"), spec.get("prompts") or ()
    if spec["type"] in ("watch", "samples") and every is not None and every < 1:
        yield f"{where}.every={every}: must be at least 1; null is its default"
    if spec["type"] == "samples" and not all(str(each).strip() for each in prompts):
        yield f"{where}.prompts: one of them is empty; give some text"


def _tokenizer(spec: Any, registry: Registry, reader: "Reader") -> Any:
    """Check a tokenizer's spec, and `corpus`, which says what it is trained on."""
    if not isinstance(spec, Mapping):
        return reader.checked(spec, registry, "tokenizer")
    own = {key: value for key, value in spec.items() if key != "corpus"}
    corpus = spec.get("corpus")
    corpus = [corpus] if isinstance(corpus, str) else corpus
    if not isinstance(corpus, list) or not all(isinstance(path, str) for path in corpus):
        reader.problems.append(
            f"tokenizer.corpus={shown(corpus)}: expected a list of files: [a.txt,b.txt]"
        )
    return reader.checked(own, registry, "tokenizer") | {"corpus": corpus}


class Reader:
    """Convert specs as they were composed to specs as they are kept.

    Parameters
    ----------
    typed
        The keys of the command line. If a spec's `type` is among them, arguments that this type
        doesn't take, and that weren't typed, belonged to another type and are left out.
    problems
        Gets a line for each value of a wrong type and each impossible position.
    """

    def __init__(self, typed: Collection[str], problems: list[str]):
        self.typed, self.problems = typed, problems

    def checked(self, spec: Any, registry: Registry, where: str) -> Any:
        """Return the spec as `read` does, and check it against the registry."""
        count = len(self.problems)
        result = self.read(spec, registry, where)
        if len(self.problems) == count:
            self.problems += registry.check(result, where)
        return result

    def read(self, spec: Any, registry: Registry, where: str) -> Any:
        """Return the spec with all arguments, nested ones too, of their annotated types."""
        name = spec.get("type") if isinstance(spec, Mapping) else None
        if registry.factory(name) is None:
            return dict(spec) if isinstance(spec, Mapping) else spec
        signature, nested = registry.signature(str(name)), registry.nested(name)
        result = dict(spec)
        foreign = [key for key in spec if key != "type" and key not in signature]
        if f"{where}.type" in self.typed:
            foreign = [key for key in foreign if not touched(f"{where}.{key}", self.typed)]
            if foreign:
                log.info("%s.type=%s: doesn't take %s, left out", where, name, ", ".join(foreign))
            result = {key: value for key, value in result.items() if key not in foreign}
        for key, value in result.items():
            here, part = f"{where}.{key}", nested.get(key)
            if part and part.by_name and isinstance(value, Mapping):
                result[key] = self.read_named(value, part.registry, here)
            elif part:
                result[key] = self.read(value, part.registry, here)
            elif key in signature:
                try:
                    result[key] = convert(value, signature[key].annotation)
                except Unfit as error:
                    self.problems.append(f"{here}={shown(value)}: {error}")
        return result

    def read_named(self, parts: Any, registry: Registry, where: str) -> dict[str, Any]:
        """Return a mapping by name with its order resolved and stored."""
        try:
            found = placed(parts, where, registry.kind)
            return ordered({n: self._entry(s, registry, f"{where}.{n}") for n, s in found.items()})
        except ConfigError as error:
            self.problems += error.problems
            return dict(parts)

    def _entry(self, spec: Any, registry: Registry, where: str) -> Any:
        """Return an entry; its `each` keeps only what differs."""
        if not isinstance(spec, Mapping):
            return spec
        count = len(self.problems)
        own = {key: value for key, value in spec.items() if key not in ("repeat", "each")}
        result = self.read(own, registry, where)
        repeat = spec.get("repeat")
        if "repeat" in spec:
            whole = isinstance(repeat, float) and repeat.is_integer()
            result["repeat"] = repeat = int(repeat) if whole else repeat  # pyright: ignore[reportArgumentType]
        each = numbered(spec.get("each"), repeat, where, registry)
        if each and len(self.problems) == count:
            base = {key: value for key, value in result.items() if key != "repeat"}
            result["each"] = {
                number: stated(
                    over,
                    self.read(registry.merged(base, over), registry, f"{where}.each.{number}"),
                )
                for number, over in each.items()
            }
        return result


def stated(over: Any, whole: Any) -> Any:
    """Return the part of `whole`, a spec that `over` was merged into, that `over` states.

    For parts by name, the order and removals are kept, too.
    """
    if not isinstance(over, Mapping) or not isinstance(whole, Mapping):
        return whole
    by_name = "order" in whole
    result = {
        key: stated(value, whole.get(key))
        for key, value in over.items()
        if key not in PLACES and (by_name or key in whole)
    }
    return {**result, "order": whole["order"]} if by_name else result
