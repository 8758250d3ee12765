"""Chat templates in Jinja, rendered by a process beside this one."""

import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmlab.errors import CheckpointError, DataError, MissingPackage
from llmlab.text import jinja_process


class Renderer:
    """Render chats with a template that nobody has checked.

    `tokens` are its variables `bos_token`, `eos_token` and the like; `day` is what `strftime_now`
    says, None where there is no such function.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], day: str | None):
        self._first = {"source": source, "tokens": dict(tokens), "date": day}
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, messages: Sequence[Mapping[str, str]], reply: bool) -> str:
        """Return a chat as text; DataError if the template itself refuses this chat."""
        if self._process is None:
            self._process = self._start()
            self._ask(self._first)
        answer = self._ask({"messages": messages, "reply": reply})
        if "refused" in answer:
            raise DataError(f"the chat template refuses this chat: {_short(answer['refused'])}")
        return answer["text"]

    def _start(self) -> "subprocess.Popen[bytes]":
        if find_spec("jinja2") is None:
            what, instead = "this model's chat template", "choose another: template=chatml"
            raise MissingPackage(what, "jinja2", "hf", instead)
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(jinja_process.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process alone
        )
        weakref.finalize(self, _end, process)
        return process

    def _ask(self, request: Mapping[str, Any]) -> dict[str, str]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            self._process = None
            late = process.wait() == -signal.SIGPROF
            limit = (
                f"{jinja_process.SECONDS} s"
                if late
                else f"{jinja_process.MEMORY >> 20} MiB of memory"
            )
            raise CheckpointError(f"the chat template takes more than {limit}") from None
        if "broken" in answer:
            raise CheckpointError(f"the chat template: {_short(answer['broken'])}")
        return answer


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:197]}..."
