"""Continue token ids: the prompt in one pass, then a token at a time."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from llmlab.errors import ConfigError
from llmlab.generate.decoding import Decoding, Reply
from llmlab.generate.drafts import Draft
from llmlab.generate.lagging import Row, Terms
from llmlab.generate.samplers import Sampler, Search
from llmlab.generate.samplers.greedy import Greedy
from llmlab.generate.speculation import speculate
from llmlab.network import Network

Until = Callable[[Sequence[int]], bool]


class Engine:
    """Continue token ids with a trained network, whose `max_seq_len` is known."""

    def __init__(self, network: Network):
        if network.max_seq_len is None:
            raise ValueError("a network that continues texts needs its max_seq_len")
        self.network, self.max_seq_len = network, network.max_seq_len

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int | None = None,
        stop_ids: Iterable[int] = (),
        sampler: Sampler | Search | None = None,
        rngs: Sequence[np.random.Generator] | None = None,
        until: Until | None = None,
        refill: bool = False,
        draft: Draft | None = None,
    ) -> list[Reply]:
        """Continue all prompts in one batch.

        Parameters
        ----------
        prompts
            One to `max_seq_len` ids each.
        max_new_tokens
            None: until a stop token, or as many as the context has.
        stop_ids
            Tokens that end a reply.
        sampler
            Greedy if not given.
        rngs
            A generator for each reply, for samplers that draw.
        until
            Gets a reply's ids after each new one; true ends it. Not asked by a search.
        refill
            Whether a reply goes on when the context is full (see `Decoding`); a search can't.
        draft
            Guesses tokens, for fewer passes and the same replies, or the same distribution of
            them. Not for a search.

        Returns
        -------
        `sampler.num_samples` replies to each prompt, those of the first prompt first.

        Raises
        ------
        ValueError
            A prompt is empty or longer than the context.
        ConfigError
            A search is to do what it can't.
        """
        sampler = sampler or Greedy()
        replies = [Reply() for _ in prompts for _ in range(sampler.num_samples)]
        if not replies or max_new_tokens == 0:
            return replies
        limit, stops = self._limit(max_new_tokens), frozenset(stop_ids)
        if isinstance(sampler, Search):
            asked = max_new_tokens if refill else None
            _refuse(sampler, max(map(len, prompts)), asked, self.max_seq_len, draft)
            each = (sampler.search(self._start([prompt], limit), stops) for prompt in prompts)
            return [reply for found in each for reply in found]
        terms = self._terms(prompts, sampler.num_samples, limit, stops, sampler, until, refill)
        given = [prompt for prompt in prompts for _ in range(sampler.num_samples)]
        for _ in _decode(_rows(given, replies, rngs), terms, draft):
            pass
        return replies

    def stream_ids(self, prompt: Sequence[int], **options: Any) -> Generator[int, None, Reply]:
        """Yield the tokens of the first reply to one prompt as they come, and return the reply.

        Takes the options of `generate`. A search knows no token before it is at its end.
        """
        sampler, reply = options.get("sampler") or Greedy(), Reply()
        max_new_tokens = options.get("max_new_tokens")
        if isinstance(sampler, Search):
            reply = self.generate([prompt], **options)[0]
            yield from reply.ids
        elif max_new_tokens != 0:
            limit, stops = self._limit(max_new_tokens), frozenset(options.get("stop_ids", ()))
            own = options.get("until"), options.get("refill", False)
            terms = self._terms([prompt], 1, limit, stops, sampler, *own)
            rows = _rows([prompt], [reply], options.get("rngs"))
            for _ in _decode(rows, terms, options.get("draft")):
                yield reply.ids[-1]
        return reply

    def _limit(self, max_new_tokens: int | None) -> int:
        return self.max_seq_len if max_new_tokens is None else max_new_tokens

    def _start(
        self, prompts: Sequence[Sequence[int]], limit: int, refill: bool = False
    ) -> Decoding:
        return Decoding(self.network, prompts, limit, self.max_seq_len, refill)

    def _terms(
        self,
        prompts: Sequence[Sequence[int]],
        copies: int,
        limit: int,
        stops: frozenset[int],
        sampler: Sampler,
        until: Until | None,
        refill: bool,
    ) -> Terms:
        def start(room: int = 0) -> Decoding:
            decoding = self._start(prompts, limit + room, refill)
            if copies > 1:
                decoding.select(np.repeat(np.arange(len(prompts)), copies))
            return decoding

        return Terms(start, sampler, stops, limit, until, refill)


def _rows(
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Reply],
    rngs: Sequence[np.random.Generator] | None,
) -> list[Row]:
    """Return what belongs to each reply."""
    given = rngs if rngs is not None and len(rngs) == len(replies) else [None] * len(replies)
    parts = enumerate(zip(prompts, replies, given, strict=True))
    return [Row(number, prompt, reply, rng) for number, (prompt, reply, rng) in parts]


def _decode(rows: Sequence[Row], terms: Terms, draft: Draft | None) -> Iterator[int]:
    """Extend the replies token by token; yield the number of each that was extended."""
    if draft is not None:
        yield from speculate(rows, terms, draft)
        return
    decoding, until = terms.start(0), terms.until
    described = terms.described(rows)
    alive = list(range(len(rows)))
    for count in range(1, terms.limit + 1):
        chosen = terms.sampler.choose(decoding.logits, described)
        going = []
        for row in alive:
            reply, token = rows[row].reply, int(chosen[row])
            if token in terms.stops:
                reply.reason = "stop"
                continue
            reply.ids.append(token)
            yield row
            if until is not None and until(reply.ids):
                reply.reason = "stop"
            elif decoding.is_full(row) and not terms.refill:
                reply.reason = "context"
            else:
                going.append(row)
        if count == terms.limit or not going:
            return
        alive = going
        decoding.feed(chosen, alive)
        for row in alive:
            rows[row].reply.refills = int(decoding.refills[row])


def _refuse(
    search: Search, longest: int, asked: int | None, max_seq_len: int, draft: Draft | None
) -> None:
    """Refuse a search that needs a longer context, or guesses."""
    name = type(search).__name__.lower()
    if draft is not None:
        raise ConfigError(
            f"draft: not for sampler={name}, which follows several beginnings at once"
        )
    if asked is not None and longest + asked - 1 > max_seq_len:
        most = max_seq_len - longest + 1
        raise ConfigError(
            f"max_new_tokens={asked}: sampler={name} can't go on beyond the context, {max_seq_len} "
            f"tokens, of which the prompt has {longest}; at most {most}, or another sampler, or "
            "context=stop, which ends there"
        )
