"""Text files turned into token ids once, and found again by their content."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from llmlab.errors import DataError
from llmlab.text.files import InvalidUtf8, TextFile
from llmlab.text.paths import absolute
from llmlab.text.reading import LISTS, source_texts
from llmlab.text.shards import Shards, ShardWriter, check_ids, open_shards
from llmlab.text.tokenizers import Tokenizer

logger = logging.getLogger("llmlab")

_FORMAT = 3  # raised whenever the same text would give other ids
_PATIENCE = 1.0  # seconds before a progress bar appears


def default_cache() -> Path:
    """Return the folder for token ids: `llmlab/tokens` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return absolute(base) / "llmlab" / "tokens"


def tokenise(
    files: list[Path],
    tokenizer: Tokenizer,
    invalid_utf8: InvalidUtf8 = "error",
    cache: Path | None = None,
) -> tuple[Shards, str]:
    """Return the token ids of text files, and a hash of text and tokenizer.

    A plain file is one document; so is each text of a file that lists texts (`.jsonl` and the
    like, see `read_texts`). After each document comes the end token, but not after a text that
    is all there is. The ids lie in `cache`, in a folder named after the contents, so that the
    work is done once; the memory that it takes doesn't grow with the files.

    Raises
    ------
    DataError
        As `read_texts`; or an id is outside the vocabulary.
    ResourceError
        The cache can't be written.
    """
    key = _key(files, tokenizer, invalid_utf8)
    folder = (cache or default_cache()) / key[:32]
    shards = open_shards(folder)
    if shards is None:
        if folder.exists():
            logger.warning("%s: damaged, so the text is tokenised again", folder)
            shutil.rmtree(folder, ignore_errors=True)
        _write(folder, files, tokenizer, invalid_utf8)
        shards = open_shards(folder)
        if shards is None:
            raise DataError(f"{folder}: damaged as soon as it was written; remove it, try again")
    for path, counts in zip(files, shards.about["notices"], strict=True):
        source = TextFile(path, invalid_utf8)
        source.counts.update(counts)
        source.notify()
    return shards, key


def _key(files: list[Path], tokenizer: Tokenizer, invalid_utf8: InvalidUtf8) -> str:
    with _bar("hash", files) as bar:
        contents = []
        for path in files:
            source = TextFile(path, invalid_utf8, bar.update)
            kind = source.suffix if source.suffix in LISTS else ""
            contents.append([kind, source.zipped, source.sha256()])
    whole = [_FORMAT, tokenizer.sha256(), invalid_utf8, contents]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _write(
    folder: Path, files: list[Path], tokenizer: Tokenizer, invalid_utf8: InvalidUtf8
) -> None:
    size = tokenizer.vocab_size
    alone = len(files) == 1 and TextFile(files[0]).suffix not in LISTS
    end = np.array([] if alone else [tokenizer.end_id], dtype=np.int32)
    unknown = 0
    notices = []
    kind = np.uint16 if size <= 2**16 else np.uint32
    with ShardWriter(folder, kind) as writer, _bar("tokenise", files) as bar:
        for path in files:
            source = TextFile(path, invalid_utf8, bar.update)
            for ids in _documents(source, tokenizer):
                if ids is None:
                    if writer.total:
                        writer.append(end)
                        writer.end_document()
                    continue
                check_ids(ids, size, path, writer.total)
                unknown += int(np.count_nonzero(ids == tokenizer.unknown_id))
                writer.append(ids)
            notices.append({kind: n for kind, n in source.counts.items() if n})
        writer.finish({"unknown": unknown, "notices": notices})


def _documents(source: TextFile, tokenizer: Tokenizer) -> Iterator[NDArray[np.int32] | None]:
    """Yield ids, and None at the end of each document."""
    if source.suffix in LISTS:
        for text, _ in source_texts(source):
            yield tokenizer.encode_array(text)
            yield None
        return
    yield from tokenizer.encode_blocks(source.blocks())
    yield None


def _bar(what: str, files: list[Path]) -> "tqdm[Any]":
    packed = any(path.suffix.lower() == ".gz" for path in files)
    try:
        total = None if packed else sum(path.stat().st_size for path in files)
    except OSError:  # who opens the file says what is wrong
        total = None
    tqdm.monitor_interval = 0  # its thread would make later forks unsafe
    return tqdm(
        total=total,
        desc=what,
        unit="B",
        unit_scale=True,
        disable=None,
        delay=_PATIENCE,
        leave=False,
        dynamic_ncols=True,
    )
