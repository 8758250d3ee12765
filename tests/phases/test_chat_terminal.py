"""The chat at a terminal: what streams, Ctrl-C and Ctrl-D, control characters, encodings."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import pytest
from chat_lab import CHATS, chatml_model, checkpoint, config, lab, model  # noqa: F401

from llmlab.generate import Engine, Reply
from llmlab.phases.answering import Answerer

ROOT = Path(__file__).parents[2]
ASKED, ANSWERED = next(iter(CHATS.items()))
PATIENCE = 60  # seconds, for a machine that is busy with other things

# A sampler that never ends by itself and gives time to press a key.
SLOW = """
import time
import numpy as np
from llmlab.generate import SAMPLERS, Sampler

@SAMPLERS.register("slow")
class Slow(Sampler):
    def __init__(self, stop=None):
        pass

    def choose(self, logits, rows):
        time.sleep(0.2)
        return np.full(len(logits), 5)
"""

# A model that says what nobody can train it on, since files are read without such characters.
HOSTILE = r"""
from llmlab.text.tokenizers.word import WordTokenizer

decode = WordTokenizer.decode
WordTokenizer.decode = lambda *given: decode(*given).replace("owned", "\x1b[2J\x07\x9b")
"""


class Terminal:
    """A chat whose stdin, stdout and stderr are a pseudo-terminal."""

    def __init__(self, *keys, **environment):
        self.master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        paths = [environment.pop("first", None), str(ROOT), os.environ.get("PYTHONPATH")]
        path = os.pathsep.join(filter(None, paths))
        # A process in the background ignores SIGINT, and so would what it starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmlab", "phase=chat", *keys],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ | {"PYTHONPATH": path, "TERM": "dumb"} | environment,
        )
        os.close(slave)
        self.seen = b""

    def wait_for(self, text, count=1):
        """Read until `text` was seen so often, in all."""
        end = time.monotonic() + PATIENCE
        while self.seen.count(text.encode()) < count:
            ready = select.select([self.master], [], [], max(0, end - time.monotonic()))[0]
            assert ready, f"{text!r} didn't come; seen: {self.seen!r}"
            try:
                self.seen += os.read(self.master, 65536)
            except OSError:  # the other end was closed
                assert self.seen.count(text.encode()) >= count, self.seen
        return self.seen.decode()

    def type(self, line):
        os.write(self.master, f"{line}\n".encode())

    def end(self):
        """Return the exit code."""
        with contextlib.suppress(OSError):
            while select.select([self.master], [], [], PATIENCE)[0]:
                self.seen += os.read(self.master, 65536)
        code = self.process.wait(PATIENCE)
        os.close(self.master)
        return code


@pytest.fixture
def terminal(checkpoint, lab, tmp_path):  # noqa: F811
    opened = []
    (tmp_path / "prompt_toolkit.py").write_text("raise ImportError")

    def start(*keys, plain=True, **environment):
        data = f"data.tune.path={lab / 'chats.jsonl'}"
        environment |= {"first": str(tmp_path)} if plain else {}
        opened.append(Terminal(f"checkpoint={checkpoint}", data, *keys, **environment))
        return opened[-1]

    yield start
    for one in opened:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def test_a_whole_chat(terminal, tmp_path):
    plugin = tmp_path / "hostile.py"
    plugin.write_text(HOSTILE)
    it = terminal(f"plugins={plugin}")
    greeting = it.wait_for("you>")
    assert all(f"  {prompt}\r\n" in greeting for prompt in CHATS if prompt.endswith("?"))
    it.type(ASKED)
    it.wait_for(f"llm> {ANSWERED}\r\n")
    it.type("What zebras?")
    it.wait_for("not in the model's vocabulary: zebras")
    it.type("Be bad!")
    assert "\x1b[2J" not in it.wait_for("llm> Your screen is ␛[2J␇\ufffd now.\r\n")
    it.wait_for("you>", 4)
    os.write(it.master, b"\x04")
    assert it.end() == 0


@pytest.mark.slow
def test_ctrl_c(terminal, tmp_path):
    plugin = tmp_path / "slow_sampler.py"
    plugin.write_text(SLOW)
    it = terminal(f"plugins={plugin}", "sampler.type=slow")
    it.wait_for("you>")
    it.type(ASKED)
    it.wait_for("llm> ")
    time.sleep(0.3)
    it.process.send_signal(signal.SIGINT)
    it.wait_for("[stopped]")
    it.wait_for("you>", 2)
    # The prompt is written before the read begins; a signal between the two waits for a key.
    while it.process.poll() is None:
        it.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            it.process.wait(5)  # a second signal would kill it as it leaves
    assert it.end() == 130
    assert "left the chat" in it.seen.decode()
    assert "Traceback" not in it.seen.decode()


@pytest.mark.slow
def test_an_ascii_terminal(terminal):
    it = terminal(PYTHONIOENCODING="ascii")
    it.wait_for("you>")
    it.type("Draw a star!")
    it.wait_for("llm> Here is one: ? ?\r\n")
    os.write(it.master, b"\xff\xfe\n")
    it.wait_for("you>", 3)
    it.type("/quit")
    assert it.end() == 0


@pytest.mark.slow
def test_line_editing_with_prompt_toolkit(terminal):
    pytest.importorskip("prompt_toolkit")
    it = terminal(plain=False, PROMPT_TOOLKIT_NO_CPR="1", TERM="xterm")
    it.wait_for("\x1b[?2004h")
    os.write(it.master, b"What falls from cloudsX\x7f?\r")
    it.wait_for(ANSWERED)
    it.wait_for("\x1b[?2004h", 2)
    os.write(it.master, b"\x1b[A\r")  # arrow up: the last line
    it.wait_for(ANSWERED, 2)
    it.wait_for("\x1b[?2004h", 3)
    os.write(it.master, b"\x03")
    assert it.end() == 130


def pieces(stream):
    """Return the pieces of a stream, and its value."""
    found = []
    while True:
        try:
            found.append(next(stream))
        except StopIteration as end:
            return found, end.value


def test_an_answer_comes_in_pieces(config, model):  # noqa: F811
    answerer = Answerer(config, model)
    found, answer = pieces(answerer.stream_text(answerer.encode(ASKED)))
    assert len(found) > 3
    assert "".join(found) == answer.text == ANSWERED
    assert (answer.reason, model.tokenizer.decode(answer.ids)) == ("stop", ANSWERED)


def says(monkeypatch, config, model, text, stop=()):  # noqa: F811
    """Return pieces and answer of a model that says `text`."""
    ids = model.tokenizer.encode(text)

    def stream_ids(self, prompt, *, until=None, **options):
        said = []
        for id in ids:
            said.append(id)
            yield id
            if until is not None and until(said):
                break
        return Reply(said, "length")

    monkeypatch.setattr(Engine, "stream_ids", stream_ids)
    sampler = {"type": "greedy", "stop": list(stop)}
    answerer = Answerer(replace(config, sampler=sampler), model)
    return pieces(answerer.stream_text([1]))


@pytest.fixture(scope="module")
def byte_model():
    return chatml_model("byte")


def test_half_a_character_is_held_back(monkeypatch, byte_model):
    found, answer = says(monkeypatch, *byte_model, " Ein Bär ☆! ")
    assert "".join(found) == answer.text == "Ein Bär ☆!"
    assert not any("\ufffd" in piece for piece in found)
    assert max(map(len, found)) <= 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("abc STOP def", "abc"), ("abSTOSTOPx", "abSTO"), ("abcSTO", "abcSTO"), ("STOP", "")],
)
def test_a_stop_text_is_never_shown(monkeypatch, byte_model, text, expected):
    found, answer = says(monkeypatch, *byte_model, text, ["STOP", "zzz"])
    assert "".join(found) == answer.text == expected
    assert answer.reason == ("stop" if "STOP" in text else "length")


def test_what_changes_afterwards_is_said_again(monkeypatch, config, model):  # noqa: F811
    settled = iter(["one", "one two", "ONE two"])
    said = lambda self, ids: next(settled, "ONE two three")  # noqa: E731
    monkeypatch.setattr(type(model.tokenizer), "continuation", said, raising=True)
    found, answer = says(monkeypatch, config, model, "Rain falls from")
    assert found == ["one", " two", "\nONE two three"]
    assert answer.text == "ONE two three"
