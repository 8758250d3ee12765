"""Line charts as SVG text, without any library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 36, 64, 54
_INK, _PALE, _GRID = "#222222", "#666666", "#e4e4e4"
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Curve:
    """A line through `points` (x ascending, all finite), with dots on them if there are few."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    width: float
    dots: bool = False


def line_chart(curves: Sequence[Curve], *, title: str, x_label: str, y_label: str) -> str:
    """Return an SVG document of 720 by 400 with linear axes.

    The axes reach from the lowest value to the highest. Of curves with more points than
    pixels, the lowest and the highest of each pixel are drawn, so that no peak is lost.
    """
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    x_axis = _Axis(*_range(xs), _LEFT, _WIDTH - _RIGHT, 8, whole=True)
    y_axis = _Axis(*_range(ys), _HEIGHT - _BOTTOM, _TOP, 6, snap=True)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="system-ui, Helvetica, Arial, sans-serif" '
        'font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 26, title, size=16, colour=_INK, weight="600"),
    ]
    parts += _grid(x_axis, y_axis)
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, x_label, anchor="middle"))
    parts.append(
        f'<text transform="translate(18 {middle:g}) rotate(-90)" text-anchor="middle" '
        f'fill="{_PALE}">{escape(y_label)}</text>'
    )
    if not xs:
        centre = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(_text(centre, middle, "nothing to show", anchor="middle", size=14))
    for curve in curves:
        parts += _drawn(curve, x_axis, y_axis)
    parts += _legend(curves)
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Axis:
    """Maps values to pixels and knows the round numbers in between."""

    def __init__(
        self,
        low: float,
        high: float,
        start: float,
        stop: float,
        count: int,
        whole: bool = False,
        snap: bool = False,
    ):
        self.step = _round_step((high - low) / count, whole)
        if snap:  # the first and the last tick are the corners
            low = math.floor(low / self.step) * self.step
            high = math.ceil(high / self.step) * self.step
        self._low, self._span, self._start, self._stop = low, high - low, start, stop
        first, last = math.ceil(low / self.step - 1e-9), math.floor(high / self.step + 1e-9)
        self.ticks = [number * self.step for number in range(first, last + 1)]

    def __call__(self, value: float) -> float:
        share = (value - self._low) / self._span
        return self._start + share * (self._stop - self._start)

    def label(self, value: float) -> str:
        if self.step >= 1e15:
            return f"{value:.4g}"
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        if round(self.step, digits) != self.step:  # 2.5 or 0.25 take one more
            digits += 1
        return f"{value:,.{digits}f}" if digits < 7 else f"{value:.4g}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-300):  # one value: make room around it
        room = max(0.1 * abs(low), 0.5)
        low, high = low - room, high + room
        if values and min(values) >= 0:
            low = max(low, 0.0)
    return low, high


def _round_step(rough: float, whole: bool) -> float:
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(each * magnitude for each in _STEPS if each * magnitude >= rough * 0.999)
    if whole:
        step = 1.0 if step < 1 else 5.0 if step == 2.5 else step
    return step


def _grid(x_axis: _Axis, y_axis: _Axis) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in y_axis.ticks:
        y = y_axis(value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="{_GRID}"/>')
        parts.append(_text(_LEFT - 8, y + 4, y_axis.label(value), anchor="end"))
    parts.append(f'<path d="M{_LEFT} {bottom}H{right}" stroke="{_PALE}"/>')
    for value in x_axis.ticks:
        x = x_axis(value)
        parts.append(f'<path d="M{x:.1f} {bottom}v5" stroke="{_PALE}"/>')
        parts.append(_text(x, bottom + 19, x_axis.label(value), anchor="middle"))
    return parts


def _drawn(curve: Curve, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    points = [(x_axis(x), y_axis(y)) for x, y in curve.points]
    shown = _thinned(points)
    parts = []
    if len(shown) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in shown)
        parts.append(
            f'<path d="M{path}" fill="none" stroke="{curve.colour}" '
            f'stroke-width="{curve.width:g}" stroke-linejoin="round"/>'
        )
    if len(points) == 1 or (curve.dots and len(points) <= 60):
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{curve.colour}"/>' for x, y in points
        ]
    return parts


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return first, lowest, highest and last of each pixel column, in their order."""
    if len(points) <= 2 * (_WIDTH - _LEFT - _RIGHT):
        return list(points)
    columns: dict[int, list[int]] = {}
    for i, (x, _) in enumerate(points):
        columns.setdefault(int(x), []).append(i)
    kept: list[tuple[float, float]] = []
    for members in columns.values():
        by_height = sorted(members, key=lambda i: points[i][1])
        ends = {members[0], by_height[0], by_height[-1], members[-1]}
        kept += [points[i] for i in sorted(ends)]
    return kept


def _legend(curves: Sequence[Curve]) -> list[str]:
    parts, x = [], float(_LEFT)
    for curve in curves:
        line = f'<path d="M{x:.0f} 44h22" stroke="{curve.colour}" '
        parts.append(line + f'stroke-width="{max(curve.width, 1.6):g}"/>')
        if curve.dots:
            parts.append(f'<circle cx="{x + 11:.0f}" cy="44" r="3" fill="{curve.colour}"/>')
        parts.append(_text(x + 28, 48, curve.label))
        x += 28 + 6.6 * len(curve.label) + 22
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str = "start",
    size: int = 12,
    colour: str = _PALE,
    weight: str = "400",
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="{colour}">{escape(text)}</text>'
    )
