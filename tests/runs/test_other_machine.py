"""A run that goes on where the last bits can't match says so, and goes on."""

import json

import pytest
from small_run import KEYS, finished_run, small_lab  # noqa: F401


def edit(lab, change):
    path = lab.folder / "run" / "run.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.slow
def test_what_may_change_the_last_bits_is_said_once(lab):
    def another_machine(record):
        record.update(cpu="abacus", threads=7, kernels="numba")
        record["blas"][0].update(core="Z80")
        record["versions"].update(numpy="1.0", numba="0.1")

    edit(lab, another_machine)
    answer = lab("resume=run", "steps=3")
    said = [line for line in answer.err.splitlines() if "bits" in line]
    assert answer.code == 0
    for line, change in zip(
        said,
        (
            "numpy was 1.0 and is ",
            "BLAS was ",
            "CPU was abacus and is ",
            "numba was 0.1 and is ",
            "the number of threads was 7 and is 1",
            "the set of kernels was numba and is numpy",
        ),
        strict=True,
    ):
        assert line.startswith(change)
        assert line.endswith("the last bits may differ from an uninterrupted run")
        assert line in (lab.folder / "run" / "log").read_text()
    assert "bits" not in lab("resume=run", "steps=4").err
    record = json.loads((lab.folder / "run" / "run.json").read_text())
    assert record["kernels"] == "numpy" and {"numba", "tokenizers"} <= record["versions"].keys()


def test_on_the_same_machine_there_is_nothing_to_say(lab):
    # A run of this very process: a test between it and an older one may have loaded SciPy's BLAS.
    assert lab(*KEYS, "steps=2", "hydra.run.dir=own").code == 0
    assert "bits" not in lab("resume=own", "steps=3").err
