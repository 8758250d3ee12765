"""A tokenizer.json of unknown origin: what it may do to the process that uses it.

The library runs the patterns and replacements in it. A pattern can take time without end, a
replacement memory without end, and what the library does then ends the process. So a file that
has any of these is tried out first, in a process of its own with bounds.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import ceil
from typing import Any

from llmlab.errors import CheckpointError

MAX_FILE = 256 * 2**20  # bytes; the largest tokenizer.json in use is a tenth of it
_SECONDS = 20
_FINE = 7  # an exit code that no accident has
_MEMORY = 3 * 2**30  # bytes of address space
_MOST_GROWTH = 64  # bytes for one of the text; the worst letter of Unicode's forms needs 11
_ADVICE = "take a tokenizer from somebody whom you trust"
_TRIAL = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, ValueError, OSError):
    pass
import tokenizers
try:
    fast = tokenizers.Tokenizer.from_str(sys.stdin.buffer.read().decode())
except MemoryError:
    raise
except Exception:
    sys.exit(FINE)  # a refusal in words, which our own process hears again
fast.no_padding()
fast.no_truncation()
# Patterns that go back and forth do so on repeated characters before one that doesn't fit.
letters = "aA0 .x_-=/\\n\\t\\u00e9\\u6f22"
texts = [c * n + end for c in letters for n in (30, 2000) for end in ("!", "\\x00", "a", "\\n")]
texts += ["ab " * 3000, "a1" * 2000 + "!", " ".join(letters * 200)]
for text in texts:
    for whole in (True, False):
        fast.encode_special_tokens = whole
        ids = fast.encode(text, add_special_tokens=False).ids
        if len(ids) > 4 * len(text.encode()) + 64:
            sys.exit(3)
        fast.decode(ids[:4000], skip_special_tokens=False)
sys.exit(FINE)
"""


def is_plain(content: Mapping[str, Any]) -> bool:
    """Tell whether a tokenizer has no patterns and no replacements of its own."""
    parts = [content.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]
    kinds = [part.get("type") if isinstance(part, Mapping) else part for part in parts]
    model = content.get("model")
    return (
        kinds[0] is None
        and all(kind in (None, "ByteLevel") for kind in kinds[1:])
        and isinstance(model, Mapping)
        and model.get("type") == "BPE"
    )


def try_out(content: Mapping[str, Any], text: str) -> None:
    """Raise `CheckpointError` unless the tokenizer works within bounds of time and memory."""
    growth = _growth(content.get("normalizer")) * max(1, _growth(content.get("decoder")))
    if growth > _MOST_GROWTH:
        raise CheckpointError(
            f"json: its replacements make a text up to {growth:,.0f} times as long, and "
            f"{_MOST_GROWTH} is the most that is allowed; {_ADVICE}"
        )
    if not sys.executable:
        return
    bounds = f"MEMORY, SECONDS, FINE = {_MEMORY}, {ceil(_SECONDS)}, {_FINE}"
    command = [sys.executable, "-P", "-c", f"{bounds}\n{_TRIAL}"]
    try:
        # What the library prints when it fails is of no use to a reader.
        done = subprocess.run(
            command,
            input=text.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=2 * _SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"json: encoding a short text took more than {_SECONDS} s; {_ADVICE}"
        ) from None
    if done.returncode == 3:
        raise CheckpointError(f"json: it makes far more ids than a text has bytes; {_ADVICE}")
    if done.returncode != _FINE:
        reason = "took too much time or memory, or broke down"
        raise CheckpointError(f"json: encoding a short text {reason}; {_ADVICE}")


def _growth(part: Any) -> float:
    """Return how many bytes the replacements of a part can make out of one."""
    if isinstance(part, list):
        factor = 1.0
        for each in part:
            factor *= _growth(each)
        return factor
    if not isinstance(part, Mapping):
        return 1.0
    inner = 1.0
    for key in ("normalizers", "decoders", "pretokenizers"):
        inner *= _growth(part.get(key, []))
    if part.get("type") != "Replace":
        return inner
    pattern, content = part.get("pattern"), part.get("content")
    if not isinstance(content, str) or not isinstance(pattern, Mapping):
        return inner
    literal = pattern.get("String")
    size = len(literal.encode("utf-8", "replace")) if isinstance(literal, str) else 0
    written = len(content.encode("utf-8", "replace"))
    # A pattern may match nothing, between any two bytes.
    return max(1.0, written / size if size else 1 + written)


@contextmanager
def guarded(plain: bool) -> Iterator[None]:
    """Turn a breakdown of the library into one line; a `plain` tokenizer has none."""
    if plain:
        yield
        return
    with _silent():
        try:
            yield
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            reason = str(error).split("\n")[0]
            raise CheckpointError(
                f"the tokenizer broke down on this text: {reason}; {_ADVICE}"
            ) from None


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what the library itself writes to standard error from the terminal."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
