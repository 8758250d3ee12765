"""The two forms of answers: of chats, and of texts that are continued."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from llmlab.serve.requests import Job
from llmlab.serve.speech import Piece, TokenLog

Json = dict[str, Any]


class Form(ABC):
    """How an answer is written."""

    kind: str
    chunk_kind: str

    def __init__(self, job: Job, id: str, created: int):
        self._job, self._answer = job, job.answer
        self._tokenizer = job.served.model.tokenizer
        self._head = {"id": id, "created": created, "model": job.served.name}

    def whole(self, tokens: Sequence[Sequence[TokenLog]]) -> Json:
        """Return the whole answer; `tokens` are those of each text, where they were noted."""
        choices = [self.choice(number, own) for number, own in enumerate(tokens)]
        head = {**self._head, "object": self.kind}
        return {**head, "choices": choices, "usage": self.usage()}

    def usage(self) -> Json:
        """Return how many tokens were read and written."""
        read = sum(len(ids) for ids in self._job.prompts)
        written = sum(len(text.reply) for text in self._answer.texts)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }

    def usage_chunk(self) -> Json:
        """Return the chunk that ends a stream that counts."""
        return {**self._chunk([]), "usage": self.usage()}

    def _chunk(self, choices: list[Json]) -> Json:
        counted = {"usage": None} if self._job.counts_usage else {}
        return {**self._head, "object": self.chunk_kind, "choices": choices, **counted}

    @abstractmethod
    def choice(self, number: int, tokens: Sequence[TokenLog]) -> Json:
        """Return one of the whole answers."""

    @abstractmethod
    def opening(self) -> Iterator[Json]:
        """Yield the chunks that begin a stream."""

    @abstractmethod
    def chunk(self, number: int, piece: Piece) -> Json:
        """Return the chunk of a piece."""

    @abstractmethod
    def last(self, number: int) -> Json:
        """Return the chunk that says why a text ended."""


class ChatForm(Form):
    """Answers of `/v1/chat/completions`."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def choice(self, number: int, tokens: Sequence[TokenLog]) -> Json:
        """Return one of the whole answers."""
        text = self._answer.speeches[number].text
        return {
            "index": number,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logs(tokens) if tokens else None,
            "finish_reason": self._answer.reason(number),
        }

    def opening(self) -> Iterator[Json]:
        """Yield the role of each text."""
        for number in range(len(self._answer.texts)):
            yield self._delta(number, {"role": "assistant", "content": ""})

    def chunk(self, number: int, piece: Piece) -> Json:
        """Return the chunk of a piece."""
        logs = self._logs(piece.tokens) if piece.tokens else None
        return self._delta(number, {"content": piece.text}, logs)

    def last(self, number: int) -> Json:
        """Return the chunk that says why a text ended."""
        return self._delta(number, {}, reason=self._answer.reason(number))

    def _delta(
        self, number: int, delta: Json, logs: Json | None = None, reason: str | None = None
    ) -> Json:
        choice = {"index": number, "delta": delta, "logprobs": logs, "finish_reason": reason}
        return self._chunk([choice])

    def _logs(self, tokens: Sequence[TokenLog]) -> Json:
        found = []
        for each in tokens:
            top = [self._entry(id, log) for id, log in each.top]
            found.append({**self._entry(each.id, each.log), "top_logprobs": top})
        return {"content": found, "refusal": None}

    def _entry(self, id: int, log: float | None) -> Json:
        token = self._tokenizer.token(id)
        return {"token": token, "logprob": log, "bytes": list(token.encode("utf-8", "replace"))}


class CompletionForm(Form):
    """Answers of `/v1/completions`."""

    kind = chunk_kind = "text_completion"

    def __init__(self, job: Job, id: str, created: int):
        super().__init__(job, id, created)
        self._echoed: set[int] = set()

    def choice(self, number: int, tokens: Sequence[TokenLog]) -> Json:
        """Return one of the whole answers."""
        echo, logs = self._echo(number)
        text = echo + self._answer.speeches[number].text
        found = self._logs([*logs, *self._after(tokens, len(echo))])
        return self._choice(number, text, found, self._answer.reason(number))

    def opening(self) -> Iterator[Json]:
        """Yield nothing; a prompt that is echoed comes with the first piece."""
        yield from ()

    def chunk(self, number: int, piece: Piece) -> Json:
        """Return the chunk of a piece."""
        return self._next(number, piece.text, piece.tokens, None)

    def last(self, number: int) -> Json:
        """Return the chunk that says why a text ended."""
        return self._next(number, "", [], self._answer.reason(number))

    def _next(self, number: int, text: str, tokens: Sequence[TokenLog], reason: str | None) -> Json:
        echo, logs = self._echo(number)
        found = self._after(tokens, len(echo))
        if number not in self._echoed:
            self._echoed.add(number)
            text, found = echo + text, [*logs, *found]
        return self._chunk([self._choice(number, text, self._logs(found), reason)])

    def _choice(self, number: int, text: str, logs: Json | None, reason: str | None) -> Json:
        return {"index": number, "text": text, "logprobs": logs, "finish_reason": reason}

    def _echo(self, number: int) -> tuple[str, list[TokenLog]]:
        """Return the prompt of a text, as it stands before it, with what is known of its tokens."""
        prompt = number // self._job.choices
        text = self._job.echo[prompt] if self._job.echo else ""
        return text, self._job.prompt_logs.get(prompt, [])

    def _after(self, tokens: Sequence[TokenLog], size: int) -> list[TokenLog]:
        return [TokenLog(t.id, t.log, t.top, t.offset + size) for t in tokens]

    def _logs(self, tokens: Sequence[TokenLog]) -> Json | None:
        if not tokens:
            return None
        name = self._tokenizer.token
        return {
            "tokens": [name(each.id) for each in tokens],
            "token_logprobs": [each.log for each in tokens],
            "top_logprobs": [
                None if each.log is None else {name(id): log for id, log in each.top}
                for each in tokens
            ],
            "text_offset": [each.offset for each in tokens],
        }
