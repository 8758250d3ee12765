"""Statistics of every learned array in a step: weight, gradient, update."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np

from llmlab.params import Arena

SHOWN = ("norm", "mean", "low", "high")  # of each kind, in this order


def array_statistics(params: Arena, grads: Arena, before: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return norm, mean, lowest and highest value of each trained array's three kinds.

    `before` are the flat parameters before the step, overwritten with the update; `grads` is the
    whole gradient before clipping.

    Returns
    -------
    By the array's name `weight`, `gradient` and `update` (after − before), each as a list in the
    order of `SHOWN`, and `ratio` = ‖update‖ / ‖weight before‖. Six digits; None is not finite.
    """
    trained = params.trained
    old = before[: trained.layout.size]
    found = {}
    with np.errstate(over="ignore", invalid="ignore"):
        norms = {name: norm(old[place]) for name, place in trained.layout.slices.items()}
        update = np.subtract(trained.flat, old, out=old)
        for name, place in trained.layout.slices.items():
            own = {
                "weight": _four(trained.flat[place]),
                "gradient": _four(grads.flat[place]),
                "update": _four(update[place]),
            }
            change, length = own["update"][0], norms[name]
            ratio = change / length if change is not None and length else None
            found[name] = {**own, "ratio": None if ratio is None else rounded(ratio)}
    return found


def norm(x: np.ndarray) -> float:
    """Return the L2 norm of a vector, also where the squares leave its type's range."""
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(np.dot(x, x))
    if isfinite(square) and square > 1e-30:
        return square**0.5
    wide = x.astype(np.float64)
    return float(np.dot(wide, wide)) ** 0.5


def rounded(value: float) -> float | None:
    """Return a number with six digits; None if it isn't finite."""
    value = float(value)
    return float(f"{value:.6g}") if isfinite(value) else None


def _four(x: np.ndarray) -> list[float | None]:
    low, high = np.minimum.reduce(x), np.maximum.reduce(x)
    return [rounded(value) for value in (norm(x), np.add.reduce(x) / len(x), low, high)]


def columns(arrays: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return norms and ratios as flat numbers, `weight_norm/NAME` and so on, for a tracker."""
    found: dict[str, float] = {}
    for name, own in arrays.items():
        values = {f"{kind}_norm": own[kind][0] for kind in ("weight", "gradient", "update")}
        for key, value in (values | {"update_ratio": own["ratio"]}).items():
            if value is not None:
                found[f"{key}/{name}"] = value
    return found
