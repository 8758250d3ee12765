"""Chats as people's files hold them: messages, ShareGPT's conversations, Alpaca's instructions."""

from typing import Any, NoReturn

from llmlab.errors import DataError
from llmlab.text.templates.base import ROLES, Message

WANTED = "a string or an object with 'messages', 'conversations' or 'instruction' and 'output'"
_SPEAKERS = {  # of ShareGPT and of the programs that write its form
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}


def chat_of(value: Any, where: str) -> list[Message] | None:
    """Return the messages in an object of any known form; None if it isn't one.

    DataError if it is one, and damaged.
    """
    if not isinstance(value, dict):
        return None
    for key in ("messages", "conversations"):
        if key in value:
            return _messages(value[key], key, where, value.get("system"))
    return _instruction(value, where) if {"instruction", "output"} <= value.keys() else None


def _messages(value: Any, key: str, where: str, system: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: '{key}': expected a list of messages, found {kind(value)}")
    messages = [_message(item, f"{where}: {key}[{n}]") for n, item in enumerate(value)]
    if isinstance(system, str) and system and messages[0].role != "system":
        messages.insert(0, Message("system", system))
    return messages


def _message(item: Any, here: str) -> Message:
    role = content = None
    if isinstance(item, dict):
        role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
        if content is None and item.get("tool_calls"):
            raise DataError(
                f"{here}: a call of a tool without text, which llmlab doesn't write; put the call "
                "into 'content' as text"
            )
    if isinstance(content, list):
        content = _joined(content, here)
    if not isinstance(content, str):
        raise DataError(
            f"{here}: expected an object with 'role' and 'content', or 'from' and 'value', found "
            f"{kind(item)}"
        )
    role = _SPEAKERS.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        found = "none" if role is None else ascii(role)[:40]
        raise DataError(f"{here}: expected a role of {', '.join(ROLES)}, found {found}")
    return Message(role, content)


def _joined(parts: list[Any], here: str) -> str:
    """Return the text of a content that is a list of parts."""
    texts = []
    for n, part in enumerate(parts):
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            named = part.get("type") if isinstance(part, dict) else None
            found = f"a part of type {ascii(named)[:40]}" if named else kind(part)
            raise DataError(f"{here}: content[{n}]: expected text, found {found}")
        texts.append(text)
    return "".join(texts)


def _instruction(value: dict[str, Any], where: str) -> list[Message]:
    """Return Alpaca's form as a chat: earlier turns, then instruction, line end and input."""
    history = value.get("history") or []
    pairs = isinstance(history, list) and all(isinstance(p, list) and len(p) == 2 for p in history)
    texts = [value["instruction"], value.get("input") or "", value["output"]]
    texts += [value.get("system") or ""]
    texts += [text for pair in history for text in pair] if pairs else []
    if not pairs or not all(isinstance(text, str) for text in texts):
        _refuse(where)
    asked = "\n".join(text for text in texts[:2] if text.strip())
    if not asked.strip():
        _refuse(where)
    turns = [*history, [asked, texts[2]]]
    messages = [Message("system", texts[3])] if texts[3] else []
    for question, answer in turns:
        messages += [Message("user", question), Message("assistant", answer)]
    return messages


def _refuse(where: str) -> NoReturn:
    """Raise what is wrong with an object in Alpaca's form."""
    raise DataError(
        f"{where}: expected strings 'instruction' (not empty), 'input' and 'output', and 'history' "
        "as pairs of strings, if it is there"
    )


def kind(value: Any) -> str:
    """Return what a value is, for a message."""
    if isinstance(value, dict):
        for key in ("text", "content", "value"):
            if key in value and not isinstance(value[key], str):
                return f"an object whose '{key}' is {kind(value[key])}"
        names = ", ".join(ascii(name[:20]) for name in list(value)[:5])
        return f"an object with {names}" if names else "an empty object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return "a string"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "a number"
