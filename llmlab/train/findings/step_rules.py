"""Rules about the steps: their size, the loss, clipping, gradients from block to block.

Limits are rules of thumb.
"""

from collections.abc import Iterator, Sequence
from statistics import median

from llmlab.train.findings.facts import Facts, Finding, Rows, guessing

LARGE, HUGE, SMALL = 0.03, 0.15, 1e-6  # ‖update‖ / ‖weight‖ of the median matrix
USUAL = 0.003
STALLED = 0.55  # of the loss of guessing
RISE = 0.5  # nats above the start
EXPLODED = 3.0  # nats above the first loss, in the last steps
SAFE_LR = 1e-3  # where a tenth of the lr would still be far off
SPIKE = 1.0  # nats above the median of the rows before, and 12 times their spread
CLIPPED = 0.95  # share of the steps
CLIPPED_BY = (2, 5)  # median norm over clip_norm, in a long run and in a short one
LONG = 200  # steps; gradients are long at first, so presets clip most steps of a short run
FAR = 1e4  # between the gradients of a network's blocks
_FEWEST = 10  # rows or steps that a statement about many takes


def ratios(rows: Rows) -> list[float]:
    """Return for each row but the first the median matrix's ‖update‖ / ‖weight‖."""
    found = []
    for row in rows[1:] or rows:
        own = [
            each["ratio"]
            for name, each in row["arrays"].items()
            if each["ratio"] is not None and name.endswith("weight") and ".norm." not in name
        ]
        if own and row.get("loss") is not None:
            found.append(median(own))
    return found


