"""Phase `diagnose`: what is out of the ordinary in a run, and its page."""

from typing import Any

from llmlab.config import Config
from llmlab.errors import CheckpointError
from llmlab.phases.run_report import draw, stages_of
from llmlab.report.page import RUN_HOW, can_draw
from llmlab.report.run_page import StageRows
from llmlab.runs import latest_run, read_record
from llmlab.runs.lookup import meant, named
from llmlab.runs.record import RECORD
from llmlab.runs.shell import near


def run(config: Config, _: None = None, run: str = "latest", page: bool = True) -> dict[str, Any]:
    """Print what is out of the ordinary in a finished or a broken run, and draw its page.

    `run` is the path or id of a run or of a sweep's job, or `latest`. A `page`, report.html, is
    drawn where the extra `report` is installed.
    """
    folder = latest_run().absolute() if run == "latest" else named(run)
    if not (folder / RECORD).is_file():
        raise CheckpointError(
            f"diagnose.run={run}: not the folder of a run{meant(run)}; phase=runs lists them"
        )
    record = read_record(folder)
    why = (record.get("results") or {}).get("error")
    error = f": {why}" if why else ""
    print(f"{near(folder)}: phase {record['phase']}, {record['status']}{error}")
    stages = stages_of(config, folder)
    for stage in stages:
        print("\n".join(_lines(stage)))
    if page and can_draw():
        print(f"report: {near(draw(folder, stages))}")
    elif page:
        print(RUN_HOW)
    return {"findings": sum(len(stage.findings) for stage in stages), "folder": str(folder)}


def _lines(stage: StageRows) -> list[str]:
    """Return what is said of a stage: its findings, numbered, with what helps."""
    last = stage.metrics[-1]["step"] if stage.metrics else 0
    seen = f"{len(stage.watched)} rows of watch.jsonl" if stage.watched else "losses and network"
    lines = [f"{stage.name}: {last:,} steps, judged by {seen}"]
    for number, finding in enumerate(stage.findings, 1):
        lines += [f"  {number}. {finding.text}", f"     try {finding.key}"]
    if not stage.findings:
        lines.append("  nothing is out of the ordinary")
    if not stage.watched:
        lines.append("  callbacks.watch.every=20 would let the layers be judged, too")
    return lines
