"""What everything registered must keep, as checks: for tests, and for `phase=check`."""

from llmlab.contract.bench import NUMPY, Bench, Case, Watched, assert_gradients, difference, same
from llmlab.contract.layers import CHECKS

__all__ = [
    "CHECKS",
    "NUMPY",
    "Bench",
    "Case",
    "Watched",
    "assert_gradients",
    "difference",
    "same",
]
