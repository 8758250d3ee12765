"""Each text of a file as a sample: what pre-training reads."""

from pathlib import Path

from llmlab.text.datasets.base import DATASETS
from llmlab.text.datasets.samples import Samples
from llmlab.text.files import InvalidUtf8
from llmlab.text.paths import absolute
from llmlab.text.reading import read_texts
from llmlab.text.templates import without_end_marker
from llmlab.text.tokenizers import Tokenizer


@DATASETS.register("lines")
def lines(
    path: str | Path,
    tokenizer: Tokenizer,
    max_seq_len: int,
    long_lines: str = "split",
    shuffle: bool = True,
    val_fraction: float = 0.0,
    invalid_utf8: InvalidUtf8 = "error",
) -> Samples:
    """Return each text of a file as a sample that ends with the end token.

    A final `</s>` in the file is not text. See `Samples` and `read_texts` for the options and
    the errors.
    """
    texts = []
    unknown: dict[str, None] = {}
    for text, _ in read_texts(path, invalid_utf8):
        text = without_end_marker(text)
        ids = [*tokenizer.encode(text), tokenizer.end_id]
        texts.append((ids, [1.0] * len(ids)))
        if tokenizer.unknown_id in ids:
            unknown |= dict.fromkeys(tokenizer.unknown_words(text))
    return Samples(
        texts,
        source=absolute(path),
        max_seq_len=max_seq_len,
        long_lines=long_lines,
        shuffle=shuffle,
        val_fraction=val_fraction,
        unknown_id=tokenizer.unknown_id,
        unknown_words=list(unknown),
    )
