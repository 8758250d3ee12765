"""What is kept of a job's results, in the forms of its files."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.runs.overrides import STUDY_KEYS, Override


def shown(tokens: Sequence[str]) -> dict[str, str]:
    """Return overrides as a job's result has them: without what is asked of the whole sweep."""
    parts = [Override.of(text) for text in tokens]
    others = ("launcher", *STUDY_KEYS)
    own = [part for part in parts if part.name.split(".")[0] not in others]
    return {part.name: str(part.value).strip("'") for part in own}


def finite(value: Any) -> Any:
    """Return None for numbers that JSON doesn't have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_scalar(value: Any) -> bool:
    """Tell whether a result is kept of a job: text, or a number that JSON has."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def loss_of(result: Mapping[str, Any]) -> float:
    """Return the loss of a result; NaN if it has none."""
    loss = result.get("loss")
    return math.nan if loss is None else float(loss)
