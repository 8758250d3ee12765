"""tokenizer.json as a tokenizer of llmlab's."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmlab.errors import CheckpointError, ConfigError, ResourceError
from llmlab.exchange.files import read_object
from llmlab.text import TOKENIZERS, Tokenizer

log = logging.getLogger("llmlab")

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"


def read_tokenizer(folder: Path, vocab_size: int, end_ids: Any) -> Tokenizer:
    """Return the tokenizer of a folder, with as many ids as the network has.

    Parameters
    ----------
    vocab_size
        Rows of the token embedding. Where the tokenizer has fewer ids, `<|extra_N|>` fill them up.
    end_ids
        `eos_token_id` of config.json, for a folder whose tokenizer doesn't say what ends a text.

    Raises
    ------
    CheckpointError
        There is no tokenizer.json, it is damaged, or has too many ids.
    ResourceError
        The library `tokenizers` isn't installed.
    """
    path = folder / FILE
    if not path.exists():
        raise CheckpointError(
            f"{folder}: no {FILE} in it; write one with transformers: "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    content = read_object(path)
    if not isinstance(content.get("model"), dict):
        raise CheckpointError(f"{path}: not a tokenizer.json: it has no 'model'")
    # They cut and fill up batches for other programs; llmlab has its own ways.
    content |= {"truncation": None, "padding": None}
    end = _end(folder, content, end_ids)
    tokenizer = _build(path, content, end)
    missing = vocab_size - tokenizer.vocab_size
    if missing < 0:
        raise CheckpointError(
            f"{path}: {tokenizer.vocab_size} ids, and the token embedding has {vocab_size} rows"
        )
    if missing:
        log.info("%d rows of the embedding have no token; they are called <|extra_N|>", missing)
        first = tokenizer.vocab_size
        extra = [f"<|extra_{first + n}|>" for n in range(missing)]
        tokenizer = _build(path, content, end, extra)
        if tokenizer.vocab_size != vocab_size:
            raise CheckpointError(f"{path}: its ids have gaps, so that they can't be filled up")
    added = _put_before(content)
    if added:
        log.warning(
            "%s puts %s before each text; llmlab does so only where a template says it",
            FILE,
            " ".join(added),
        )
    return tokenizer


def _build(
    path: Path, content: Mapping[str, Any], end: str | None, extra: Sequence[str] = ()
) -> Tokenizer:
    specials = [*extra] if end is None else [end, *extra]
    spec = {"type": "bpe", "json": dict(content), "end": end, "specials": specials}
    try:
        return TOKENIZERS.build(spec, FILE)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {'; '.join(error.problems).splitlines()[0]}") from error
    except ResourceError:
        raise ResourceError(
            "phase=import needs the package 'tokenizers': pip install 'llmlab[hf]'"
        ) from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: {type(error).__name__} {error}") from error


def _end(folder: Path, content: Mapping[str, Any], end_ids: Any) -> str | None:
    """Return the token that ends a text, as the folder says; None if it doesn't."""
    if (folder / SETTINGS).exists():
        said = read_object(folder / SETTINGS).get("eos_token")
        said = said.get("content") if isinstance(said, dict) else said
        if isinstance(said, str) and said:
            return said
    wanted = end_ids[:1] if isinstance(end_ids, list) else [end_ids]
    added = content.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and token.get("id") in wanted:
            name = token.get("content")
            return name if isinstance(name, str) else None
    return None


def _put_before(content: Mapping[str, Any]) -> list[str]:
    """Return the special tokens that the tokenizer would put before a text."""
    processor = content.get("post_processor") or {}  # sound: the library has read it
    found = []
    for part in processor.get("processors", [processor]):
        for item in part.get("single", []):
            if "SpecialToken" not in item:
                break
            found.append(str(item["SpecialToken"]["id"]))
    return found
