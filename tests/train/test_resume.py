"""A resumed run is the run that was never interrupted, byte for byte; and a wrong one is seen."""

import json
import os
import shutil
import signal
import weakref

import pytest

from llmlab.checkpoints import CheckpointFolder, load, save
from llmlab.cli import main
from llmlab.phases import training
from llmlab.train import trainer
from llmlab.train.batch_shards import Shard
from llmlab.train.trainer import Trainer
from llmlab.train.workers import Alone

pytestmark = pytest.mark.slow

SMALL = [
    "model.embedding_dim=16",
    "model.hidden_dim=16",
    "model.num_blocks=1",
    "model.dropout=0.2",
    "batch_size=4",
    "accumulate=2",
    "schedule.warmup_steps=5",
    "threads=1",
    "eval_every=4",
    "save_every=5",
]
STOP = 7  # steps, in the middle of an epoch and between two saves


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Return a folder with finished runs `pretrain` and `tune`, and `stopped`, cut at STOP."""
    folder = tmp_path_factory.mktemp("calm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for phase in ("pretrain", "tune"):
            assert run(phase, phase=phase) == 0
        interrupt_at(patch, STOP)
        assert run("stopped") == 130
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stopped(calm, here):
    shutil.copytree(calm / "stopped", here / "stopped")
    return here / "stopped"


def interrupt_at(monkeypatch, number, what=signal.SIGINT):
    """Make the trainer's step `number` send a signal to this process."""
    step = Trainer.step

    def stepping(self, batches):
        result = step(self, batches)
        if self.steps == number:
            os.kill(os.getpid(), what)
        return result

    monkeypatch.setattr(Trainer, "step", stepping)


def run(folder, *keys, phase="pretrain"):
    own = [f"data.{phase}.val_fraction=0.2", f"phase={phase}", "epochs=4", *SMALL]
    return main([f"resume={folder}", *own, *keys])


def newest(folder):
    return max((folder / "checkpoints").glob("step-*.npz"))


def same(one, other):
    files = ("metrics.jsonl", newest(one).relative_to(one))
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


@pytest.mark.parametrize(
    ("phase", "what", "status"),
    [
        pytest.param("tune", signal.SIGINT, "stopped", marks=pytest.mark.slow),
        pytest.param("pretrain", signal.SIGTERM, "stopped", marks=pytest.mark.slow),
        pytest.param("pretrain", signal.SIGUSR1, "preempted", marks=pytest.mark.slow),
        ("pretrain", signal.SIGUSR2, "preempted"),
    ],
)
def test_a_run_stopped_by_a_signal_goes_on_as_if_nothing_had_happened(
    calm, here, capsys, phase, what, status
):
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, STOP, what)
        assert run("stopped", phase=phase) == 128 + what
    assert "resume=stopped" in capsys.readouterr().err
    assert json.loads((here / "stopped/run.json").read_text())["status"] == status
    assert load(newest(here / "stopped")).meta["step"] == STOP
    assert run("stopped", phase=phase) == 0
    assert same(calm / phase, here / "stopped")


def test_a_run_that_falls_back_to_an_older_checkpoint_is_still_the_same(calm, stopped, capsys):
    damaged = newest(stopped)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert run("stopped") == 0
    assert "DAMAGED" in capsys.readouterr().err
    assert same(calm / "pretrain", stopped)


@pytest.mark.slow
def test_a_run_that_branched_goes_on_even_if_it_died_before_its_first_save(
    calm, stopped, monkeypatch
):
    class Dies(BaseException):
        pass

    def dying(self, batches):
        raise Dies

    older = stopped / "checkpoints/step-000005.npz"
    with monkeypatch.context() as patch, pytest.raises(Dies):
        patch.setattr(Trainer, "step", dying)
        main([f"resume={older}"])
    (branch,) = stopped.parent.glob("runs/pretrain/*")
    shutil.rmtree(stopped)
    assert main([f"resume={branch}"]) == 0
    found, wanted = load(newest(branch)), load(newest(calm / "pretrain"))
    assert found.meta["step"] == wanted.meta["step"] > 5
    assert found.meta["config"] == wanted.meta["config"]
    for name, array in wanted.arrays.items():
        assert array.tobytes() == found.arrays[name].tobytes(), name


