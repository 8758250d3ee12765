"""Which trial comes next, and what was decided, without any training."""

import json

import pytest

from llmlab.errors import CheckpointError, ConfigError, Infeasible
from llmlab.report.search_tables import optimism
from llmlab.search.search import Search, Settings
from llmlab.search.space import Dimension
from llmlab.search.trial import Limit
from llmlab.study.metric import Metric

pytest.importorskip("optuna")
LOSS = (Metric("val_loss"),)
SPACE = {
    "lr": Dimension(low=1e-4, high=1.0, log=True),
    "blocks": Dimension(low=1, high=3, step=1, integer=True),
    "optimizer": Dimension(options=("adam", "lion")),
}


class Killed(BaseException):
    """As if the process had ended."""


def settings(**given):
    own = {"trials": 7, "sampler": {"type": "tpe", "startup": 3}, "objectives": LOSS}
    own |= {"pruner": {"type": "median", "startup": 2}, "seed": 1, **given}
    return Settings(space=SPACE, texts={"lr": "interval"}, base={"phase": '"pretrain"'}, **own)


def work(folder, own, killed_at=None):
    """Take trials to the end, or until so many validations were seen."""
    search, seen = Search(folder, own), 0
    while (trial := search.next()) is not None:
        with trial:
            loss = abs(float(trial.values["lr"]) - 0.1) + (trial.values["optimizer"] == "lion")
            loss *= int(trial.values["blocks"])
            for index in (1, 2, 3, 4):
                seen += 1
                if seen == killed_at:
                    raise Killed
                if trial.report(index, loss + 1 / index, index == 4):
                    trial.tell({"status": "pruned"}, LOSS)
                    break
            else:
                trial.tell({"status": "finished", "val_loss": loss}, LOSS)
    return search


def stored(search):
    return [
        (t.number, t.params, t.state.name, t.values, t.intermediate_values, t.user_attrs)
        for t in search.study.get_trials()
    ]


@pytest.mark.every_day(1)
@pytest.mark.parametrize("pruner", [{"type": "median", "startup": 2}, "hyperband"], ids=str)
def test_what_comes_next_follows_from_the_folder_alone(tmp_path, pruner):
    own = settings(pruner=pruner)
    calm = stored(work(tmp_path / "calm", own))
    for killed_at in (1, 3, 5, 8):
        with pytest.raises(Killed):
            work(tmp_path / "killed", own, killed_at)
    with (tmp_path / "killed" / "journal.log").open("a") as file:
        file.write('{"op_code": 5, "trial')
    assert stored(work(tmp_path / "killed", own)) == calm
    assert {state for _, _, state, *_ in calm} == {"COMPLETE", "PRUNED"}


def test_a_trial_has_one_owner(tmp_path):
    own = settings(pruner=None, trials=2)
    one, other = Search(tmp_path, own), Search(tmp_path, own)
    first, second = one.next(), other.next()
    assert (first.number, second.number) == (0, 1)
    assert one.next() is None and other.next() is None
    with first:
        pass  # as if its worker had died: the other one takes it, with the same values
    again = other.next()
    assert again.number == 0 and again.values == first.values
    with again, second:
        again.tell({"status": "diverged"}, LOSS)
        second.tell({"status": "failed"}, LOSS)
    assert [state for _, _, state, *_ in stored(one)] == ["PRUNED", "FAIL"]


def test_a_decision_stays(tmp_path):
    trial = Search(tmp_path, settings(trials=1)).next()
    with trial:
        trial._pruner = type("Always", (), {"prune": lambda self, study, trial: True})()
        assert trial.report(1, 2.0, last=False)
        trial._pruner = type("Never", (), {"prune": lambda self, study, trial: False})()
        assert trial.report(1, 2.0, last=False)
        assert not trial.report(2, 1.0, last=False)
        assert not trial.report(1, 2.0, last=False)  # before the last decision: it had gone on


def test_a_limit_refuses_and_is_told(tmp_path):
    search = Search(tmp_path, settings(trials=1, limits=(Limit("parameters", 100),)))
    with search.next() as trial:
        with pytest.raises(Infeasible, match="parameters 150 > 100"):
            trial.check({"parameters": 150, "memory": 3})
        trial.tell({"status": "infeasible", "parameters": 150}, LOSS)
    (told,) = search.study.get_trials()
    assert told.state.name == "PRUNED" and told.constraints == {"parameters": 0.5}


def test_an_objective_that_nobody_reports_is_an_error(tmp_path):
    trial = Search(tmp_path, settings(trials=1)).next()
    with trial, pytest.raises(ConfigError, match="reports no val_loss, only: loss"):
        trial.tell({"status": "finished", "loss": 1.0}, LOSS)


def test_another_question_is_refused(tmp_path):
    Search(tmp_path, settings())
    with pytest.raises(ConfigError, match="another question"):
        Search(tmp_path, settings(objectives=(Metric("loss"),)))
    (tmp_path / "search.json").write_text(json.dumps({"study": 3}))
    with pytest.raises(CheckpointError, match=r"search\.json"):
        Search(tmp_path, settings())


def test_how_optimistic_a_search_was():
    best = {"metric": "val_loss", "value": 2.0, "trials": 40}
    assert "optimistic by 0.1000 (95 % interval 0.0" in optimism(best, [2.09, 2.1, 2.11])
    assert "which may be chance" in optimism(best, [1.0, 3.1])
    better = optimism(best, [1.89, 1.9, 1.91])
    assert (
        "the new seeds were better by 0.1000, so it wasn't optimistic (95 % interval 0.0" in better
    )
    assert "two or more seeds" in optimism(best, [2.1])
