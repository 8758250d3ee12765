"""Schedules: pure functions from the step to a factor on the learning rate."""

from llmlab.errors import ConfigError
from llmlab.optim.base import SCHEDULES, Schedule


@SCHEDULES.register("constant")
def constant(warmup_steps: int = 0) -> Schedule:
    """Rise linearly to 1 in the first `warmup_steps` steps, then stay there."""
    if warmup_steps < 0:
        raise ConfigError(f"warmup_steps={warmup_steps}: must not be negative")
    return lambda step: min(1.0, (step + 1) / (warmup_steps + 1))
