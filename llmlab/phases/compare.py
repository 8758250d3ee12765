"""Phase `compare`: runs, sweeps and arms side by side."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmlab.config import Config
from llmlab.config.study import Question
from llmlab.errors import CheckpointError, ConfigError
from llmlab.report.page import HOW, can_draw, write_page
from llmlab.report.study import Study, study_of
from llmlab.report.study_page import differences, study_page
from llmlab.report.study_tables import lines, shortened, write_tables
from llmlab.report.tables import columns
from llmlab.runs import latest_run
from llmlab.runs.lookup import meant, named
from llmlab.runs.overrides import identity
from llmlab.runs.record import RECORD, SWEEP_RECORD, new_folder, read_config, read_record
from llmlab.runs.results import Sweep, job_of, read_results, shown_settings
from llmlab.runs.shell import near
from llmlab.study.arms import Job, arms_of

# Keys that change nothing of what is trained.
_WATCHES = re.compile(
    r"(callbacks\.(watch|samples|bar)|report|tracker|log_every|save_every|keep)(\.|$)"
)


def run(config: Config, run: None = None, runs: Sequence[str] = ()) -> dict[str, Any]:
    """Print what differs between runs, their results, and the verdict if there are seeds.

    `runs` are paths or ids of runs and sweeps, `latest`, or an arm of a sweep:
    SWEEP:positions=rope.
    """
    if not runs:
        raise ConfigError("compare.runs: nothing to compare; name runs: compare.runs=[A,B]")
    jobs = list({job.name: job for value in runs for job in _jobs(str(value))}.values())
    shown = shown_settings(jobs)
    sweep = Sweep(Path.cwd(), jobs, arms_of(jobs, shown), shown)
    question = Question.of(config.to_dict())
    study = study_of(sweep, replace(question, seeds=None), {})
    print("\n".join([*_differing(study), *lines(study, question.options.jobs)]))
    folder = new_folder(Path("runs/compare").absolute())
    write_tables(folder, study)
    if can_draw():
        print(f"report: {near(write_page(folder, study_page(folder, study)))}", flush=True)
    else:
        print(f"tables: {near(folder)}\n{HOW}", flush=True)
    return {"runs": len(jobs), "arms": len(sweep.arms)}


def _jobs(value: str) -> list[Job]:
    """Return the jobs that a value means; their names are absolute paths."""
    place, _, arm = value.partition(":")
    path = latest_run().absolute() if place == "latest" else named(place)
    if (path / SWEEP_RECORD).is_file():
        found = read_results(path).jobs
        wanted = identity(arm.split())
        found = [job for job in found if wanted.items() <= job.settings.items()]
        if not found:
            raise ConfigError(f"compare.runs={value}: no job of this sweep has {arm or 'ended'}")
        return [_placed(replace(job, name=str(path / job.name))) for job in found]
    if not (path / RECORD).is_file():
        raise CheckpointError(
            f"compare.runs={value}: neither a run nor a sweep{meant(place)}; phase=runs lists them"
        )
    record = read_record(path)
    seed = (read_config(path) or {}).get("seed", 0)
    values = {"seconds": record.get("seconds"), **(record.get("results") or {})}
    result = {
        **values,
        "seed": seed,
        "status": record.get("status", "running"),
        "error": record.get("error"),
    }
    return [_placed(job_of(str(path), {**result, "task": record["overrides"]}, {}))]


def _placed(job: Job) -> Job:
    """Return the job with the stage that it ended in, and without settings that only watch."""
    phase = (read_config(Path(job.name)) or {}).get("phase")
    stage = {"pretrain": "pretrain", "tune": "tune", "full": "tune"}.get(str(phase))
    facts = {**job.facts, **({"stage": stage} if stage else {})}
    settings = {key: value for key, value in job.settings.items() if not _WATCHES.match(key)}
    return replace(job, settings=settings, facts=facts)


def _differing(study: Study) -> list[str]:
    """Return what the configurations of the arms differ in, as lines."""
    firsts = [Path(arm.jobs[0].name) for arm in study.arms]
    found = differences([read_config(folder) or {} for folder in firsts])
    if len(firsts) < 2 or not found:
        return []
    head = ["key", *(arm.name for arm in study.arms)]
    rows = [head, *([key, *values] for key, values in found.items())]
    return [*columns([list(map(shortened, row)) for row in rows], left=len(head)), ""]
