"""Arms, metric, verdict, and when `seeds=auto` has enough."""

import numpy as np
import pytest

from llmlab.errors import ConfigError
from llmlab.study.arms import Job, arms_of
from llmlab.study.metric import Metric, choose, refusal
from llmlab.study.sequential import Rule, comparisons, decide
from llmlab.study.verdict import judge, judge_auto, ranked

LOSS = Metric("val_loss")


def job(lr, seed, value, status="finished", **facts):
    values = {} if value is None else {"val_loss": value, "loss": value}
    return Job(f"{lr}-{seed}", {"lr": lr}, seed, status, values, facts)


def arms(table, **facts):
    """Return arms of {lr: [values by seed]}; None: diverged."""
    jobs = [
        job(lr, seed, value, "finished" if value is not None else "diverged", **facts)
        for lr, values in table.items()
        for seed, value in enumerate(values)
    ]
    return arms_of(jobs)


def test_arms_are_jobs_without_their_seed():
    found = arms_of(
        [
            Job("a", {"lr": "1", "x": "9"}, 0),
            Job("b", {"lr": "2", "x": "9"}, 0),
            Job("c", {"x": "9", "lr": "1"}, 1),
            Job("d", {"lr": "1", "x": "9"}, 1),  # the same once more
        ],
        {("lr", "2"): "two"},
    )
    assert [(arm.name, [job.name for job in arm.jobs]) for arm in found] == [
        ("lr=1", ["a", "c"]),
        ("lr=two", ["b"]),
    ]
    assert arms_of([Job("a", {"x": "9"}, 0)])[0].name == "all jobs"


def test_a_finished_job_stands_for_its_seed():
    jobs = [job("1", 0, None, "failed"), job("1", 0, 2.0)]
    assert arms_of(jobs)[0].values("val_loss") == {0: 2.0}
    assert arms_of(jobs[::-1])[0].values("val_loss") == {0: 2.0}


# the metric


def test_the_metric_is_the_validation_where_all_have_one():
    both = {"val_loss": 1.0, "loss": 2.0, "bits_per_byte": 3.0, "accuracy": 0.5}
    one, other = Job("a", {}, 0, values=both), Job("b", {}, 1, values=both)
    plain = Job("c", {}, 2, values={"loss": 1.0})
    failed = Job("d", {}, 3, "failed")
    assert choose([one, other, failed]) == Metric("val_loss")
    assert choose([one, plain]) == Metric("loss")
    assert choose([one], "accuracy") == Metric("accuracy", higher=True)
    assert choose([one], "accuracy", "lower") == Metric("accuracy")
    with pytest.raises(ConfigError, match=r"metric=acuracy: no job.*did you mean 'accuracy'"):
        choose([one], "acuracy")


def test_other_tokenizers_are_compared_by_bytes():
    values = {"val_loss": 1.0, "bits_per_byte": 2.0}
    jobs = [Job(n, {"t": n}, 0, values=values, facts={"tokenizer": n}) for n in "ab"]
    assert choose(jobs) == Metric("bits_per_byte")
    assert refusal(arms_of(jobs), Metric("bits_per_byte")) is None
    assert "tokenizers differ" in refusal(arms_of(jobs), Metric("val_loss"))


def test_other_validation_texts_are_refused_by_name():
    found = arms_of([job("1", 0, 1.0, validation="x"), job("2", 0, 2.0, validation="y")])
    assert refusal(found, LOSS).startswith("lr=2 and lr=1: their validation texts differ")
    assert judge(found, LOSS).best is None
    # A seed may draw the text, so that each seed has its own.
    split = [job(lr, seed, 1.0, validation=str(seed)) for lr in "12" for seed in (0, 1)]
    assert refusal(arms_of(split), LOSS) is None


def test_training_losses_that_are_not_alike_are_refused():
    found = arms_of([job("1", 0, 1.0, objective="x"), job("2", 0, 2.0, objective="y")])
    assert "training losses aren't alike" in refusal(found, Metric("loss"))
    assert refusal(found, LOSS) is None
    assert refusal(found, Metric("seconds")) is None


