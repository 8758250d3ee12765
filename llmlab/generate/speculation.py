"""Decoding with guesses: one pass over several tokens shows how many of them are right.

What comes out is what decoding without guesses gives. A sampler that draws keeps its distribution:
a guess that was drawn from q is accepted with probability p / q, and otherwise replaced by a draw
from what p has more than q (Leviathan et al. 2023, arXiv:2211.17192, §2.3). A sampler that takes
the greatest score takes the same tokens: see `Lagging` for what rounding has to do with it.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from llmlab.generate.decoding import in_view
from llmlab.generate.drafts import Draft, Guess
from llmlab.generate.lagging import Lagging, Row, Terms, too_close
from llmlab.generate.samplers import Rows
from llmlab.generate.samplers.sample import draw


def speculate(rows: Sequence[Row], terms: Terms, draft: Draft) -> Iterator[int]:
    """Extend replies token by token; yield the number of each that was extended."""
    return _Speculation(rows, terms, draft).run()


class _Speculation:
    """The replies that aren't at their end.

    The cache holds what is in view of a row's text but its last token, or its last two.
    """

    def __init__(self, rows: Sequence[Row], terms: Terms, draft: Draft):
        self._rows, self._terms, self._draft = list(rows), terms, draft
        self._decoding = terms.start(draft.tokens)
        texts = [row.text for row in rows]
        self._drafting = draft.start(texts, terms.sampler, self._those(rows))
        self._plain = Lagging(rows, terms)
        first = self._decoding.logits
        # Whether the greatest logit is taken, whatever stands before it: then all tokens of a
        # pass are looked at together.
        self._literal = terms.sampler.scores(first, self._those(self._rows)) is first

    def run(self) -> Iterator[int]:
        """Extend the replies to their ends."""
        first = self._terms.sampler.choose(self._decoding.logits, self._those(self._rows))
        for row, token in zip(list(self._rows), first.tolist(), strict=True):
            yield from self._add(row, token)
        while self._left():
            for row, token in self._settled():
                yield from self._add(row, token)
            if self._left():
                yield from self._refill()
            if self._left() and not all(row.waiting for row in self._rows):
                yield from self._step()

    def _left(self) -> bool:
        """Leave out rows that ended; tell whether others are left."""
        going = [n for n, row in enumerate(self._rows) if row.choices is None]
        if going and len(going) < len(self._rows):
            self._decoding.select(np.array(going))
            self._drafting.select(going)
        self._rows = [self._rows[n] for n in going]
        return bool(going)

    def _add(self, row: Row, token: int) -> Iterator[int]:
        """Add a token to a reply, and see whether that ends it."""
        reply, terms = row.reply, self._terms
        row.waiting = False
        if token in terms.stops:
            reply.reason, row.choices = "stop", len(reply.ids) + 1
            return
        reply.ids.append(token)
        row.text.append(token)
        self._draft.tally.tokens += 1
        yield row.number
        if terms.until is not None and terms.until(reply.ids):
            reply.reason = "stop"
        elif not terms.refill and len(row.text) > self._decoding.max_seq_len:
            reply.reason = "context"
        elif len(reply.ids) < terms.limit:
            return
        row.choices = len(reply.ids)

    def _settled(self) -> Iterator[tuple[Row, int]]:
        """Yield the tokens of rows that wait for `Lagging`, once no other row is behind them."""
        while waiting := [row for row in self._rows if row.waiting]:
            least = min(len(row.reply.ids) for row in self._rows if row.choices is None)
            ready = [row for row in waiting if len(row.reply.ids) == least]
            if not ready:
                return
            logits = self._plain.logits_after(least)[[row.number for row in ready]]
            tokens = self._terms.sampler.choose(logits, self._those(ready))
            yield from zip(ready, tokens.tolist(), strict=True)

    def _refill(self) -> Iterator[int]:
        """Fill again the cache of rows whose context is full, which gives their next token."""
        longest = self._decoding.max_seq_len
        found = []
        for n, row in enumerate(self._rows):
            start = len(row.text) - in_view(len(row.text), longest)
            if start > row.start and not row.waiting:
                row.start = start
                row.reply.refills += 1
                found.append(n)
        if found:
            rows = [self._rows[n] for n in found]
            logits = self._decoding.refill(found, [row.text[row.start :] for row in rows])
            tokens = self._next(rows, logits, [Guess() for _ in rows], 0)
            shorter = self._decoding.lengths.copy()
            for n, row, token in zip(found, rows, tokens, strict=True):
                if token is None:
                    row.waiting = True
                    shorter[n] -= 1
            self._decoding.shorten(shorter)
            for row, token in zip(rows, tokens, strict=True):
                if token is not None:
                    yield from self._add(row, token)

    def _step(self) -> Iterator[int]:
        """Make a pass over what is new in each row and a guess, and keep what is right."""
        rows, decoding, tally = self._rows, self._decoding, self._draft.tally
        lengths, room = decoding.lengths, decoding.room
        new = [
            row.text[row.start + length :]
            for row, length in zip(rows, lengths.tolist(), strict=True)
        ]
        left = [0 if row.waiting else self._terms.limit - len(row.reply.ids) - 1 for row in rows]
        reach = [min(row.reach, self._draft.tokens) for row in rows]
        counts = [
            min(most, far, room - len(ids)) for most, far, ids in zip(left, reach, new, strict=True)
        ]
        guesses = self._drafting.guess([row.text for row in rows], counts)
        wanted = [[*n, *guess.ids] for n, guess in zip(new, guesses, strict=True)]
        active = [n for n, row in enumerate(rows) if not row.waiting]
        time = min(room, max(len(wanted[n]) for n in active))
        tokens = np.zeros((len(rows), time), np.intp)
        for row, ids in zip(tokens, wanted, strict=True):
            row[: len(ids)] = ids[:time]
        logits = decoding.look(tokens)
        greatest = self._greatest(logits)
        # Who takes a token may use the network, too.
        logits = logits.copy() if greatest is None else logits
        tally.passes += len(active)
        kept = np.zeros(len(rows), np.intp)
        kept[active] = [min(len(new[n]), time) for n in active]
        going = [n for n in active if len(new[n]) <= time]
        for number in range(time):
            at = [len(new[n]) - 1 + number for n in going]
            if greatest is None:
                own = [guesses[n] for n in going]
                chosen = self._next([rows[n] for n in going], logits[going, at], own, number)
            else:
                chosen = [greatest[n][place] for n, place in zip(going, at, strict=True)]
            further = []
            for n, token in zip(going, chosen, strict=True):
                guessed = guesses[n].ids[number : number + 1]
                if token is None:
                    rows[n].waiting = True
                    kept[n] -= 1
                    continue
                yield from self._add(rows[n], token)
                tally.drafted += len(guessed)
                if guessed == [token]:
                    tally.accepted += 1
                    kept[n] += 1
                    further += [n] if rows[n].choices is None else []
            going = further
            if not going:
                break
        decoding.keep(kept)
        for row, guess, before, after in zip(rows, guesses, new, kept.tolist(), strict=True):
            if guess.ids:  # more after guesses that were right, fewer after others
                right = after - len(before) == len(guess.ids)
                row.reach = min(row.reach + 2, self._draft.tokens) if right else row.reach - 1
                row.reach = max(row.reach, 1)

    def _greatest(self, logits: np.ndarray) -> list[list[int | None]] | None:
        """Return all next tokens (B, T) as `_next` does; None if they depend on one another."""
        if not self._literal:
            return None
        flat = logits.reshape(-1, logits.shape[-1])
        chosen = np.argmax(logits, axis=-1).tolist()
        close = iter(too_close(flat, flat))
        return [[None if next(close) else id for id in row] for row in chosen]

    def _next(
        self, rows: Sequence[Row], logits: np.ndarray, guesses: Sequence[Guess], number: int
    ) -> list[int | None]:
        """Return the next token of rows, None where `Lagging` has to say it."""
        sampler, own = self._terms.sampler, self._those(rows)
        scores = sampler.scores(logits, own)
        if scores is not None:
            close = too_close(scores, logits)
            chosen = np.argmax(scores, axis=1).tolist()
            return [None if near else id for id, near in zip(chosen, close, strict=True)]
        if not any(number < len(guess.distributions) for guess in guesses):
            return sampler.choose(logits, own).tolist()
        p = sampler.distribution(logits, own)
        assert p is not None and own.rngs is not None
        return [
            _accepted(p[n], guess, number, rng)
            for n, (guess, rng) in enumerate(zip(guesses, own.rngs, strict=True))
        ]

    def _those(self, rows: Sequence[Row]) -> Rows:
        return self._terms.described(rows)


def _accepted(p: np.ndarray, guess: Guess, number: int, rng: np.random.Generator) -> int:
    """Return the guessed token, or another, so that it is distributed as p (V,)."""
    if number >= len(guess.distributions):
        return int(draw(p[None], [rng])[0])
    q, id = guess.distributions[number], guess.ids[number]
    if rng.random() * q[id] < p[id]:
        return id
    rest = np.maximum(p - q, 0)
    return int(draw((rest if rest.any() else p)[None], [rng])[0])
