"""The page: what is in it, and what a browser makes of it."""

import json
import os
import re
from pathlib import Path

import pytest
from chat_lab import CHATS, checkpoint, config, lab, model  # noqa: F401

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from browser import CHROMIUM, browser
from serving import parsed, read_all, request, send, serving

import llmlab.serve
from llmlab.text.reading import read_chats

FILES = Path(llmlab.serve.__file__).parent / "page"
PICTURES = os.environ.get("LLMLAB_PICTURES")  # a folder for screenshots that somebody looks at
QUESTION, ANSWER = next(iter(CHATS.items()))
SAID = "const said = () => [...document.querySelectorAll('.said')].map((s) => s.textContent);"
IDLE = "await until(() => document.body.dataset.busy === '0');"


def test_nothing_comes_from_elsewhere():
    for path in FILES.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|//[a-z]", text.replace("// ", "")), path
        assert "innerHTML" not in text and "eval(" not in text
    page = (FILES / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script>", page)


def test_the_page_is_served_with_a_strict_policy(model):  # noqa: F811
    with serving({"small": model}) as server:
        for path in ("/", "/page.js", "/page.css", "/chats.js"):
            head, body = read_all(send(server.port, request(path)))
            status, headers = parsed(head)
            assert status == 200 and body
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def picture(tab, name):
    if PICTURES:
        tab.picture(Path(PICTURES) / f"{name}.png")


def ready(tab, server, width):
    tab.show(server.url + "/", width, 800, width < 500)
    tab.run("await until(() => document.body?.dataset.ready);")


def ask(tab, text):
    """Type a message and send it, by keyboard alone."""
    tab.run("document.getElementById('prompt').focus();")
    tab.type(text)
    tab.press("Enter")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_a_chat_in_the_browser(tab, model, width, tmp_path):  # noqa: F811
    with serving({"small": model, "other": model}) as server:
        tab.requests.clear()
        tab.wrong.clear()
        ready(tab, server, width)
        assert tab.run("return document.activeElement.id;") == "prompt"
        tab.run("document.querySelectorAll('#models input').forEach((box) => box.checked = true);")
        ask(tab, QUESTION)
        tab.run(f"await until(() => document.querySelector('.said')); {IDLE}")
        assert tab.run(f"{SAID} return said();") == [ANSWER, ANSWER]
        spans = "return document.querySelectorAll('.answer:first-child .token').length;"
        assert tab.run(spans) == 5
        picture(tab, f"chat-{width}")
        check_chances(tab, width)
        check_editing(tab)
        check_files(tab, tmp_path)
        fits = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert tab.run(f"{fits};")
        assert tab.wrong == []
        assert {url.split("/")[2] for url in tab.requests if url.startswith("http")} == {
            f"127.0.0.1:{server.port}"
        }


def check_chances(tab, width):
    """Hover and arrow keys show the ten most probable tokens."""
    place = "const r = document.querySelectorAll('.token')[1].getBoundingClientRect();"
    x, y = tab.run(f"{place} return [r.x + r.width / 2, r.y + r.height / 2];")
    tab.move(x, y)
    tab.run("await until(() => !document.getElementById('chances').hidden);")
    rows = "return [...document.querySelectorAll('#chances tr')].map((r) => r.textContent);"
    found = tab.run(rows)
    assert len(found) == 10 and found[0].startswith("falls") and "%" in found[0]
    inside = "const r = document.getElementById('chances').getBoundingClientRect();"
    assert tab.run(f"{inside} return r.left >= 0 && r.right <= window.innerWidth && r.top >= 0;")
    picture(tab, f"chances-{width}")
    tab.press("Escape")
    assert tab.run("return document.getElementById('chances').hidden;")
    tab.run("document.querySelector('.said').focus();")
    tab.press("ArrowRight")
    assert tab.run(rows)[0].startswith("Rain")
    tab.press("Escape")


def check_editing(tab):
    """A message can be asked again, and changed."""
    click = "document.querySelector(\"button[aria-label='{} message 1']\").click();"
    other, told = list(CHATS.items())[1]
    tab.run(f"{click.format('Retry')} {IDLE}")
    assert tab.run(f"{SAID} return said();") == [ANSWER, ANSWER]
    tab.run(f"{click.format('Edit')} document.activeElement.select();")
    tab.type(other)
    tab.press("Enter")
    tab.run(f"{SAID} await until(() => said()[0] === {json.dumps(told)}); {IDLE}")
    assert tab.run("return document.querySelectorAll('.turn').length;") == 1


def check_files(tab, folder):
    """A conversation is saved in the form that tuning reads, and loaded again."""
    code = "const { toLines, fromLines } = await import('/chats.js');"
    turns = [
        {"prompt": q, "answers": {"a": {"text": t}, "b": {"text": "No."}}} for q, t in CHATS.items()
    ]
    given = json.dumps(turns)
    lines = tab.run(f"{code} return toLines('Be kind.', {given}, ['a', 'b']);")
    path = folder / "conversation.jsonl"
    path.write_text(lines, encoding="utf-8")
    chats = [chat for chat, _ in read_chats(path, notices=False)]
    assert [m.role for m in chats[0]] == ["system"] + ["user", "assistant"] * len(CHATS)
    assert [m.content for m in chats[0]][2::2] == list(CHATS.values())
    again = tab.run(f"{code} return fromLines({json.dumps(lines)}, ['a', 'b']);")
    assert again["system"] == "Be kind." and len(again["turns"]) == len(CHATS)
    assert again["turns"][0]["answers"]["b"]["text"] == "No."
    file = f"new File([{json.dumps(lines)}], 'c.jsonl')"
    tab.run(
        f"const moved = new DataTransfer(); moved.items.add({file});"
        "const input = document.getElementById('file'); input.files = moved.files;"
        "input.dispatchEvent(new Event('change'));"
        f"await until(() => document.querySelectorAll('.turn').length === {len(CHATS)});"
    )
    assert tab.run("return document.querySelector('[name=system]').value;") == "Be kind."


@pytest.fixture
def endless(model):  # noqa: F811
    """Return the model while it can't end an answer by itself, however long the browser takes."""
    bias, end = model.params["output.bias"], model.tokenizer.end_id
    before = bias[end]
    bias[end] = -1e5
    yield model
    bias[end] = before


@pytest.mark.slow
def test_stop_and_settings(tab, endless):
    with serving({"small": endless}) as server:
        ready(tab, server, 400)
        tab.run(
            "document.getElementById('settings').open = true;"
            "const f = document.getElementById('fields').elements;"
            "f.temperature.value = 30; f.seed.value = 3; f.max_tokens.value = 4096;"
        )
        picture(tab, "settings-400")
        ask(tab, QUESTION)
        tab.run(f"{SAID} await until(() => said()[0]?.length > 30);")
        assert not tab.run("return document.getElementById('stop').disabled;")
        tab.run(f"document.getElementById('stop').click(); {IDLE}")
        assert tab.run("return document.querySelector('.foot').textContent;") == "stopped"
        text = server.texts["small"][0]
        tab.run("await new Promise((done) => setTimeout(done, 300));")
        assert text.reason == "cancelled" and len(text.reply) < 4096
        tab.run("document.getElementById('fields').elements.max_tokens.value = 7;")
        for _ in range(2):
            tab.run("document.getElementById('new').click();")
            ask(tab, QUESTION)
            tab.run(f"await until(() => document.querySelector('.token')); {IDLE}")
        assert server.texts["small"][1].reply == server.texts["small"][2].reply
        assert len(server.texts["small"][1].reply) == 7
        tab.run("document.getElementById('fields').elements.top_p.value = 2;")
        ask(tab, QUESTION)
        tab.run("await until(() => document.querySelector('.foot.bad'));")
        assert "top_p" in tab.run("return document.querySelector('.foot.bad').textContent;")
