"""What is out of the ordinary in a training, in words, from the rows that it has left."""

from llmlab.train.findings.facts import Facts, Finding, Rows, facts_of
from llmlab.train.findings.network_rules import NETWORK_RULES
from llmlab.train.findings.step_rules import STEP_RULES, explosion, lower_lr

__all__ = ["Facts", "Finding", "exploded", "facts_of", "find"]

# What follows from what: a cause that was found stands for its effects.
_DAMAGE = ("dead_units", "saturated_attention", "far_gradients", "loss_spike", "always_clipped")
_EFFECTS = {
    "overflow": ("no_warmup", "large_updates", "rising_loss", *_DAMAGE),
    "init_scale": ("large_updates", "small_updates", "rising_loss", *_DAMAGE),
    "no_warmup": ("large_updates", "rising_loss", *_DAMAGE),
    "large_updates": ("rising_loss", *_DAMAGE),
    "rising_loss": _DAMAGE,
    "saturated_attention": ("far_gradients", "always_clipped"),
}


def exploded(metrics: Rows) -> Finding | None:
    """Return that the loss exploded, judged by nothing but the losses; None if it didn't."""
    text = explosion(metrics)
    return Finding("rising_loss", text, lower_lr(metrics, True)) if text else None


def find(rows: Rows, facts: Facts, metrics: Rows = ()) -> list[Finding]:
    """Return what is out of the ordinary, in the order of the rules.

    Without `rows`, those of watch.jsonl, only `metrics` and `facts` are judged.
    """
    rules = (*NETWORK_RULES, *STEP_RULES)
    found = [each for rule in rules for each in rule(rows, facts, metrics or rows)]
    effects = {other for each in found for other in _EFFECTS.get(each.kind, ())}
    return [each for each in found if each.from_start or each.kind not in effects]
