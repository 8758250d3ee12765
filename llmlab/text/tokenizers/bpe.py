"""Byte-level byte pair encoding, and whatever else a tokenizer.json describes.

The work is done by the library `tokenizers`, which is imported only here and only when used.
"""

import json as json_format
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmlab.errors import ConfigError, DataError, LlmlabError, MissingPackage
from llmlab.text.foreign_tokenizer import guarded, is_plain, try_out
from llmlab.text.long_words import cut_long_words
from llmlab.text.tokenizers.base import (
    END,
    TOKENIZERS,
    Fragment,
    Tokenizer,
    check_id,
    number_specials,
)
from llmlab.text.tokenizers.byte import readable
from llmlab.text.tokenizers.encoder import Encoder, members, special_tokens, unknown_token

_END = "<|endoftext|>"
_ENDS = (_END, "</s>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<eos>", "[SEP]")
_BYTES = 256


@TOKENIZERS.register("bpe")
class BpeTokenizer(Tokenizer):
    """Byte-level BPE: frequent strings of bytes as tokens, learned from the corpus.

    Ids after training: 0 `<|endoftext|>`, further special tokens, the 256 bytes, then merges.

    Parameters
    ----------
    vocab_size
        How many ids training may give out.
    corpus_bytes
        How much of the corpus training reads: of a larger one, parts from all over it.
    specials
        Further special tokens, for chat templates; those that `json` lacks are added to it.
    json
        The content of a tokenizer.json; None before training.
    end
        The special token that ends a sample; None: the first of the usual names.
    stops
        Further special tokens that end an answer.
    """

    type = "bpe"

    def __init__(
        self,
        vocab_size: int = 1024,
        corpus_bytes: int = 50_000_000,
        specials: Sequence[str] = (),
        json: dict[str, Any] | None = None,
        end: str | None = None,
        stops: Sequence[str] = (),
    ):
        self._library = _library()
        self._size = vocab_size
        self._json = json
        self._end, self._plain = end, True
        self._specials, self._stops = tuple(specials), tuple(stops)
        self.special_ids = number_specials(specials, 1, [end or _END] if json is None else ())
        self.unknown_id, self.end_id, self.stop_ids = None, 0, (0,)
        least = _BYTES + 1 + len(self._specials)
        if json is None and (isinstance(vocab_size, bool) or vocab_size < least):
            raise ConfigError(
                f"vocab_size={vocab_size}: expected {least} or more, since the bytes and the "
                "special tokens are among them"
            )
        if isinstance(corpus_bytes, bool) or corpus_bytes < 1:
            raise ConfigError(f"corpus_bytes={corpus_bytes}: expected a whole number from 1")
        self.corpus_bytes: int = corpus_bytes
        if json is not None:
            self._load(json)

    def _load(self, content: dict[str, Any]) -> None:
        if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
            # Merges left out at random are for training; a text has one encoding here.
            content = {**content, "model": {**content["model"], "dropout": None}}
        text = json_format.dumps(content)
        self._plain = not isinstance(content, Mapping) or is_plain(content)
        if not self._plain:
            try_out(content, text)
        try:
            with guarded(self._plain):
                self._fast = self._library.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception, and TypeError
            if isinstance(error, LlmlabError):
                raise
            raise ConfigError(f"json: not the content of a tokenizer.json: {error}") from None
        self._fast.no_padding()  # which may be of any length
        self._fast.no_truncation()
        wanted = (*self._specials, *self._stops)
        self._fast.add_special_tokens([t for t in wanted if t not in special_tokens(content)])
        added = self._fast.get_added_tokens_decoder().items()
        self.special_ids = {token.content: id for id, token in added if token.special}
        vocabulary = self._fast.get_vocab(with_added_tokens=True)
        self._tokens = {id: token for token, id in vocabulary.items()}
        self._size = max(self._tokens, default=0) + 1
        ends = [self._end] if self._end else _ENDS
        found = [token for token in ends if token in self.special_ids]
        if not found:
            known = ", ".join(self.special_ids) or "none"
            raise ConfigError(
                f"end={self._end}: not among the special tokens ({known}); name the one that "
                "ends a text"
            )
        self.end_id = self.special_ids[found[0]]
        stops = (self.special_ids[token] for token in self._stops)
        self.stop_ids = tuple(dict.fromkeys((self.end_id, *stops)))
        self.unknown_id = vocabulary.get(unknown_token(content["model"]))
        self._encoder = Encoder(self._library, self.tokenizer_json(), self.special_ids, self._plain)
        # Any word to decode a continuation after.
        own = sorted(self._tokens.keys() - {*self.special_ids.values()})
        words = ((id, self.decode([id])) for id in own)
        self._before = next((word for word in words if word[1].strip().isalnum()), None)

    @property
    def vocab_size(self) -> int:
        """Return the number of ids."""
        return self._size

    def train(self, texts: Iterable[str]) -> "BpeTokenizer":
        """Return a tokenizer with merges learned from `texts`; a loaded one stays as it is."""
        if self._json is not None:
            return self
        models, level = self._library.models, self._library.pre_tokenizers.ByteLevel
        fast = self._library.Tokenizer(models.BPE())
        fast.pre_tokenizer = level(add_prefix_space=False, use_regex=True)
        fast.decoder = self._library.decoders.ByteLevel()
        trainer = self._library.trainers.BpeTrainer(
            vocab_size=self._size,
            min_frequency=2,
            special_tokens=[self._end or _END, *self._specials],
            initial_alphabet=sorted(level.alphabet()),
            show_progress=False,
        )
        seen = [False]
        fast.train_from_iterator(cut_long_words(_watched(texts, seen)), trainer)
        if not seen[0]:
            raise DataError("the tokenizer's corpus holds no text; give it a file with text")
        content = json_format.loads(fast.to_str())
        return BpeTokenizer(self._size, self.corpus_bytes, self._specials, content, self._end)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; a lone surrogate, which has no bytes, becomes `?`."""
        self._trained()
        return self._encoder.ids(text)

    def encode_fragments(self, fragments: Iterable[Fragment]) -> tuple[list[int], list[bool]]:
        """Return the ids of the whole text, as transformers gives them for a chat."""
        self._trained()
        end = self._tokens[self.end_id]
        named = [each._replace(text=end) if each == END else each for each in fragments]
        for each in named:
            if each.special:
                self.special_id(each.text)
        return self._encoder.fragments(named)

    def encode_blocks(self, blocks: Iterable[str]) -> Iterator[NDArray[np.int32]]:
        """Yield the ids of the whole text."""
        return self._encoder.blocks(blocks)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Return the text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        for id in ids:
            check_id(id, self._size)
        with guarded(self._plain):
            return self._trained().decode(list(ids), skip_special_tokens=skip_special)

    def continuation(self, ids: Sequence[int]) -> str:
        """Return what `ids` add to a text: many decoders drop the space before the first word."""
        if self._before is None:
            return self.decode(ids)
        before, text = self._before
        return self.decode([before, *ids])[len(text) :]

    def token(self, id: int) -> str:
        r"""Return the text of `id` alone, `\xNN` for a byte that is a part of a character."""
        check_id(id, self._size)
        with guarded(self._plain):
            text = self._trained().decode([id], skip_special_tokens=False)
        return readable(self._tokens[id]) or text if "\ufffd" in text else text

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of `text` that need the unknown token, each once, in order."""
        if self.unknown_id is None or self.unknown_id not in self.encode(text):
            return []
        return [w for w in dict.fromkeys(text.split()) if self.unknown_id in self.encode(w)]

    def arguments(self) -> dict[str, Any]:
        """Return `vocab_size`, `specials`, `json`, `end` and, where there are any, `stops`."""
        stops = {"stops": list(self._stops)} if self._stops else {}
        return {
            "vocab_size": self._size,
            "specials": list(self._specials),
            "json": self._json,
            "end": self._end,
            **stops,
        }

    def tokenizer_json(self) -> dict[str, Any]:
        """Return the content of a tokenizer.json, the special tokens of `specials` with it."""
        return json_format.loads(self._fast.to_str())

    def byte_lengths(self) -> NDArray[np.int32] | None:
        """Return the bytes of each id, if the tokens are bytes; else None."""
        content = self._json or {}
        kinds = [part.get("type") for part in members(content.get("decoder"))]
        if kinds != ["ByteLevel"] or content.get("normalizer"):
            return None
        # A byte-level token is written with one character for each byte.
        lengths = np.zeros(self._size, dtype=np.int32)
        for id, token in self._tokens.items():
            lengths[id] = len(token)
        for id, token in self._trained().get_added_tokens_decoder().items():
            lengths[id] = 0 if token.special else len(token.content.encode())
        return lengths

    def _trained(self) -> Any:
        if self._json is None:
            raise ValueError("the tokenizer is not trained; call train first")
        return self._fast


def _library() -> Any:
    # Its threads would make the training's forks unsafe.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ImportError:
        instead = "choose tokenizer=byte or tokenizer=char"
        raise MissingPackage("this tokenizer", "tokenizers", "bpe", instead) from None
    return tokenizers


def _watched(texts: Iterable[str], seen: list[bool]) -> Iterable[str]:
    for text in texts:
        seen[0] = seen[0] or bool(text)
        yield text
