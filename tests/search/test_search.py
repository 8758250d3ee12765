"""A search on the command line, with trainings that cost nothing; and real ones that are killed."""

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import pytest
import yaml
from command_line import command_line
from postgres import binaries

from llmlab.errors import Diverged
from llmlab.phases import PHASES, Phase
from llmlab.train.callbacks.pruning import Pruning
from llmlab.train.progress import Progress

optuna = pytest.importorskip("optuna")
SEARCH = PHASES["search"]
KEYS = ["phase=search", "lr=tag(log,interval(1e-4,1))", "optimizer=choice(adam,lion)"]
KEYS += ["data.pretrain.val_fraction=0.1", "hydra.sweep.dir=s"]
KILL = Path(__file__).parents[1] / "support" / "search_kill.py"


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys):
    """Return a command line where a training's losses come from its lr, and can be cut short."""
    monkeypatch.setattr("llmlab.report.study_page.can_draw", lambda: False)
    lab = command_line(tmp_path, monkeypatch, capsys)
    lab.killed_at = None
    lab.reports = 0

    def train(config, run):
        run.begin()
        lab.calls.append(config)
        loss = abs(config.lr - 0.1) + (config.optimizer["type"] == "lion")
        if config.lr > 0.5:
            raise Diverged("loss was not finite")
        row = {"stage": "pretrain", "step": 0, "val_loss": 0.0}
        metrics = run.folder / "metrics.jsonl"
        metrics.write_text("")
        pruning = run.trial and Pruning(run.trial, run.folder, "pretrain", 4)
        for step in (1, 2, 3, 4):
            row = {"stage": "pretrain", "step": step, "val_loss": loss + 1 / step}
            with metrics.open("a") as file:
                file.write(json.dumps(row) + "\n")
            lab.reports += 1
            if lab.reports == lab.killed_at:
                raise SystemExit(137)
            if pruning:
                pruning.on_row(Progress(step=step), None, row)
        facts = {"val_loss": row["val_loss"], "loss": loss, "checkpoint": "x.npz"}
        return facts | {"parameters": len(config.optimizer["type"]), "steps": 4, "tokens": 9}

    monkeypatch.setitem(PHASES, "search", SEARCH)
    monkeypatch.setitem(PHASES, "pretrain", Phase(__name__, "", trains=True, function=train))
    return lab


def stored(folder):
    from llmlab.search.storage import open_storage

    study = optuna.load_study(study_name="llmlab", storage=open_storage(folder, None))
    return [
        (t.number, t.params, t.state.name, t.values, t.intermediate_values, t.user_attrs)
        for t in study.get_trials()
    ]


