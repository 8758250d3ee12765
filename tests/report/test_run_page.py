"""The page of a run: what is in it, and what a browser makes of it."""

import json
import re
import shutil
import subprocess

import pytest
from small_run import finished_run, small_lab  # noqa: F401 - fixtures

from llmlab.report.page import Chart, can_draw, write_page
from llmlab.report.run_page import StageRows, run_page
from llmlab.train.findings import Finding

CHROMIUM = shutil.which("chromium")
pytestmark = [  # to import what draws takes longer than all other tests of a page
    pytest.mark.slow,
    pytest.mark.skipif(not can_draw(), reason="needs altair and vl-convert-python"),
]
FOUND = Finding("dead_units", "half of it is silent", "lr=1")
WATCHED = [
    {
        "step": step,
        "arrays": {
            f"blocks.{n}.a": {"ratio": 1e-3, "gradient": [2.0], "weight": [3.0]} for n in range(70)
        },
        "stream": {"tokens": 0.1, "blocks.0.x": 1.0},
        "entropy": {"blocks.0.x": [0.5, None]},
        "dead": {"blocks.0.y": 0.0},
    }
    for step in range(1, 100)
]
SAMPLES = [{"step": 5, "samples": [{"prompt": "the sun", "text": "</script><b>sees</b>\u202e"}]}]
# Notes what goes wrong, and says what is seen when all is drawn.
LOOK = """<script>
window.wrong = [];
window.addEventListener("securitypolicyviolation", (event) => wrong.push(event.blockedURI));
window.addEventListener("error", (event) => wrong.push(String(event.message)));
window.addEventListener("unhandledrejection", (event) => wrong.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...words) => wrong.push(words.join(" "));
</script>
<script type="module">
while (!document.body.dataset.drawn) await new Promise((done) => setTimeout(done, 20));
const marks = (chart) => chart.querySelectorAll("svg [aria-roledescription]").length;
const seen = {
  wrong, drawn: document.body.dataset.drawn,
  marks: [...document.querySelectorAll(".chart")].map(marks),
  wide: document.documentElement.scrollWidth <= document.documentElement.clientWidth,
  resources: performance.getEntriesByType("resource").map((entry) => entry.name),
};
const said = document.createElement("pre");
said.id = "seen";
said.textContent = JSON.stringify(seen);
document.body.replaceChildren(said);
</script>"""


def rows(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def stage(folder, **parts):
    given = {"metrics": rows(folder, "metrics.jsonl"), "watched": [], "samples": [], "findings": []}
    return StageRows("pretrain", folder, **(given | parts))


def test_a_page_says_what_there_is(lab):
    folder = lab.folder / "run"
    page = run_page(folder, [stage(folder, watched=WATCHED, samples=SAMPLES, findings=[FOUND])])
    assert page.sentences == ["Half of it is silent; try lr=1."]
    charts = [part for part in page.parts if isinstance(part, Chart)]
    assert [chart.title.split(",")[0].split(" (")[0] for chart in charts] == [
        "loss",
        "learning rate",
        "norm of the gradient",
        "update / weight",
        "norm of the gradient",
        "norm of the weights",
        "size of each layer's output",
        "entropy of attention",
        "share of silent units in feed-forward layers",
    ]
    for chart in charts[3:]:
        cells = chart.spec["data"]["values"]
        assert 0 < len({cell["step"] for cell in cells}) <= 60
    texts = dict(part for part in page.parts if isinstance(part, tuple))
    assert texts["samples"] == "step 5: the sun → </script><b>sees</b>\u202e"
    assert "phase=pretrain" in texts["Command"] and "resume=run" in texts["Command"]
    assert "embedding_dim: 8" in texts["Configuration"]
    assert "made " in texts["Environment"]
    assert run_page(folder, [stage(folder, metrics=[])]).sentences == ["No step was done."]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it_without_error_or_request(lab, tmp_path, width):
    folder = lab.folder / "run"
    given = stage(folder, watched=WATCHED, samples=SAMPLES, findings=[FOUND])
    path = write_page(folder, run_page(folder, [given]))
    assert path.stat().st_size < 2_000_000
    before, end, after = path.read_text(encoding="utf-8").rpartition("</body>")
    watched = tmp_path / "watched.html"
    watched.write_text(f"{before}{LOOK}{end}{after}", encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--window-size={width},2000", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [CHROMIUM, *flags, "--dump-dom", "--virtual-time-budget=20000", watched.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    seen = json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    assert (seen["wrong"], seen["resources"]) == ([], [])
    assert seen["drawn"] == "9" and min(seen["marks"]) >= 2
    assert seen["wide"]
