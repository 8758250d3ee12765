"""Checks that involve several keys, and whether the user or the checkpoint is at fault."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from llmlab.config.specs import STAGES
from llmlab.config.stored import PATH_KEYS
from llmlab.errors import CheckpointError, ConfigError, LlmlabError


def check_patience(values: Mapping[str, Any], problems: list[str]) -> None:
    """Refuse `patience` where no stage of the run keeps text back for validation."""
    phase, patience = values.get("phase"), values.get("patience")
    running = STAGES if phase == "full" else [name for name in STAGES if name == phase]
    data = values["data"] if isinstance(values.get("data"), Mapping) else {}
    specs = {name: data[name] for name in running if isinstance(data.get(name), Mapping)}
    without = [name for name, spec in specs.items() if spec.get("val_fraction") == 0]
    if patience is not None and running and len(without) == len(running):
        problems.append(
            f"patience={patience}: needs validations, and there are none; set "
            f"data.{running[0]}.val_fraction=0.1"
        )


def check_threads(values: Mapping[str, Any], problems: list[str]) -> None:
    """Refuse more threads than a batch has samples, in phases that train."""
    threads, lines = values.get("threads"), values.get("batch_size")
    training = values.get("phase") in ("full", *STAGES)
    if training and isinstance(threads, int) and isinstance(lines, int) and threads > lines:
        problems.append(
            f"threads={threads}: more than batch_size={lines}, the samples that they share; "
            f"nearest: {lines}, or auto"
        )


def refusal(
    problems: list[str], typed: Collection[str], stored: Mapping[str, Any] | None
) -> LlmlabError:
    """Return the error for `problems`: a CheckpointError if only the checkpoint states them."""
    keys = {re.split("[:=]", problem)[0] for problem in problems}
    said = {f".{key}." for key in keys if key.split(".")[0] in (stored or {})}
    composed = {part for part in said if part.split(".")[-2] in PATH_KEYS}
    ours = {part for part in said for key in typed if f".{key}." in part or part in f".{key}."}
    if said and len(said) == len(keys) and not composed | ours:
        return CheckpointError(f"the checkpoint's configuration: {'; '.join(problems)}")
    return ConfigError(problems)
