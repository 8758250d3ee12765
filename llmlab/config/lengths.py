"""How long a training goes on: what a budget and `patience` need of the other keys."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

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


def check_patience(values: Mapping[str, Any], problems: list[str]) -> None:
    """Refuse `patience` where no stage that is to run keeps text back for validation."""
    phase, patience = values.get("phase"), values.get("patience")
    running = STAGES if phase == "full" else [name for name in STAGES if name == phase]
    data = values["data"] if isinstance(values.get("data"), Mapping) else {}
    specs = {name: data[name] for name in running if isinstance(data.get(name), Mapping)}
    without = [name for name, spec in specs.items() if spec.get("val_fraction") == 0]
    if patience is not None and running and len(without) == len(running):
        problems.append(
            f"patience={patience}: counts validations, and there are none; set "
            f"data.{running[0]}.val_fraction=0.1"
        )
