"""One registered thing, tried: which checks it passes, and what is wrong in plain words."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmlab.contract.bench import Case
from llmlab.contract.layers import CHECKS, check_shapes
from llmlab.contract.parts import PARTS, STEPS, TEXTS
from llmlab.contract.probes import SIZES, layer_cases, probe
from llmlab.errors import ConfigError, LlmlabError
from llmlab.plugin_errors import described, plugin_error
from llmlab.registry import Registry
from llmlab.text import TEMPLATES, TOKENIZERS


class Outcome(NamedTuple):
    """What became of a check."""

    check: str  # its name
    problem: str = ""  # what is wrong; empty if nothing is


def can_be_tried(kind: str) -> bool:
    """Tell whether there is a contract for things of this kind."""
    return kind in ("layer", "activation", "position", *PARTS)


def trial(registry: Registry, name: str, given: Mapping[str, Any], where: str) -> Iterator[Outcome]:
    """Yield the outcome of each check of something registered.

    What it requires besides `given` gets usual values.
    """
    with tempfile.TemporaryDirectory() as folder:
        known = _known(registry.kind, Path(folder))
        try:
            spec = probe(registry, name, given, where, known)
        except ConfigError as error:
            yield Outcome("arguments", "; ".join(error.problems))
            return
        if registry.kind in PARTS:
            supplied = {key: known[key] for key in registry.supplied}
            build = partial(registry.build, spec, where, **supplied)
            for check in PARTS[registry.kind]:
                yield _outcome(check.__name__.partition("_")[2], check, build)
        else:
            yield from _layer(_around(registry.kind, spec))


def _known(kind: str, folder: Path) -> dict[str, Any]:
    """Return values of arguments by name, as whoever builds would supply them."""
    known: dict[str, Any] = {**SIZES, "seed": 0, "total_steps": STEPS}
    if kind == "dataset":
        path = folder / "texts.txt"
        path.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
        tokenizer = TOKENIZERS.build("word", "tokenizer").train(TEXTS)
        template = TEMPLATES.build("user_assistant", "template")
        known |= {"path": str(path), "tokenizer": tokenizer, "template": template}
    return known


def _around(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return the layer in which a part of one is tried."""
    if kind == "activation":
        return {"type": "feed_forward", "hidden_dim": 5, "activation": spec}
    if kind == "position":
        return {"type": "attention", "num_heads": 2, "positions": spec}
    return spec


def _layer(spec: Mapping[str, Any]) -> Iterator[Outcome]:
    cases: dict[str, Case] = {}
    outcome = _outcome("forward", lambda: cases.update(layer_cases(spec)))
    if outcome.problem:
        yield outcome
        return
    for check in CHECKS:
        outcome = Outcome(check.__name__.removeprefix("check_"))
        for title, case in cases.items():
            outcome = _outcome(outcome.check, check, case)
            if outcome.problem:
                told = f" (case: {title})" if title else ""
                outcome = outcome._replace(problem=f"{outcome.problem}{told}")
                break
        yield outcome
        if check is check_shapes and outcome.problem:
            return  # the others would say it again


def _outcome(name: str, check: Callable[..., None], *tried: Any) -> Outcome:
    before = str(np.random.get_state())  # noqa: NPY002
    wanted = (check.__doc__ or "").split("\n")[0]
    problem, broken = _problem(check, tried)
    if before != str(np.random.get_state()):  # noqa: NPY002
        problem = "NumPy's global generator is used; draw from the one that is given"
    return Outcome(name, f"{problem} ({wanted.rstrip('.')})" if broken and wanted else problem)


def _problem(check: Callable[..., None], tried: Sequence[Any]) -> tuple[str, bool]:
    """Return what is wrong, and whether it is the contract that is broken and not the code."""
    try:
        check(*tried)
    except AssertionError as error:
        return " ".join(str(error).split()) or "it doesn't hold", True
    except LlmlabError as error:
        return str(error), False
    except Exception as error:
        found = str(plugin_error(error) or described(error))
        return f"writes to what it is given: {found}" if "read-only" in found else found, False
    return "", False
