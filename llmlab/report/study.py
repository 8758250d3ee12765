"""What a sweep tells: arms with intervals, a verdict, and the files that hold both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.config.study import Question
from llmlab.runs.results import Sweep, find_baseline, ranked_jobs, read_question, read_results
from llmlab.study.arms import FINISHED, Arm, Job, varying_keys
from llmlab.study.metric import Metric, choose, refusal
from llmlab.study.sequential import Rule, comparisons, decide
from llmlab.study.statistics import Estimate, estimate
from llmlab.study.verdict import Verdict, judge, judge_auto, ranked

_NO_CLAIM = Verdict([])


@dataclass(frozen=True)
class Study:
    """A sweep's arms, the best first, and what they say."""

    sweep: Sweep
    question: Question
    metric: Metric | None  # None if its jobs report no number to compare
    arms: list[Arm]
    keys: list[str]  # in which the arms differ
    verdict: Verdict
    refused: bool = False  # whether the metric isn't alike in the arms, so that they have no ranks

    def estimate(self, arm: Arm) -> Estimate | None:
        """Return the metric's mean over an arm's seeds with its interval, if it has any."""
        values = [] if self.metric is None else list(arm.values(self.metric.name).values())
        return estimate(values) if values else None

    def failed(self, arm: Arm) -> int:
        """Return how many of an arm's jobs have no result."""
        if self.metric is None:
            return sum(job.status != FINISHED for job in arm.jobs)
        return len(arm.failed(self.metric.name))

    def ranked_jobs(self) -> list[tuple[int | None, Job]]:
        """Return the jobs with their rank; in a study without ranks none has one."""
        if self.metric is None or self.refused:
            return [(None, job) for job in self.sweep.jobs]
        return ranked_jobs(self.sweep.jobs, self.metric)


def read_study(folder: Path) -> Study:
    """Return the study that a sweep's folder holds, judged."""
    record = read_question(folder)
    question = Question.of(record["question"]) if "question" in record else None
    return study_of(read_results(folder), question or Question(study={"alpha": 0.05}), record)


def study_of(sweep: Sweep, question: Question, record: dict[str, Any]) -> Study:
    """Return the study of jobs that may come from anywhere; `record` is that of their sweep."""
    metric: Metric | None = choose(sweep.jobs, question.metric, question.direction)
    assert metric is not None
    if not any(arm.values(metric.name) for arm in sweep.arms):
        metric = None
    keys = sorted(varying_keys([arm.settings for arm in sweep.arms]))
    refused = metric is not None and refusal(sweep.arms, metric) is not None
    arms = ranked(sweep.arms, metric) if metric and not refused else sweep.arms
    verdict = _judged(arms, metric, question, record) if metric else _NO_CLAIM
    return Study(sweep, question, metric, arms, keys, verdict, refused)


def _judged(arms: list[Arm], metric: Metric, question: Question, record: dict[str, Any]) -> Verdict:
    if len(arms) < 2:
        return judge(arms, metric)
    baseline = find_baseline(arms, question.baseline)
    auto = record.get("auto")
    if auto is None:
        return judge(arms, metric, baseline, question.study["alpha"])
    options = question.options
    rule = Rule(options.alpha, options.resolution, options.max_seeds)
    asked = [arm for own in auto["arms"] for arm in arms if dict(arm.settings) == own]
    results = {
        arm.name: {
            job.seed: job.value(metric.name) for job in arm.jobs if job.seed in auto["seeds"]
        }
        for arm in asked
    }
    decision = decide(results, auto["seeds"], rule, metric, baseline)
    level = rule.level(len(comparisons(list(results), baseline)))
    found = judge_auto(asked, metric, decision, rule.alpha, level, baseline)
    if decision.wanted:
        found.sentences.append(f"Not finished: at most {decision.at_most} jobs are left.")
    return found
