"""Between requests and the batch: who waits, who is told, and when a step is due."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from time import monotonic, perf_counter

from llmlab.serve.batch import Batch, Text
from llmlab.serve.errors import RequestError
from llmlab.serve.speech import Piece, Speech

log = logging.getLogger("llmlab")

QUICK = 1e-3  # seconds of a step that isn't worth another thread


class Answer:
    """The texts that one request waits for."""

    def __init__(self, texts: Sequence[Text], speeches: Sequence[Speech]):
        self.texts, self.speeches = list(texts), list(speeches)
        self.failed = False  # whether the computation broke down
        self.cut = False  # whether time or the server ended the texts
        self.changed = asyncio.Event()

    async def pieces(self, seconds: float) -> AsyncIterator[tuple[int, Piece | None]]:
        """Yield pieces with the number of their text as they come; None when a text is over.

        After `seconds` all texts end where they are.
        """
        deadline = monotonic() + seconds
        ended: set[int] = set()
        while len(ended) < len(self.texts):
            left = None if self.cut else max(0.0, deadline - monotonic())
            try:
                await asyncio.wait_for(self.changed.wait(), left)
            except TimeoutError:
                self.end_now()
            self.changed.clear()
            for number, (text, speech) in enumerate(zip(self.texts, self.speeches, strict=True)):
                over = number not in ended and (text.reason is not None or self.failed)
                if over and not self.failed:
                    speech.end()
                while speech.pieces:
                    yield number, speech.pieces.popleft()
                if over:
                    ended.add(number)
                    yield number, None

    def reason(self, number: int) -> str:
        """Return OpenAI's word for why a text ended."""
        return "stop" if self.texts[number].reason == "stop" else "length"

    def cancel(self) -> None:
        """Free the rows: nobody waits for them."""
        for text in self.texts:
            text.cancelled = True

    def end_now(self) -> None:
        """End the texts where they are, since the server stops."""
        self.cancel()
        self.cut = True


class Scheduler:
    """Let a batch make its steps while there is something to do.

    Steps run in a thread of `executor` unless they are so short that handing them over costs as
    much; the event loop has its turn after each, so that who goes away is noticed at once.

    At most `queue` texts wait for a row.
    """

    def __init__(self, batch: Batch, rows: int, queue: int, executor: Executor):
        self.batch, self._rows, self._queue, self._executor = batch, rows, queue, executor
        self._answers: dict[Text, Answer] = {}
        self._work = asyncio.Event()
        self._seconds = 1.0  # that a text takes, a running mean
        self._began: dict[Text, float] = {}

    def submit(self, answer: Answer) -> None:
        """Take the texts of a request."""
        free = self._rows + self._queue - len(self._answers)
        if len(answer.texts) > free:
            seconds = max(1, min(60, round(self._seconds * len(self._answers) / self._rows)))
            raise RequestError(
                f"{len(self._answers)} answers are being made or waited for; try again in "
                f"{seconds} s",
                status=429,
                code="queue_full",
                headers={"Retry-After": str(seconds)},
            )
        for text in answer.texts:
            self._answers[text], self._began[text] = answer, monotonic()
            self.batch.add(text)
        self._work.set()

    @property
    def running(self) -> int:
        """How many texts are being decoded."""
        return self.batch.running

    @property
    def waiting(self) -> int:
        """How many texts wait for a row."""
        return len(self.batch.waiting)

    async def run(self) -> None:
        """Make steps until cancelled."""
        loop, seconds = asyncio.get_running_loop(), 1.0
        while True:
            if not self._answers:
                self._work.clear()
                await self._work.wait()
            began = perf_counter()
            try:
                if seconds < QUICK:
                    ended = self.batch.step()
                    await asyncio.sleep(0)
                else:
                    ended = await loop.run_in_executor(self._executor, self.batch.step)
            except Exception:
                log.exception("a step of the server failed")
                self._fail()
                continue
            seconds = perf_counter() - began
            self._tell(ended)

    def end_now(self) -> None:
        """End all texts where they are."""
        for answer in set(self._answers.values()):
            answer.end_now()

    def _tell(self, ended: Sequence[Text]) -> None:
        for text, answer in self._answers.items():
            number = answer.texts.index(text)
            if text.reason is not None or answer.speeches[number].pieces:
                answer.changed.set()
        for text in ended:
            self._answers.pop(text)
            taken = monotonic() - self._began.pop(text)
            self._seconds += 0.1 * (taken - self._seconds)

    def _fail(self) -> None:
        """Give up all texts of the batch, and begin anew."""
        for answer in set(self._answers.values()):
            answer.failed = True
            answer.changed.set()
        self._answers.clear()
        self._began.clear()
        self.batch.clear()
