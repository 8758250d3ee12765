"""The end of a search: tables, the best configuration as an experiment, and what to do with it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from llmlab.atomic_write import make_folder, replace_text
from llmlab.cli.places import conf_folder
from llmlab.report.search_tables import again_folder, again_lines, lines
from llmlab.report.study import read_study
from llmlab.report.study_page import draw
from llmlab.report.study_tables import number, write_tables
from llmlab.runs.overrides import STUDY_KEYS, Override, value_of
from llmlab.runs.results import read_question
from llmlab.runs.shell import near, shell_command
from llmlab.search.outcome import Ended, Outcome, note_best, read_outcome
from llmlab.study.verdict import Verdict

_SEEDS = 5  # to train the best configuration again with
_ELSEWHERE = ("launcher", "seed", "plugins", "resume", *STUDY_KEYS)  # none of an experiment's


def finish_search(folder: Path) -> int:
    """Write a search's tables and its best configuration, print them, return the exit code.

    It is 1 if some trials failed; to be pruned, infeasible or diverged is no failure.
    """
    outcome = read_outcome(folder)
    print("\n".join(lines(outcome)))
    own_folder = read_question(folder).get("config_dir")
    best = note_best(outcome)
    said: list[str] = []
    if best is not None:
        front = outcome.front if len(outcome.objectives) > 1 else []
        for name, trial in (("best", best), *((each.folder, each) for each in front)):
            write_experiment(folder / "experiment" / f"{name}.yaml", trial, own_folder)
        by = f" by {next(iter(outcome.objectives)).name}" if front else ""
        print(f"\nbest{by}: {near(folder / 'experiment' / 'best.yaml')}, of {best.folder}")
        print("The best of many looks better than it is; train it with new seeds:")
        print(f"  {again_command(folder, best, own_folder)}")
        print("Or go on with what that trial has learned:")
        print(f"  {onward_command(folder, best)}")
        said = again_lines(folder)
        print("\n".join(said), end="\n" if said else "")
        said = [_best_sentence(outcome, best), *said]
    study = replace(read_study(folder), verdict=Verdict([line for line in said if line]))
    write_tables(folder, study)
    print(f"search: {near(folder)}")
    print(draw(folder, study))
    return int(any(trial.status == "failed" for trial in outcome.trials))


def _best_sentence(outcome: Outcome, best: Ended) -> str:
    name = next(iter(outcome.objectives)).name
    return (
        f"The best of {len(outcome.trials)} trials is {best.folder}, with {name} "
        f"{number(best.values[0])}. The best of many looks better than it is; train it with new "
        "seeds."
    )


def onward_command(folder: Path, best: Ended) -> str:
    """Return the command that takes the best trial's model to the next stage."""
    phase = "tune" if best.result["overrides"].get("phase") == "pretrain" else "chat"
    return shell_command(f"phase={phase}", f"checkpoint={near(folder)}", *_plugins(best))


def again_command(folder: Path, best: Ended, own_folder: str | None) -> str:
    """Return the command that trains the best configuration with seeds that it hasn't seen."""
    first = int(best.result.get("seed", 0)) + 1
    seeds = ",".join(str(first + n) for n in range(_SEEDS))
    removed = [text for text in best.result.get("task", []) if Override.of(text).value is None]
    where = again_folder(folder)
    own = ["-m", "--config-dir", str(near(folder)), "experiment=best", f"seed={seeds}"]
    if own_folder:
        own.append(f"hydra.searchpath=[file://{own_folder}]")
    return shell_command(*own, *_plugins(best), *removed, f"hydra.sweep.dir={near(where)}")


def _plugins(best: Ended) -> list[str]:
    return [text for text in best.result.get("task", []) if Override.of(text).name == "plugins"]


def write_experiment(path: Path, trial: Ended, own_folder: str | None = None) -> None:
    """Write the configuration of a trial as a file of the group `experiment`."""
    tokens = [Override.of(text) for text in trial.result.get("task", [])]
    used = [each for each in tokens if each.name.split(".")[0] not in _ELSEWHERE]
    groups = {e.key: str(value_of(str(e.value))) for e in used if _is_group(e, own_folder)}
    base = groups.pop("experiment", None)
    defaults = [base] if base not in (None, "null") else []
    defaults += [
        {f"override /{key}": None if name == "None" else name} for key, name in groups.items()
    ]
    values: dict[str, Any] = {}
    for each in used:
        if each.value is not None and not _is_group(each, own_folder):
            _put(values, each.key.split("."), value_of(each.value))
    head = f"# @package _global_\n# {trial.folder} of a search: "
    head += ", ".join(f"{key}={value}" for key, value in trial.settings.items()) + "\n"
    found = {"defaults": [*defaults, "_self_"], **values}
    make_folder(path.parent)
    text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=100)
    replace_text(path, head + text)


def _is_group(override: Override, own_folder: str | None) -> bool:
    places: Sequence[Path] = [conf_folder(), *([Path(own_folder)] if own_folder else [])]
    name = override.key.split("@")[0]
    return "." not in name and any((place / name).is_dir() for place in places)


def _put(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set a value under dotted keys; a mapping that is there already is kept and added to."""
    here: Any = values
    for key in keys[:-1]:
        if not isinstance(here.get(key), dict):
            here[key] = {}
        here = here[key]
    here[keys[-1]] = value
