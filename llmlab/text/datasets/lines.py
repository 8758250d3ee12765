"""Each text of a file as a sample: what pre-training reads."""

from collections.abc import Iterator

from llmlab.text.datasets.base import DATASETS
from llmlab.text.datasets.samples import Samples, Text
from llmlab.text.files import InvalidUtf8
from llmlab.text.paths import Paths, expand, named
from llmlab.text.reading import read_texts
from llmlab.text.templates import without_end_marker
from llmlab.text.tokenizers import Tokenizer


@DATASETS.register("lines")
def lines(
    path: Paths,
    tokenizer: Tokenizer,
    max_seq_len: int,
    long_lines: str = "split",
    shuffle: bool = True,
    val_fraction: float = 0.0,
    packed: bool = False,
    invalid_utf8: InvalidUtf8 = "error",
) -> Samples:
    """Return each text of a file as a sample that ends with the end token.

    `path` may also be a folder of `.txt` files, a glob, or a list of them. A final `</s>` in
    the file is not text. See `Samples` and `read_texts` for the options and the errors.
    """
    unknown: dict[str, None] = {}

    def texts() -> Iterator[Text]:
        for file in expand(path):
            for text, _ in read_texts(file, invalid_utf8):
                text = without_end_marker(text)
                ids = [*tokenizer.encode(text), tokenizer.end_id]
                if tokenizer.unknown_id in ids:
                    unknown.update(dict.fromkeys(tokenizer.unknown_words(text)))
                yield ids, [1.0] * len(ids)

    return Samples(
        texts(),
        source=named(path),
        max_seq_len=max_seq_len,
        long_lines=long_lines,
        shuffle=shuffle,
        val_fraction=val_fraction,
        packed=packed,
        tokenizer=tokenizer,
        unknown_words=unknown,
    )
