"""The space of a search: for each key the values that it may have."""

from dataclasses import dataclass
from math import isfinite
from typing import Any

from llmlab.errors import ConfigError


@dataclass(frozen=True)
class Dimension:
    """The values of one key."""

    # Of a choice: the values as they are written on a command line. Else there are none.
    options: tuple[str, ...] = ()
    # Of numbers, both included
    low: float = 0.0
    high: float = 0.0
    step: float | None = None  # between numbers; None: any number in between
    log: bool = False  # whether the logarithm is what is spread evenly
    integer: bool = False  # whether only whole numbers count

    def check(self, key: str, text: str) -> None:
        """Raise a ConfigError if there is nothing to choose from."""
        where = f"{key}={text}"
        if self.options:
            if len(set(self.options)) < len(self.options):
                raise ConfigError(f"{where}: a value is there twice; leave one out")
            return
        if not (isfinite(self.low) and isfinite(self.high)):
            raise ConfigError(f"{where}: both ends must be finite")
        if self.low > self.high:
            raise ConfigError(f"{where}: holds no value; the end is excluded, so write it larger")
        if self.log and self.low <= 0:
            raise ConfigError(f"{where}: log needs a start above 0")
        if self.log and self.step not in (None, 1):
            raise ConfigError(f"{where}: log goes with steps of 1 alone; leave the step or log out")

    def suggest(self, trial: Any, key: str) -> str:
        """Return the value that an Optuna trial has for the key, drawn now if it has none yet."""
        if self.options:
            return trial.suggest_categorical(key, self.options)
        if self.integer:
            step = int(self.step or 1)
            return str(
                trial.suggest_int(key, int(self.low), int(self.high), step=step, log=self.log)
            )
        return repr(trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log))

    def first(self) -> str:
        """Return one of the values, to try whether the key takes any."""
        if self.options:
            return self.options[0]
        return str(int(self.low)) if self.integer else repr(float(self.low))
