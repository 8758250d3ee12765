"""Answers at a terminal are broken between words; the same as they come in pieces."""

import io
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest
from chat_lab import CHATS, chatml_model, checkpoint, lab  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.errors import ConfigError
from llmlab.phases.answering import Answerer
from llmlab.phases.chat.conversation import Conversation
from llmlab.phases.chat.terminal import Wrapped, columns, wrapped

ROOT = Path(__file__).parents[2]
ASKED = "Draw a star!", "What shines at night?"


def whole(text, width, column=0, indent=""):
    lines = Wrapped(width, column, indent)
    return lines.add(text) + lines.rest()


def test_lines_break_between_words():
    assert whole("many mountains form", 10) == "many\nmountains\nform"
    assert whole("many mountains form", 14) == "many mountains\nform"
    assert whole("many mountains form", 19) == "many mountains form"
    assert whole("many mountains", 14, column=5) == "many\nmountains"
    assert whole("many mountains", 14, column=5, indent="     ") == "many\n     mountains"
    assert whole("a\n\n  b c", 3) == "a\n\n  b\nc"
    assert whole("x" * 25 + " y", 10) == "x" * 25 + "\ny"
    assert whole("水水水 水水", 8) == "水水水\n水水"
    assert columns("e\u0301a") == 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "rain", " ", "  ", "\n", "水", "mountains"])).map("".join),
    st.integers(1, 20),
    st.integers(1, 5),
)
def test_pieces_give_what_the_whole_gives(text, width, size):
    lines = Wrapped(width)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    shown = "".join(lines.add(piece) for piece in pieces) + lines.rest()
    assert shown == whole(text, width)
    assert shown.split() == text.split()
    for line in shown.split("\n"):
        assert columns(line.rstrip()) <= width or len(line.split()) == 1


def test_a_word_is_shown_when_it_ends_and_not_before():
    lines = Wrapped(80)
    assert [lines.add(piece) for piece in ("Ra", "in ", "fa", "lls.")] == ["", "Rain", "", ""]
    assert lines.rest() == " falls."


def test_files_and_pipes_get_the_answer_as_it_is():
    assert wrapped("a " * 100, io.StringIO()) == "a " * 100


def at_terminal(*argv, cwd, width=24, typed=()):
    """Return what a command prints at a terminal of some columns; each line at a new prompt."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    attributes = termios.tcgetattr(slave)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "llmlab", *argv],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.DEVNULL,
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT), "TERM": "dumb"},
    )
    os.close(slave)
    seen, typed = b"", list(typed)
    prompts = 0
    while select.select([master], [], [], 60)[0]:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        seen += part
        if seen.count(b"you>") > prompts and typed:
            prompts = seen.count(b"you>")
            os.write(master, typed.pop(0))
        if not part:
            break
    os.close(master)
    assert process.wait(60) == 0, seen
    return seen.decode().replace("\r", "")


@pytest.mark.slow
def test_generate_at_a_narrow_terminal(checkpoint, tmp_path):  # noqa: F811
    argv = ["phase=generate", f"checkpoint={checkpoint}", f"prompt={ASKED[1]}"]
    seen = at_terminal(*argv, cwd=tmp_path)
    assert seen.split() == CHATS[ASKED[1]].split()
    assert seen.count("\n") > 1
    assert all(len(line) <= 24 for line in seen.splitlines())


@pytest.mark.slow
def test_a_chat_at_a_narrow_terminal(checkpoint, tmp_path):  # noqa: F811
    (tmp_path / "prompt_toolkit.py").write_text("raise ImportError")
    data = tmp_path / "none.jsonl"
    argv = ["phase=chat", f"checkpoint={checkpoint}", f"data.tune.path={data}"]
    seen = at_terminal(*argv, cwd=tmp_path, typed=[f"{ASKED[1]}\n".encode(), b"\x04"])
    answer = seen[seen.index("llm> ") :].split("\nyou>")[0].strip()
    assert answer.split() == ["llm>", *CHATS[ASKED[1]].split()]
    assert "\n" in answer
    assert all(len(line) <= 24 for line in answer.splitlines())


@pytest.fixture(scope="module")
def short_memory():
    return Answerer(*chatml_model())


def test_a_system_text_that_leaves_no_room_is_refused_when_it_is_typed(short_memory):
    conversation = Conversation(short_memory, True)
    conversation.begin("Rain falls.")
    with pytest.raises(ConfigError, match=r"a system text of \d+ tokens: at most \d+ leave room"):
        conversation.begin("Rain falls. " * 200)
    assert conversation.system == "Rain falls."
    assert conversation.size() < short_memory.longest_prompt
