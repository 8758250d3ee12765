"""The charts of a study's page: arms, curves, the metric over each key."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

from llmlab.report import charts
from llmlab.report.curves import bands, trace
from llmlab.report.page import Chart
from llmlab.report.study import Study
from llmlab.runs.overrides import value_of
from llmlab.study.arms import Arm

_MOST_JOBS = 200  # in the picture of arms
_MOST_CHARTS = 12  # of arms that can't share one


def study_charts(study: Study) -> list[Chart]:
    """Return what is drawn of a study; arms whose comparison is refused share no axis."""
    drawn = study.metric is not None and not study.refused
    arms = [_arm_chart(study)] if drawn else []
    return [*arms, *_curve_charts(study), *(_key_charts(study) if drawn else [])]


def _arm_rows(study: Study) -> list[dict[str, Any]]:
    rows = []
    for arm in study.arms:
        found = study.estimate(arm)
        if found is None:
            continue
        row: dict[str, Any] = {"arm": arm.name, "mean": found.mean, "seeds": found.count}
        if isfinite(found.low):
            row |= {"low": found.low, "high": found.high}
        rows.append(row)
    return rows


def _arm_chart(study: Study) -> Chart:
    assert study.metric is not None
    own = [
        {"arm": arm.name, "job": job.name, "value": value}
        for arm in study.arms
        for job in arm.jobs
        if (value := job.value(study.metric.name)) is not None
    ]
    return charts.interval_chart(_arm_rows(study), own[:_MOST_JOBS], study.metric.name)


def _curve_charts(study: Study) -> list[Chart]:
    """Return the curves of all arms in one chart; in one each where they can't be compared."""
    points = _curves(study)
    if not study.refused:
        chart = charts.curve_chart(points)
        return [chart] if chart else []
    found = []
    for arm in study.arms[:_MOST_CHARTS]:
        chart = charts.curve_chart([point for point in points if point["name"] == arm.name])
        found += [replace(chart, title=f"{arm.name}: {chart.title.lower()}")] if chart else []
    return found


def _curves(study: Study) -> list[dict[str, Any]]:
    folder = study.sweep.folder
    return bands(
        trace(folder / job.name, arm.name, job.values.get("seconds"), job.values.get("steps"))
        for arm in study.arms
        for job in arm.jobs
    )


def _key_charts(study: Study) -> list[Chart]:
    """Return a chart for each key; of two a grid, too, of more parallel lines."""
    assert study.metric is not None
    name, higher = study.metric.name, study.metric.higher
    rows = {row["arm"]: row for row in _arm_rows(study)}
    arms = [arm for arm in study.arms if arm.name in rows]
    keys = [key for key in study.keys if all(key in arm.settings for arm in arms)]
    if len(arms) < 2 or not keys:
        return []
    found = [
        charts.key_chart(
            key,
            [{**rows[arm.name], "value": _value(study, arm, key)} for arm in arms],
            name,
            higher,
        )
        for key in keys
    ]
    if len(keys) == 2:
        cells = [
            {**rows[arm.name], **{f"k{i}": _value(study, arm, key) for i, key in enumerate(keys)}}
            for arm in arms
        ]
        found.append(charts.grid_chart(keys, cells, name, higher))
    elif len(keys) > 2:
        found.append(charts.parallel_chart(keys, _places(study, arms, keys, rows), name))
    return found


def _places(
    study: Study, arms: Sequence[Arm], keys: Sequence[str], rows: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return where the values of each arm lie, from the least of a key (0) to its greatest (1)."""
    assert study.metric is not None
    table = {key: {arm.name: _value(study, arm, key) for arm in arms} for key in keys}
    table[study.metric.name] = {arm.name: rows[arm.name]["mean"] for arm in arms}
    found = []
    for key, values in table.items():
        order = sorted(set(values.values()), key=lambda v: (isinstance(v, str), v))
        for arm in arms:
            place = order.index(values[arm.name]) / max(len(order) - 1, 1)
            about = {"key": key, "place": place, "value": values[arm.name]}
            found.append({"arm": arm.name, "mean": rows[arm.name]["mean"], **about})
    return found


def _value(study: Study, arm: Arm, key: str) -> Any:
    value = value_of(arm.settings[key])
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else study.sweep.value(arm.settings, key)
