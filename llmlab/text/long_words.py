"""Words of no language, which would hold up the training of merges."""

import logging
import re
from collections.abc import Iterable, Iterator

logger = logging.getLogger("llmlab")

LONGEST = 1_000  # characters; merging within a word takes time with the square of its length
_LONG = re.compile(rf"\S{{{LONGEST + 1}}}|\s{{{LONGEST + 1}}}")
_PART = re.compile(rf"\S{{{LONGEST}}}|\s{{{LONGEST}}}")


def cut_long_words(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, those with a longer word (or blank) in several; say so at the end."""
    cut = 0
    for text in texts:
        if len(text) <= LONGEST or not _LONG.search(text):
            yield text
            continue
        begin = 0
        for part in _PART.finditer(text):
            yield text[begin : part.end()]
            begin = part.end()
            cut += 1
        yield text[begin:]
    if cut:
        logger.warning(
            "the tokenizer's corpus has words of more than %d characters: cut at %d places to "
            "learn from, and nowhere else",
            LONGEST,
            cut,
        )
