"""Continue token ids: the prompt in one pass, then a token at a time."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from llmlab.generate.decoding import Decoding, Reply
from llmlab.generate.samplers import Rows, Sampler, Search
from llmlab.generate.samplers.greedy import Greedy
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
    ) -> list[Reply]:
        """Continue all prompts in one batch.

        Parameters
        ----------
        prompts
            One to `max_seq_len` ids each.
        max_new_tokens
            None: until a stop token or the end of the context.
        stop_ids
            Tokens that end a reply.
        sampler
            Greedy if not given.
        rngs
            A generator for each reply, for samplers that draw.
        until
            Gets a reply's ids after each new one; true ends the reply. Not asked by a search.

        Returns
        -------
        `sampler.num_samples` replies to each prompt, those of the first prompt first.

        Raises
        ------
        ValueError
            If a prompt is empty or longer than the context.
        """
        sampler = sampler or Greedy()
        replies = [Reply() for _ in prompts for _ in range(sampler.num_samples)]
        if not replies or max_new_tokens == 0:
            return replies
        stops = frozenset(stop_ids)
        if isinstance(sampler, Search):
            limit = self._limit(max_new_tokens)
            each = (sampler.search(self._start([prompt], limit), stops) for prompt in prompts)
            return [reply for found in each for reply in found]
        for _ in self._decode(prompts, replies, max_new_tokens, stops, sampler, rngs, until):
            pass
        return replies

    def stream_ids(self, prompt: Sequence[int], **options: Any) -> Generator[int, None, Reply]:
        """Yield the tokens of the first reply to one prompt as they come, and return the reply.

        Takes the options of `generate`. A search knows no token before it is at its end.
        """
        options = {"sampler": Greedy(), "stop_ids": (), "max_new_tokens": None} | options
        sampler, stops = options["sampler"], frozenset(options["stop_ids"])
        limit, replies = options["max_new_tokens"], [Reply()]
        if isinstance(sampler, Search):
            replies = self.generate([prompt], **options)
            yield from replies[0].ids
        elif limit != 0:
            until, rngs = options.get("until"), options.get("rngs")
            for row in self._decode([prompt], replies, limit, stops, sampler, rngs, until):
                yield replies[row].ids[-1]
        return replies[0]

    def _limit(self, max_new_tokens: int | None) -> int:
        return self.max_seq_len if max_new_tokens is None else max_new_tokens

    def _start(self, prompts: Sequence[Sequence[int]], limit: int) -> Decoding:
        return Decoding(self.network, prompts, limit, self.max_seq_len)

    def _decode(
        self,
        prompts: Sequence[Sequence[int]],
        replies: list[Reply],
        max_new_tokens: int | None,
        stops: frozenset[int],
        sampler: Sampler,
        rngs: Sequence[np.random.Generator] | None,
        until: Until | None,
    ) -> Iterator[int]:
        """Extend the replies token by token; yield the number of each that was extended."""
        limit = self._limit(max_new_tokens)
        decoding = self._start(prompts, limit)
        copies = len(replies) // len(prompts)
        if copies > 1:
            decoding.select(np.repeat(np.arange(len(prompts)), copies))
        given = [prompt for prompt in prompts for _ in range(copies)]
        rows = Rows(given, [reply.ids for reply in replies], stops, rngs)
        alive = list(range(len(replies)))
        for count in range(1, limit + 1):
            chosen = sampler.choose(decoding.logits, rows)
            going = []
            for row in alive:
                reply, token = replies[row], int(chosen[row])
                if token in stops:
                    reply.reason = "stop"
                    continue
                reply.ids.append(token)
                yield row
                if until is not None and until(reply.ids):
                    reply.reason = "stop"
                elif decoding.is_full(row):
                    reply.reason = "context"
                else:
                    going.append(row)
            if count == limit or not going:
                return
            alive = going
            if len(alive) < len(replies):
                decoding.hold()
            decoding.feed(chosen)
