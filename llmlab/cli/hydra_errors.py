"""Hydra's errors in one line each, with a guess at what was meant."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmlab.cli.places import conf_folder
from llmlab.errors import ConfigError, LlmlabError, MissingPackage, suggest

# Names of our keys in other programs.
_ELSEWHERE = {
    "learning_rate": "lr",
    "max_steps": "steps",
    "max_iters": "steps",
    "num_epochs": "epochs",
    "gradient_accumulation_steps": "accumulate",
    "grad_clip": "clip_norm",
    "max_grad_norm": "clip_norm",
    "n_embd": "model.embedding_dim",
    "hidden_size": "model.embedding_dim",
    "d_model": "model.embedding_dim",
    "n_inner": "model.hidden_dim",
    "intermediate_size": "model.hidden_dim",
    "d_ff": "model.hidden_dim",
    "block_size": "model.max_seq_len",
    "n_positions": "model.max_seq_len",
    "n_layer": "model.num_blocks",
    "num_layers": "model.num_blocks",
    "num_hidden_layers": "model.num_blocks",
    "n_head": "model.num_heads",
    "num_attention_heads": "model.num_heads",
}

# Launchers of Hydra that need a plug-in, and the files of conf/launcher that choose them.
_LAUNCHERS = {
    "joblib": ("launcher=joblib", "hydra-joblib-launcher", "joblib"),
    "submitit_slurm": ("launcher=slurm", "hydra-submitit-launcher", "slurm"),
    "ray": ("launcher=ray", "hydra-ray-launcher", "ray"),
}


def translated(error: Exception, tokens: Sequence[str]) -> BaseException:
    """Return a ConfigError for an error of Hydra, OmegaConf or YAML; else `error` itself.

    An error that Hydra's cleaning up makes of Ctrl-C is Ctrl-C.
    """
    if (interruption := _interruption(error)) is not None:
        return interruption
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError

    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark
        where = f"{mark.name}:{mark.line + 1}: " if mark else ""
        return ConfigError(f"{where}{error.problem or error}; correct this file")
    if isinstance(error, ValueError) and "Config group override must be" in str(error):
        return _no_option(tokens) or ConfigError(_refused(error, tokens))
    text = str(error)
    if not isinstance(error, LlmlabError) and (problem := _own_keys(text, tokens)):
        return ConfigError(problem)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        own = isinstance(error, LlmlabError | OSError | MemoryError)
        return error if own else ConfigError(_refused(error, tokens))
    if found := re.search(r"Could not find '([^']+)/([^/']+)'", text):
        if found[1] == "hydra/launcher" and found[2] in _LAUNCHERS:
            return MissingPackage(*_LAUNCHERS[found[2]])
        return ConfigError(_unknown_option(found[1], found[2], text))
    if found := re.search(
        r"Could not (?:override|append to config|delete from config\.) '([^']+)'", text
    ):
        return ConfigError(_unknown_key(found[1]))
    if found := re.search(r"Ambiguous value for argument '(.*)'\n", text):
        return ConfigError(
            f"{found[1]}: several values; add -m to try each, or write [a,b] for a list"
        )
    if found := re.search(r"Sweep parameters '(.*)' requires", text):
        return ConfigError(f"{found[1]}: several values; add -m to try each")
    if unread := _unreadable(tokens):
        return ConfigError(unread)
    cause = f": {error.__cause__}" if error.__cause__ else ""
    return ConfigError(" ".join(f"{text}{cause}".split()))


def _interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the KeyboardInterrupt during which an error came that isn't ours."""
    while error is not None and not isinstance(error, KeyboardInterrupt | LlmlabError):
        error = error.__context__
    return error if isinstance(error, KeyboardInterrupt) else None


def _own_keys(text: str, tokens: Sequence[str]) -> str | None:
    """Return what is wrong with `hydra.launcher` or `hydra.verbose`; Hydra names neither."""
    file = re.search(r"In '([^']+)'", text)
    where = f"{file[1]}: " if file else ""
    choose = "choose a launcher with launcher=NAME"
    typed = next((each for each in tokens if re.match(r"\+*hydra\.launcher=[^{]", each)), None)
    if found := re.search(r"is not a subclass of \w*Launcher\w*\b.*?value: ([^\n]*)", text, re.S):
        typed = f"hydra.launcher={found[1][:60]}"
    elif "Hydra launcher is not configured" in text:
        typed = typed or "hydra.launcher=null"
    if typed:
        return f"{where}{typed}: expected a mapping of the launcher's arguments; {choose}"
    if found := re.search(r"Key '.*' not in '\w*Launcher\w*'\s+full_key: (\S+)", text):
        return f"{where}{found[1]}: the launcher in use has no such argument; {choose}"
    if "logger name must be a string" in text:
        return "hydra.verbose: expected true, false, or names of loggers"
    return None


