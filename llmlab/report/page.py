"""A report in one file: text, tables and charts that need neither network nor server."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmlab.atomic_write import make_folder, replace_text

try:
    import resource
except ImportError:  # Windows
    resource = None

log = logging.getLogger("llmlab")

HOW = "pip install 'llmlab[report]' adds report.html, with charts, to what a study leaves"
RUN_HOW = "pip install 'llmlab[report]' lets a run have a page, report.html"
_SVG_WIDTH = 640


@dataclass(frozen=True)
class Chart:
    """A picture with a heading."""

    title: str
    spec: dict[str, Any]  # a Vega-Lite specification as Altair writes it
    # Of its controls: what can be chosen for `x`, `y` and `log`, as value and text
    choices: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows of cells; a cell is what is shown, or that and the value to sort by."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Page:
    """A report; `parts` are charts, tables, and texts that stand as they are, under a heading."""

    title: str
    note: str
    sentences: Sequence[str]
    parts: Sequence[Chart | Table | tuple[str, str]]


def can_draw() -> bool:
    """Return whether what draws charts is installed, and can run.

    Its engine reserves far more addresses than it uses, and ends the process under any usual limit
    on them (`ulimit -v`).
    """
    if resource is not None and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        log.warning("report.html is left out: drawing it needs ulimit -v unlimited")
        return False
    return find_spec("altair") is not None and find_spec("vl_convert") is not None


def write_page(folder: Path, page: Page) -> Path:
    """Write report.html in `folder`, and each chart as an SVG file in report/ beside it."""
    import vl_convert

    charts = [part for part in page.parts if isinstance(part, Chart)]
    names = {id(chart): f"chart-{number}" for number, chart in enumerate(charts, 1)}
    specs = {names[id(chart)]: chart.spec for chart in charts}
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    fields = {
        "title": escape(page.title),
        "note": escape(page.note),
        "verdict": "".join(f"<p>{escape(each)}</p>" for each in page.sentences),
        "body": "\n".join(_part(part, names) for part in page.parts),
        "charts": json.dumps(specs, allow_nan=False).replace("<", "\\u003c"),
        "bundle": vl_convert.javascript_bundle().replace("</script", "<\\/script"),  # pyright: ignore[reportCallIssue]
    }
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: fields[found[1]], text)
    path = folder / "report.html"
    replace_text(path, text, sync=False)
    pictures = make_folder(folder / "report")
    for name, spec in specs.items():
        picture = vl_convert.vegalite_to_svg({**spec, "width": _SVG_WIDTH, "background": "white"})
        replace_text(pictures / f"{name}.svg", picture, sync=False)
    return path


def _part(part: Chart | Table | tuple[str, str], names: Mapping[int, str]) -> str:
    if isinstance(part, Chart):
        name = names[id(part)]
        controls = "".join(_control(name, key, part.choices[key]) for key in part.choices)
        bar = f'<div class="controls">{controls}</div>' if controls else ""
        figure = (
            f'<div class="chart" id="{name}" role="img" aria-label="{escape(part.title)}"></div>'
        )
        return f"<section><h2>{escape(part.title)}</h2>{bar}{figure}</section>"
    if isinstance(part, Table):
        return f"<section><h2>{escape(part.title)}</h2>{_table(part)}</section>"
    title, text = part
    return f"<section><h2>{escape(title)}</h2><pre>{escape(text)}</pre></section>"


def _control(chart: str, part: str, choices: Sequence[tuple[str, str]]) -> str:
    label = {"x": "over", "y": "show", "log": "axes"}[part]
    options = "".join(
        f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in choices
    )
    select = f'<select data-chart="{chart}" data-part="{part}">{options}</select>'
    return f"<label>{label} {select}</label>"


def _table(table: Table) -> str:
    head = "".join(f'<th><button type="button">{escape(each)}</button></th>' for each in table.head)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    body = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll" tabindex="0"><table>{body}</table></div>'


def _cell(cell: Any) -> str:
    shown, value = cell if isinstance(cell, tuple) else (cell, None)
    given = (
        ""
        if not isinstance(cell, tuple)
        else f' data-value="{escape("" if value is None else str(value))}"'
    )
    return f"<td{given}>{escape(str(shown))}</td>"