@pytest.mark.slow
def test_a_search_finds_and_tells(lab):
    answer = lab(*KEYS, "search.trials=14", "search.pruner={type: median, startup: 2}")
    assert answer.code == 0, answer.err
    found = stored(lab.folder / "s")
    assert [number for number, *_ in found] == list(range(14))
    results = [
        json.loads((lab.folder / f"s/trial-{n:04d}/result.json").read_text()) for n in range(14)
    ]
    states = {"finished": "COMPLETE", "pruned": "PRUNED", "diverged": "PRUNED"}
    assert [states[result["status"]] for result in results] == [state for _, _, state, *_ in found]
    assert {"finished", "pruned"} <= {result["status"] for result in results}
    best = min((r for r in results if r["status"] == "finished"), key=lambda r: r["val_loss"])
    shown = json.loads((lab.folder / "s/best.json").read_text())
    assert shown["value"] == best["val_loss"] and shown["trials"] == 14
    assert "14 trials" in answer.out and "PED-ANOVA" in answer.out
    with (lab.folder / "s/results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 14
    record = json.loads((lab.folder / "s/trial-0000/run.json").read_text())
    assert record["status"] in ("finished", "pruned", "failed")


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(lab, pruner):
    keys = [*KEYS, "search.trials=9", "search.sampler={type: tpe, startup: 3}"]
    keys.append(f"search.pruner={pruner}")
    assert lab(*keys).code == 0
    (lab.folder / "s").rename(lab.folder / "calm")
    calls, lab.reports = len(lab.calls), 0
    for killed_at in (2, 4, 9, 10, 17):
        lab.killed_at = killed_at
        assert lab(*keys).code == 137
    with (lab.folder / "s/journal.log").open("a") as file:
        file.write('{"op_code": 5, "trial')
    lab.killed_at = None
    assert lab(*keys).code == 0
    assert stored(lab.folder / "s") == stored(lab.folder / "calm")
    assert len(lab.calls) == 2 * calls + 5  # nothing ran again but what was cut short
    assert lab(*keys).code == 0 and len(lab.calls) == 2 * calls + 5


@pytest.mark.slow
def test_the_best_is_an_experiment_that_tells_how_optimistic_it_was(lab):
    answer = lab(*KEYS, "search.trials=5", "clip_norm=2")
    values = yaml.safe_load((lab.folder / "s/experiment/best.yaml").read_text())
    groups = [entry for entry in values["defaults"] if isinstance(entry, dict)]
    assert {"override /phase": "pretrain"} in groups and values["clip_norm"] == 2
    line = next(line for line in answer.out.splitlines() if "--config-dir" in line)
    again = lab(*line.split("llmlab ")[1].split())
    assert again.code == 0 and len(lab.calls) == 10
    best, *others = (
        lab.calls[int(json.loads((lab.folder / "s/best.json").read_text())["trial"][-4:])],
        *lab.calls[5:],
    )
    assert {config.lr for config in others} == {best.lr} == {values["lr"]}
    assert {config.optimizer["type"] for config in others} == {best.optimizer["type"]}
    assert [config.seed for config in others] == [1, 2, 3, 4, 5]
    assert "with 5 new seeds its mean is" in again.out and "optimistic by 0.0000" in again.out
    assert "optimistic by" in lab("resume=s").out


def test_a_short_search_from_end_to_end(lab, monkeypatch):
    drawn = []
    draw = lambda folder, study: drawn.extend(study.verdict.sentences) or "report"  # noqa: E731
    monkeypatch.setattr("llmlab.cli.search_end.draw", draw)
    answer = lab(*KEYS, "search.trials=2")
    assert answer.code == 0 and "2 trials: 2 finished" in answer.out, answer.err
    assert [state for _, _, state, *_ in stored(lab.folder / "s")] == ["COMPLETE"] * 2
    assert (lab.folder / "s/experiment/best.yaml").is_file()
    assert "\n  python -m llmlab phase=tune checkpoint=s\n" in answer.out
    (said,) = drawn
    assert said.startswith("The best of 2 trials is trial-000") and "with val_loss" in said


@pytest.mark.slow
def test_more_trials_can_be_asked_for_but_nothing_else(lab):
    assert lab(*KEYS, "search.trials=2").code == 0
    more = lab("resume=s", "search.trials=3")
    assert more.code == 0 and len(lab.calls) == 3, more.err
    other = lab("resume=s", "clip_norm=2")
    assert other.code == 2 and "clip_norm was not given" in other.err
    space = lab(*KEYS, "search.trials=4", "lr=interval(0.1,0.2)")
    assert space.code == 2 and "this search had another question" in space.err
    assert len(lab.calls) == 3


@pytest.mark.slow
def test_objectives_have_a_front(lab):
    answer = lab(*KEYS, "search.trials=6", "search.objectives=[val_loss,parameters]")
    assert answer.code == 0 and "Pareto front" in answer.out, answer.err
    files = {path.stem for path in (lab.folder / "s/experiment").iterdir()}
    assert "\nbest by val_loss: s/experiment/best.yaml, of trial-" in answer.out
    assert "best" in files and any(name.startswith("trial-") for name in files)


@pytest.mark.every_day(1)
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["lr=0.1", "optimizer=adam"], "nothing to search"),
        pytest.param(
            ["optimizer=choice(adam,adm)"], "optimizer=adm: unknown", marks=pytest.mark.slow
        ),
        (["search.workers=2"], "search.workers=2: one process"),
        (["batch_size=0"], "batch_size=0"),
        pytest.param(
            ["data.pretrain.val_fraction=0"], "keeps no text for validation", marks=pytest.mark.slow
        ),
        pytest.param(["search.sampler=tp"], "did you mean 'tpe'", marks=pytest.mark.slow),
        pytest.param(["search.foo=1"], "search.foo: unknown argument", marks=pytest.mark.slow),
        (["seeds=auto"], "seeds=auto"),
        pytest.param(["hydra.sweep.subdir=x"], "hydra.sweep.subdir", marks=pytest.mark.slow),
    ],
)
def test_what_no_trial_could_run_with_is_refused_before_any(lab, keys, said):
    answer = lab(*KEYS, *keys)
    assert answer.code == 2 and said in answer.err
    assert not lab.calls and not list(lab.folder.glob("s/trial*"))


@pytest.mark.slow
def test_when_all_fail_it_ends(lab, monkeypatch):
    def fail(config, run):
        raise ValueError("a defect")

    monkeypatch.setitem(PHASES, "pretrain", Phase(__name__, "", trains=True, function=fail))
    answer = lab(*KEYS, "search.trials=9")
    assert answer.code == 1 and "the first 5 trials of this worker failed" in answer.err


