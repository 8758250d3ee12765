"""The page of a study: what is in it, and what a browser makes of it."""

import json
import re
import shutil
import subprocess

import pytest
from sweeps import write_sweep

from llmlab.report.curves import Trace, bands
from llmlab.report.page import Page, Table, can_draw, write_page
from llmlab.report.study import read_study
from llmlab.report.study_page import differences, study_page

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
LRS = [{"lr": 0.001, "positions": "rope"}, {"lr": 0.01, "positions": "rope"}]
LRS += [{"lr": 0.001, "positions": "learned"}, {"lr": 0.01, "positions": "learned"}]
draws = pytest.mark.skipif(not can_draw(), reason="needs altair and vl-convert-python")

# Notes what goes wrong, waits until all is drawn, sorts, chooses other axes, and says what is seen.
WATCH = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'">
<script>
window.wrong = [];
window.addEventListener("securitypolicyviolation", (event) => wrong.push(event.blockedURI));
window.addEventListener("error", (event) => wrong.push(String(event.message)));
window.addEventListener("unhandledrejection", (event) => wrong.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...words) => wrong.push(words.join(" "));
</script>"""
LOOK = """<script type="module">
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
while (!document.body.dataset.drawn) await wait(20);
const seen = { wrong, drawn: document.body.dataset.drawn };
const marks = (id) => document.querySelectorAll(`#${id} svg [aria-roledescription]`).length;
seen.marks = [...document.querySelectorAll(".chart")].map((chart) => marks(chart.id));
seen.wide = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
const button = [...document.querySelectorAll("th button")].find((b) => b.textContent === "high");
const column = () => [...button.closest("table").tBodies[0].rows].map(
  (row) => Number(row.cells[button.parentElement.cellIndex].dataset.value));
button.focus();
seen.focus = document.activeElement === button;
button.click();
seen.up = column();
button.click();
seen.down = column();
for (const select of document.querySelectorAll("select")) {
  select.selectedIndex = select.options.length - 1;
  select.dispatchEvent(new Event("change"));
  await wait(200);
}
seen.axes = [...document.querySelectorAll(".chart")].map((chart) => marks(chart.id));
seen.resources = performance.getEntriesByType("resource").map((entry) => entry.name);
const said = document.createElement("pre");
said.id = "seen";
said.textContent = JSON.stringify(seen);
document.body.replaceChildren(said);
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = write_sweep(tmp_path_factory.mktemp("study") / "s", LRS)
    return write_page(folder, study_page(folder, read_study(folder)))


@draws
def test_the_page_is_whole_and_small(page):
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 2_000_000
    assert not re.findall(r"\{\{\w+\}\}", text)
    body = text.split('<script type="application/json"')[0]
    assert "is better than" in body
    assert body.index("is better than") < body.index("<h2>")  # the verdict comes first
    assert not re.search(r'(src|href)="(?!data:)', body)
    pictures = sorted(path.name for path in (page.parent / "report").glob("*.svg"))
    assert pictures == [f"chart-{number}.svg" for number in range(1, 6)]


def browser(*arguments):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [CHROMIUM, *flags, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@draws
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it_without_error_or_request(page, tmp_path, width):
    text = page.read_text(encoding="utf-8").replace("<head>", f"<head>{WATCH}", 1)
    watched = tmp_path / "watched.html"
    before, end, after = text.rpartition("</body>")
    watched.write_text(f"{before}{LOOK}{end}{after}", encoding="utf-8")
    options = [f"--window-size={width},2000", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--dump-dom", "--virtual-time-budget=20000"]
    done = browser(*options, watched.as_uri())
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    seen = json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    assert (seen["wrong"], seen["resources"]) == ([], [])
    assert seen["drawn"] == "5"
    assert min(seen["marks"]) >= 4 and min(seen["axes"]) >= 4  # every chart has its data
    assert seen["wide"]  # nothing but tables scrolls sideways
    assert seen["focus"]
    assert seen["up"] == sorted(seen["up"]) and len(set(seen["up"])) == 4
    assert seen["down"] == seen["up"][::-1]


def test_what_comes_from_outside_is_text(tmp_path):
    if not can_draw():
        pytest.skip("needs altair and vl-convert-python")
    bad = "<script>alert(1)</script>{{bundle}}"
    page = Page(bad, bad, [bad], [Table(bad, [bad], [[bad, (bad, bad)]]), (bad, bad)])
    text = write_page(tmp_path, page).read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert") == 11


def test_curves_are_the_mean_over_seeds_with_their_reach():
    one = [{"step": 1, "tokens": 10, "loss": 4.0}, {"step": 2, "tokens": 20, "loss": 2.0}]
    other = [{"step": 1, "tokens": 14, "loss": 2.0}, {"step": 2, "tokens": 28, "loss": None}]
    found = bands([Trace("a", one, 0.5), Trace("a", other, 1.5), Trace("b", one, None)])
    assert found[0] == {
        "name": "a",
        "what": "loss",
        "step": 1.0,
        "tokens": 12.0,
        "mean": 3.0,
        "low": 2.0,
        "high": 4.0,
        "seconds": 1.0,
    }
    assert [(point["name"], point["step"]) for point in found] == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
        ("b", 2),
    ]
    assert "seconds" not in found[2]
    long = [{"step": step, "loss": 1.0} for step in range(1, 10_001)]
    assert len(bands([Trace("a", long, None)])) <= 120


def test_differences_of_configurations_are_dotted():
    one = {"lr": 1.0, "seed": 1, "model": {"x": None, "y": 2}}
    other = {"lr": 2.0, "seed": 2, "model": {"x": 1, "y": 2}}
    assert differences([one, other]) == {"lr": ["1.0", "2.0"], "model.x": ["null", "1"]}


@draws
def test_a_limit_on_addresses_leaves_the_page_out(monkeypatch, caplog):
    resource = pytest.importorskip("resource")
    caplog.set_level("WARNING", "llmlab")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**32, 2**32))
    assert not can_draw()
    assert "ulimit -v unlimited" in caplog.text
