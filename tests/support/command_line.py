"""A command line for tests: `main` in this process, in an empty folder, with a phase of ours."""

import importlib
import sys
from dataclasses import dataclass, field

from llmlab.cli import main
from llmlab.errors import Stopped, TrainingError
from llmlab.phases import PHASES, Phase

FAILING, BROKEN, STOPPED, INTERRUPTED = 901, 902, 903, 904  # seeds


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.err.splitlines()


@dataclass
class CommandLine:
    """Call it with arguments; `calls` gets the configurations that the phases received."""

    folder: object
    capsys: object
    calls: list = field(default_factory=list)

    def __call__(self, *argv):
        self.capsys.readouterr()
        code = main(list(argv))
        seen = self.capsys.readouterr()
        return Answer(code, seen.out, seen.err)


def command_line(tmp_path, monkeypatch, capsys):
    """Return a CommandLine in `tmp_path`, where every phase but `list` is `run` below."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/llmlab/__main__.py"])
    # Hydra composes everything once only to read hydra.mode; a test per process does without.
    monkeypatch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda self, **given: None)
    # Hydra's callbacks and joblib import by name; this module stands in for the phases.
    here = importlib.import_module(__name__)
    for name, phase in list(PHASES.items()):
        if name != "list":
            stub = Phase(__name__, phase.meaning, phase.trains, phase.wants_checkpoint)
            monkeypatch.setitem(PHASES, name, stub)
    lab = CommandLine(tmp_path, capsys)
    monkeypatch.setattr(here, "CURRENT", lab)
    return lab


CURRENT = None


def run(config, run):
    """Do what the seed says, and leave a trace in the run's folder."""
    if CURRENT is not None:
        CURRENT.calls.append(config)
    if run is not None:
        run.begin()
        with (run.folder / "trace").open("a") as file:
            file.write(f"{config.phase} {config.lr} {config.epochs}\n")
    if config.seed == FAILING:
        raise TrainingError("loss was not finite in 10 steps in a row")
    if config.seed == BROKEN:
        raise RuntimeError("a defect")
    if config.seed == STOPPED:
        raise Stopped("saved step 5", 143)
    if config.seed == INTERRUPTED:
        raise KeyboardInterrupt
    print(f"prompt={config.prompt}")
    return {"loss": config.lr or 0.0, "steps": 3, "tokens": 10}
