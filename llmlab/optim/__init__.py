"""Optimizers and schedules; importing this package registers all of them."""

from llmlab.optim.base import OPTIMIZERS, SCHEDULES, Optimizer, Schedule
from llmlab.registry import load_package

load_package(__name__, __path__)

__all__ = ["OPTIMIZERS", "SCHEDULES", "Optimizer", "Schedule"]
