"""The command line before Hydra sees it: flags, keys and free text.

Hydra's grammar refuses or changes much of what people write in a prompt or a path: quotes,
commas, brackets, `=`, `${...}`. So free text is quoted here and arrives as it was typed.
"""

import csv
import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from llmlab.cli.places import conf_folder
from llmlab.errors import ConfigError
from llmlab.named import flat
from llmlab.phases import PHASES
from llmlab.runs.overrides import Override, is_key, value_of

FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r"}
FLAGS |= {"--multirun", "-m", "--shell-completion", "-sc"}
FLAGS_WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp"}
FLAGS_WITH_VALUE |= {"--config-name", "-cn", "--config-dir", "-cd"}
FLAGS_WITH_OPTION = {"--info", "-i"}
_LONG = {"-r": "--run", "-m": "--multirun", "-c": "--cfg", "-i": "--info"}
_LONG |= {"-sc": "--shell-completion"}
_MODES = ("--run", "--multirun", "--cfg", "--info", "--shell-completion", "--hydra-help")
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
LATEST = ("latest", "best")  # a checkpoint that is looked up
_WORDS = {"checkpoint": LATEST, "resume": ("latest",), "on": ("pretrain", "tune")}
_WORDS |= {"draft": (*LATEST, "ngram")}
_INFO = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}
_PATH = re.compile(r"checkpoint|draft|resume|on|data\.[\w-]+\.(path|cache)|tokenizer\.path")
_PATHS = re.compile(r"plugins|tokenizer\.corpus|compare\.runs")
_SPACES = "text with spaces needs quotes"
_REFERENCE = re.compile(r"\$\{[\w.]+\}")
_TEXT = re.compile(
    r"prompt|source|target|baseline|(runs|clean)\.where|search\.(constraints|storage)"
)


