"""Guesses of a smaller network."""

from collections.abc import Sequence

import numpy as np

from llmlab.generate.decoding import Decoding, kept_of
from llmlab.generate.drafts import GUESSED, Draft, Drafting, Guess
from llmlab.generate.samplers import Rows, Sampler
from llmlab.generate.samplers.sample import draw
from llmlab.network import Network


class NetworkDraft(Draft):
    """Guess what a smaller network with the same vocabulary would write.

    Its tokens are chosen by the same sampler, so that draws of both agree as often as can be.
    """

    def __init__(self, network: Network, tokens: int = GUESSED):
        super().__init__(tokens)
        if network.max_seq_len is None:
            raise ValueError("a network that continues texts needs its max_seq_len")
        self.network = network

    def start(self, texts, sampler, rows):
        """Return the guesses for a batch."""
        return _Written(self.network, self.tokens, texts, sampler, rows)


class _Written(Drafting):
    """What a network writes; its cache holds what texts and earlier guesses have in common."""

    def __init__(
        self,
        network: Network,
        tokens: int,
        texts: Sequence[Sequence[int]],
        sampler: Sampler,
        rows: Rows,
    ):
        assert network.max_seq_len is not None
        self._longest = network.max_seq_len
        self._sampler, self._rows = sampler, rows
        self._starts = [self._start(text, tokens) for text in texts]
        views = [list(text[start:]) for text, start in zip(texts, self._starts, strict=True)]
        self._held = views  # what the cache holds of each row
        self._known = [len(view) for view in views]  # how much of that is text, not a guess
        self._decoding = Decoding(network, views, self._longest, self._longest)
        self._logits = self._decoding.logits.copy()

    def _start(self, text: Sequence[int], room: int) -> int:
        """Return where the part of a text begins that leaves room for as many tokens."""
        fits = len(text) + room <= self._longest
        return 0 if fits else max(0, len(text) - kept_of(self._longest))

    def select(self, rows):
        self._decoding.select(np.array(rows))
        self._held = [list(self._held[row]) for row in rows]
        self._known = [self._known[row] for row in rows]
        self._starts = [self._starts[row] for row in rows]
        self._logits = self._logits[rows]
        own = self._rows
        rngs = None if own.rngs is None else [own.rngs[row] for row in rows]
        prompts, replies = [own.prompts[row] for row in rows], [own.replies[row] for row in rows]
        self._rows = Rows(prompts, replies, own.stop_ids, rngs)

    def guess(self, texts, counts):
        most = max(counts)
        guesses = [Guess() for _ in texts]
        if most < 1 or not self._catch_up(texts, most):
            return guesses
        for number in range(most):
            tokens = self._choose(guesses)
            if number + 1 < most:
                self._logits = self._decoding.look(tokens[:, None])[:, 0].copy()
                self._decoding.keep(np.ones(len(texts), np.intp))
                for held, token in zip(self._held, tokens.tolist(), strict=True):
                    held.append(token)
        for guess, count in zip(guesses, counts, strict=True):
            del guess.ids[max(count, 0) :], guess.distributions[max(count, 0) :]
        return guesses

    def _choose(self, guesses: list[Guess]) -> np.ndarray:
        """Add a token to each guess, and return them, (B,)."""
        own, p = self._rows, None
        replies = [[*r, *g.ids] for r, g in zip(own.replies, guesses, strict=True)]
        rows = Rows(own.prompts, replies, own.stop_ids, own.rngs)
        scores = self._sampler.scores(self._logits, rows)
        if scores is None:
            p = self._sampler.distribution(self._logits, rows)
        if p is None or rows.rngs is None:
            tokens = np.argmax(self._logits if scores is None else scores, axis=1)
        else:
            tokens = draw(p, rows.rngs)
            for guess, row in zip(guesses, p, strict=True):
                guess.distributions.append(row)
        for guess, token in zip(guesses, tokens.tolist(), strict=True):
            guess.ids.append(token)
        return tokens

    def _catch_up(self, texts: Sequence[Sequence[int]], room: int) -> bool:
        """Read what is new in the texts; false if some context has no room for a guess."""
        new: list[list[int]] = []
        for row, (held, text) in enumerate(zip(self._held, texts, strict=True)):
            start, same = self._starts[row], self._known[row]
            # The scores after the last token are wanted, so that one is read in any case.
            while same < min(len(held), len(text) - start - 1) and held[same] == text[start + same]:
                same += 1
            same = min(same, len(text) - start - 1)
            del held[same:]
            new.append(list(text[start + same :]))
        self._decoding.shorten(np.array([len(held) for held in self._held]))
        time = max(map(len, new))
        full = [n for n, h in enumerate(self._held) if len(h) + time + room > self._longest]
        for row in full:
            self._starts[row] = max(0, len(texts[row]) - kept_of(self._longest))
            self._held[row], new[row] = list(texts[row][self._starts[row] :]), []
        filled = self._decoding.refill(full, [self._held[row] for row in full]) if full else None
        self._known = [len(held) for held in self._held]
        time = max(map(len, new))
        if max(self._known) + time + room > self._longest:
            return False
        if time:
            tokens = np.zeros((len(new), time), np.intp)
            for row, ids in zip(tokens, new, strict=True):
                row[: len(ids)] = ids
            counts = np.array([len(ids) for ids in new])
            logits = self._decoding.look(tokens)
            self._logits = logits[np.arange(len(new)), np.maximum(counts - 1, 0)].copy()
            self._decoding.keep(counts)
            for held, ids in zip(self._held, new, strict=True):
                held += ids
        if filled is not None:
            self._logits[full] = filled
        self._known = [len(held) for held in self._held]
        return True
