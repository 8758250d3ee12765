"""Text in, text out: what chat, generate, score, evaluate and full share."""

import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmlab import build
from llmlab.checkpoints import Checkpoint
from llmlab.config import Config
from llmlab.errors import CheckpointError, ConfigError
from llmlab.generate import Engine, Reply
from llmlab.params import Arena
from llmlab.phases.drafting import new_draft
from llmlab.runs.lookup import load_present
from llmlab.streams import stream
from llmlab.text.templates.none import NoTemplate
from llmlab.text.tokenizers.base import Tokenizer

log = logging.getLogger("llmlab")


def named_checkpoint(config: Config) -> Checkpoint:
    """Return `config.checkpoint`, which the command line has made a path."""
    if config.checkpoint is None:
        raise CheckpointError(
            "no checkpoint: train first (python -m llmlab phase=pretrain), or name one with "
            "checkpoint=FILE"
        )
    return load_present(config.checkpoint)


def checkpoint_model(config: Config) -> build.Model:
    """Return the model of `config.checkpoint`."""
    checkpoint = named_checkpoint(config)
    model = build.load_model(config, checkpoint)
    log.info("checkpoint: %s", checkpoint.path)
    return model


@dataclass(frozen=True)
class Answer:
    """An answer as text and as ids, and why it ended (as in `Reply`)."""

    text: str
    ids: list[int]
    reason: str


class Answerer:
    """Answer prompts with a model, as its template and the configuration say."""

    def __init__(self, config: Config, model: build.Model, told: bool = False):
        self.model, self.tokenizer, self.template = model, model.tokenizer, model.template
        self.config, self._limit, self._seed = config, config.max_new_tokens, config.seed
        self._raw = isinstance(self.template, NoTemplate)  # what continues it keeps its white space
        self._stop_ids = self.template.stop_ids(self.tokenizer)
        self._engine = Engine(model.network(config.kernels))
        self.draft = new_draft(config, model)
        self.told = told  # that a context was full
        self.use(config.sampler)

    def use(self, spec: Any) -> None:
        """Choose tokens with the sampler that `spec` describes."""
        spec = _with_ids(spec, self.tokenizer)
        config = replace(self.config, sampler=spec)
        self.sampler = build.new_sampler(config, self.tokenizer.vocab_size)

    @property
    def longest_prompt(self) -> int:
        """How many tokens a prompt may have, so that there is room for an answer."""
        longest = self.model.max_seq_len
        room = longest // 2 if self._limit is None else min(self._limit, longest // 2)
        return max(1, longest - room)

    def encode(self, text: str) -> list[int]:
        """Return the ids that the answer continues; warn about whatever of `text` is lost.

        ConfigError if there is nothing to continue.
        """
        text = clean(text)
        self.check(text)
        return self.truncated(self.template.encode_prompt(self.tokenizer, text))

    def check(self, text: str) -> None:
        """Refuse an empty prompt, and warn about words that are unknown."""
        if not (text if self._raw else text.strip()):
            raise ConfigError("prompt: empty; give some text, as in prompt='What causes rain?'")
        warn_of_unknown(self.tokenizer, text)

    def truncated(self, ids: list[int]) -> list[int]:
        """Return as many of the last ids as leave room for an answer."""
        keep = self.longest_prompt
        if not ids:
            raise ConfigError("prompt: holds no token; give some text")
        if len(ids) > keep:
            log.warning("the prompt has %d tokens: only the last %d are used", len(ids), keep)
        return ids[-keep:]

    def reply(self, text: str) -> str:
        """Return the answer to `text`, the first if the sampler gives several."""
        return self.answers(text)[0].text

    def answers(self, text: str) -> list[Answer]:
        """Return as many answers to `text` as the sampler gives."""
        return [self._answer(reply) for reply in self._generate([self.encode(text)])]

    def replies(self, prompts: Sequence[Sequence[int]]) -> list[Reply]:
        """Return one answer's ids to each prompt of ids, in one batch."""
        return self._generate(prompts)[:: self.sampler.num_samples]

    def stream_text(self, ids: Sequence[int], number: int = 0) -> Generator[str, None, Answer]:
        """Yield the answer to a prompt of ids in pieces, as it comes, and return it.

        `number` chooses the stream of random numbers, so answers differ.
        """
        tokens = self._engine.stream_ids(ids, rngs=self._rngs(number, 1, each=1), **self._options())
        said: list[int] = []
        shown = ""
        while True:
            try:
                said.append(next(tokens))
            except StopIteration as end:
                answer = self._answer(end.value)
                break
            text = self.tokenizer.continuation(said)
            now = settled(text, self.sampler.stop, strip=not self._raw)
            # A later token may join or part what came before; then the whole follows at the end.
            if now.startswith(shown) and now != shown:
                yield now[len(shown) :]
                shown = now
        if answer.text.startswith(shown):
            yield answer.text[len(shown) :]
        else:
            yield f"\n{answer.text}"
        return answer

    def _generate(self, prompts: Sequence[Sequence[int]]) -> list[Reply]:
        rngs = self._rngs(0, len(prompts), self.sampler.num_samples)
        return self._engine.generate(prompts, rngs=rngs, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "max_new_tokens": self._limit,
            "stop_ids": self._stop_ids,
            "sampler": self.sampler,
            "until": self._until(),
            "refill": self.config.context == "refill",
            "draft": self.draft,
        }

    def _rngs(self, first: int, prompts: int, each: int) -> list[Any]:
        return [stream(self._seed, "sampling", first + row) for row in range(prompts * each)]

    def _until(self) -> Any:
        """Return a function that tells the engine whether a stop text has come, or None."""
        stop = self.sampler.stop
        if not stop:
            return None
        return lambda ids: any(text in self.tokenizer.continuation(ids) for text in stop)

    def _answer(self, reply: Reply) -> Answer:
        text = self.tokenizer.continuation(reply.ids)
        cut = before_stops(text, self.sampler.stop)
        reason = reply.reason if cut == text else "stop"
        cut = cut if self._raw else cut.strip()
        self._tell(cut, reply)
        return Answer(cut, reply.ids, reason)

    def _tell(self, text: str, reply: Reply) -> None:
        """Say what can't be seen in an answer: that it is empty, and what it looked back at."""
        if not text and self._limit != 0:
            why = "consists of special tokens or blanks" if reply.ids else "ends where it begins"
            log.warning("the answer is empty: what the model writes %s", why)
        if reply.refills and not self.told:
            self.told = True
            log.warning(
                "longer than the context, %d tokens: whenever it filled up, the answer continued "
                "with only its last half in view (context=stop ends it there)",
                self.model.max_seq_len,
            )


