"""A tokenizer's vocabulary out of files."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from llmlab.registry import Spec
from llmlab.text.files import InvalidUtf8, TextFile
from llmlab.text.paths import expand
from llmlab.text.reading import LISTS, read_chats
from llmlab.text.templates import TEMPLATES, Template, without_end_marker
from llmlab.text.tokenizers import TOKENIZERS, Tokenizer


def corpus_texts(
    paths: Iterable[str | Path],
    invalid_utf8: InvalidUtf8 = "error",
    notices: bool = True,
    template: Template | None = None,
    lossless: bool = False,
    limit: int | None = None,
) -> Iterator[str]:
    """Return the texts of all files, each without a final `</s>`.

    Arguments and errors are those of `read_texts` and `expand`; besides, chats in the form of
    `messages` are written by `template` (without one: as RustGPT does). If `lossless`, plain
    text comes in blocks with its line ends, since these are characters to know, too. Of files
    of more than `limit` bytes every second, third, ... text or block is taken.
    """
    form = template or TEMPLATES.build("user_assistant", "template")
    files = list(dict.fromkeys(chain.from_iterable(map(expand, paths))))
    size = sum(path.stat().st_size for path in files if path.is_file())
    every = 1 if limit is None else -(-size // limit) or 1
    texts = chain.from_iterable(
        _texts(path, invalid_utf8, notices, form, lossless) for path in files
    )
    return islice(texts, 0, None, every)


def _texts(
    path: Path, invalid_utf8: InvalidUtf8, notices: bool, form: Template, lossless: bool
) -> Iterator[str]:
    source = TextFile(path, invalid_utf8)
    if lossless and source.suffix not in LISTS:
        yield from source.blocks()
        if notices:
            source.notify()
        return
    for entry, _ in read_chats(path, invalid_utf8, notices):
        if isinstance(entry, str):
            yield without_end_marker(entry)
        else:
            yield from (fragment.text for fragment in form.fragments(entry) if not fragment.special)


def train_tokenizer(
    spec: Spec,
    paths: Iterable[str | Path],
    where: str = "tokenizer",
    invalid_utf8: InvalidUtf8 = "error",
    notices: bool = False,
    template: Template | Spec | None = None,
) -> Tokenizer:
    """Return the tokenizer of `spec` (without its corpus), trained on the texts of `paths`.

    Silent on what the files hold by default, since datasets read the same ones. With a
    `template` the vocabulary has its special tokens and the names of its roles.
    """
    form: Template | None = (
        template
        if isinstance(template, Template) or template is None
        else TEMPLATES.build(template, "template")
    )
    specials = () if form is None else form.specials
    untrained: Tokenizer = TOKENIZERS.build(spec, where, specials=specials)
    roles = [form.vocabulary] if form is not None and form.vocabulary else []
    limit = untrained.corpus_bytes
    texts = corpus_texts(paths, invalid_utf8, notices, form, untrained.lossless, limit)
    return untrained.train(chain(roles, texts))
