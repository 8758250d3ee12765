"""The page of a look inside: its size, what a browser makes of it, and texts that attack it."""

import base64
import json
import re
import shutil
import subprocess
import zlib

import numpy as np
import pytest
from inspect_lab import look_at, random_rows, small_model, write

from llmlab.report.inspect_page import MOST_BYTES, packed_maps, rounded, write_inspect_page

CHROMIUM = shutil.which("chromium")
SIZES = ("model.embedding_dim=24", "model.hidden_dim=24", "model.num_blocks=2")
PRESETS = {
    "rustgpt": ("model=rustgpt",),
    "gpt2": ("model=gpt2",),
    "llama": ("model=llama",),
    "mixtral": ("model=mixtral",),
    "mixed": ("experiment=mixed",),
}
HOSTILE = (
    *("</script><script>wrong.push('script')</script>", "<!--", "<img src=x onerror=alert(1)>"),
    *('"', "'", "&amp;", "\\", "{{js}}", "{{data}}", "`${1}`", "</style>", "]]>", "%s"),
    *("\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029", "\n", "\t", "", " "),
    *("\u202eabc", "\u2066x", "\u05de\u05d6\u05e8\u05d7", "\u0627\u0644", "\u200d", "\ufeff"),
    *("__proto__", "constructor", "toString", "\ud800", "\U0001f600", "e\u0301" * 40, "x" * 3000),
)
WORDS = tuple(f"word{n}" for n in range(40))

# Notes what goes wrong from before the page's own script to its end.
WATCH = """<script>
window.wrong = [];
window.addEventListener("securitypolicyviolation", 
  (event) => wrong.push(event.violatedDirective + event.blockedURI));
window.addEventListener("error", (event) => wrong.push(String(event.message)));
window.addEventListener("unhandledrejection", (event) => wrong.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...words) => wrong.push(words.join(" "));
</script>"""
LOOK = """<script>
(async () => {
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
while (!document.body.dataset.drawn && performance.now() < 60000) await wait(20);
const seen = { first: performance.now() };
const text = document.getElementById("text");
seen.tokens = [...text.children].map((each) => each.textContent);
seen.wide = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
seen.findings = document.getElementById("findings").textContent;
const place = () => [...text.children].findIndex(
  (each) => each.getAttribute("aria-selected") === "true");
seen.before = place();
const key = (name) => text.dispatchEvent(
  new KeyboardEvent("keydown", { key: name, bubbles: true }));
key("ArrowLeft");
seen.left = place();
key("ArrowRight");
seen.right = place();
text.children[0].click();
seen.clicked = place();
text.children[text.children.length - 1].click();
const maps = [...document.querySelectorAll("#heads button")];
seen.maps = maps.length;
seen.inked = [...document.querySelectorAll("#heads canvas, #large")].map((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(data).size > 3;
});
maps.at(-1)?.click();
const box = document.getElementById("large").getBoundingClientRect();
const corner = { clientX: box.left + 1, clientY: box.bottom - 1, bubbles: true };
document.getElementById("large").dispatchEvent(new PointerEvent("pointermove", corner));
seen.pointed = document.getElementById("pointed").textContent;
document.getElementById("byrow").click();
for (const button of document.querySelectorAll("th button")) { button.click(); button.click(); }
seen.here = document.querySelectorAll("#lens .here").length;
seen.rows = document.querySelectorAll("#lens tbody tr").length;
seen.bars = document.querySelectorAll("#parts svg").length;
seen.large = document.querySelectorAll("script, img, iframe, object, link[rel=stylesheet]").length;
seen.resources = performance.getEntriesByType("resource").map((entry) => entry.name);
await wait(50);
seen.wrong = wrong;
const said = document.createElement("pre");
said.id = "seen";
said.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
document.body.replaceChildren(said);
})();
</script>"""


