"""Continuous batching: texts join and leave what is decoded, token by token."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmlab.generate import Rows, Sampler
from llmlab.network import Network
from llmlab.serve.cache import Slots
from llmlab.serve.row_kernels import row_kernels

CAPACITIES = tuple(128 * 4**n for n in range(12))  # tokens that a cache has room for
PROMPT_TOKENS = 512  # of new prompts in a step, so that the others needn't wait for all of them


@dataclass(eq=False)
class Text:
    """A text that is being continued."""

    # One to `max_seq_len` ids, and how many may follow
    prompt: Sequence[int]
    limit: int
    # How each is chosen, and which end the text
    sampler: Sampler
    rng: np.random.Generator | None = None
    stop_ids: frozenset[int] = frozenset()
    # Gets id and logits (V,) of each new token; true ends the text.
    on_token: Callable[[int, np.ndarray], bool] = lambda token, logits: False
    # Gets the logits (T, V) of the whole prompt, if anybody wants them
    on_prompt: Callable[[np.ndarray], None] | None = None
    # Whether the text goes on when the context is full: from the last half of its tokens
    refills: bool = False
    # The new ids, and why they ended: "stop", "length", "context" or "cancelled"; None before.
    reply: list[int] = field(default_factory=list)
    reason: str | None = None
    cancelled: bool = False  # set by whoever has lost interest


class Batch:
    """The texts that are decoded together by one network, and those that wait.

    What a text becomes depends on itself alone, whatever else is in the batch: prompts are
    computed one by one, tokens with `row_kernels` and a cache of one size for each row.
    """

    def __init__(self, network: Network, rows: int):
        if network.max_seq_len is None:
            raise ValueError("a network that continues texts needs its max_seq_len")
        self._network, self._rows, self._most = network, rows, network.max_seq_len
        self._stepping = Network(network.stack, network.params, self._most, row_kernels())
        self._groups: dict[int, tuple[Slots, list[Text]]] = {}
        self.waiting: deque[Text] = deque()

    @property
    def running(self) -> int:
        """How many texts are being decoded."""
        return sum(len(texts) for _, texts in self._groups.values())

    def add(self, text: Text) -> None:
        """Let a text wait for a row."""
        self.waiting.append(text)

    def clear(self) -> None:
        """Forget all texts."""
        self.waiting.clear()
        self._groups.clear()

    def step(self) -> list[Text]:
        """Give each text that has a row its next token; return those that ended."""
        ended = self._drop()
        full: list[Text] = []
        for capacity in list(self._groups):
            full += self._make_room(capacity)
            ended += self._decode(capacity)
        kept = max(1, self._most // 2)
        ended += [t for t in full if self._begin(t, [*t.prompt, *t.reply][-kept:])]
        spent = 0
        while self.waiting and self.running < self._rows and spent < PROMPT_TOKENS:
            text = self.waiting.popleft()
            spent += len(text.prompt)
            if text.on_prompt is not None:
                text.on_prompt(self._network.forward(np.array(text.prompt)))
            if text.limit < 1:
                text.reason = "length"
                ended.append(text)
            elif self._begin(text, text.prompt):
                ended.append(text)
        return ended

    def _drop(self) -> list[Text]:
        """Free the rows and places of texts that nobody waits for."""
        ended = [text for text in list(self.waiting) if text.cancelled]
        for text in ended:
            self.waiting.remove(text)
        for slots, texts in self._groups.values():
            for row in reversed(range(len(texts))):
                if texts[row].cancelled:
                    ended.append(texts[row])
                    _leave(slots, texts, row)
        for text in ended:
            text.reason = "cancelled"
        return ended

    def _begin(self, text: Text, ids: Sequence[int]) -> bool:
        """Compute a prompt into a new row and choose the first token; tell whether it's over."""
        slots, texts = self._group(len(ids))
        row = slots.add()
        texts.append(text)
        tokens = np.array(ids)[None]
        last = np.array([len(ids) - 1]) if len(ids) > 1 else None
        logits = self._network.forward(tokens, kv_cache=slots.prompt(row), rows=last)
        slots.lengths[row] = len(ids)
        over = self._choose(text, logits.reshape(1, -1))
        if over:
            _leave(slots, texts, row)
        return over

    def _decode(self, capacity: int) -> list[Text]:
        """Feed each text of a group its last token and choose the next."""
        slots, texts = self._groups[capacity]
        if not texts:
            return []
        tokens = np.array([[text.reply[-1]] for text in texts])
        slots.prepare()
        logits = self._stepping.forward(tokens, kv_cache=slots).reshape(len(texts), -1)
        slots.advance()
        over = [self._choose(text, logits[row : row + 1]) for row, text in enumerate(texts)]
        ended = []
        for row in reversed(range(len(texts))):
            if over[row]:
                ended.append(texts[row])
                _leave(slots, texts, row)
        return ended

    def _make_room(self, capacity: int) -> list[Text]:
        """Move texts that have filled their row to a longer one; return those in the longest."""
        slots, texts = self._groups[capacity]
        full = []
        for row in reversed(range(len(texts))):
            if slots.lengths[row] < capacity:
                continue
            if capacity < self._most:
                wider, others = self._group(capacity)
                wider.take(slots, row)
                others.append(texts[row])
            else:
                full.append(texts[row])
            _leave(slots, texts, row)
        return full

    def _choose(self, text: Text, logits: np.ndarray) -> bool:
        """Choose a text's next token from logits (1, V), and tell whether it is over."""
        given = None if text.rng is None else [text.rng]
        rows = Rows([text.prompt], [text.reply], text.stop_ids, given)
        token = int(text.sampler.choose(logits, rows)[0])
        if token in text.stop_ids:
            text.reason = "stop"
            return True
        text.reply.append(token)
        if text.on_token(token, logits[0]):
            text.reason = "stop"
        elif len(text.reply) >= text.limit:
            text.reason = "length"
        elif not text.refills and len(text.prompt) + len(text.reply) > self._most:
            text.reason = "context"
        return text.reason is not None

    def _group(self, length: int) -> tuple[Slots, list[Text]]:
        """Return where texts of `length` tokens have room for at least one more, if there is."""
        capacity = min(self._most, next(size for size in CAPACITIES if size > length))
        if capacity not in self._groups:
            dtype = self._network.ctx.dtype
            self._groups[capacity] = Slots(self._network.stack, capacity, dtype), []
        return self._groups[capacity]


def _leave(slots: Slots, texts: list[Text], row: int) -> None:
    """Take a text out of its group; the last one gets its row."""
    slots.remove(row)
    texts[row] = texts[-1]
    texts.pop()
