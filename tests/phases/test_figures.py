"""What phases print: figures that a person can read, percentages that can be."""

import re

import numpy as np
import pytest
from small_run import KEYS, finished_run, small_lab  # noqa: F401

from llmlab.measure.losses import Evaluator, Losses
from llmlab.train.callbacks import progress_bar
from llmlab.train.fit import Progress

LONG = re.compile(r"\d{13,}|\d[\d,]{16,}")


def test_a_model_that_is_wrong_everywhere(lab, monkeypatch):
    found = Losses(98.8255, 0.0, 1304.0, 0.5, 0.0, accuracy_interval=(0.0, 0.0676))
    monkeypatch.setattr(Evaluator, "measure", lambda *given: found)
    answer = lab("phase=evaluate", "checkpoint=run", "on=good.txt")
    assert answer.code == 0
    assert "loss         98.8255 ± 0.5000 nats per token (perplexity 8.31e42)" in answer.out
    assert "accuracy     0.0%, 95 % interval 0.0% to 6.8%: tokens that" in answer.out
    assert not LONG.search(answer.out)


def test_a_share_of_nothing_right_has_an_interval(lab, monkeypatch):
    monkeypatch.setattr("llmlab.phases.evaluate.recall", lambda *given: (0, 53))
    chats = '["User: the sun Assistant: sees", "User: a bird Assistant: likes"]'
    (lab.folder / "chats.json").write_text(chats)
    answer = lab("phase=evaluate", "checkpoint=run", "on=tune", "data.tune.path=chats.json")
    assert "0 of 53 answers word for word (0.0%, 95 % interval 0.0% to 6.8%)" in answer.out


def test_accuracy_has_the_interval_of_its_rows(lab):
    answer = lab("phase=evaluate", "checkpoint=run", "on=good.txt")
    low, share, high = (
        float(re.search(pattern, answer.out)[1])
        for pattern in (r"interval ([\d.]+)%", r"accuracy +([\d.]+)%", r"to ([\d.]+)%")
    )
    assert 0 <= low <= share <= high <= 100
    assert low < high


def test_no_rate_is_above_the_fastest(lab, monkeypatch):
    monkeypatch.setattr("llmlab.phases.profile.sgemm_peak", lambda dtype: 1.0)  # a slow product
    answer = lab(*KEYS, "phase=profile")
    assert answer.code == 0
    shares = [float(value) for value in re.findall(r"(\d+)%", answer.out)]
    assert max(shares) == 100
    assert "fastest measured:" in answer.out


def test_a_probability_of_nearly_nothing_is_no_row_of_zeros(lab, monkeypatch):
    logs = np.array([-0.5, -30.0, -800.0, -0.1])
    monkeypatch.setattr("llmlab.phases.score.log_probabilities", lambda *given: logs)
    answer = lab("phase=score", "checkpoint=run", "prompt=the sun sees a")
    assert answer.code == 0
    assert "0.606531" in answer.out and "9.36e-14" in answer.out
    assert not LONG.search(answer.out)


@pytest.mark.parametrize(
    ("loss", "text"), [(6.3, "perplexity 544.6"), (98.8, "perplexity 8.10e+42")]
)
def test_the_bar_writes_large_numbers_short(loss, text):
    bar = progress_bar.ProgressBar("tune", 10)
    bar._smooth = loss
    assert text in bar._text(Progress(), bar._began + 1)
