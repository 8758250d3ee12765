"""Chats: what tuning reads."""

from collections.abc import Iterator
from pathlib import Path

from llmlab.errors import ConfigError, DataError
from llmlab.registry import Spec
from llmlab.text.datasets.base import DATASETS
from llmlab.text.datasets.samples import Samples, Text
from llmlab.text.files import InvalidUtf8
from llmlab.text.json_texts import Entry
from llmlab.text.paths import Paths, expand, named
from llmlab.text.reading import read_chats
from llmlab.text.templates import TEMPLATES, Message, Template
from llmlab.text.tokenizers import Tokenizer


@DATASETS.register("chats")
def chats(
    path: Paths,
    tokenizer: Tokenizer,
    max_seq_len: int,
    template: Template | Spec = "user_assistant",
    answer_only: bool = False,
    long_lines: str = "split",
    shuffle: bool = True,
    val_fraction: float = 0.0,
    packed: bool = False,
    invalid_utf8: InvalidUtf8 = "error",
) -> Samples:
    """Return each chat of a file as a sample, as the template writes it.

    A chat is a string `User: ... Assistant: ...`, or an object with `messages`; see
    `read_chats`. With `answer_only` only what the assistant writes counts as a target. The
    messages stay at hand as `.chats`. See `Samples` and `read_texts` for the other options and
    the errors.
    """
    if not isinstance(answer_only, bool):
        raise ConfigError(f"answer_only={answer_only!r}: expected true or false")
    form: Template = (
        template if isinstance(template, Template) else TEMPLATES.build(template, "template")
    )
    found: list[list[Message]] = []
    unknown: dict[str, None] = {}

    def texts() -> Iterator[Text]:
        for file in expand(path):
            for entry, number in read_chats(file, invalid_utf8):
                messages = _messages(entry, form, file, number)
                ids, answers = form.encode_messages(tokenizer, messages)
                found.append(messages)
                if tokenizer.unknown_id in ids:
                    for fragment in form.fragments(messages):
                        if fragment.special:
                            continue  # its text is a name
                        unknown.update(dict.fromkeys(tokenizer.unknown_words(fragment.text)))
                yield ids, list(map(float, answers)) if answer_only else [1.0] * len(ids)

    return Samples(
        texts(),
        source=named(path),
        max_seq_len=max_seq_len,
        long_lines=long_lines,
        shuffle=shuffle,
        val_fraction=val_fraction,
        packed=packed,
        chats=found,
        tokenizer=tokenizer,
        unknown_words=unknown,
    )


def _messages(entry: Entry, form: Template, file: Path, number: int) -> list[Message]:
    if not isinstance(entry, str):
        return entry
    try:
        prompt, answer = form.parse(entry)
    except DataError as error:
        raise DataError(f"{file}:{number}: {error}") from None
    return [Message("user", prompt), Message("assistant", answer)]
