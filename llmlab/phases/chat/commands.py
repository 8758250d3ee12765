"""What a chat does besides answering: lines that begin with a slash."""

from collections.abc import Callable
from pathlib import Path

from llmlab.errors import ConfigError, suggest
from llmlab.phases.answering import on_one_line
from llmlab.phases.chat.speaker import Speaker

Command = Callable[[Speaker, str], str | None]

COMMANDS: dict[str, tuple[Command, str, str]] = {}


def _command(name: str, argument: str, meaning: str) -> Callable[[Command], Command]:
    def register(function: Command) -> Command:
        COMMANDS[name] = function, argument, meaning
        return function

    return register


def run_command(speaker: Speaker, line: str) -> str | None:
    """Carry out a command and return what it has to say; raise `ConfigError` if it's wrong."""
    name, _, argument = line.strip().partition(" ")
    if name not in COMMANDS:
        raise ConfigError(
            f"{name}: unknown command{suggest(name, COMMANDS)}; /help lists them, and // begins "
            "a prompt with a slash"
        )
    return COMMANDS[name][0](speaker, argument.strip())


@_command("/help", "", "this list")
def _help(speaker: Speaker, argument: str) -> str:
    rows = [(f"{name} {given}".strip(), meaning) for name, (_, given, meaning) in COMMANDS.items()]
    width = max(len(name) for name, _ in rows)
    rows += [("Ctrl-C", "stop an answer; at the prompt: leave"), ("Ctrl-D", "leave")]
    return "\n".join(f"  {name:<{width}}  {meaning}" for name, meaning in rows)


@_command("/reset", "", "forget what was said")
def _reset(speaker: Speaker, argument: str) -> str:
    speaker.conversation.reset()
    return "forgotten"


@_command("/system", "[TEXT|off]", "set, show or remove the text that stands before all")
def _system(speaker: Speaker, argument: str) -> str:
    conversation = speaker.conversation
    if not argument:
        return f"system: {'none' if conversation.system is None else conversation.system}"
    conversation.begin(None if argument == "off" else argument)
    return f"system: {'none' if conversation.system is None else argument}; a new conversation"


@_command("/history", "[on|off]", "whether answers look back at earlier turns")
def _history(speaker: Speaker, argument: str) -> str:
    conversation = speaker.conversation
    if argument not in ("", "on", "off"):
        raise ConfigError(f"/history {argument}: expected on or off")
    if argument:
        conversation.remember = argument == "on"
    return (
        "answers look back at earlier turns"
        if conversation.remember
        else "each prompt is answered by itself"
    )


@_command("/temperature", "[NUMBER]", "0: always the most probable token; higher: more varied")
def _temperature(speaker: Speaker, argument: str) -> str:
    if not argument:
        spec = speaker.sampler
        return f"sampler: {', '.join(f'{key}={value}' for key, value in spec.items())}"
    try:
        temperature = float(argument)
    except ValueError:
        raise ConfigError(f"/temperature {argument}: expected a number, as 0.8") from None
    speaker.set_temperature(temperature)
    return f"temperature {temperature:g}"


@_command("/retry", "", "answer the last prompt again")
def _retry(speaker: Speaker, argument: str) -> None:
    conversation = speaker.conversation
    if not conversation.turns:
        raise ConfigError("/retry: nothing was asked yet")
    prompt = conversation.turns.pop().prompt
    speaker.answer(prompt)


@_command("/save", "FILE", "write the conversation as JSON, as tuning reads it")
def _save(speaker: Speaker, argument: str) -> str:
    path = _path("/save", argument)
    speaker.conversation.save(path)
    return f"{_turns(len(speaker.conversation.turns))} written to {path}"


@_command("/load", "FILE", "go on with a conversation")
def _load(speaker: Speaker, argument: str) -> str:
    path = _path("/load", argument)
    speaker.conversation.load(path)
    hint = "" if speaker.conversation.remember else "; /history on lets answers look back at them"
    return f"{_turns(len(speaker.conversation.turns))} read from {path}{hint}"


@_command("/tokens", "[TEXT]", "how a text is cut into tokens; alone: how full the context is")
def _tokens(speaker: Speaker, argument: str) -> str:
    conversation = speaker.conversation
    if argument:
        tokens = [on_one_line(token) for token in conversation.tokens(argument)]
        return f"{' | '.join(tokens)}\n{len(tokens)} tokens"
    room = speaker.answerer.longest_prompt
    held = f"{room} tokens, {speaker.answerer.model.max_seq_len} with its answer"
    if speaker.answerer.config.context == "refill":
        held += ", which may go on with the last half in view"
    if not conversation.remember:
        return f"each prompt is answered by itself and may have {held}"
    return f"{conversation.size()} tokens are in view; with the next prompt at most {held}"


@_command("/quit", "", "leave")
def _quit(speaker: Speaker, argument: str) -> None:
    speaker.over = True


def _path(command: str, argument: str) -> Path:
    if not argument:
        raise ConfigError(f"{command}: which file? For example {command} talk.jsonl")
    path = Path(argument).expanduser().absolute()
    return path if path.suffix else path.with_suffix(".jsonl")


def _turns(count: int) -> str:
    return "1 turn" if count == 1 else f"{count} turns"
