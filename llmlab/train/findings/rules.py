"""The rules: each looks for one thing. Limits lie beyond what sound trainings of all presets do."""

from collections.abc import Iterator, Mapping, Sequence
from math import log
from statistics import median
from typing import Any

from llmlab.train.findings.facts import Facts, Finding, key_of
from llmlab.train.heat_map import mean

Rows = Sequence[Mapping[str, Any]]

LARGE, SMALL = 0.05, 1e-6  # ‖update‖ / ‖weight‖ of the middle matrix, in the middle row
FIRST_LOSS = 3.0  # nats above that of guessing
GAIN = (0.003, 12.0)  # how much a matrix enlarges a random vector at the first step
DEAD = 0.5  # share of a layer's units
SATURATED = 0.05  # entropy over its greatest, mean of a layer's heads
RISE = 0.5  # nats above the start
SPIKE = 1.0  # nats above the median of the rows before, and 12 times their spread
CLIPPED = 0.95  # share of the steps
FAR = 1e4  # between the gradients of a network's blocks
_FEWEST = 10  # rows or steps that a statement about many takes


def overflow(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Steps whose loss or gradient wasn't finite."""
    bad = [row for row in metrics if row.get("loss") is None]
    bad = bad or [row for row in rows if row.get("loss") is None]
    if not bad:
        return
    first = bad[0]["step"]
    layer = next((row["bad_layer"] for row in rows if row.get("bad_layer")), None)
    where = f"; the first layer whose output isn't finite is {layer}" if layer else ""
    losses = [loss for row in metrics if (loss := row.get("loss")) is not None]
    grew = len(losses) > 2 and max(losses[-3:]) > losses[0] + RISE
    lr = max((row.get("lr") or 0.0 for row in metrics), default=0.0)
    key = f"lr={lr / 10:g}" if grew or not layer else key_of(layer, "init")
    text = f"{len(bad)} steps weren't finite, the first of them step {first}{where}"
    yield Finding("overflow", text, f"{key}, and dtype=float64 to see if it is the range")


def init_scale(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """First weights that are too large or too small, by themselves and by the first loss."""
    if not rows or rows[0]["step"] != 1:
        return
    gains = _first_gains(rows[0], facts)
    wrong = {name: gain for name, gain in gains.items() if not GAIN[0] <= gain <= GAIN[1]}
    if wrong:
        name = max(wrong, key=lambda each: abs(log(wrong[each])))
        size = "large" if wrong[name] > 1 else "small"
        text = (
            f"{name} begins too {size}: it makes a random vector {wrong[name]:.2g} times as long "
            f"({len(wrong)} of {len(gains)} matrices are out of proportion)"
        )
        yield Finding("init_scale", text, f"another {key_of(name, 'init')}")
        return
    first, guess = rows[0].get("loss"), log(facts.vocab_size) if facts.vocab_size else None
    if first is not None and guess is not None and first > guess + FIRST_LOSS:
        text = f"the first loss is {first:.3g}, guessing has {guess:.3g}: the logits begin too large"
        yield Finding("init_scale", text, f"another {key_of(_last_layer(rows[0]), 'init')}")


def _first_gains(row: Mapping[str, Any], facts: Facts) -> dict[str, float]:
    """Return how much each matrix enlarges a vector; those that began at 0 are left out."""
    found = {}
    for name, own in row["arrays"].items():
        weight, update = own["weight"][0], own["update"][0]
        if name in facts.widths and weight and update is not None and update < weight / 2:
            found[name] = weight / facts.widths[name]
    return found


def _last_layer(row: Mapping[str, Any]) -> str:
    return next(reversed(row["stream"]), "output")


def no_final_norm(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """A stream that grows with depth and goes into the output as it is."""
    if facts.final_norm:
        return
    seen = list(rows[-1]["stream"].items())[:-1] if rows else []
    size = f" (its root mean square there is {seen[-1][1]:.3g})" if seen and seen[-1][1] else ""
    text = f"no norm stands between the last block and the output{size}, so logits grow with depth"
    yield Finding("no_final_norm", text, "'model.stack.norm={type: layer_norm, after: blocks}'")


def frozen(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Arrays that nothing changes while others learn."""
    names = list(facts.frozen)
    later = [row for row in rows[1:] if row.get("loss") is not None]
    if len(later) >= 2:
        kinds = ("gradient", "update")
        for name in later[0]["arrays"]:
            own = [row["arrays"][name] for row in later if name in row["arrays"]]
            if any(not any(each[kind][0] for each in own) for kind in kinds):
                names.append(name)
        moved = set(later[0]["arrays"]) - set(names)
        if not moved:
            text = f"nothing is updated: lr is {later[-1]['lr']:g}"
            yield Finding("frozen_layer", text, "a larger lr")
            return
    if names:
        more = f" and {len(names) - 1} more" if names[1:] else ""
        text = f"{names[0]}{more} never changed, while the others learn"
        layer = names[0].rpartition(".")[0]
        key = f"{key_of(layer, 'type')}: its backward pass, or its group of parameters"
        yield Finding("frozen_layer", text, key)


def dead_units(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Feed-forward layers most of whose units are silent."""
    last = [row["dead"] for row in rows if row.get("dead")][-3:]
    if not last:
        return
    shares = {path: min(each.get(path) or 0.0 for each in last) for path in last[-1]}
    path = max(shares, key=lambda each: shares[each])
    if shares[path] > DEAD:
        count = sum(share > DEAD for share in shares.values())
        text = (
            f"{shares[path]:.0%} of the units of {path} are silent on all tokens, and get no "
            f"gradient ({count} of {len(shares)} layers)"
        )
        yield Finding("dead_units", text, f"{key_of(path, 'activation')}=gelu, or a lower lr")


def saturated(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Attention that looks at one token only, in all heads of a layer."""
    last = [row["entropy"] for row in rows if row.get("entropy")][-3:]
    found = {}
    for path in last[-1] if last else ():
        values = [value for each in last if (value := mean(each.get(path) or [])) is not None]
        if values and max(values) < SATURATED:
            found[path] = max(values)
    if found:
        path = min(found, key=lambda each: found[each])
        text = (
            f"{path} looks at one token at a time: entropy {found[path]:.2g} of its greatest, so "
            f"its softmax passes on no gradient ({len(found)} of {len(last[-1])} layers)"
        )
        yield Finding("saturated_attention", text, f"{key_of(path, 'qk_norm')}=true")


def ratios(rows: Rows) -> list[float]:
    """Return for each row but the first the middle matrix's ‖update‖ / ‖weight‖."""
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
    """Updates too large or too small for the weights, and a loss that rises."""
    sizes, losses = ratios(rows), [row["loss"] for row in metrics if row.get("loss") is not None]
    lr = max((row.get("lr") or 0.0 for row in metrics), default=0.0)
    lower = f"lr={lr / 10:.3g}"
    if sizes and median(sizes) < SMALL:
        text = f"an update is {median(sizes):.1g} of the weights, usual is about 1e-3"
        yield Finding("small_updates", text, f"lr={lr * 10:.3g}")
    large = bool(sizes) and median(sizes) > LARGE
    size = max(1, len(losses) // 10)
    rose = len(losses) >= _FEWEST and median(losses[-size:]) > median(losses[:size]) + RISE
    if facts.post_norm and not _warmed_up(metrics) and (large or rose or _jumps(losses)):
        text = "blocks norm after the sum, and the first steps took the full lr, which was too much"
        yield Finding("no_warmup", text, "schedule.warmup_steps=100")
        return
    if large:
        text = f"an update is {median(sizes):.2g} of the weights, usual is about 1e-3"
        yield Finding("large_updates", text, lower)
    if rose:
        text = f"the loss rose from {median(losses[:size]):.3g} to {median(losses[-size:]):.3g}"
        yield Finding("rising_loss", text, lower)


def _warmed_up(metrics: Rows) -> bool:
    rates = [rate for row in metrics if (rate := row.get("lr")) is not None]
    return bool(rates) and (metrics[0]["step"] > 1 or rates[0] < 0.75 * max(rates))


def _jumps(losses: Sequence[float]) -> bool:
    """Tell whether the loss soon left the range in which it began."""
    early = losses[: max(_FEWEST, len(losses) // 5)]
    return len(early) >= 2 and max(early[1:]) > early[0] + SPIKE


def spikes(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Single steps whose loss stands out."""
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
    """A gradient that is always clipped."""
    if facts.clip_norm is None or not rows or rows[-1]["step"] < _FEWEST:
        return
    share = rows[-1]["clipped"] / rows[-1]["step"]
    if share > CLIPPED:
        typical = median([row["grad_norm"] for row in rows if row["grad_norm"] is not None] or [0])
        text = f"{share:.0%} of the steps were clipped, the gradient's middle norm is {typical:.2g}"
        yield Finding("always_clipped", text, f"clip_norm={2 * typical:.2g}, or a lower lr")


def far_gradients(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Blocks whose gradients differ by orders of magnitude."""
    blocks: dict[str, list[float]] = {}
    for row in rows:
        for name, own in row["arrays"].items():
            parts = name.split(".")
            if name in facts.widths and len(parts) > 2 and parts[1].isdigit() and own["gradient"][0]:
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
        yield Finding("far_gradients", text, "model=gpt2 (norms before, residuals), or another init")


RULES = (
    overflow,
    init_scale,
    no_final_norm,
    frozen,
    dead_units,
    saturated,
    step_size,
    spikes,
    clipping,
    far_gradients,
)
