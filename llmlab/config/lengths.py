"""How long a training goes on: what a budget takes the place of."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from llmlab.config.model import Stage
from llmlab.config.specs import STAGES
from llmlab.config.values import Key, check_fields

BUDGETS = ("none", "steps", "tokens", "seconds", "flops")


@dataclass(frozen=True)
class Budget:
    """The keys of `budget`."""

    type: Annotated[str, Key("what is counted", choices=BUDGETS)]
    amount: Annotated[float | None, Key("how much of it each training may spend", above=0)]


def has_budget(values: Mapping[str, Any]) -> bool:
    """Tell whether a budget says how long to train."""
    budget = values.get("budget")
    return isinstance(budget, Mapping) and budget.get("type", "none") != "none"


def check_budget(
    values: dict[str, Any],
    stages: Mapping[str, Any],
    typed: Collection[str],
    problems: list[str],
) -> None:
    """Let a budget take the place of `epochs` and `steps`, and refuse both together."""
    values["budget"] = check_fields(Budget, values.get("budget"), "budget", problems)
    if not has_budget(values):
        return
    kind, amount = values["budget"]["type"], values["budget"]["amount"]
    if amount is None and not any(problem.startswith("budget.amount") for problem in problems):
        problems.append(f"budget.amount: missing; how many {kind} may each training spend?")
    for where, group in (("", values), *((f"stages.{name}.", s) for name, s in stages.items())):
        for key in ("epochs", "steps"):
            if f"{where}{key}" in typed and group.get(key) is not None:
                said = f"{where}{key}={group[key]}"
                problems.append(f"{said}: budget={kind} says how long to train; leave one out")
            group[key] = None


def check_stages(values: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the keys of `stages`, checked."""
    stages = values.get("stages") or {}
    if not isinstance(stages, Mapping):
        return {}  # check_fields has said so
    unknown = [name for name in stages if name not in STAGES]
    problems += [f"stages.{name}: unknown stage; known: {', '.join(STAGES)}" for name in unknown]
    checked = {
        name: check_fields(Stage, value, f"stages.{name}", problems)
        for name, value in stages.items()
        if name in STAGES
    }
    if values.get("phase") == "full":
        problems += [f"stages.{name}: missing" for name in STAGES if name not in checked]
    return checked


def check_lengths(
    values: dict[str, Any], stages: dict[str, Any], typed: Collection[str], problems: list[str]
) -> None:
    """Let a typed `steps` replace `epochs`, or the reverse; refuse both or none."""
    told = {problem.split(":")[0].split("=")[0] for problem in problems}
    for where, group in (("", values), *((f"stages.{name}.", s) for name, s in stages.items())):
        given = [key for key in ("epochs", "steps") if group.get(key) is not None]
        if told & {f"{where}{key}" for key in ("epochs", "steps", "lr")}:
            continue  # what follows from a wrong value is no problem of its own
        if len(given) == 2:
            kept = [key for key in given if f"{where}{key}" in typed]
            if len(kept) == 1:
                group["epochs" if kept == ["steps"] else "steps"] = None
            else:
                problems.append(
                    f"{where}epochs={group['epochs']} and {where}steps={group['steps']}: "
                    "one of them says how long to train; set the other to null"
                )
        needed = bool(where) or values.get("phase") in STAGES
        if not given and needed and not has_budget(values):
            problems.append(f"{where}epochs: null, and so is {where}steps; set one of them")
        if needed and group.get("lr", 1) is None:
            problems.append(f"{where}lr: null; the phase {group.get('phase')} needs a number")
