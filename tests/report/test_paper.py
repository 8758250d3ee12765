"""The pages on paper, printed by somebody whose screen is dark; all of it is there."""

import numpy as np
import pytest
from browser import CHROMIUM, browser
from chat_lab import CHATS, checkpoint, config, lab, model  # noqa: F401
from inspect_lab import look_at, random_rows, small_model, write
from sweeps import write_sweep

from llmlab.report.page import can_draw, write_page
from llmlab.report.study import read_study
from llmlab.report.study_page import study_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]
DARK = [{"name": "prefers-color-scheme", "value": "dark"}]
PAPER = 718  # pixels of a sheet of A4 between its margins

# What is darker than the middle is ink; what scrolls sideways is cut off on paper.
SEE = """
const all = (what) => [...document.querySelectorAll(what)], style = getComputedStyle;
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
  return (r + g + b) / 765;
};
const seen = all("p, h1, h2, td, th, .said, .mine, svg text")
  .filter((e) => e.textContent.trim() && e.checkVisibility());
const colour = (e) => style(e)[e instanceof SVGElement ? "fill" : "color"];
const cut = (e) => e.scrollWidth > e.clientWidth + 1 && style(e).overflowX !== "visible";
const low = (e) => e.scrollHeight > e.clientHeight + 1 && style(e).overflowY !== "visible";
const corner = (e) => e.getContext("2d").getImageData(e.width - 1, 0, 1, 1).data[0];
return {
  texts: seen.length,
  pale: seen.filter((e) => light(colour(e)) > 0.55).map((e) => e.textContent.slice(0, 40)),
  cut: all(".scroll, main, body").filter(cut).length,
  wide: all("table, svg, canvas").filter((e) => e.getBoundingClientRect().right > innerWidth + 2)
    .length,
  low: all("main").filter(low).length,
  back: all("canvas").map(corner),
};
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def on_screen(tab, url, ready):
    tab.call("Emulation.setEmulatedMedia", media="screen", features=DARK)
    tab.show(url, 1280, 900)
    tab.run(f"await until(() => document.body?.dataset.{ready});")


def printed(tab):
    """Return what is on paper: the browser lays the page out anew, without running its scripts."""
    tab.run("window.dispatchEvent(new Event('beforeprint'));")
    tab.call("Emulation.setEmulatedMedia", media="print", features=DARK)
    size = {"width": PAPER, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    tab.call("Emulation.setDeviceMetricsOverride", **size)
    found = tab.run(SEE)
    tab.call("Emulation.setEmulatedMedia", media="screen", features=DARK)
    tab.run("window.dispatchEvent(new Event('afterprint'));")
    return found


def assert_readable(seen):
    assert seen["texts"] > 5
    assert (seen["pale"], seen["cut"], seen["wide"], seen["low"]) == ([], 0, 0, 0)
    assert set(seen["back"]) <= {255}


def test_a_look_inside(tab, tmp_path):
    tokens = tuple(f"word{n}" for n in range(40))
    small = small_model("model=gpt2", "model.num_heads=2", "model.embedding_dim=24", tokens=tokens)
    ids = np.random.default_rng(2).integers(len(tokens), size=40)
    path, _ = write(tmp_path, *look_at(small, ids, random_rows(len(tokens), 2, 16)))
    on_screen(tab, path.as_uri(), "drawn")
    seen = printed(tab)
    assert_readable(seen)
    assert seen["back"]
    after = tab.run(SEE)
    assert set(after["back"]) == {0x14}  # the maps are dark again


@pytest.mark.skipif(not can_draw(), reason="needs altair and vl-convert-python")
def test_a_study(tab, tmp_path):
    key = "model.stack.blocks.layers.attention.layer.positions"
    folder = write_sweep(tmp_path / "s", [{"lr": 0.001, key: name} for name in ("rope", "alibi")])
    path = write_page(folder, study_page(folder, read_study(folder)))
    on_screen(tab, path.as_uri(), "drawn")
    names = tab.run(
        "return [...document.querySelectorAll('#chart-1 svg text')].map((e) => e.textContent);"
    )
    assert f"{key}=rope" in " ".join(names)  # arms can be told apart
    assert_readable(printed(tab))


def test_a_long_chat(tab, model):  # noqa: F811
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    from serving import serving

    with serving({"small": model}) as server:
        on_screen(tab, f"{server.url}/", "ready")
        for question in [*CHATS, *CHATS, *CHATS]:
            tab.run("document.getElementById('prompt').focus();")
            tab.type(question)
            tab.press("Enter")
            tab.run("await until(() => document.body.dataset.busy === '0');")
        seen = printed(tab)
    assert_readable(seen)
    assert seen["texts"] >= 2 * 3 * len(CHATS)
