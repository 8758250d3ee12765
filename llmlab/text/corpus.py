"""A tokenizer's vocabulary out of files."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from llmlab.registry import Spec
from llmlab.text.chat import without_end_marker
from llmlab.text.reading import InvalidUtf8, read_texts
from llmlab.text.tokenizers import TOKENIZERS, Tokenizer


def corpus_texts(
    paths: Iterable[str | Path], invalid_utf8: InvalidUtf8 = "error", notices: bool = True
) -> Iterator[str]:
    """Yield the texts of all files, each without a final `</s>`.

    Arguments and errors are those of `read_texts`.
    """
    for path in dict.fromkeys(paths):
        for text, _ in read_texts(path, invalid_utf8, notices):
            yield without_end_marker(text)


def train_tokenizer(
    spec: Spec,
    paths: Iterable[str | Path],
    where: str = "tokenizer",
    invalid_utf8: InvalidUtf8 = "error",
    notices: bool = False,
) -> Tokenizer:
    """Return the tokenizer of `spec` (without its corpus), trained on the texts of `paths`.

    Silent on what the files hold by default, since datasets read the same ones.
    """
    untrained: Tokenizer = TOKENIZERS.build(spec, where)
    return untrained.train(corpus_texts(paths, invalid_utf8, notices))
