"""Rules about the network: each looks for one thing that is wrong with a layer or with weights.

Limits are rules of thumb.
"""

from collections.abc import Iterator, Mapping
from math import log
from typing import Any

from llmlab.train.findings.facts import Facts, Finding, Rows, guessing, key_of
from llmlab.train.findings.step_rules import HUGE, explosion, lower_lr, ratios
from llmlab.train.heat_map import mean

FIRST_LOSS = 3.0  # nats above that of guessing
GAIN = (0.003, 12.0)  # how much a matrix enlarges a random vector at the first step
DEAD = 0.5  # share of a layer's units
SATURATED = 0.05  # entropy over its greatest, mean of a layer's heads
RISE = 0.5  # nats above the start


def overflow(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Find steps whose loss or gradient wasn't finite."""
    bad = [row for row in metrics if row.get("loss") is None]
    bad = bad or [row for row in rows if row.get("loss") is None]
    if not bad:
        return
    first = bad[0]["step"]
    layer = next((row["bad_layer"] for row in rows if row.get("bad_layer")), facts.bad_layer)
    where = f"; the first layer whose output isn't finite is {layer}" if layer else ""
    losses = [loss for row in metrics if (loss := row.get("loss")) is not None]
    grew = len(losses) > 2 and max(losses[-3:]) > losses[0] + RISE
    grew = grew or max([*ratios(rows[:1]), *ratios(rows)], default=0.0) > HUGE
    exploded = explosion(metrics)
    grew = grew or exploded is not None
    key = lower_lr(metrics, grew) if grew or not layer else key_of(layer, "init")
    many = f"{len(bad)} steps weren't finite, the first of them step {first}{where}"
    text = many if bad[1:] else f"step {first} wasn't finite{where}"
    text = f"{exploded}; {text}" if exploded else text
    yield Finding("overflow", text, f"{key}, and dtype=float64 to see if it is the range")


def init_scale(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Find first weights that are too large or too small, by themselves and by the first loss."""
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
    first, guess = rows[0].get("loss"), guessing(facts)
    if first is not None and guess is not None and first > guess + FIRST_LOSS and facts.final_norm:
        text = (
            f"the first loss is {first:.3g}, guessing has {guess:.3g}: the logits begin too large"
        )
        last = next(reversed(rows[0]["stream"]), "output")
        yield Finding("init_scale", text, f"another {key_of(last, 'init')}")


def _first_gains(row: Mapping[str, Any], facts: Facts) -> dict[str, float]:
    """Return how much each matrix enlarges a vector; those that began at 0 are left out."""
    found = {}
    for name, own in row["arrays"].items():
        update, ratio = own["update"][0], own["ratio"]
        if name in facts.widths and update and ratio:
            found[name] = update / ratio / facts.widths[name]
    return found


def no_final_norm(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Find a stream that grows with depth and goes into the output as it is."""
    if facts.final_norm:
        return
    seen = list(rows[-1]["stream"].items())[:-1] if rows else []
    size = f" (its root mean square there is {seen[-1][1]:.3g})" if seen and seen[-1][1] else ""
    text = f"no norm stands between the last block and the output{size}, so logits grow with depth"
    yield Finding("no_final_norm", text, "'model.stack.norm={type: layer_norm, after: blocks}'")


def frozen(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Find arrays that nothing changes while others learn."""
    names = list(facts.frozen)
    later = [row for row in rows[1:] if row.get("loss") is not None]
    if len(later) >= 2:
        kinds = ("gradient", "update")
        silent = [f"{path}." for path, share in (rows[-1].get("dead") or {}).items() if share == 1]
        for name in later[0]["arrays"]:
            if name.startswith(tuple(silent)):
                continue
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
    """Find feed-forward layers most of whose units are silent."""
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
        key = f"{key_of(path, 'activation')}=gelu, or a lower lr"
        first = (rows[0].get("dead") or {}).get(path) or 0.0
        yield Finding("dead_units", text, key, from_start=first > DEAD)


def saturated(rows: Rows, facts: Facts, metrics: Rows) -> Iterator[Finding]:
    """Find attention that looks at one token only, in all heads of a layer."""
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
        first = mean((rows[0].get("entropy") or {}).get(path) or [])
        start = first is not None and first < SATURATED
        key = f"{key_of(path, 'qk_norm')}=true"
        yield Finding("saturated_attention", text, key, from_start=start)


NETWORK_RULES = (overflow, init_scale, no_final_norm, frozen, dead_units, saturated)
