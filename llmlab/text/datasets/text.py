"""Plain text of any size as windows of tokens."""

from llmlab.errors import ConfigError
from llmlab.text.datasets.base import DATASETS
from llmlab.text.datasets.options import flag_problems
from llmlab.text.datasets.windows import Windows
from llmlab.text.files import InvalidUtf8
from llmlab.text.paths import Paths, absolute, expand, named
from llmlab.text.token_cache import tokenise
from llmlab.text.tokenizers import Tokenizer


@DATASETS.register("text")
def text(
    path: Paths,
    tokenizer: Tokenizer,
    max_seq_len: int,
    windows: str = "random",
    val_fraction: float = 0.1,
    stride: int | None = None,
    isolate: bool = False,
    cache: str | None = None,
    cache_gb: float = 10.0,
    invalid_utf8: InvalidUtf8 = "error",
) -> Windows:
    """Return windows of the text of a file, a folder of `.txt` files or a glob, also gzip.

    The text is turned into tokens once and kept on the disk, so that it may be larger than
    memory. Several files are documents, with the end token after each; with `isolate` attention
    doesn't reach from one into the next. See `Windows` for windows, val_fraction and stride,
    `tokenise` for the form of the files, `cache` and `cache_gb`, and both for the errors.
    """
    problems = flag_problems(isolate=isolate)
    if isinstance(cache_gb, bool) or not isinstance(cache_gb, int | float) or not cache_gb >= 0:
        problems.append(f"cache_gb={cache_gb!r}: expected a number from 0")
    if problems:
        raise ConfigError(problems)
    folder = None if cache is None else absolute(cache)
    shards, key = tokenise(expand(path), tokenizer, invalid_utf8, folder, cache_gb)
    return Windows(
        shards,
        named(path),
        key,
        tokenizer.vocab_size,
        max_seq_len,
        windows,
        val_fraction,
        stride,
        tokenizer.end_id if isolate else None,
    )
