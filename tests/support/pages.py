"""The pages of the documentation, and the commands and code in them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands(page):
    """Return the arguments of each `python -m llmlab` in a page's shell blocks."""
    found = []
    for language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language not in ("bash", "sh"):
            continue
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "python" in words:
                words = words[words.index("python") + 1 :]
                if words[:2] == ["-m", "llmlab"]:
                    ends = [words.index(end) for end in ("&&", "|", ";", ">") if end in words]
                    found.append(words[2 : min(ends, default=None)])
    return found
