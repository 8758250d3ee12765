"""tokenizer.json as a tokenizer of llmlab's."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmlab.errors import CheckpointError, ConfigError, MissingPackage
from llmlab.exchange.chat_template import named_tokens
from llmlab.exchange.files import read_object
from llmlab.text import TOKENIZERS, Tokenizer

log = logging.getLogger("llmlab")

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_SPACED = ("GPT2Tokenizer", "GPT2TokenizerFast")  # the classes whose settings beat tokenizer.json


def read_settings(folder: Path) -> dict[str, Any]:
    """Return tokenizer_config.json, with what only special_tokens_map.json says."""
    found: dict[str, Any] = {}
    for name in (SPECIAL, SETTINGS):
        if (folder / name).exists():
            said = read_object(folder / name)
            found |= {key: value for key, value in said.items() if value is not None}
    return found


def read_tokenizer(folder: Path, vocab_size: int, end_ids: Sequence[int]) -> Tokenizer:
    """Return the tokenizer of a folder, with as many ids as the network has.

    Parameters
    ----------
    vocab_size
        Rows of the token embedding. Where the tokenizer has fewer ids, `<|extra_N|>` fill them up.
    end_ids
        `eos_token_id` of config.json and generation_config.json: all end an answer, and the first
        ends a text if the tokenizer's files don't say what does.
    """
    path, settings = folder / FILE, read_settings(folder)
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
    try:
        _complete(content, folder, settings)
        named = _named(content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: {type(error).__name__} {error}") from error
    stops = [named[id] for id in dict.fromkeys(end_ids) if id in named]
    end = named_tokens(settings).get("eos_token") or next(iter(stops), None)
    tokenizer = _build(path, content, end, stops)
    moved = [t for id, t in named.items() if tokenizer.special_ids.get(t, id) != id]
    if moved:
        raise CheckpointError(f"{path}: the id of {moved[0]!r:.40} can't be: ids have gaps there")
    missing = vocab_size - tokenizer.vocab_size
    if missing < 0:
        raise CheckpointError(
            f"{path}: {tokenizer.vocab_size} ids, and the token embedding has {vocab_size} rows"
        )
    if missing:
        log.info("%d rows of the embedding have no token; they are called <|extra_N|>", missing)
        first = tokenizer.vocab_size
        extra = [f"<|extra_{first + n}|>" for n in range(missing)]
        tokenizer = _build(path, content, end, stops, extra)
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
    path: Path,
    content: Mapping[str, Any],
    end: str | None,
    stops: Sequence[str],
    extra: Sequence[str] = (),
) -> Tokenizer:
    specials = [*extra] if end is None else [end, *extra]
    more = [token for token in stops if token != end]
    spec = {"type": "bpe", "json": dict(content), "end": end, "specials": specials, "stops": more}
    try:
        return TOKENIZERS.build(spec, FILE)
    except ConfigError as error:
        reason = "; ".join(error.problems).splitlines()[0]
        if "name the one that ends a text" in reason:
            reason += f": as eos_token in {SETTINGS}"
        raise CheckpointError(f"{path}: {reason}") from error
    except MissingPackage:
        raise MissingPackage("phase=import", "tokenizers", "hf") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: {type(error).__name__} {error}") from error


def _complete(content: dict[str, Any], folder: Path, settings: Mapping[str, Any]) -> None:
    """Give a tokenizer.json what the files beside it say, as transformers does."""
    cut = content.get("pre_tokenizer")
    if str(settings.get("tokenizer_class")) in _SPACED and cut and cut["type"] == "ByteLevel":
        spaced = bool(settings.get("add_prefix_space", False))
        content["pre_tokenizer"] = {**cut, "add_prefix_space": spaced}
    added = list(content.get("added_tokens") or ())
    known = {token["content"] for token in added} | set(_vocabulary(content))
    more: dict[int, dict[str, Any]] = {}
    if (folder / ADDED).exists():
        more = {int(id): {"content": name} for name, id in read_object(folder / ADDED).items()}
    more |= {int(id): token for id, token in settings.get("added_tokens_decoder", {}).items()}
    special = {*named_tokens(settings).values()}
    for name in ("additional_special_tokens", "extra_special_tokens"):
        said = settings.get(name) or ()
        special |= {t.get("content") if isinstance(t, dict) else t for t in said}
    for id, token in sorted(more.items()):
        if token["content"] not in known:
            flags = {key: bool(token.get(key, False)) for key in _FLAGS}
            flags["special"] |= token["content"] in special
            added.append({"id": id, "content": str(token["content"]), **flags})  # pyright: ignore[reportArgumentType]
    content["added_tokens"] = added


def _vocabulary(content: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of the model's own tokens."""
    tokens = content["model"]["vocab"]
    return tokens if isinstance(tokens, dict) else {pair[0]: n for n, pair in enumerate(tokens)}


def _named(content: Mapping[str, Any]) -> dict[int, str]:
    """Return the tokens by their ids."""
    named = {id: token for token, id in _vocabulary(content).items()}
    return named | {token["id"]: token["content"] for token in content["added_tokens"]}


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
