"""phase=verify: what is sound, what isn't, file by file."""

import json
import shutil

import pytest
from small_run import KEYS, finished_run, small_lab  # noqa: F401

from llmlab.errors import CheckpointError
from llmlab.phases import verify
from llmlab.phases.verify import DAMAGED, NOTE, SOUND, check


def states(path):
    return {str(each.path.relative_to(path)): each.state for each in check(path)}


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished / "run", tmp_path / "run")


FILES = {"run.json", "metrics.jsonl", *(f"checkpoints/step-00000{n}.npz" for n in (1, 2))}


def test_a_run_is_sound(run):
    assert states(run) == dict.fromkeys(FILES, SOUND)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(change):
    def apply(path):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        change(rows)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    return apply


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("checkpoints/step-000001.npz", flip),
        ("checkpoints/step-000002.npz", lambda path: path.write_bytes(b"")),
        ("run.json", lambda path: path.write_text("{")),
        ("run.json", lambda path: path.write_text('{"phase": "tune", "order": 1}')),
        ("run.json", lambda path: path.unlink()),
        ("metrics.jsonl", lambda path: path.unlink()),
        ("metrics.jsonl", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("metrics.jsonl", lambda path: path.write_bytes(b"x" + path.read_bytes()[1:])),
        ("metrics.jsonl", lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b" "))),
        ("metrics.jsonl", edit(lambda rows: rows.reverse())),
        ("metrics.jsonl", lambda path: path.write_text(f"{'[' * 100_000}\n")),
    ],
)
def test_damage_is_found_where_it_is(run, name, damage):
    damage(run / name)
    assert states(run) == {**dict.fromkeys(FILES, SOUND), name: DAMAGED}


def test_what_a_crash_leaves_is_no_damage(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3}\n{"st')  # after the newest checkpoint: resume cuts it
    (run / "checkpoints" / ".step-000003.npz.0a1b.tmp").write_bytes(b"half")
    (run / "checkpoints" / "best").write_text("step-000099.npz\n")
    (run / "diagnostics.npz").write_bytes(b"no checkpoint")
    notes = dict.fromkeys(("checkpoints/.step-000003.npz.0a1b.tmp", "checkpoints/best"), NOTE)
    assert states(run) == {**dict.fromkeys(FILES, SOUND), **notes}


def test_a_damaged_checkpoint_doesnt_say_how_long_the_metrics_are(run):
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes()[:-1])
    (run / "checkpoints" / "step-000002.npz").write_bytes(b"")
    found = states(run)
    assert (found["metrics.jsonl"], found["checkpoints/step-000002.npz"]) == (SOUND, DAMAGED)


# through the command line


@pytest.mark.slow
def test_sound_files_are_listed_and_damaged_ones_are_an_error(lab):
    before = lab.tree()
    answer = lab("phase=verify", "checkpoint=run")
    assert (answer.code, answer.err) == (0, "")
    assert len(answer.out.splitlines()) == len(FILES) + 1
    assert "step 2 of pretrain" in answer.out
    assert lab.tree() == before

    flip(lab.folder / "run" / "checkpoints" / "step-000002.npz")
    answer = lab("phase=verify", "checkpoint=run")
    assert answer.code == 4
    assert [line.split()[0] for line in answer.out.splitlines()[:-1]].count(DAMAGED) == 1
    (line,) = answer.problems
    assert "step-000002.npz" in line and "resume=RUN" in line
    assert lab("phase=verify", "checkpoint=run/checkpoints/step-000001.npz").code == 0
    assert lab("phase=verify", "checkpoint=run/checkpoints/step-000002.npz").code == 4


@pytest.mark.slow
def test_the_latest_run_is_meant_by_default_and_a_sweep_is_a_folder(lab):
    assert lab(*KEYS, "steps=1").code == 0
    answer = lab("phase=verify")
    assert answer.code == 0 and "runs/pretrain/" in answer.out
    told = lab("phase=verify", "checkpoint=best").err
    assert "has no best, since nothing was validated" in told
    assert "train with data.pretrain.val_fraction=0.1" in told
    assert lab(*KEYS, "steps=1", "data.pretrain.val_fraction=0.5").code == 0
    assert "step-000001.npz" in lab("phase=verify", "checkpoint=best").out
    assert lab("-m", *KEYS, "steps=1", "seed=1,2", "hydra.sweep.dir=s").code == 0
    answer = lab("phase=verify", "checkpoint=s")
    assert answer.code == 0, answer.out
    assert "2 jobs begun" in answer.out and answer.out.count("job finished") == 2
    (lab.folder / "s" / "sweep.json").write_text("{}")
    assert lab("phase=verify", "checkpoint=s").code == 4


@pytest.mark.every_day(1)
@pytest.mark.parametrize("name", ["nothing", "empty", "good.txt"])
def test_what_is_no_run_is_refused(lab, name):
    (lab.folder / "empty").mkdir()
    answer = lab("phase=verify", f"checkpoint={name}")
    assert (answer.code, len(answer.problems)) == (4, 1)
    assert name in answer.err


def test_the_next_start_of_a_run_sweeps_it(lab):
    folder = lab.folder / "run" / "checkpoints"
    (folder / ".step-000003.npz.0a1b2c3d.tmp").write_bytes(b"half")
    (folder / "latest").write_text("step-000099.npz\n")
    assert lab("resume=run").code == 0  # although it is finished
    assert not list(folder.glob(".*"))
    assert (folder / "latest").read_text() == "step-000002.npz\n"


def test_a_folder_that_holds_the_whole_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "MOST_FOLDERS", 3)
    for name in "abc":
        (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match="more than 3 folders; name a run in it"):
        list(verify.check(tmp_path))
