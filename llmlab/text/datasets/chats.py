"""Chats of one prompt and one answer: what tuning reads."""

from pathlib import Path

from llmlab.errors import ConfigError, DataError
from llmlab.registry import Spec
from llmlab.text.datasets.base import DATASETS
from llmlab.text.datasets.samples import Samples
from llmlab.text.files import InvalidUtf8
from llmlab.text.paths import absolute
from llmlab.text.reading import read_texts
from llmlab.text.templates import TEMPLATES, Template, without_end_marker
from llmlab.text.tokenizers import Tokenizer


@DATASETS.register("chats")
def chats(
    path: str | Path,
    tokenizer: Tokenizer,
    max_seq_len: int,
    template: Template | Spec = "user_assistant",
    answer_only: bool = False,
    long_lines: str = "split",
    shuffle: bool = True,
    val_fraction: float = 0.0,
    invalid_utf8: InvalidUtf8 = "error",
) -> Samples:
    """Return each chat of a file as a sample: prompt, answer and the end token.

    With `answer_only` the targets before the answer's first token weigh nothing. The pairs of
    prompt and answer stay at hand as `.pairs`. See `Samples` and `read_texts` for the other
    options and the errors.
    """
    if not isinstance(answer_only, bool):
        raise ConfigError(f"answer_only={answer_only!r}: expected true or false")
    form: Template = (
        template if isinstance(template, Template) else TEMPLATES.build(template, "template")
    )
    texts, pairs = [], []
    unknown: dict[str, None] = {}
    for text, number in read_texts(path, invalid_utf8):
        try:
            prompt, answer = form.parse(text)
        except DataError as error:
            raise DataError(f"{absolute(path)}:{number}: {error}") from None
        before, after = form.encode(tokenizer, prompt, answer)
        ids = before + after
        texts.append((ids, [0.0 if answer_only else 1.0] * len(before) + [1.0] * len(after)))
        pairs.append((prompt, answer))
        if tokenizer.unknown_id in ids:
            unknown |= dict.fromkeys(tokenizer.unknown_words(without_end_marker(text)))
    return Samples(
        texts,
        source=absolute(path),
        max_seq_len=max_seq_len,
        long_lines=long_lines,
        shuffle=shuffle,
        val_fraction=val_fraction,
        pairs=pairs,
        unknown_id=tokenizer.unknown_id,
        unknown_words=list(unknown),
    )
