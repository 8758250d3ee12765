"""From messages and texts to the ids that answers continue."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.errors import LlmlabError
from llmlab.phases.answering import clean
from llmlab.serve.errors import RequestError
from llmlab.serve.models import Limits, Served
from llmlab.text.templates import Message


def messages_of(given: Sequence[Mapping[str, Any]], limits: Limits) -> list[Message]:
    """Return the messages of a chat."""
    messages = []
    for each in given:
        content = each["content"]
        text = content if isinstance(content, str) else "".join(p["text"] for p in content)
        role = "system" if each["role"] == "developer" else each["role"]
        messages.append(Message(role, clean(text)))
    _check_size(sum(len(message.content) for message in messages), limits, "messages")
    return messages


def _check_size(size: int, limits: Limits, field: str) -> None:
    if size > limits.prompt:
        raise RequestError(
            f"{field}: {size:,} characters; this server takes {limits.prompt:,}",
            field,
            400,
            "context_length_exceeded",
        )


def fitting(messages: list[Message], served: Served, most: Any, warnings: list[str]) -> list[int]:
    """Return the ids of a chat, without the oldest turns that leave no room for an answer."""
    tokenizer, longest = served.model.tokenizer, served.model.max_seq_len
    wanted = served.limit if most is None else int(most)
    room = longest // 2 if wanted is None else min(wanted, longest // 2)
    first = next((n for n, m in enumerate(messages) if m.role != "system"), len(messages))
    kept, rest = messages[:first], messages[first:]
    left_out = 0
    try:
        ids = served.template.encode_messages(tokenizer, messages, reply=True)[0]
        while len(ids) > max(1, longest - room) and len(rest) > 1:
            drop = next((n for n, m in enumerate(rest[1:], 1) if m.role == "user"), len(rest) - 1)
            rest, left_out = rest[drop:], left_out + drop
            ids = served.template.encode_messages(tokenizer, [*kept, *rest], reply=True)[0]
    except LlmlabError as error:
        raise RequestError(f"messages: {error}", "messages") from None
    if left_out:
        warnings.append(f"messages: the oldest {left_out} left out, for the context is short")
    _check_length(ids, longest, "messages")
    unknown = tokenizer.unknown_words(" ".join(m.content for m in messages))
    _warn_of(unknown, tokenizer, warnings)
    return ids or [tokenizer.end_id]


def _warn_of(unknown: Sequence[str], tokenizer: Any, warnings: list[str]) -> None:
    if unknown:
        warnings.append(f"not in the model's vocabulary: {ascii(tokenizer.listed(unknown))[1:-1]}")


def _check_length(ids: Sequence[int], longest: int, field: str) -> None:
    if len(ids) > longest:
        raise RequestError(
            f"{field}: {len(ids)} tokens; this model's context has {longest}",
            field,
            400,
            "context_length_exceeded",
        )


def prompts_of(given: Any, served: Served, limits: Limits, warnings: list[str]) -> list[list[int]]:
    """Return the ids of one or several prompts, given as text or ids."""
    tokenizer = served.model.tokenizer
    several = isinstance(given, list) and not isinstance(given[0], int | float)
    found = []
    for number, prompt in enumerate(given if several else [given]):
        where = f"prompt[{number}]" if several else "prompt"
        if isinstance(prompt, str):
            _check_size(len(prompt), limits, where)
            _warn_of(tokenizer.unknown_words(clean(prompt)), tokenizer, warnings)
            ids = tokenizer.encode(clean(prompt)) or [tokenizer.end_id]
        else:
            ids = [int(id) for id in prompt]
            if max(ids) >= tokenizer.vocab_size:
                raise RequestError(
                    f"{where}: ids must be below {tokenizer.vocab_size}, found {max(ids)}", "prompt"
                )
        _check_length(ids, served.model.max_seq_len, where)
        found.append(ids)
    return found
