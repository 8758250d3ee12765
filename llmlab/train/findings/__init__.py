"""What is out of the ordinary in a training, in words, from the rows that it has left."""

from llmlab.train.findings.facts import Facts, Finding, facts_of
from llmlab.train.findings.rules import RULES, Rows

__all__ = ["Facts", "Finding", "facts_of", "find"]

# What follows from what: a cause that was found stands for its effects.
_EFFECTS = {
    "overflow": ("large_updates", "rising_loss", "no_warmup", "loss_spike", "far_gradients"),
    "init_scale": ("far_gradients", "always_clipped", "loss_spike", "small_updates"),
    "no_warmup": ("large_updates", "rising_loss", "loss_spike", "always_clipped", "dead_units"),
    "large_updates": ("rising_loss", "loss_spike", "always_clipped"),
    "rising_loss": ("loss_spike",),
    "saturated_attention": ("far_gradients",),
}


def find(rows: Rows, facts: Facts, metrics: Rows = ()) -> list[Finding]:
    """Return what is out of the ordinary, in the order of the rules.

    Parameters
    ----------
    rows
        Those of watch.jsonl; without them only `metrics` and `facts` are judged.
    metrics
        Rows of metrics.jsonl: every step's loss, where they were written.
    """
    found = [finding for rule in RULES for finding in rule(rows, facts, metrics or rows)]
    effects = {other for each in found for other in _EFFECTS.get(each.kind, ())}
    return [each for each in found if each.kind not in effects]
