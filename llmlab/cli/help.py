"""`--help`, written from the schema and from conf/, so it is always up to date."""

from pathlib import Path
from textwrap import dedent, wrap
from typing import Any

from llmlab.cli.help_keys import group_keys, named_keys, part_keys, phase_keys, read_yaml
from llmlab.cli.hydra_errors import options_of
from llmlab.cli.places import conf_folder

_TITLES = {
    "lr": "training",
    "checkpoint": "start and continue",
    "threads": "machine",
    "prompt": "using a model",
    "save_every": "intervals and limits",
}

_START = """\
    llmlab - a laboratory for language models in pure NumPy

    usage:  python -m llmlab [key=value ...]
            python -m llmlab -m key=a,b [key=c,d ...]     try every combination

    Without arguments: pre-train and tune a small chat model on the data that ship with llmlab,
    show its answers before and after, and chat with it. Each run has a folder in ./runs.
"""

_EXAMPLES = """\
    examples
      python -m llmlab experiment=tiny
          everything from training to chat, in a few seconds
      python -m llmlab phase=pretrain data.pretrain.path=my.txt epochs=50 lr=1e-3
          train on a text of your own, one sample per line
      python -m llmlab phase=generate prompt="How do mountains form?"
          one answer from the latest checkpoint
      python -m llmlab resume=latest
          continue an interrupted run exactly where it stopped
      python -m llmlab -m lr=1e-3,5e-4 model.num_blocks=1,3
          four runs, and a table of them ranked by loss

    more
      phase=list shows every layer, optimizer, ... that `type:` can name; phase=list layers and
      phase=list rope show a part of them. phase=summary shows the network, and phase=check
      plugins=my_layers.py tests what you have written.
      prompt= and paths are taken literally and need no quotes but the shell's. With -m, commas
      separate paths but not prompts; put a path that contains a comma in quotes: "'a,b.npz'".
      From Hydra: --cfg job prints the configuration, --info config shows where it comes from,
      --config-dir DIR adds your own YAML files, --hydra-help explains the rest.
      hydra.run.dir=FOLDER is where a run goes, hydra.sweep.dir=FOLDER a sweep or a search.
      LLMLAB_DEBUG=1 shows tracebacks.
      exit codes: 1 training, 2 configuration, 3 data, 4 checkpoint, 5 environment; stopped by
      a signal: 130 (Ctrl-C), 143 (SIGTERM), 138 and 140 (SLURM's SIGUSR1 and 2); 141 a closed pipe.
"""


def help_text() -> str:
    """Return the whole help."""
    # The configuration's room imports NumPy and all registries; only the help needs it here.
    from llmlab.phases import PHASES

    conf = conf_folder()
    defaults = read_yaml(conf / "config.yaml")
    lines = [dedent(_START), "phases (phase=full is the default)"]
    lines += [f"  {name:<10} {phase.meaning}" for name, phase in PHASES.items()]
    lines += ["", "keys of one phase alone; phase=list NAME has their defaults"]
    lines.append(_listed(phase_keys(), 4))
    lines += ["", "keys, with their defaults", *_own_keys(conf, defaults)]
    lines += ["  the network", *_network(conf)]
    lines += ["", "groups: files in conf/, chosen by name, with the keys of them all;"]
    lines += ["phase=list NAME has those of one, with their defaults", *_groups(conf, defaults)]
    return "\n".join([*lines, "", dedent(_EXAMPLES)]).rstrip()


def _own_keys(conf: Path, defaults: dict[str, Any]) -> list[str]:
    from llmlab.config import Config
    from llmlab.config.specs import registries
    from llmlab.config.study import Study
    from llmlab.config.values import keys_of

    lines = []
    for name, (_, key) in keys_of(Config).items():
        if key.group or name in ("stages", "callbacks"):
            continue
        if name in _TITLES:
            lines.append(f"  {_TITLES[name]}")
        if name == "study":
            for inner, (_, own) in keys_of(Study).items():
                value = _shown(defaults["study"][inner])
                lines.append(_line(f"study.{inner}={value}", own.meaning))
            continue
        default = _stages_default(conf, name) or _shown(defaults.get(name))
        lines.append(_line(f"{name}={default}", key.meaning))
        if name == "template":
            lines.append(_listed(part_keys(registries()["template"], "template")))
    lines.append(_line("callbacks.bar=null", keys_of(Config)["callbacks"][1].meaning))
    lines.append(_listed(named_keys(defaults["callbacks"], "callbacks", registries()["callback"])))
    lines.append("  stages of phase=full")
    lines.append(_line("stages.tune.lr=1e-4", "lr, epochs or steps of one stage, pretrain or tune"))
    return lines


def _network(conf: Path) -> list[str]:
    from llmlab.config import ModelKeys
    from llmlab.config.values import keys_of

    lines = []
    preset = read_yaml(conf / "model" / "rustgpt.yaml")
    for name, (_, key) in keys_of(ModelKeys).items():
        if name not in ("name", "stack") and not key.optional:
            lines.append(_line(f"model.{name}={_shown(preset.get(name))}", key.meaning))
    lines.append(_line("model.stack.NAME.eps=1e-6", "any argument of any layer, by name:"))
    lines.append(_line("model.stack.blocks.layers.attention.layer.window=64", ""))
    lines.append(_line("model.stack.NAME=null", "removes this layer; see docs/layers.md"))
    return lines


def _groups(conf: Path, defaults: dict[str, Any]) -> list[str]:
    lines = []
    for entry in defaults["defaults"]:
        if not isinstance(entry, dict):
            continue
        ((group, chosen),) = entry.items()
        if group == "phase" or group.startswith("override"):
            continue
        options = ", ".join(options_of(conf / group))
        lines.append(_line(f"{group}={_shown(chosen)}", f"one of: {options}"))
        if group == "launcher":
            lines.append(_line("hydra.launcher.KEY=VALUE", "how it starts jobs; docs/clusters.md"))
        elif group not in ("model", "experiment") and (keys := group_keys(conf, group)):
            lines.append(_listed(keys))
    return lines


def _stages_default(conf: Path, key: str) -> str | None:
    """Return `5e-4 (tune 1e-4)` for a key that the phases set."""
    first, second = (
        read_yaml(conf / "phase" / f"{name}.yaml").get(key) for name in ("pretrain", "tune")
    )
    if first is None:
        return None
    return _shown(first) if first == second else f"{_shown(first)} (tune {_shown(second)})"


def _line(key: str, meaning: str) -> str:
    told = wrap(meaning, 100, initial_indent=f"    {key:<30} ", subsequent_indent=" " * 35)
    return "\n".join(told) if told else f"    {key}"


def _listed(keys: list[str], indent: int = 6) -> str:
    spaces = " " * indent
    return "\n".join(wrap(", ".join(keys), 100, initial_indent=spaces, subsequent_indent=spaces))


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict) and value:
        return "{...}"
    return str(value).lower() if isinstance(value, bool) else str(value)
