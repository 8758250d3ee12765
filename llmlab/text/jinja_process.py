"""Render a chat template that nobody has checked: a process of its own, sandboxed and bounded.

Run as a script, it reads JSON lines: first `{"source", "tokens", "date"}`, then a chat on each,
`{"messages", "reply"}`. It answers each line with `{"text"}`, or with `{"refused"}` (the template
says so itself) or `{"broken"}`. A template that uses up its time or memory ends the process.
"""

import json
import resource
import signal
import sys
from datetime import date
from typing import Any

SECONDS = 5  # of processor time for each line
MEMORY = 2**29  # bytes of address space
OUTPUT = 2**22  # characters of a chat


def compiled(source: str, tokens: dict[str, str], day: str | None) -> Any:
    """Return a function that renders messages as transformers does."""
    import jinja2.ext
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what the model writes; it is rendered like all else."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def refuse(message: object) -> None:
        raise Refused(str(message))

    class Refused(TemplateError):
        """What `raise_exception` raises."""

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    extensions = [Generation, jinja2.ext.loopcontrols]
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=extensions
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    if day is not None:
        environment.globals["strftime_now"] = date.fromisoformat(day).strftime
    template = environment.from_string(source)

    def render(messages: list[dict[str, str]], reply: bool) -> dict[str, str]:
        try:
            text = template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=reply, **tokens
            )
        except Refused as error:
            return {"refused": str(error)}
        if len(text) > OUTPUT:
            return {"broken": f"more than {OUTPUT:,} characters come out of one chat"}
        return {"text": text}

    return render


def main() -> None:
    """Answer each line of standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    render = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # What goes on for longer is ended by the signal.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            if render is None:
                render = compiled(request["source"], request["tokens"], request["date"])
                answer = {}
            else:
                answer = render(request["messages"], request["reply"])
        except MemoryError:
            raise
        except Exception as error:  # whatever a template can do wrong
            answer = {"broken": f"{type(error).__name__}: {error}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()
        if render is None:
            return


if __name__ == "__main__":
    main()
