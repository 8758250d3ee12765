"""Hydra's own sweeper, except that a study says which jobs come next."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from llmlab.atomic_write import make_folder
from llmlab.cli.job_result import shown
from llmlab.cli.launching import launcher_of
from llmlab.cli.lost_jobs import launched
from llmlab.cli.order import Order
from llmlab.cli.search import SearchSweeper
from llmlab.cli.sweep import is_of_a_job
from llmlab.config.study import STUDY_KEYS, Question
from llmlab.errors import ConfigError
from llmlab.runs.overrides import Override, value_of
from llmlab.runs.results import Sweep, find_baseline, read_question, read_results
from llmlab.runs.sweep import RESULT, Plan, read_result, write_sweep
from llmlab.study.arms import Arm
from llmlab.study.metric import Metric, choose, refusal
from llmlab.study.sequential import Decision, Rule, decide


class StudySweeper(Sweeper):
    """Run all combinations at once, or with `seeds=auto` as many seeds as the question needs.

    With `seeds=auto` what comes next is decided from the results in the sweep's folder alone, so
    a study that was killed goes on with the very same jobs.

    The order's jobs get to know the plan; its record gets the question.
    """

    def __init__(self, order: Order):
        self._order = order
        self._jobs, self._record = order.jobs, order.record
        self._question = Question()
        self._arms: dict[str, list[str]] = {}  # the tokens of each, without a seed
        self._seeds: list[int] = []
        self._tried: set[str] = set()  # jobs that this start has run

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Read the question; refuse one that makes no sense before any job runs."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = launcher_of(self._order, hydra_context, task_function, config)
        asked = {key: config.get(key) for key in STUDY_KEYS}
        plain = OmegaConf.to_container(OmegaConf.create(asked), resolve=False)
        assert isinstance(plain, dict)
        self._question = Question.of(plain)  # pyright: ignore[reportArgumentType]
        self._record["question"] = self._question.to_dict()
        self._first_seed = config.get("seed", 0)

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs, one batch after the other."""
        # Hydra runs the files of its plug-ins anew when it starts, so this class is imported late.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        assert self.launcher is not None and self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides(arguments), None)
        for tokens in jobs:
            arm = str(self._identity(tokens))
            self._arms.setdefault(arm, [t for t in tokens if Override.of(t).name != "seed"])
        if self._question.baseline is not None:
            self._baseline()  # refused before any job, if it means none
        make_folder(self._jobs.folder)
        number = 0
        for batch in self._all(jobs) if self._question.seeds is None else self._auto(jobs):
            if not number or self._question.seeds is None:
                self.validate_batch_is_legal(batch)  # later ones differ in the seed alone
            if not number and self._jobs.plan is not None:
                self._jobs.plan = replace(self._jobs.plan, began=time.time())
            broken = [d for d in self._launched(batch, number) if d.status is JobStatus.FAILED]
            for done in broken:
                _ = done.return_value  # raises what the job has raised
            number += len(batch)
        if found := read_question(self._jobs.folder):  # all may have been done before
            asked = {key: self._record[key] for key in ("question", "auto") if key in self._record}
            rest = {key: value for key, value in found.items() if key not in ("question", "auto")}
            write_sweep(self._jobs.folder, rest | asked)

    def _launched(self, batch: list[list[str]], number: int) -> Iterator[JobReturn]:
        """Yield what came of each job.

        Hydra's own launcher keeps the configurations of all its jobs, so it gets one at a time.
        """
        from hydra._internal.core_plugins import basic_launcher

        assert self.launcher is not None
        if not isinstance(self.launcher, basic_launcher.BasicLauncher):
            yield from launched(self.launcher.launch, batch, number, self._jobs)
            return
        basic_launcher.log.addFilter(is_of_a_job)
        for first, job in enumerate(batch, number):
            yield from self.launcher.launch([job], first)

    def _all(self, jobs: list[list[str]]) -> Iterator[list[list[str]]]:
        """Yield all jobs, as one batch."""
        self._record.pop("auto", None)
        names = [self._jobs.name(tokens) for tokens in jobs]
        self._plan(names, len(names))
        yield jobs

    def _auto(self, jobs: list[list[str]]) -> Iterator[list[list[str]]]:
        """Yield the jobs that the study wants next, until it wants none."""
        self._begin_auto(jobs)
        while (decision := self._decide()).wanted:
            batch = [self._tokens(arm, seed) for arm, seed in decision.wanted]
            names = [self._jobs.name(self._tokens(a, s)) for a in self._arms for s in self._seeds]
            most = self._ended(names) + decision.at_most
            if not self._tried:
                print(f"seeds=auto: {len(self._arms)} arms, {len(batch)} jobs now, at most {most}")
            self._plan(names, most)
            self._tried |= {self._jobs.name(tokens) for tokens in batch}
            yield batch

    def _begin_auto(self, jobs: Sequence[Sequence[str]]) -> None:
        if any(Override.of(text).name == "hydra.sweep.subdir" for text in self._jobs.tokens):
            raise ConfigError("hydra.sweep.subdir: seeds=auto names the folders of its jobs itself")
        if len(self._arms) < 2:
            raise ConfigError(
                "seeds=auto: compares arms, and there is one; sweep a key: positions=learned,rope"
            )
        typed = [Override.of(text) for tokens in jobs for text in tokens]
        own = [value_of(str(each.value)) for each in typed if each.name == "seed"]
        found = list(dict.fromkeys(seed for seed in own if isinstance(seed, int)))
        # Seeds that are there count, whichever were typed last; the order is that of every start.
        there = {job.seed for arm in self._own(read_results(self._jobs.folder)) for job in arm.jobs}
        found = list(dict.fromkeys([*(found or [self._first_seed]), *sorted(there)]))
        most = self._question.options.max_seeds
        self._seeds = (found + list(range(max(found) + 1, max(found) + 1 + most)))[:most]
        self._record["auto"] = {
            "seeds": self._seeds,
            "arms": [self._identity(tokens) for tokens in self._arms.values()],
        }

    def _decide(self) -> Decision:
        """Return where the study stands, from what lies in its folder."""
        sweep = read_results(self._jobs.folder)
        options = self._question.options
        metric = choose(sweep.jobs, self._question.metric, self._question.direction)
        if refusal(self._own(sweep), metric):
            return Decision()
        rule = Rule(options.alpha, options.resolution, options.max_seeds)
        results = {arm: self._results(arm, metric) for arm in self._arms}
        return decide(results, self._seeds, rule, metric, self._baseline())

    def _own(self, sweep: Sweep) -> list[Arm]:
        """Return the arms that this start asks about."""
        return [arm for arm in sweep.arms if str(dict(arm.settings)) in self._arms]

    def _results(self, arm: str, metric: Metric) -> Mapping[int, float | None]:
        """Return what an arm's jobs have reported; one that failed is tried again by each start."""
        found: dict[int, float | None] = {}
        for seed in self._seeds:
            tokens = self._tokens(arm, seed)
            name = self._jobs.name(tokens)
            result = read_result(self._jobs.folder / name) or {}
            done = result.get("status") == "finished"
            if done and result["overrides"] == shown(tokens):
                found[seed] = result.get(metric.name)
            elif name in self._tried:
                found[seed] = None
        return found

    def _tokens(self, arm: str, seed: int) -> list[str]:
        tokens = self._arms[arm]
        if seed == self._first_seed and self._jobs.is_known(tokens):
            return tokens  # run before, when no seed was typed
        return [*tokens, f"seed={seed}"]

    def _identity(self, tokens: Sequence[str]) -> dict[str, str]:
        found = self._jobs.identity(tokens)
        found.pop("seed", None)
        return found

    def _baseline(self) -> str | None:
        """Return the key in `_arms` of the arm that `baseline=` means."""
        arms = [Arm(key, self._identity(tokens), ()) for key, tokens in self._arms.items()]
        return find_baseline(arms, self._question.baseline)

    def _ended(self, names: Sequence[str]) -> int:
        return sum((self._jobs.folder / name / RESULT).is_file() for name in names)

    def _plan(self, names: Sequence[str], total: int) -> None:
        before = self._jobs.plan
        ended, began = self._ended(names), time.time()
        if before is not None:
            ended, began = before.ended, before.began
        auto = self._question.seeds is not None
        self._jobs.plan = Plan(names, total, ended, began, open_end=auto)


def new_sweeper(order: Order) -> Sweeper:
    """Return what runs a sweep that was ordered: a search, or the jobs of a study."""
    return SearchSweeper(order) if order.is_search else StudySweeper(order)


@contextmanager
def sweeper_of(make: Callable[[], Sweeper]) -> Iterator[None]:
    """While open, let Hydra sweep with what `make` returns.

    Hydra takes sweepers from packages named `hydra_plugins` alone, whose names are global.
    """
    before = Plugins.instantiate_sweeper

    def instantiate(self: Plugins, **given: Any) -> Sweeper:
        sweeper = make()
        sweeper.setup(**given)
        return sweeper

    Plugins.instantiate_sweeper = instantiate  # type: ignore[method-assign]
    try:
        yield
    finally:
        Plugins.instantiate_sweeper = before  # type: ignore[method-assign]