def step_size(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Find updates too large or too small for the weights, and a loss that rises."""
    sizes, losses = ratios(rows), [row["loss"] for row in metrics if row.get("loss") is not None]
    lr = max((row.get("lr") or 0.0 for row in metrics), default=0.0)
    most = max([*sizes, *ratios(rows[:1])], default=0.0)
    exploded = explosion(metrics)
    lower = f"lr={lr * min(0.1, USUAL / most):.1g}" if most else lower_lr(metrics, bool(exploded))
    if sizes and median(sizes) < SMALL:
        text = f"the median update is {median(sizes):.1g} of the weights' size, usual is about 1e-3"
        yield Finding("small_updates", text, f"lr={lr * 10:.3g}")
    large = bool(sizes) and (median(sizes) > LARGE or most > HUGE)
    size = max(1, len(losses) // 10)
    rose = len(losses) >= _FEWEST and median(losses[-size:]) > median(losses[:size]) + RISE
    hurt = large or rose or _jumps(losses) or _stalled(losses, facts)
    # An update longer than the weights: no warm-up helps.
    always = bool(exploded) or (bool(rows) and (ratios(rows[:1]) or [0.0])[0] > 1)
    if facts.post_norm and not _warmed_up(metrics) and hurt and not always:
        text = (
            "the blocks norm after the sum, and the first steps used the full lr, too large for "
            f"such blocks: the loss began at {losses[0]:.3g} and has come to {losses[-1]:.3g}"
        )
        warmup = max(1, min(100, metrics[-1]["step"] // 5))
        yield Finding("no_warmup", text, f"schedule.warmup_steps={warmup}")
        return
    if large:
        text = (
            f"the median update is {_percent(median(sizes))} of the weights' size, the largest "
            f"{_percent(most)}; usual is about 0.1 %"
        )
        text = f"{exploded}; {text}" if exploded else text
        yield Finding("large_updates", text, lower)
    if exploded or rose:
        text = (
            exploded
            or f"the loss rose from {median(losses[:size]):.3g} to {median(losses[-size:]):.3g}"
        )
        yield Finding("rising_loss", text, lower)


def explosion(metrics: Rows) -> str | None:
    """Return a clause that says from where to where the loss exploded; None if it didn't."""
    losses = [row["loss"] for row in metrics if row.get("loss") is not None]
    if len(losses) < 2:
        return None
    end = median(losses[1:][-max(3, len(losses) // 10) :])
    if end <= losses[0] + EXPLODED:
        return None
    return f"the loss exploded from {losses[0]:.3g} to {end:.3g}"


def lower_lr(metrics: Rows, exploded: bool) -> str:
    """Return the key of a tenth of the learning rate; after an explosion of a safe one."""
    lr = max((row.get("lr") or 0.0 for row in metrics), default=0.0) / 10
    return f"lr={min(lr, SAFE_LR) if exploded else lr:.1g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:,.0f} %"


def _warmed_up(metrics: Rows) -> bool:
    rates = [rate for row in metrics if (rate := row.get("lr")) is not None]
    return bool(rates) and (metrics[0]["step"] > 1 or rates[0] < 0.75 * max(rates))


def _jumps(losses: Sequence[float]) -> bool:
    """Tell whether the loss soon left the range in which it began."""
    early = losses[: max(_FEWEST, len(losses) // 5)]
    return len(early) >= 2 and max(early[1:]) > early[0] + SPIKE


def _stalled(losses: Sequence[float], facts: Facts) -> bool:
    """Tell whether the loss stays near that of guessing, in the second half of the steps."""
    guess, late = guessing(facts), losses[len(losses) // 2 :]
    if guess is None or len(late) < 2 * _FEWEST:
        return False
    begin, end = median(late[:_FEWEST]), median(late[-_FEWEST:])
    return end > STALLED * guess and end > begin - 0.02


def spikes(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Find single steps whose loss stands out."""
    losses = [(row["step"], row["loss"]) for row in metrics if row.get("loss") is not None]
    found = []
    for place in range(_FEWEST, len(losses)):
        before = [loss for _, loss in losses[max(0, place - 50) : place]]
        middle = median(before)
        spread = median(abs(loss - middle) for loss in before)
        if losses[place][1] > middle + max(SPIKE, 12 * spread):
            found.append(losses[place])
    if found:
        step, loss = max(found, key=lambda each: each[1])
        text = f"the loss leapt at {len(found)} steps, most at step {step}, to {loss:.3g}"
        yield Finding("loss_spike", text, "clip_norm=1, or a lower lr")


def clipping(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Find a gradient that is always clipped."""
    if facts.clip_norm is None or not rows or rows[-1]["step"] < _FEWEST:
        return
    share = rows[-1]["clipped"] / rows[-1]["step"]
    typical = median([row["grad_norm"] for row in rows if row["grad_norm"] is not None] or [0])
    enough = CLIPPED_BY[rows[-1]["step"] < LONG]
    if share > CLIPPED and typical > enough * facts.clip_norm:
        text = f"{share:.0%} of the steps were clipped, the gradient's median norm is {typical:.2g}"
        yield Finding("always_clipped", text, f"clip_norm={2 * typical:.3g}, or a lower lr")


def far_gradients(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Find blocks whose gradients differ by orders of magnitude."""
    blocks: dict[str, list[float]] = {}
    for row in rows:
        for name, own in row["arrays"].items():
            parts = name.split(".")
            if (
                name in facts.widths
                and len(parts) > 2
                and parts[1].isdigit()
                and own["gradient"][0]
            ):
                blocks.setdefault(".".join(parts[:2]), []).append(own["gradient"][0])
    middles = {name: median(values) for name, values in blocks.items()}
    if len(middles) < 2:
        return
    names = list(middles)
    least, most = min(names, key=middles.__getitem__), max(names, key=middles.__getitem__)
    if middles[most] > FAR * middles[least]:
        word = "vanish" if names.index(least) < names.index(most) else "explode"
        text = (
            f"gradients {word} towards the input: {middles[least]:.1g} in {least}, "
            f"{middles[most]:.1g} in {most}"
        )
        yield Finding(
            "far_gradients", text, "model=gpt2 (norms before, residuals), or another init"
        )


STEP_RULES = (step_size, spikes, clipping, far_gradients)
