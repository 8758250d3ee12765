"""Charts of one run, as Altair writes them: curves over the steps, maps over layers and steps."""

from collections.abc import Mapping, Sequence
from math import fsum, isfinite
from typing import Any

from llmlab.report.page import Chart
from llmlab.train.heat_map import grid_of, mean

Rows = Sequence[Mapping[str, Any]]
_HEIGHT, _ROW = 260, 15
_WIDE = "container"
_POINTS, _COLUMNS, _NAMES = 400, 60, 60
# What is drawn of watch.jsonl: heading, the unit on the legend, whether by its logarithm.
HEAT = {
    "ratio": ("update / weight, ‖Δw‖ / ‖w‖ (about 1e-3 is usual)", "log10", True),
    "gradient": ("norm of the gradient, before clipping", "log10", True),
    "weight": ("norm of the weights", "log10", True),
    "stream": ("size of each layer's output (root mean square)", "log10", True),
    "entropy": ("entropy of attention (0: one place, 1: everywhere alike)", "share", False),
    "dead": ("share of silent units in feed-forward layers", "share", False),
}


def loss_chart(rows: Rows, title: str) -> Chart | None:
    """Return training and validation loss over the step."""
    points = [
        {"step": step, "loss": loss, "what": word}
        for key, word in (("loss", "training"), ("val_loss", "validation"))
        for step, loss in _thinned(rows, key)
    ]
    if not points:
        return None
    import altair as alt

    scale = {"scale": alt.Scale(zero=False)}
    legend = alt.Legend(orient="bottom", symbolOpacity=1)
    whole = alt.Chart(alt.Data(values=points))
    spec = whole.mark_line(strokeWidth=1.5, point={"size": 14}).encode(
        x=alt.X("step:Q", axis=alt.Axis(tickCount=8), **scale),  # pyright: ignore[reportArgumentType]
        y=alt.Y("loss:Q", title="nats per token", **scale),  # pyright: ignore[reportArgumentType]
        color=alt.Color("what:N", title=None, legend=legend),
        tooltip=["what:N", "step:Q", "loss:Q"],
    )
    axes = [("", "linear"), ("x", "log x"), ("y", "log y"), ("xy", "log both")]
    return Chart(title, spec.properties(width=_WIDE, height=_HEIGHT).to_dict(), {"log": axes})


def line(rows: Rows, key: str, title: str) -> Chart | None:
    """Return a number of each row over the step."""
    points = [{"step": step, key: value} for step, value in _thinned(rows, key)]
    if not points:
        return None
    import altair as alt

    whole = alt.Chart(alt.Data(values=points))
    spec = whole.mark_line(strokeWidth=1.5, point={"size": 10}).encode(
        x=alt.X("step:Q", axis=alt.Axis(tickCount=8), scale=alt.Scale(zero=False)),
        y=alt.Y(f"{key}:Q", title=key, axis=alt.Axis(format="~g", tickCount=5)),
        tooltip=["step:Q", f"{key}:Q"],
    )
    return Chart(title, spec.properties(width=_WIDE, height=_HEIGHT // 2).to_dict())


def heat_chart(rows: Rows, what: str, before: str = "") -> Chart | None:
    """Return a map over layers and steps of what `grid_of` knows as `what`."""
    names, steps, values = grid_of(rows, what)
    if not any(value is not None for row in values for value in row):
        return None
    names, values = _in_order(names, values, rows)
    if len(names) > _NAMES:
        names, values = _by_layer(names, values)
    import altair as alt

    heading, unit, is_log = HEAT[what]
    shown = sorted({round(i * (len(steps) - 1) / (_COLUMNS - 1)) for i in range(_COLUMNS)})
    cells = [
        {"step": steps[j], "layer": name, "value": float(f"{value:.3g}")}
        for name, own in zip(names, values, strict=True)
        for j in (shown if len(steps) > _COLUMNS else range(len(steps)))
        if (value := own[j]) is not None and (value > 0 or not is_log)
    ]
    scale = alt.Scale(scheme="viridis") if is_log else alt.Scale(scheme="viridis", domain=[0, 1])
    height = max(60, _ROW * len(names))
    legend = alt.Legend(orient="bottom", direction="horizontal", gradientLength=160)
    spec = (
        alt.Chart(alt.Data(values=cells))
        .transform_calculate(colour="log(datum.value) / LN10" if is_log else "datum.value")
        .mark_rect()
        .encode(
            x=alt.X("step:O", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("layer:N", sort=names, title=None, axis=alt.Axis(labelLimit=190)),
            color=alt.Color("colour:Q", title=unit, scale=scale, legend=legend),
            tooltip=["layer:N", "step:O", "value:Q"],
        )
    )
    return Chart(f"{before}{heading}", spec.properties(width=_WIDE, height=height).to_dict())


def _in_order(
    names: list[str], values: list[list[float | None]], rows: Rows
) -> tuple[list[str], list[list[float | None]]]:
    """Return names and values in the order of the network's layers; arrays lie in another one."""
    places = {path: place for place, path in enumerate(rows[0].get("stream") or {})}

    def place(name: str) -> int:
        parts = name.split(".")
        paths = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((places[path] for path in paths if path in places), len(places))

    order = sorted(range(len(names)), key=lambda index: place(names[index]))
    return [names[index] for index in order], [values[index] for index in order]


def _by_layer(
    names: Sequence[str], values: Sequence[Sequence[float | None]]
) -> tuple[list[str], list[list[float | None]]]:
    """Return the mean of the arrays of each layer of the stack, where all are too many."""
    groups: dict[str, list[Sequence[float | None]]] = {}
    for name, own in zip(names, values, strict=True):
        groups.setdefault(".".join(name.split(".")[:3]), []).append(own)
    means = [[mean(column) for column in zip(*own, strict=True)] for own in groups.values()]
    return list(groups), means


def _thinned(rows: Rows, key: str) -> list[tuple[float, float]]:
    """Return the means of step and value in at most `_POINTS` pieces of about one length."""
    known = [
        (row["step"], row[key])
        for row in rows
        if isinstance(row.get(key), int | float) and isfinite(row[key])
    ]
    size = -(-len(known) // _POINTS) or 1
    pieces = [known[first : first + size] for first in range(0, len(known), size)]
    return [
        (fsum(s for s, _ in piece) / len(piece), fsum(v for _, v in piece) / len(piece))
        for piece in pieces
    ]
