"""Charts of a study, as Altair writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.report.page import Chart

Rows = Sequence[Mapping[str, Any]]
_HEIGHT = 300
_WIDE = "container"
_LEGEND: Any = {"orient": "bottom", "labelLimit": 300, "symbolOpacity": 1}


def interval_chart(rows: Rows, jobs: Rows, metric: str) -> Chart:
    """Return each arm's mean with its interval, and each job as a small mark."""
    import altair as alt

    order = [row["arm"] for row in rows]
    y = alt.Y("arm:N", sort=order, title=None)
    whole = alt.Chart(alt.Data(values=list(rows)))
    own = alt.Chart(alt.Data(values=list(jobs)))
    x = alt.X("mean:Q", title=metric, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
    tips = ["arm:N", "mean:Q", "low:Q", "high:Q", "seeds:Q"]
    layers = alt.layer(
        own.mark_tick(opacity=0.45, thickness=2).encode(x=alt.X("value:Q"), y=y, tooltip=["job:N"]),
        whole.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q", title=metric), x2="high:Q", y=y),
        whole.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, tooltip=tips),
    )
    height = 40 + 30 * len(order)
    title = f"{metric}: mean, 95 % interval, and each job"
    return Chart(title, layers.properties(width=_WIDE, height=height).to_dict())


def curve_chart(points: Rows) -> Chart | None:
    """Return the curves of all arms with a band from the lowest to the highest seed."""
    if not points:
        return None
    import altair as alt

    what = [name for name in ("val_loss", "loss") if any(p["what"] == name for p in points)]
    whole = alt.Chart(alt.Data(values=list(points))).transform_filter(f"datum.what === '{what[0]}'")
    scale = {"scale": alt.Scale(zero=False)}
    x = alt.X("step:Q", title="steps", axis=alt.Axis(tickCount=8), **scale)  # pyright: ignore[reportArgumentType]
    colour = alt.Color("name:N", title=None, legend=alt.Legend(**_LEGEND))
    y = alt.Y("low:Q", title=what[0], **scale)  # pyright: ignore[reportArgumentType]
    layers = alt.layer(
        whole.mark_area(opacity=0.18).encode(x=x, y=y, y2="high:Q", color=colour),
        whole.mark_line(strokeWidth=2, point={"size": 18}).encode(
            x=x,
            y=alt.Y("mean:Q", title=what[0], **scale),  # pyright: ignore[reportArgumentType]
            color=colour,
            tooltip=["name:N", "step:Q", "tokens:Q", "mean:Q", "low:Q", "high:Q"],
        ),
    )
    over = [("step", "steps"), ("tokens", "tokens")]
    if all("seconds" in point for point in points):
        over.append(("seconds", "seconds, at the run's mean speed"))
    axes = [("", "linear"), ("x", "log x"), ("y", "log y"), ("xy", "log both")]
    choices = {"y": [(name, name) for name in what], "x": over, "log": axes}
    spec = layers.properties(width=_WIDE, height=_HEIGHT).to_dict()
    return Chart("Curves: mean over seeds, and from the lowest to the highest", spec, choices)


def key_chart(key: str, rows: Rows, metric: str, higher: bool) -> Chart:
    """Return the metric over a key that was swept, with the best value marked.

    Of each arm, a row has `value`, a number where all are numbers, and `mean`, `low`, `high`.
    """
    import altair as alt

    values = [row["value"] for row in rows]
    numeric = all(isinstance(value, int | float) for value in values)
    log = numeric and min(values) > 0 and max(values) / min(values) >= 10
    best = (max if higher else min)(rows, key=lambda row: row["mean"])
    kind: Any = alt.Undefined
    if numeric:
        kind = alt.Scale(type="log") if log else alt.Scale(zero=False)
    place = "value:Q" if numeric else "value:N"
    order: Any = alt.Undefined if numeric else None
    x = alt.X(place, title=key, scale=kind, sort=order, axis=alt.Axis(labelAngle=0, tickCount=8))
    y = alt.Y("mean:Q", title=metric, scale=alt.Scale(zero=False))
    whole = alt.Chart(alt.Data(values=list(rows)))
    marked = alt.Chart(alt.Data(values=[dict(best)]))
    tips = ["arm:N", "mean:Q", "low:Q", "high:Q"]
    rule = whole.transform_filter("isValid(datum.low)").mark_rule(opacity=0.6)
    layers = alt.layer(
        rule.encode(x=x, y=alt.Y("low:Q", title=metric), y2="high:Q"),
        whole.mark_point(filled=True, size=60).encode(x=x, y=y, tooltip=tips),
        marked.mark_point(size=260, strokeWidth=2, color="#d0661b").encode(x=x, y=y),
    )
    title = f"{metric} over {key}; the circle is the best mean"
    return Chart(title, layers.properties(width=_WIDE, height=_HEIGHT).to_dict())


def grid_chart(keys: Sequence[str], rows: Rows, metric: str, higher: bool) -> Chart:
    """Return a grid of two keys, coloured by the metric."""
    import altair as alt

    whole = alt.Chart(alt.Data(values=list(rows)))
    one, other = (f"k{index}:O" for index in range(2))
    scheme = alt.Scale(scheme="blues", reverse=not higher)
    x = alt.X(one, title=keys[0], sort=None, axis=alt.Axis(labelAngle=0))
    y = alt.Y(other, title=keys[1], sort=None)
    boxes = whole.mark_rect().encode(
        x=x, y=y, color=alt.Color("mean:Q", title=metric, scale=scheme)
    )
    middle = (min(row["mean"] for row in rows) + max(row["mean"] for row in rows)) / 2
    dark = f"datum.mean {'>' if higher else '<'} {middle}"
    text = whole.mark_text(fontSize=13).encode(
        x=x,
        y=y,
        text=alt.Text("mean:Q", format=".4f"),
        color=alt.condition(dark, alt.value("#ffffff"), alt.value("#111111")),
    )
    spec = alt.layer(boxes, text).properties(width=_WIDE, height=_HEIGHT).to_dict()
    return Chart(f"{metric} by {keys[0]} and {keys[1]}", spec)


def parallel_chart(keys: Sequence[str], rows: Rows, metric: str) -> Chart:
    """Return a line an arm across all keys, coloured by the metric; values are in order of size.

    Of each point, a row has `arm`, `key`, `place` (0 to 1), `value`, `mean`.
    """
    import altair as alt

    whole = alt.Chart(alt.Data(values=list(rows)))
    x = alt.X("key:N", sort=[*keys, metric], title=None)
    y = alt.Y("place:Q", title="order of the values", axis=alt.Axis(labels=False, ticks=False))
    colour = alt.Color("mean:Q", title=metric, scale=alt.Scale(scheme="viridis"))
    line = whole.mark_line(opacity=0.7).encode(x=x, y=y, detail="arm:N", color=colour)
    points = whole.mark_point(filled=True).encode(
        x=x, y=y, color=colour, tooltip=["arm:N", "key:N", "value:N", "mean:Q"]
    )
    spec = alt.layer(line, points).properties(width=_WIDE, height=_HEIGHT).to_dict()
    return Chart(f"{metric} across all keys", spec)