def _unknown_option(group: str, name: str, text: str) -> str:
    listed = text.partition("Available options")[2].partition("Config search path")[0]
    options = re.findall(r"^\t([^\s_]\S*)$", listed, re.MULTILINE)
    own = f"; one of your own needs phase/{name}.yaml in a folder that --config-dir names"
    return (
        f"{group}={name}: unknown {group}{suggest(name, options)}; known: {', '.join(options)}"
        f"{own if group == 'phase' else ''}"
    )


def _no_option(tokens: Sequence[str]) -> ConfigError | None:
    """Name the group that was given a number or null instead of the name of a file."""
    for token in tokens:
        key, _, value = token.partition("=")
        folder = conf_folder() / key.lstrip("+~").split("@")[0]
        if folder.is_dir() and not (folder / f"{value}.yaml").is_file():
            known = ", ".join(options_of(folder))
            return ConfigError(f"{token}: expected the name of a file; known: {known}")
    return None


def options_of(folder: Path) -> list[str]:
    """Return the files of a group that can be chosen; those with `_` are parts of others."""
    return sorted(path.stem for path in folder.glob("[!_]*.yaml"))


def _unknown_key(key: str) -> str:
    known = _known_keys()
    if key in known:
        return f"{key}: can't be removed like this, or exists already; write {key}=VALUE"
    last = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == last]
    meant = _ELSEWHERE.get(last) or (same[0] if same else None)
    guess = f" (did you mean '{meant}'?)" if meant else suggest(key, known)
    return f"{key}: unknown key{guess}; python -m llmlab --help lists them"


def _known_keys() -> list[str]:
    """Return all keys in the files of conf/."""
    import yaml

    conf = conf_folder()
    known: dict[str, None] = {}
    for path in [conf / "config.yaml", *sorted(conf.glob("*/[!_]*.yaml"))]:
        text = path.read_text(encoding="utf-8")
        top = path.parent == conf or text.startswith("# @package _global_")
        values = yaml.safe_load(text)
        for part in values.pop("defaults", []):
            name, _, place = part.partition("@") if isinstance(part, str) else ("", "", "")
            if name.startswith("_") and place:
                shared = (path.parent / f"{name}.yaml").read_text(encoding="utf-8")
                values[place] = yaml.safe_load(shared)
        known |= dict.fromkeys(_flat(values, "" if top else path.parent.name))
    return [key for key in known if not key.startswith("hydra")]


def _flat(value: Any, where: str) -> Iterator[str]:
    if where:
        yield where
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{where}.{key}" if where else str(key))


def _unreadable(tokens: Sequence[str]) -> str | None:
    """Return what is wrong with the first value that Hydra's grammar doesn't allow."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    for token in tokens:
        try:
            parser.parse_override(token)
        except Exception:  # the grammar's own are of many kinds
            shown = token if len(token) <= 60 else f"{token[:57]}..."
            if not _brackets_match(token):
                return f"{shown}: its brackets don't match; close each one that is opened"
            return (
                f"{shown}: Hydra can't parse this value; put text in two kinds of quotes: "
                f"\"{token.split('=')[0]}='...'\""
            )
    return None


def _brackets_match(token: str) -> bool:
    """Tell whether each bracket outside quotes is closed by its own kind, in order."""
    pairs, awaited, quote = {"(": ")", "[": "]", "{": "}"}, [], ""
    escaped = False
    for letter in token:
        if quote:
            quote = "" if letter == quote and not escaped else quote
        elif letter in "'\"" and not escaped:
            quote = letter
        elif letter in pairs:
            awaited.append(pairs[letter])
        elif letter in pairs.values() and (not awaited or awaited.pop() != letter):
            return False
        escaped = letter == "\\" and not escaped
    return not awaited or bool(quote)  # with a quote left open, the quotes are what is wrong


def _refused(error: Exception, tokens: Sequence[str]) -> str:
    """Return one line for an exception that Hydra passed on unchanged."""
    if unread := _unreadable(tokens):
        return unread
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{' '.join(tokens)[:200]}: refused by Hydra: {reason[:300]}; correct what was typed"
