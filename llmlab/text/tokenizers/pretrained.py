"""A tokenizer that somebody else has trained."""

import json
from collections.abc import Sequence
from pathlib import Path

from llmlab.errors import CheckpointError, DataError
from llmlab.regular_file import read_regular
from llmlab.text.foreign_tokenizer import MAX_FILE
from llmlab.text.paths import absolute
from llmlab.text.tokenizers.base import TOKENIZERS
from llmlab.text.tokenizers.bpe import BpeTokenizer


@TOKENIZERS.register("pretrained")
def pretrained(
    path: str | Path, end: str | None = None, specials: Sequence[str] = ()
) -> BpeTokenizer:
    """Load any tokenizer.json, which training leaves as it is; `corpus` can be empty.

    Parameters
    ----------
    path
        The file. Its content goes into the checkpoints, so that it is needed only once.
    end
        The special token that ends a text; None: the first of the usual names.
    specials
        Special tokens to add where they are missing.
    """
    file = absolute(path)
    try:
        content = json.loads(read_regular(file, MAX_FILE).decode("utf-8"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not a tokenizer.json: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise DataError(f"{file}: not a tokenizer.json: it has no 'model'")
    try:
        return BpeTokenizer(specials=specials, json=content, end=end)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