@pytest.mark.parametrize("kind", ["resumed", "new"])
def test_training_holds_one_set_of_parameters_and_moments(calm, stopped, monkeypatch, kind):
    loaded, models, left = [], [], []

    def noting(function, kept, arrays):
        def call(*args):
            result = function(*args)
            kept.extend(map(weakref.ref, arrays(result)))
            return result

        return call

    def forking(*args):
        left.append(sum(array() is not None for array in loaded))
        return Alone(*args)

    latest = noting(
        CheckpointFolder.load_latest, loaded, lambda state: state.arrays.values() if state else []
    )
    monkeypatch.setattr(CheckpointFolder, "load_latest", latest)
    model = noting(training.stage_model, models, lambda model: [model.params])
    monkeypatch.setattr(training, "stage_model", model)
    monkeypatch.setattr(trainer, "Alone", forking)
    step = Trainer.step

    def stepping(self, batches):
        left.append(sum(array() is not None for array in models))
        return step(self, batches)

    monkeypatch.setattr(Trainer, "step", stepping)
    assert run("stopped" if kind == "resumed" else "new") == 0
    assert len(models) == 1
    assert bool(loaded) == (kind == "resumed")  # nor is what was just written read again
    assert set(left) == {0}
    assert same(calm / "pretrain", stopped if kind == "resumed" else stopped.parent / "new")


def without_updates(state):
    state.meta["updates"] = 0


def without_cursor(state):
    state.meta["cursor"] = {"epoch": 1, "index": 0}


def without_moments(state):
    for name, array in state.arrays.items():
        if name.startswith("optimizer/m/"):
            array[...] = 0


@pytest.mark.parametrize("remove", [without_updates, without_cursor, without_moments])
def test_a_state_without_one_of_its_parts_gives_another_run(calm, stopped, remove):
    path = newest(stopped)
    state = load(path)
    remove(state)
    save(path, state.arrays, state.meta)
    run("stopped")
    assert not same(calm / "pretrain", stopped)


def test_dropout_that_does_not_derive_from_the_step_gives_another_run(calm, stopped, monkeypatch):
    streams = Shard._streams
    monkeypatch.setattr(Shard, "_streams", lambda self, step, rows: streams(self, 0, rows))
    run("stopped")
    assert not same(calm / "pretrain", stopped)


def test_another_architecture_is_refused_with_a_table(stopped, capsys):
    before = newest(stopped).read_bytes()
    assert main(["resume=stopped", "model.hidden_dim=32"]) == 4
    message = capsys.readouterr().err
    assert "model.hidden_dim" in message
    assert "16" in message
    assert "32" in message
    assert newest(stopped).read_bytes() == before


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("batch_size=8", "batch_size was 4, is 8"),
        ("seed=1", "seed was 0, is 1"),
        ("data.pretrain.shuffle=false", "data.pretrain.shuffle was True, is False"),
    ],
)
def test_another_order_is_refused_in_the_middle_of_an_epoch(stopped, capsys, key, said):
    # The same lines are trained on and kept back: else it is refused for that.
    assert load(newest(stopped)).meta["cursor"]["index"] > 0
    before = newest(stopped).read_bytes()
    changed = "allow_changed_data=true" if key.startswith("seed") else "keep=3"
    assert main(["resume=stopped", key, changed]) == 4
    message = capsys.readouterr().err
    assert f"{said}. Leave this out" in message
    assert newest(stopped).read_bytes() == before