def kill(*words):
    command = [sys.executable, str(KILL), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--sampler", "cmaes"], ["--pruner", "hyperband"]], ids=str)
def test_kills_change_nothing(words):
    assert "equal to the undisturbed search" in kill("--trials", "14", "--kills", "4", *words)


@pytest.mark.slow
def test_workers_on_one_journal_lose_no_trial():
    assert "no trial lost" in kill("--trials", "16", "--kills", "3", "--workers", "4")


@pytest.mark.slow
@pytest.mark.skipif(binaries() is None, reason="PostgreSQL isn't installed")
def test_workers_on_a_postgresql_lose_no_trial():
    pytest.importorskip("psycopg")
    words = ["--trials", "16", "--kills", "3", "--workers", "4", "--postgresql"]
    assert "no trial lost" in kill(*words)


TINY = ["phase=search", "experiment=tiny", "epochs=2", "data.pretrain.val_fraction=0.2"]
TINY += ["threads=1", "search.trials=4", "lr=tag(log,interval(1e-4,1e-1))", "hydra.sweep.dir=s"]


def llmlab(folder, *words):
    command = [sys.executable, "-m", "llmlab", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_limits_refuse_before_training_and_a_pruned_run_can_go_on(tmp_path):
    limits = "search.constraints=parameters<=55000 memory<=1GiB"
    keys = [*TINY, "search.trials=10", "search.pruner={type: median, startup: 1}", "epochs=4"]
    done = llmlab(tmp_path, *keys, limits, "model.num_blocks=range(1,4)")
    assert done.returncode == 0, done.stderr
    results = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("s/*/result.json")}
    for name, result in results.items():
        beyond = result["parameters"] > 55_000 if "parameters" in result else False
        assert (result["status"] == "infeasible") == beyond
        assert (tmp_path / "s" / name / "run.json").exists() != beyond
    pruned = next(name for name, result in results.items() if result["status"] == "pruned")
    record = json.loads((tmp_path / "s" / pruned / "run.json").read_text())
    assert record["status"] == "pruned"
    assert llmlab(tmp_path, f"resume=s/{pruned}").returncode == 0
    record = json.loads((tmp_path / "s" / pruned / "run.json").read_text())
    assert record["status"] == "finished" and record["results"]["steps"] == 12


@pytest.mark.slow
def test_a_launcher_starts_workers(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = llmlab(tmp_path, *TINY, "launcher=joblib", "search.workers=2")
    assert done.returncode == 0, done.stderr
    assert [number for number, *_ in stored(tmp_path / "s")] == [0, 1, 2, 3]


@pytest.mark.slow
def test_the_best_experiment_is_the_trial_to_the_byte(tmp_path):
    keys = [*TINY, "positions=choice(learned,rope)", "optimizer=choice(adam,lion)"]
    keys.append("model.stack.blocks.layers.attention.layer.num_heads=choice(1,2)")
    assert llmlab(tmp_path, *keys).returncode == 0
    best = json.loads((tmp_path / "s/best.json").read_text())["trial"]
    again = llmlab(tmp_path, "--config-dir", "s", "experiment=best", "hydra.run.dir=again")
    assert again.returncode == 0, again.stderr
    one, two = tmp_path / "s" / best / "metrics.jsonl", tmp_path / "again/metrics.jsonl"
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_what_follows_a_search_takes_its_best_trial(tmp_path):
    objectives = "search.objectives=[parameters,val_loss]"  # by val_loss alone it is another one
    keys = [*TINY[:-1], "hydra.sweep.dir=runs/sweeps/s", "model.num_blocks=range(1,4)"]
    (tmp_path / "own.py").write_text("")
    done = llmlab(tmp_path, *keys, "plugins=own.py", objectives, "search.trials=3")
    assert done.returncode == 0, done.stderr
    best = json.loads((tmp_path / "runs/sweeps/s/best.json").read_text())["trial"]
    line = next(line for line in done.stdout.splitlines() if "checkpoint=" in line)
    words = shlex.split(line.partition("llmlab ")[2])
    assert words[:2] == ["phase=tune", "checkpoint=runs/sweeps/s"] and "own.py" in words[2]
    onward = llmlab(tmp_path, *words, "experiment=tiny", "steps=1", "hydra.run.dir=onward")
    assert onward.returncode == 0, onward.stderr
    parent = json.loads((tmp_path / "onward/run.json").read_text())["parent"]
    assert f"runs/sweeps/s/{best}/checkpoints" in parent


@pytest.mark.slow
def test_the_command_of_the_page_runs(tmp_path):
    page = (KILL.parents[2] / "docs" / "search.md").read_text("utf-8")
    line = next(line for line in page.splitlines() if "phase=search experiment=" in line)
    words = shlex.split(line.partition("llmlab ")[2])
    short = [word for word in words if not word.startswith(("steps", "search.trials"))]
    done = llmlab(
        tmp_path,
        *short,
        "steps=10",
        "schedule.warmup_steps=1",
        "search.trials=2",
        "hydra.sweep.dir=s",
    )
    assert done.returncode == 0, done.stderr
    assert len(stored(tmp_path / "s")) == 2


@pytest.mark.slow
def test_it_opens_in_optuna_dashboard(tmp_path):
    dashboard = pytest.importorskip("optuna_dashboard")
    assert llmlab(tmp_path, *TINY).returncode == 0
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(tmp_path / "s/journal.log")))
    app = dashboard.wsgi(storage)
    seen = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies"}
    setup_testing_defaults(environ)
    body = b"".join(app(environ, lambda status, *_: seen.append(status)))
    assert seen[0].startswith("200") and b"llmlab" in body
