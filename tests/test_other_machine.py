"""A run that goes on where the last bits can't match says so, and goes on."""

import json

import pytest
from small_run import finished_run, small_lab  # noqa: F401


def edit(lab, change):
    path = lab.folder / "run" / "run.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda record: record.update(cpu="abacus"), "CPU was abacus and is "),
        (lambda record: record["blas"][0].update(core="Z80"), "BLAS was "),
        (lambda record: record["versions"].update(numpy="1.0"), "numpy was 1.0 and is "),
        (lambda record: record.update(threads=7), "the number of threads was 7 and is 1"),
    ],
    ids=["cpu", "blas", "numpy", "threads"],
)
def test_what_may_change_the_last_bits_is_said_once(lab, change, what):
    edit(lab, change)
    answer = lab("resume=run", "steps=3")
    (line,) = [line for line in answer.err.splitlines() if "bits" in line]
    assert answer.code == 0
    assert line.startswith(what)
    assert line.endswith("the last bits may differ from an unbroken run")
    assert line in (lab.folder / "run" / "log").read_text()
    assert "bits" not in lab("resume=run", "steps=4").err


def test_on_the_same_machine_there_is_nothing_to_say(lab):
    assert "bits" not in lab("resume=run", "steps=3").err