def test_more_epochs_and_another_lr_may_be_given_on_resume(stopped, capsys):
    assert main(["resume=stopped", "epochs=6", "lr=1e-4"]) == 0
    state = load(newest(stopped)).meta
    assert state["step"] == 18
    assert state["config"]["lr"] == 1e-4
    assert state["cursor"]["index"] == 0
    record = json.loads((stopped / "run.json").read_text())
    assert "lr=1e-4" in record["overrides"]
    capsys.readouterr()
    assert main(["resume=stopped"]) == 0
    assert "finished" in capsys.readouterr().err
    # Between epochs the order may change, as the next epoch has one of its own.
    assert main(["resume=stopped", "epochs=7", "batch_size=20"]) == 0


def tree(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


@pytest.mark.parametrize("typed", [["lr=0.5"], ["lr=0.5", "optimizer=sgd", "batch_size=12"], []])
def test_what_a_finished_run_is_asked_for_changes_nothing_on_disk(calm, here, capsys, typed):
    run = shutil.copytree(calm / "pretrain", here / "pretrain")
    before = tree(run)
    assert main([f"resume={run}", *typed]) == 0
    assert tree(run) == before
    said = capsys.readouterr().err
    assert "pretrain: already finished, after 12 steps" in said
    assert ("lr was 0.0005, is 0.5" in said and "epochs=N" in said) == bool(typed)
    assert main([f"resume={run}", "lr=0.5", "epochs=5"]) == 0
    assert "lr: 0.5\n" in (run / "config.yaml").read_text()


@pytest.mark.slow
def test_a_finished_sweep_says_what_was_trained(here, capsys):
    sweep = ["-m", "phase=pretrain", "epochs=1", "batch_size=8,25", *SMALL[:3], "threads=1"]
    assert main([*sweep, "hydra.sweep.dir=sweep"]) == 0
    before = tree(here / "sweep")
    table = capsys.readouterr().out
    assert main(["resume=sweep", "lr=0.5"]) == 0
    seen = capsys.readouterr()
    assert "lr was 0.0005, is 0.5" in seen.err
    assert tree(here / "sweep") == before
    said = [text[text.index("by loss, ") :] for text in (table, seen.out)]  # without progress
    assert said[0] == said[1]
    assert main(["resume=sweep", "epochs=2"]) == 0
    assert len(list((here / "sweep").glob("*/run.json"))) == 2
    assert "epochs" in (here / "sweep/results.csv").read_text()


@pytest.mark.parametrize("key", ["seed=5", "data.pretrain.val_fraction=0.4"])
def test_what_divides_the_text_is_named(stopped, capsys, key):
    assert main([f"resume={stopped}", key]) == 4
    name, value = key.split("=")
    said = capsys.readouterr().err
    assert f"{name} was " in said and f", is {value}: this decides which text" in said
    assert "changed since" not in said


@pytest.mark.slow
def test_changed_data_are_refused_unless_allowed(here, capsys):
    text = here / "my.txt"
    lines = [f"the number {n} comes after the number {n - 1} ." for n in range(1, 13)]
    text.write_text("\n".join(lines))
    keys = ["phase=pretrain", "data.pretrain.path=my.txt", "epochs=2", *SMALL]
    keys.append("schedule.warmup_steps=2")
    assert main(["resume=run", *keys]) == 0
    text.write_text("\n".join(lines[:-1]))
    assert main(["resume=run", "epochs=3"]) == 4
    assert "allow_changed_data=true" in capsys.readouterr().err
    assert main(["resume=run", "epochs=3", "allow_changed_data=true"]) == 0


@pytest.mark.slow
def test_full_equals_pretrain_then_tune(here):
    keys = [*SMALL, "epochs=2"]
    assert main(["hydra.run.dir=full", "chat=false", *keys]) == 0
    assert main(["phase=pretrain", "hydra.run.dir=first", *keys]) == 0
    assert main(["phase=tune", "hydra.run.dir=second", "checkpoint=first", *keys]) == 0
    together, alone = (load(newest(here / name)) for name in ("full/tune", "second"))
    for name, array in alone.arrays.items():
        assert array.tobytes() == together.arrays[name].tobytes(), name
