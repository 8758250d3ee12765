"""A tokenizer's vocabulary out of files."""

from collections.abc import Iterable, Iterator
from itertools import chain
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
) -> Iterator[str]:
    """Yield the texts of all files, each without a final `</s>`.

    Arguments and errors are those of `read_texts` and `expand`; besides, chats in the form of
    `messages` are written by `template` (without one: as RustGPT does). If `lossless`, plain
    text comes in blocks with its line ends, since these are characters to know, too.
    """
    form = template or TEMPLATES.build("user_assistant", "template")
    for path in dict.fromkeys(chain.from_iterable(map(expand, paths))):
        source = TextFile(path, invalid_utf8)
        if lossless and source.suffix not in LISTS:
            yield from source.blocks()
            if notices:
                source.notify()
            continue
        for entry, _ in read_chats(path, invalid_utf8, notices):
            if isinstance(entry, str):
                yield without_end_marker(entry)
            else:
                yield from (piece.text for piece in form.pieces(entry) if not piece.special)


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
    texts = corpus_texts(paths, invalid_utf8, notices, form, untrained.lossless)
    return untrained.train(chain(roles, texts))
