"""Schedules: pure functions from the step to a factor on the learning rate.

A run of `total_steps` asks for steps 0 to total_steps − 1. A warm-up of w steps goes up in equal
parts, and step w is the first at the full rate; `inverse_sqrt` is there a step earlier, as in its
source, and `one_cycle` counts its warm-up as a share. However short a run is, it gets to the full
rate; if there is no step left after that, it ends there.
"""

from math import cos, pi, sqrt

from llmlab.errors import ConfigError
from llmlab.optim.base import SCHEDULES, Schedule

_FEW = 10  # from here on the step beside the top of `one_cycle` is within 7 % of it


@SCHEDULES.register("constant")
def constant(total_steps: int | None = None, warmup_steps: int = 0) -> Schedule:
    """Rise linearly to 1 in the first `warmup_steps` steps, then stay there."""
    _check(total_steps or 0, warmup_steps)
    return lambda step: _rise(step, warmup_steps)


@SCHEDULES.register("linear")
def linear(total_steps: int, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Rise to 1 in `warmup_steps`, then fall in a line to `final` at the last step."""
    _check(total_steps, warmup_steps, final)

    def factor(step: int) -> float:
        fallen = _progress(step, warmup_steps, total_steps)
        return min(_rise(step, warmup_steps), 1 + (final - 1) * fallen)

    return factor


@SCHEDULES.register("cosine")
def cosine(total_steps: int, warmup_steps: int = 0, final: float = 0.1) -> Schedule:
    """Rise to 1 in `warmup_steps`, then fall along half a cosine to `final` at the last step.

    Loshchilov and Hutter 2017, arXiv:1608.03983.
    """
    _check(total_steps, warmup_steps, final)

    def factor(step: int) -> float:
        fallen = _progress(step, warmup_steps, total_steps)
        return min(_rise(step, warmup_steps), _cosine(1, final, fallen))

    return factor


@SCHEDULES.register("wsd")
def wsd(
    total_steps: int,
    warmup_steps: int = 0,
    decay: float = 0.2,
    final: float = 0.0,
    shape: str = "linear",
) -> Schedule:
    """Warm up, stay at 1, then fall to `final` in the last share `decay` of the steps.

    The fall is a line, or with `shape: sqrt` goes by 1 − √progress (Hu et al. 2024,
    arXiv:2404.06395; Hägele et al. 2024, arXiv:2405.18392).
    """
    _check(total_steps, warmup_steps, final)
    if not 0 < decay <= 1:
        raise ConfigError(f"decay={decay}: must be more than 0 and at most 1, a share of the run")
    if shape not in ("linear", "sqrt"):
        raise ConfigError(f"shape={shape}: must be linear or sqrt")
    begin = total_steps - max(1, round(decay * total_steps))
    if warmup_steps > max(begin, 0):
        raise ConfigError(
            f"warmup_steps={warmup_steps}, decay={decay}: overlap in a run of {total_steps} steps; "
            f"the fall begins at step {begin}"
        )
    begin = max(begin, warmup_steps + 1)  # one step at least is at the full rate
    falling = total_steps - begin

    def factor(step: int) -> float:
        # The last step before the fall is at 1, the run's last step at `final`.
        fallen = min(max(step - begin + 1, 0) / max(falling, 1), 1.0)
        fallen = sqrt(fallen) if shape == "sqrt" else fallen
        return min(_rise(step, warmup_steps), 1 + (final - 1) * fallen)

    return factor


@SCHEDULES.register("inverse_sqrt")
def inverse_sqrt(total_steps: int | None = None, warmup_steps: int = 100) -> Schedule:
    """Rise to 1 in `warmup_steps`, then fall as √(warmup_steps / step).

    Vaswani et al. 2017, §5.3. In a shorter run the rise takes all of its steps.
    """
    if warmup_steps < 1:
        raise ConfigError(f"warmup_steps={warmup_steps}: must be at least 1")
    rising = min(warmup_steps, total_steps or warmup_steps)
    return lambda step: min((step + 1) / rising, sqrt(rising / (step + 1)))


@SCHEDULES.register("one_cycle")
def one_cycle(
    total_steps: int, warmup: float = 0.3, start: float = 0.04, final: float = 4e-6
) -> Schedule:
    """Rise from `start` to 1 in a share `warmup` of the steps, then fall to `final`.

    Both along half a cosine (Smith and Topin 2019, arXiv:1708.07120). The top lies between two
    steps as a rule; in a run of few steps it is moved to one, or none would come near it.
    """
    if not 0 < warmup < 1:
        raise ConfigError(f"warmup={warmup}: must be between 0 and 1, a share of the run")
    for name, value in (("start", start), ("final", final)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name}={value}: must be in [0, 1], a share of lr")
    top = warmup * total_steps - 1
    if total_steps < _FEW:
        top = max(0, round(top))
    last = total_steps - 1

    def factor(step: int) -> float:
        if step <= top:
            return _cosine(start, 1, step / top if top > 0 else 1.0)
        return _cosine(1, final, min((step - top) / (last - top), 1.0) if last > top else 1.0)

    return factor


def _rise(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))


def _progress(step: int, begin: int, total_steps: int) -> float:
    """Return 0 until step `begin`, 1 from the run's last step on."""
    return min(max(step - begin, 0) / max(total_steps - 1 - begin, 1), 1.0)


def _cosine(begin: float, end: float, progress: float) -> float:
    return end + (begin - end) * (1 + cos(pi * progress)) / 2


def _check(total_steps: int, warmup_steps: int, final: float = 0.0) -> None:
    if warmup_steps < 0:
        raise ConfigError(f"warmup_steps={warmup_steps}: must not be negative")
    if warmup_steps >= total_steps > 0:
        raise ConfigError(
            f"warmup_steps={warmup_steps}: the run has only {total_steps} steps; "
            f"at most {total_steps - 1}"
        )
    if not 0 <= final <= 1:
        raise ConfigError(f"final={final}: must be in [0, 1], a share of lr")
