"""What is drawn of a study: nothing that its verdict refuses to compare."""

import json

import pytest
from sweeps import write_sweep

from llmlab.errors import CheckpointError
from llmlab.report.study import read_study
from llmlab.report.study_page import study_page
from llmlab.runs.lookup import resolve_checkpoint

pytest.importorskip("altair")

ARMS = [{"lr": 0.001, "seq": 1}, {"lr": 0.01, "seq": 2}]


@pytest.fixture
def folder(tmp_path):
    return write_sweep(tmp_path / "s", ARMS)


def refuse(folder):
    """Give each arm a validation text of its own."""
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text())
        result["validation_sha256"] = result["task"][0]
        path.write_text(json.dumps(result))


def titles(folder):
    page = study_page(folder, read_study(folder))
    return [part.title for part in page.parts if not isinstance(part, tuple)]


def test_arms_that_can_be_compared_share_their_charts(folder):
    found = titles(folder)
    assert found[0] == "Arms, with the 95 % interval of the mean"
    assert "val_loss: mean, 95 % interval, and each job" in found
    assert "Curves: mean over seeds, and from the lowest to the highest" in found
    assert "val_loss over lr; the circle is the best mean" in found


def test_arms_whose_comparison_is_refused_share_no_axis(folder):
    refuse(folder)
    reach = "curves: mean over seeds, and from the lowest to the highest"
    assert titles(folder)[:4] == [
        "Arms, with the 95 % interval of the mean; these numbers aren't alike, so there are no "
        "ranks",
        f"lr=0.001 seq=1: {reach}",
        f"lr=0.01 seq=2: {reach}",
        "Jobs",
    ]
    page = study_page(folder, read_study(folder))
    for part, arm, other in zip(page.parts[1:3], ARMS, ARMS[::-1], strict=True):
        drawn = json.dumps(part.spec)
        assert f"lr={arm['lr']} seq={arm['seq']}" in drawn
        assert f"lr={other['lr']} seq={other['seq']}" not in drawn


def test_none_of_them_is_the_best(folder):
    refuse(folder)
    with pytest.raises(CheckpointError, match=r"no job is the best: .*validation texts differ"):
        resolve_checkpoint(folder)