def replier(config: Config, model: build.Model, params: Arena) -> Callable[[str], str]:
    """Return a function that answers a prompt with the model as its parameters then are."""
    model = replace(model, params=params)
    told = False

    def reply(prompt: str) -> str:
        nonlocal told
        answerer = Answerer(config, model, told=told)
        text = answerer.reply(prompt)
        told = answerer.told
        return text

    return reply


def before_stops(text: str, stops: Sequence[str]) -> str:
    """Return `text` up to the first of some texts that end it."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)]


def settled(text: str, stops: Sequence[str], strip: bool) -> str:
    """Return `text` without an end that later tokens may change or take away."""
    for stop in stops:
        text = before_stops(text, [stop])
        for size in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:size]):
                text = text[:-size]
                break
    text = text.rstrip("\ufffd")  # what may be the beginning of a character
    return text.strip() if strip else text


def warn_of_unknown(tokenizer: Tokenizer, text: str) -> str | None:
    """Warn about words that the model reads as unknown; return what was said, None if nothing."""
    if not (unknown := tokenizer.unknown_words(text)):
        return None
    said = f"not in the model's vocabulary: {tokenizer.listed(unknown)}"
    log.warning("%s", said)
    return said


def clean(text: str) -> str:
    """Return `text` with a replacement character for each byte that was no UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def on_one_line(token: str) -> str:
    r"""Return a token for a table or a list: line ends and tabs as `\n`, `\r` and `\t`."""
    return token.translate({ord("\n"): r"\n", ord("\r"): r"\r", ord("\t"): r"\t"})


def _with_ids(spec: Any, tokenizer: Any) -> Any:
    """Return a sampler's spec with ids for the words of `logit_bias`."""
    biases = spec.get("logit_bias") if isinstance(spec, dict) else None
    if not biases:
        return spec
    named: dict[int, Any] = {}
    for key, value in biases.items():
        ids = [key] if isinstance(key, int) else tokenizer.encode(str(key))
        if len(ids) != 1 or ids[0] == tokenizer.unknown_id:
            found = f"{len(ids)} tokens" if len(ids) != 1 else "an unknown one"
            raise ConfigError(
                f"sampler.logit_bias.{key}: must be one token of the vocabulary, or an id; "
                f"this is {found}"
            )
        named[ids[0]] = value
    return {**spec, "logit_bias": named}