def test_other_texts_are_refused_also_without_a_shared_seed():
    found = arms_of([job("1", 0, 1.0, objective="x"), job("2", 7, 2.0, objective="y")])
    assert refusal(found, Metric("loss")).startswith("lr=2 and lr=1: their training losses")
    # A seed drew what is kept, and with it what is left to train on.
    drawn = [job(lr, s, 1.0, objective=str(s), validation=str(s)) for lr, s in (("1", 0), ("2", 7))]
    assert refusal(arms_of(drawn), Metric("loss")) is None
    stages = arms_of([job("1", 0, 1.0, stage="pretrain"), job("2", 7, 2.0, stage="tune")])
    for metric in (Metric("loss"), LOSS):
        assert "lr=1 ended in pretrain and lr=2 in tune: other texts" in refusal(stages, metric)
    assert refusal(stages, Metric("seconds")) is None


# the verdict


def test_a_difference_that_is_there_is_claimed_with_its_interval():
    verdict = judge(arms({"1": [2.0, 2.1, 2.2], "2": [2.5, 2.61, 2.69]}), LOSS)
    assert verdict.best == "lr=1"
    assert verdict.sentences[0].startswith("lr=1 is better than lr=2: val_loss lower by 0.5 (95 %")
    higher = judge(arms({"1": [2.0, 2.1, 2.2], "2": [2.5, 2.61, 2.69]}), Metric("val_loss", True))
    assert higher.best == "lr=2"


def test_what_cannot_be_told_says_how_many_seeds_would():
    verdict = judge(arms({"1": [2.0, 2.4, 2.2], "2": [2.3, 2.2, 2.6]}), LOSS)
    assert verdict.best is None
    assert "cannot be told apart with 3 seeds" in verdict.sentences[0]
    assert "seeds would be needed to detect a difference of" in verdict.sentences[0]


def test_one_seed_is_no_claim():
    verdict = judge(arms({"1": [2.0], "2": [5.0]}), LOSS)
    assert (verdict.best, verdict.more_seeds) == (None, True)
    assert verdict.sentences[0] == "With only one shared seed, no claim can be made."


def test_a_claim_from_two_seeds_is_called_a_hint():
    few = judge(arms({"1": [2.0, 2.1], "2": [2.5, 2.61]}), LOSS)
    assert few.best == "lr=1" and few.more_seeds
    assert "no more than a hint" in few.sentences[1]
    three = judge(arms({"1": [2.0, 2.1, 2.2], "2": [2.5, 2.61, 2.69]}), LOSS)
    assert len(three.sentences) == 1 and not three.more_seeds


def test_a_loss_without_validation_is_said_to_be_of_the_training_text():
    table = {"1": [2.0, 2.1, 2.2], "2": [2.5, 2.61, 2.69]}
    assert "the text that was trained on" in judge(arms(table), Metric("loss")).sentences[-1]
    measured = judge(arms(table, measured="abc"), Metric("loss")).sentences
    assert not any("trained on" in sentence for sentence in measured)


def test_an_arm_that_diverged_is_not_declared_better():
    table = {"1": [1.0, 1.1, None], "2": [2.5, 2.6, 2.7], "3": [3.0, 3.1, 3.2]}
    verdict = judge(arms(table), LOSS)
    assert verdict.best == "lr=2"
    assert "lr=1: 1 of 3 diverged, so it isn't declared better." in verdict.sentences
    assert [arm.name for arm in ranked(arms(table), LOSS)] == ["lr=2", "lr=3", "lr=1"]


def test_a_baseline_is_what_all_others_are_held_against():
    table = {"1": [1.0, 1.1, 1.2], "2": [2.0, 2.1, 2.21], "3": [2.0, 2.11, 2.2]}
    verdict = judge(arms(table), LOSS, baseline="lr=2")
    assert [(pair.one, pair.other) for pair in verdict.pairs] == [
        ("lr=1", "lr=2"),
        ("lr=3", "lr=2"),
    ]
    assert verdict.sentences[0].startswith("lr=1 is better than lr=2")
    assert comparisons(["a", "b", "c"], None) == [("a", "b"), ("a", "c"), ("b", "c")]


# seeds=auto


def results(table):
    return {name: dict(enumerate(values)) for name, values in table.items()}