def split(argv: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Return Hydra's flags, and the overrides."""
    flags: list[str] = []
    overrides: list[Override] = []
    problems: list[str] = []
    rest = list(argv)
    text = ""  # the key of the free text that stands just before
    listed: list[str] = []
    while rest:
        if text and (words := _words(rest)):
            value = " ".join([str(overrides.pop().value), *words])
            problems.append(f"{text}={value}: {_SPACES}: {text}={shlex.quote(value)}")
            continue
        token, text = rest.pop(0), ""
        name = token.split("=")[0]
        if token in FLAGS_WITH_VALUE and not rest:
            problems.append(f"{token}: needs a value")
        elif token in FLAGS_WITH_VALUE:
            flags += [token, rest.pop(0)]
        elif token in FLAGS or name in FLAGS_WITH_VALUE | FLAGS_WITH_OPTION:
            flags.append(token)
            if token in FLAGS_WITH_OPTION and rest and rest[0] in _INFO:
                flags.append(rest.pop(0))
        elif token.startswith("--experimental-rerun"):
            problems.append(
                f"{token}: this would load a pickle, which can run code; use resume=RUN"
            )
        elif token.startswith("-"):
            problems.append(_misspelt(token.lstrip("-"), rest))
        elif "phase=list" in argv and re.fullmatch(r"\w[\w-]*", token):
            listed.append(token)
        elif not is_key(token) or ("=" not in token and not token.startswith("~")):
            problems.append(_misspelt(token, rest))
        else:
            overrides.append(Override.of(token))
            text = overrides[-1].key if _is_free(overrides[-1].key) else ""
    if listed:  # what to list is the prompt of this phase
        overrides.append(Override("", "prompt", " ".join(listed)))
    problems += _contradictions(flags, overrides)
    if problems:
        raise ConfigError(problems)
    return flags, overrides


def _contradictions(flags: Sequence[str], overrides: Sequence[Override]) -> list[str]:
    """Return the contradictions among Hydra's own flags and keys."""
    names = [_LONG.get(flag, flag).split("=")[0] for flag in flags]
    modes = [name for name in dict.fromkeys(names) if name in _MODES]
    problems = []
    if len(modes) > 1:
        problems.append(f"{' '.join(modes)}: these exclude each other; keep one")
    if "--resolve" in names and "--cfg" not in names:
        problems.append("--resolve: only works with --cfg job; leave it out")
    given = {override.name: override.value for override in overrides}
    mode = str(given.get("hydra.mode", "MULTIRUN")).upper()
    if mode not in ("RUN", "MULTIRUN"):
        problems.append(f"hydra.mode={mode}: expected RUN or MULTIRUN; -m is shorter")
    elif mode == "RUN" and "--multirun" in names:
        problems.append("-m hydra.mode=RUN: these contradict each other; leave one of them out")
    resume = given.get("resume")
    for key in FOLDERS:
        if key in given and given[key] in (None, "", "null", "''", '""'):
            problems.append(
                f"{key}={given[key] or ''}: needs a folder; name one, or leave this out"
            )
        elif key in given and resume not in (None, "", "null"):
            problems.append(
                f"{key}={given[key]}: resume={resume} uses the run's own folder; leave this out"
            )
    return problems


def _is_free(key: str) -> bool:
    return bool(_TEXT.fullmatch(key) or _PATH.fullmatch(key) or key in FOLDERS)


def _words(rest: list[str]) -> list[str]:
    """Take from `rest` all words before the next key or flag."""
    words = list(takewhile(lambda word: "=" not in word and word[:1] not in ("-", "~"), rest))
    del rest[: len(words)]
    return words


def _misspelt(token: str, rest: list[str]) -> str:
    """Say how `--lr=5e-4`, `--lr 5e-4` or `lr 5e-4` is written."""
    if is_key(token) and "=" in token:
        return f"--{token}: write {token}"
    if rest and "=" not in token and "=" not in rest[0] and not rest[0].startswith("-"):
        value = " ".join(_words(rest)) if _is_free(token) else rest.pop(0)
        return f"{token} {value}: write {token}={shlex.quote(value)}"
    if token in PHASES:
        return f"{token}: write phase={token}"
    return f"{token}: expected key=value, for example lr=5e-4; {_SPACES}"


def is_sweep(flags: Sequence[str], overrides: Sequence[Override]) -> bool:
    """Tell whether Hydra will run a sweep."""
    if any(override.name == "phase" and override.value == "search" for override in overrides):
        return True
    for override in overrides:
        if override.name == "launcher" and override.value not in ("basic", "null"):
            return True
        if override.name == "hydra.mode":
            return str(override.value).upper() == "MULTIRUN"
        if override.name == "seeds" and override.value == "auto":
            return True
    return not {"-m", "--multirun"}.isdisjoint(flags)


def token(override: Override, sweep: bool = False, phase: str | None = None) -> str:
    """Return the form of `override` that Hydra should read.

    A prompt, `source` and `target` are taken as they stand. So are paths, made absolute, so
    that a run can be resumed from another folder; in a sweep a comma separates paths, and a
    path that holds one is written in quotes: `checkpoint="'a,b.npz'"`. `null` is no path.
    `phase` may be one of the user's own, whose arguments are known by its name.
    """
    key, value = override.key, override.value
    if value is None:
        return f"{override.prefix}{key}"
    prefix = override.prefix
    if not prefix and _is_argument(override.name, phase):
        prefix = "++"
    if _TEXT.fullmatch(key):
        value = quoted(value)
    elif _PATH.fullmatch(key) and value != "null":
        paths = parts(value) if sweep and key != "resume" else [value]
        value = ",".join(quoted(_path(key, path)) for path in paths)
    elif key in FOLDERS:
        # Written as in any Hydra program: ${now:...} in it is meant.
        value = quoted(value, interpolate=True)
    elif _PATHS.fullmatch(key) and value != "null":
        lists = re.split(r"(?<=\]),(?=\[)", value) if sweep else [value]
        value = ",".join(_list(key, each) for each in lists)
    return f"{prefix}{key}={value}"


def as_typed(text: str) -> str:
    """Return a token without the `++` that `token` puts before an argument of a part."""
    override = Override.of(text)
    argument = override.prefix == "++" and _is_argument(override.name, None)
    return text[2:] if argument else text


def _is_argument(key: str, phase: str | None) -> bool:
    """Tell whether a key may be an argument of a registered part.

    Their signatures know them all, conf/ states the usual ones. The network's sizes are no such.
    """
    top, _, rest = key.partition(".")
    if top in ("hydra", "model"):
        return key.startswith("model.stack.")
    known = top in ("template", "callbacks", *PHASES, phase) or (conf_folder() / top).is_dir()
    return bool(rest) and known


def quoted(text: str, interpolate: bool = False) -> str:
    r"""Return `text` quoted for Hydra's grammar, which then reads it unchanged.

    `\` before a quote is doubled, a quote gets one; `${` gets one too, unless `interpolate`.
    """
    if not interpolate:
        text = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    text = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", text)
    trailing = len(text) - len(text.rstrip("\\"))
    return f"'{text}{chr(92) * trailing}'"


def parts(value: str) -> list[str]:
    """Split at commas outside quotes, and take those quotes off."""
    return next(csv.reader([value], quotechar="'", skipinitialspace=True), []) or [value]


def joined(paths: Iterable[str]) -> str:
    """Return paths as `parts` reads them."""
    return ",".join(f"'{path}'" if "," in path else path for path in paths)


def typed_keys(texts: Iterable[str]) -> set[str]:
    """Return the keys that overrides state; of a mapping, `a={b: 1}`, those inside it."""
    typed = map(Override.of, texts)
    return {key for each in typed for key, _ in flat(value_of(each.value or ""), each.name)}


def _list(key: str, value: str) -> str:
    """Return paths, in brackets or not, as a list; `${...}` alone is meant as in YAML."""
    inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    names = [part.strip() for part in parts(inner) if part.strip()]
    shown = [name if _REFERENCE.fullmatch(name) else quoted(_path(key, name)) for name in names]
    return f"[{','.join(shown)}]"


def _path(key: str, value: str) -> str:
    """Return `value` as an absolute path, unless it is one of the key's words."""
    if value in _WORDS.get(key, ()) or not value:
        return value
    if key == "checkpoint" and value.startswith(("[/", "['/")):  # several, looked up before
        return value
    if key == "plugins" and not value.endswith(".py"):
        return value
    if key == "compare.runs":  # an id, or an arm: SWEEP:positions=rope
        return value
    return str(Path(value).expanduser().absolute())
