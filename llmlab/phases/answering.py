"""Text in, text out: what chat, generate, evaluate and full share."""

import logging
from collections.abc import Iterator, Sequence

from llmlab import build
from llmlab.config import Config
from llmlab.errors import CheckpointError, ConfigError
from llmlab.generate import Engine, Reply
from llmlab.streams import stream
from llmlab.train.checkpoint import load

log = logging.getLogger("llmlab")


def checkpoint_model(config: Config) -> build.Model:
    """Return the model of `config.checkpoint`, which the command line has made a path."""
    if config.checkpoint is None:
        raise CheckpointError(
            "no checkpoint: train first (python -m llmlab phase=pretrain), or name one with "
            "checkpoint=FILE"
        )
    return build.load_model(config, load(config.checkpoint))


class Answerer:
    """Answer prompts with a model, as its template and the configuration say."""

    def __init__(self, config: Config, model: build.Model):
        self.model, self.tokenizer, self.template = model, model.tokenizer, model.template
        self._limit = config.max_new_tokens
        self._seed = config.seed
        self._sampler = build.new_sampler(config, model.tokenizer.vocab_size)
        self._engine = Engine(model.stack, model.params, model.max_seq_len, config.kernels)

    def encode(self, text: str) -> list[int]:
        """Return the ids that the answer continues; say which words are unknown.

        Raises
        ------
        ConfigError
            If there is nothing to continue.
        """
        ids = self.template.encode_prompt(self.tokenizer, text)
        if not text.strip() or not ids:
            raise ConfigError("prompt: empty; give some text, as in prompt='What causes rain?'")
        unknown = self.tokenizer.unknown_words(text)
        if unknown:
            log.warning("not in the model's vocabulary: %s", ", ".join(unknown))
        longest = self.model.max_seq_len
        room = longest // 2 if self._limit is None else min(self._limit, longest // 2)
        keep = max(1, longest - room)
        if len(ids) > keep:
            log.warning("the prompt has %d tokens: only the last %d are used", len(ids), keep)
            ids = ids[-keep:]
        return ids

    def reply(self, text: str) -> str:
        """Return the whole answer to `text`."""
        return self._text(self.replies([self.encode(text)])[0].ids)

    def replies(self, prompts: Sequence[Sequence[int]]) -> list[Reply]:
        """Return the answers' ids to prompts of ids, in one batch."""
        return self._engine.generate(
            prompts,
            max_new_tokens=self._limit,
            stop_ids=[self.tokenizer.end_id],
            sampler=self._sampler,
            rngs=[
                stream(self._seed, "sampling", row)
                for row in range(len(prompts) * self._sampler.num_samples)
            ],
        )

    def stream(self, text: str) -> Iterator[str]:
        """Yield the answer to `text` in pieces, as it comes."""
        ids: list[int] = []
        shown = ""
        for token in self._engine.stream(
            self.encode(text),
            max_new_tokens=self._limit,
            stop_ids=[self.tokenizer.end_id],
            sampler=self._sampler,
            rngs=[stream(self._seed, "sampling", 0)],
        ):
            ids.append(token)
            whole = self._text(ids)
            # A later token may join or part what came before; only what is settled is shown.
            if whole.startswith(shown):
                yield whole[len(shown) :]
                shown = whole
        whole = self._text(ids)
        if whole != shown:
            yield "\n" + whole

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids).strip()
