"""From a request's JSON to texts that can be decoded."""

import json
import secrets
from dataclasses import dataclass, field
from typing import Any, NoReturn

from llmlab.serve.batch import Text
from llmlab.serve.errors import RequestError
from llmlab.serve.models import Limits, Served
from llmlab.serve.prompts import fitting, messages_of, prompts_of
from llmlab.serve.sampling import sampler_of
from llmlab.serve.scheduler import Answer
from llmlab.serve.schema import Schema, check
from llmlab.serve.speech import Speech, TokenLog, following, prompt_logs
from llmlab.streams import stream


@dataclass
class Job:
    """A request, ready to be decoded."""

    served: Served
    answer: Answer
    prompts: list[list[int]]  # the ids of its prompts; each has `choices` answers in a row
    choices: int
    streams: bool
    counts_usage: bool
    warnings: list[str] = field(default_factory=list)  # what its client should know, a line each
    echo: list[str] = field(default_factory=list)  # the texts that stand before the answers
    # Log probabilities of the prompts' tokens, if wanted, by number of the prompt
    prompt_logs: dict[int, list[TokenLog]] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What the two kinds of requests differ in."""

    prompts: list[list[int]]
    stop_ids: frozenset[int]
    top: int | None  # how many of the most probable tokens are noted; None: no probabilities
    most: Any  # how many tokens the request asks for
    # Whether white space around answers is left out, and whether they continue their prompt
    strips: bool = False
    continues: bool = False


def parse(body: bytes) -> dict[str, Any]:
    """Return a body of JSON; raise `RequestError` if it is none."""
    try:
        data = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise RequestError("the body is nested too deep") from None
    except ValueError as error:
        reason = str(error).split("\n")[0][:200]
        raise RequestError(f"the body is not valid JSON: {reason}") from None
    if not isinstance(data, dict):
        raise RequestError("the body: expected an object")
    return data


def checked(data: dict[str, Any], schema: Schema) -> tuple[dict[str, Any], list[str]]:
    """Return the fields that are known and not null, and a warning if there are others."""
    check(data, schema)
    known = schema["properties"]
    unknown = [ascii(name[:60]) for name in data if name not in known]
    more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
    warnings = [f"ignored, since unknown: {', '.join(unknown[:20])}{more}"] if unknown else []
    return {k: v for k, v in data.items() if k in known and v is not None}, warnings


def chat_job(data: dict[str, Any], served: Served, limits: Limits, warnings: list[str]) -> Job:
    """Return the job of a chat's request; it may take a moment, and asks nobody else."""
    top = int(data.get("top_logprobs", 0)) if data.get("logprobs") else None
    if data.get("top_logprobs") and top is None:
        raise RequestError("top_logprobs: needs logprobs=true", "top_logprobs")
    most = data.get("max_completion_tokens", data.get("max_tokens"))
    ids = fitting(messages_of(data["messages"], limits), served, most, warnings)
    stop_ids = frozenset(served.template.stop_ids(served.model.tokenizer))
    want = Wanted([ids], stop_ids, top, most, strips=not served.is_raw)
    return _job(data, served, limits, warnings, want)


def completion_job(
    data: dict[str, Any], served: Served, limits: Limits, warnings: list[str]
) -> Job:
    """Return the job of a request to continue texts."""
    tokenizer = served.model.tokenizer
    prompts = prompts_of(data["prompt"], served, limits, warnings)
    top = None if "logprobs" not in data else int(data["logprobs"])
    stop_ids = frozenset(tokenizer.stop_ids or (tokenizer.end_id,))
    want = Wanted(prompts, stop_ids, top, data.get("max_tokens"), continues=True)
    job = _job(data, served, limits, warnings, want)
    if data.get("echo"):
        job.echo = [tokenizer.decode(ids) for ids in prompts]
        for number, ids in enumerate(prompts if top is not None else []):
            text = job.answer.texts[number * job.choices]
            text.on_prompt = _noting(job, number, ids, top or 0)
    return job


def _noting(job: Job, number: int, ids: list[int], top: int) -> Any:
    """Return a function that notes the log probabilities of a prompt."""
    decode = job.served.model.tokenizer.decode

    def note(logits: Any) -> None:
        job.prompt_logs[number] = prompt_logs(ids, logits, top, decode)

    return note


def _job(
    data: dict[str, Any],
    served: Served,
    limits: Limits,
    warnings: list[str],
    want: "Wanted",
) -> Job:
    sampler = sampler_of(data, served)
    stop = data.get("stop", [])
    stops = [*sampler.stop, *([stop] if isinstance(stop, str) else stop)]
    limit, refills = _limit(want.most, served, limits, warnings)
    seed = int(data["seed"]) if "seed" in data else secrets.randbits(63)
    choices, streams = int(data.get("n", 1)), bool(data.get("stream"))
    texts, speeches = [], []
    tokenizer = served.model.tokenizer
    for ids in want.prompts:
        text_of = following(tokenizer, ids) if want.continues else tokenizer.continuation
        for choice in range(choices):
            speech = Speech(text_of, stops, want.strips, want.top, streams)
            rng = stream(seed, "sampling", choice)
            text = Text(ids, limit, sampler, rng, want.stop_ids, speech.hear, refills=refills)
            texts.append(text)
            speeches.append(speech)
    usage = bool((data.get("stream_options") or {}).get("include_usage"))
    answer = Answer(texts, speeches)
    return Job(served, answer, want.prompts, choices, streams, usage, warnings)


def _limit(most: Any, served: Served, limits: Limits, warnings: list[str]) -> tuple[int, bool]:
    """Return how many tokens an answer may have, and whether it goes on when the context is full.

    Only if somebody said how far, so that no answer goes on without end.
    """
    most = served.limit if most is None else int(most)
    if most is not None and most > limits.tokens:
        warnings.append(f"max_tokens: {limits.tokens} is the most that this server gives")
        most = limits.tokens
    return (limits.tokens, False) if most is None else (most, served.refills)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't a number of JSON")
