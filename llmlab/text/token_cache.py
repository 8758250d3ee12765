"""Text files turned into token ids once, and found again by their content."""

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from llmlab.errors import DataError
from llmlab.text.files import InvalidUtf8, TextFile
from llmlab.text.paths import absolute
from llmlab.text.reading import LISTS, source_texts
from llmlab.text.shard_writer import ShardWriter
from llmlab.text.shards import Shards, check_ids, open_shards
from llmlab.text.tokenizers import Tokenizer

logger = logging.getLogger("llmlab")

# Raised whenever the same text would give other ids, or the files another form.
_FORMAT = 3
_GB = 10**9
_TRIES = 3  # another process may prune a folder before it is opened
_NAME = re.compile("[0-9a-f]{32}")
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
    cache_gb: float = 10.0,
) -> tuple[Shards, str]:
    """Return the token ids of text files, and a hash of text and tokenizer.

    A plain file is one document; so is each text of a file that lists texts (`.jsonl` and the
    like, see `read_texts`). After each document comes the end token, but not after a text that
    is all there is. The ids lie in `cache`, in a folder named after the contents, so that the
    work is done once; the memory that it takes doesn't grow with the files. What is damaged there
    is made anew. When something is added, what wasn't used for the longest time goes, until the
    folder holds at most `cache_gb` (10⁹ bytes) besides what was just written.
    """
    key = _key(files, tokenizer, invalid_utf8)
    folder = (cache or default_cache()) / key[:32]
    shards = open_shards(folder)
    if shards is None and os.path.lexists(folder):
        logger.warning("%s: damaged, so the text is tokenised again", folder)
        _discard(folder)
    tries = 0
    while shards is None and tries < _TRIES:
        tries += 1
        _write(folder, files, tokenizer, invalid_utf8)
        shards = open_shards(folder)
        prune(folder.parent, cache_gb * _GB, keep=folder)
    if shards is None:
        raise DataError(f"{folder}: damaged as soon as it was written; remove it, try again")
    for path, counts in zip(files, shards.about["notices"], strict=True):
        source = TextFile(path, invalid_utf8)
        source.counts.update(counts)
        source.notify()
    return shards, key


def prune(cache: Path, limit: float, keep: Path | None = None) -> None:
    """Remove the folders of `cache` that were used the longest time ago, to hold `limit` bytes.

    `keep` stays. A run that has mapped what is removed goes on with it unharmed.
    """
    known = []
    for folder in cache.iterdir():
        if _NAME.fullmatch(folder.name):
            with suppress(OSError):  # somebody else is removing it
                size = sum(path.stat().st_size for path in folder.iterdir())
                known.append((folder.stat().st_mtime, size, folder))
    total = sum(size for _, size, _ in known)
    for _, size, folder in sorted(known):
        if total <= limit:
            return
        if folder != keep:
            _discard(folder)
            total -= size


def _discard(folder: Path) -> None:
    """Remove a folder of token ids: at once for others, who would else find it half empty."""
    hidden = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    with suppress(OSError):
        folder.rename(hidden)
        if hidden.is_symlink() or not hidden.is_dir():
            hidden.unlink()
        shutil.rmtree(hidden, ignore_errors=True)


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