def test_it_asks_for_three_seeds_then_for_what_is_open():
    rule = Rule(max_seeds=6)
    first = decide({"a": {}, "b": {}}, range(6), rule, LOSS)
    assert first.wanted == [(arm, seed) for seed in range(3) for arm in "ab"]
    assert first.at_most == 12
    # b is far behind after three seeds; a and c are not told apart.
    table = {"a": [1.0, 1.1, 0.9], "b": [9.0, 9.1001, 8.9], "c": [1.1, 0.9, 1.0]}
    second = decide(results(table), range(6), rule, LOSS)
    assert second.wanted == [("a", 3), ("c", 3)]
    assert second.pairs["a", "b"].better == "a"
    assert second.at_most == 6


def test_it_ends_when_one_has_beaten_all():
    table = {"a": [1.0, 1.1, 0.9], "b": [9.0, 9.1001, 8.9]}
    over = decide(results(table), range(20), Rule(), LOSS)
    assert (over.wanted, over.seeds, over.at_most) == ([], 3, 0)
    verdict = judge_auto(arms({"1": table["a"], "2": table["b"]}), LOSS, over, 0.05, 0.001)
    assert verdict.best == "a"


def test_it_ends_at_the_resolution_and_at_the_last_seed():
    noise = np.random.default_rng(0).normal(0, 0.001, (2, 20))
    equal = decide(results({"a": noise[0], "b": noise[1]}), range(20), Rule(), LOSS)
    assert (equal.wanted, equal.pairs["a", "b"].equal) == ([], True)
    assert equal.seeds < 20
    loud = decide(results({"a": noise[0] * 1e3, "b": noise[1] * 1e3}), range(20), Rule(), LOSS)
    assert (loud.wanted, loud.seeds, loud.pairs["a", "b"].better) == ([], 20, None)


def test_an_arm_that_diverges_gets_no_more_seeds():
    table = {"a": [1.0, None, 1.2], "b": [1.1, 1.0, 1.2], "c": [1.0, 1.2, 1.1]}
    state = decide(results(table), range(6), Rule(max_seeds=6), LOSS)
    assert state.wanted == [("b", 3), ("c", 3)]


def test_a_baseline_goes_on_as_long_as_any_other():
    table = {"a": [1.0, 1.1, 0.9], "b": [9.0, 9.1001, 8.9], "c": [1.1, 0.9, 1.0]}
    state = decide(results(table), range(6), Rule(max_seeds=6), LOSS, baseline="a")
    assert state.wanted == [("a", 3), ("c", 3)]
    assert set(state.pairs) == {("b", "a"), ("c", "a")}


def test_the_same_results_give_the_same_decision_however_they_came():
    """A study that is stopped after any job asks for the rest of the very same jobs."""
    rng = np.random.default_rng(1)
    table = {"a": rng.normal(0, 1, 20), "b": rng.normal(1.5, 1, 20), "c": rng.normal(2, 1, 20)}
    whole, part, ran = results(table), {name: {} for name in table}, []
    while wanted := decide(part, range(20), Rule(), LOSS).wanted:
        arm, seed = wanted[0]  # killed after each job
        part[arm][seed] = whole[arm][seed]
        ran.append((arm, seed))
    at_once, batches = {name: {} for name in table}, []
    while wanted := decide(at_once, range(20), Rule(), LOSS).wanted:
        for arm, seed in wanted:
            at_once[arm][seed] = whole[arm][seed]
        batches += wanted
    assert ran == batches
    assert decide(part, range(20), Rule(), LOSS) == decide(at_once, range(20), Rule(), LOSS)


@pytest.mark.every_day(1)
@pytest.mark.parametrize(("count", "correlation"), [(2, 0.0), (3, 0.9)])
def test_no_difference_is_seldom_claimed(count, correlation):
    """The long form is benchmarks/studies.py; 400 studies stay under 5 % and 3 of its errors."""
    rng, false, studies = np.random.default_rng(2), {"fixed": 0, "auto": 0}, 400
    for _ in range(studies):
        shared = rng.standard_normal(20)
        own = rng.standard_normal((count, 20))
        values = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
        table = {str(i): row.tolist() for i, row in enumerate(values)}
        auto = decide(results(table), range(20), Rule(), LOSS)
        false["auto"] += any(pair.better for pair in auto.pairs.values())
        fixed = judge(arms({name: row[:5] for name, row in table.items()}), LOSS)
        false["fixed"] += any(pair.better for pair in fixed.pairs)
    limit = 0.05 + 3 * (0.05 * 0.95 / studies) ** 0.5
    assert max(false.values()) / studies <= limit
