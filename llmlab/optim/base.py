"""What an optimizer and a schedule are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache

from llmlab.errors import ConfigError, suggest
from llmlab.params import Arena, Layout
from llmlab.registry import Registry
from llmlab.workspace import Context

OPTIMIZERS = Registry("optimizer")
SCHEDULES = Registry("schedule", ("total_steps",))
_LINE = 16  # items on which parts of vectors begin, those of a cache line

Schedule = Callable[[int], float]  # step (from 0) → factor on the learning rate; pure


class Optimizer(ABC):
    """A rule that changes parameters; what it remembers lies in arenas that it is given.

    Attributes
    ----------
    state_names
        Names of the arenas that it keeps from step to step, which start at 0.
    no_decay
        Patterns of the names of parameters that weight decay leaves alone, besides those that
        layers declare so. `*` stands for any text, `?` for a character, `[ab]` for one of these.
    """

    state_names: tuple[str, ...] = ()
    no_decay: tuple[str, ...] = ()

    def check(self, layout: Layout) -> None:
        """Raise a ConfigError that names each pattern of `no_decay` that no parameter has."""
        names = [*layout.slices, *layout.aliases]
        idle = [each for each in self.no_decay if not any(fnmatchcase(n, each) for n in names)]
        if idle:
            told = ", ".join(f"{each}{suggest(each, names)}" for each in idle)
            raise ConfigError(
                f"optimizer.no_decay: no parameter matches {told}; a name is like {names[0]}"
            )

    @abstractmethod
    def update(
        self,
        params: Arena,
        grads: Arena,
        state: Mapping[str, Arena],
        *,
        lr: float,
        step: int,
        scale: float,
        part: tuple[int, int],
        ctx: Context,
    ) -> None:
        """Update `params` and `state` in place.

        Parameters
        ----------
        lr
            Learning rate of this step.
        step
            Number of this update, from 1.
        scale
            Factor on the gradients, from clipping.
        part
            (index, count): this call updates the index-th of count parts; the parts together
            are the whole, and none depends on another.
        ctx
            Kernels and scratch memory.
        """

    def owned(self, layout: Layout, part: tuple[int, int]) -> list[slice] | None:
        """Return where `update` of a part reads gradients and changes the flat vectors.

        Only then can the machines of a cluster divide the update among them; None, which is
        always right, has each of them do all of it.
        """
        return None


def span(size: int, part: tuple[int, int]) -> slice:
    """Return the `part` of a vector of `size` items, cut on cache lines."""
    index, count = part
    lines = -(-size // _LINE)
    ends = (min(lines * end // count * _LINE, size) for end in (index, index + 1))
    return slice(*ends)


def decayed(layout: Layout, at: slice, no_decay: tuple[str, ...] = ()) -> list[tuple[slice, bool]]:
    """Divide a part of the flat vectors into what weight decay shrinks and what it doesn't.

    Norms and biases are not decayed, nor is what has a name of `no_decay`.
    """
    parts = []
    for begin, end, shrinks in _decay_ranges(layout, no_decay):
        begin, end = max(begin, at.start), min(end, at.stop)
        if begin < end:
            parts.append((slice(begin, end), shrinks))
    return parts


@lru_cache(maxsize=8)
def _decay_ranges(layout: Layout, no_decay: tuple[str, ...]) -> list[tuple[int, int, bool]]:
    """Return (begin, end, whether it shrinks) of ranges that are the whole vector together."""
    names = {name: [name] for name in layout.slices}
    for alias, target in layout.aliases.items():
        names[target].append(alias)
    ranges = [(0, 0, True)]
    edges = [*(at.start for at in layout.slices.values()), layout.size]
    for (name, at), stop in zip(layout.slices.items(), edges[1:], strict=True):
        spared = any(fnmatchcase(each, pattern) for each in names[name] for pattern in no_decay)
        shrinks = at.start < layout.ranges["undecayed"].start and not spared
        if ranges[-1][2] == shrinks:
            ranges[-1] = (ranges[-1][0], stop, shrinks)
        else:
            ranges.append((at.start, stop, shrinks))
    return ranges


def check_share(**arguments: float) -> None:
    """Raise a ConfigError that names the first argument outside [0, 1)."""
    for name, value in arguments.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{name}={value}: must be in [0, 1)")


def check_decay(weight_decay: float, no_decay: object = None) -> tuple[str, ...]:
    """Return the patterns of `no_decay`."""
    if not weight_decay >= 0:
        raise ConfigError(f"weight_decay={weight_decay}: must not be negative; usual is 0 to 0.1")
    patterns = [] if no_decay is None else no_decay
    if not isinstance(patterns, list | tuple) or not all(isinstance(p, str) for p in patterns):
        raise ConfigError(f"no_decay={no_decay}: expected a list of names or patterns: [tokens.*]")
    return tuple(patterns)