def browse(page, folder, width=1280):
    text = page.read_text(encoding="utf-8")
    text = text.replace('<meta name="viewport"', f'{WATCH}<meta name="viewport"', 1)
    before, end, after = text.rpartition("</body>")
    watched = folder / "watched.html"
    watched.write_text(f"{before}{LOOK}{end}{after}", encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--window-size={width},2000", f"--user-data-dir={folder / 'profile'}"]
    command = [CHROMIUM, *flags, "--dump-dom", "--virtual-time-budget=60000", watched.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    found = re.search(r'<pre id="seen">([^<]*)</pre>', done.stdout)
    assert found, done.stdout[-2000:]
    return json.loads(base64.b64decode(found[1]))


def page_of(preset, time, folder, tokens=WORDS, *more):
    model = small_model(*PRESETS[preset], *(more or SIZES), tokens=tokens, time=max(time, 8))
    ids = np.random.default_rng(2).integers(len(tokens), size=time)
    rows = random_rows(len(tokens), 2, min(time, 16))
    look, content = look_at(model, ids, rows)
    path, shown = write(folder, look, content)
    return path, shown, content


def data_of(path):
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found[1])


def test_a_page_of_64_tokens_and_16_heads_is_small(tmp_path):
    sizes = ("model.embedding_dim=32", "model.num_heads=8", "model.num_blocks=2")
    path, shown, _ = page_of("gpt2", 64, tmp_path, WORDS, *sizes)
    assert len(shown["tokens"]) == 64
    assert data_of(path)["maps"]["count"] == 16
    assert path.stat().st_size < 150_000
    assert not re.search(r'(src|href)="(?!data:)', path.read_text(encoding="utf-8"))
    assert "default-src 'none'" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("bits", [8, 6, 5, 4])
def test_maps_come_back_as_they_were(bits):
    maps = np.tril(np.random.default_rng(0).random((3, 9, 9)))
    maps /= maps.sum(axis=2, keepdims=True)
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed_maps(maps, bits))), np.uint8)
    rows, columns = np.tril_indices(9)
    found = np.zeros_like(maps)
    found[:, rows, columns] = (raw.reshape(3, -1) / (2**bits - 1)) ** 2
    assert np.abs(found - maps).max() < 1.01 / (2**bits - 1)


@pytest.mark.parametrize(("count", "bits", "size"), [(2, 8, 80), (10, 6, 80), (40, 6, 40)])
def test_what_is_too_large_gives_way_and_says_so(tmp_path, monkeypatch, count, bits, size):
    """Noise can't be compressed: first the bits, then the tokens."""
    most = 60_000
    monkeypatch.setattr("llmlab.report.inspect_page.MOST_BYTES", most)
    whole = np.tril(np.random.default_rng(0).random((count, 80, 80)))

    def content(tokens):
        size = tokens or 80
        said = [] if tokens is None else ["fewer tokens"]
        return {"title": "t", "tokens": ["x"] * size, "notes": said}, whole[:, -size:, -size:]

    path, shown = write_inspect_page(tmp_path, content)
    data = data_of(path)
    assert path.stat().st_size <= most
    assert (data["maps"]["bits"], len(shown["tokens"])) == (bits, size)
    assert any("bits" in note for note in data["notes"]) == (bits < 8)
    assert ("fewer tokens" in data["notes"]) == (size < 80)


def test_numbers_that_are_none_are_null():
    assert rounded([1.23456, float("nan"), [float("inf"), 2]]) == [1.235, None, [None, 2]]


def test_hostile_tokens_are_data(tmp_path):
    model = small_model("model=gpt2", *SIZES, tokens=HOSTILE, time=len(HOSTILE))
    look, content = look_at(model, range(len(HOSTILE)), name="</script><b>{{js}}")
    path, _ = write(tmp_path, look, content)
    text = path.read_text(encoding="utf-8")
    assert text.count("</script>") == 2  # the two of the page's own
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e\u2066\ud800]", text)
    assert data_of(path)["checkpoint"] == "</script><b>{{js}}"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_hostile_tokens_are_shown(tmp_path, width):
    model = small_model("model=gpt2", *SIZES, tokens=HOSTILE, time=len(HOSTILE))
    path, _ = write(tmp_path, *look_at(model, range(len(HOSTILE))))
    seen = browse(path, tmp_path, width)
    assert (seen["wrong"], seen["resources"]) == ([], [])
    assert len(seen["tokens"]) == len(HOSTILE) and "</style>" in seen["tokens"]
    assert not {"", "\x00", "\x1b[31m"} & set(seen["tokens"])
    assert seen["wide"]
    assert seen["clicked"] == 0


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("time", [16, 64, 512])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_browser_shows_it_without_error_or_request(tmp_path, preset, time):
    path, shown, content = page_of(preset, time, tmp_path)
    assert path.stat().st_size <= MOST_BYTES
    seen = browse(path, tmp_path)
    assert (seen["wrong"], seen["resources"]) == ([], [])
    assert len(seen["tokens"]) == len(shown["tokens"])
    last = len(shown["tokens"]) - 2
    assert [seen[k] for k in ("before", "left", "right", "clicked")] == [last, last - 1, last, 0]
    assert seen["maps"] == sum(row["head"] is not None for row in content["heads"])
    assert all(seen["inked"])
    assert "looks at" in seen["pointed"]
    assert seen["rows"] == seen["here"] == len(content["lens"]["paths"])
    assert seen["bars"] == len(content["parts"]["names"])
    assert seen["wide"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_broken_network_has_a_page_too(tmp_path):
    model = small_model("model=gpt2", *SIZES, tokens=WORDS)
    model.params["blocks.1.feed_forward.down.weight"][0, 0] = np.nan
    path, _ = write(tmp_path, *look_at(model, range(20), random_rows(40, 2, 9)))
    seen = browse(path, tmp_path)
    assert (seen["wrong"], seen["resources"]) == ([], [])
    assert "blocks.1.feed_forward" in seen["findings"] and "finite" in seen["findings"]
