"""Phase `runs`: what there is in runs/."""

from typing import Any

from llmlab.config import Config
from llmlab.report.study_tables import number
from llmlab.report.tables import columns, human
from llmlab.runs.catalogue import Entry, catalogue, matching


def run(config: Config, run: None = None, where: str | None = None) -> dict[str, Any]:
    """Print runs and sweeps with date, phase, model, metric, status and size on disk.

    `where`: conditions that all must hold, such as `status=failed phase=pretrain val_loss<2`.
    """
    found = matching(catalogue(), where, "runs.where")
    print("\n".join(table(found)), flush=True)
    return {"runs": len(found), "bytes": sum(entry.size for entry in found)}


def table(entries: list[Entry]) -> list[str]:
    """Return a row for each entry, and their sum."""
    rows = [["started", "phase", "model", "metric", "status", "size", "folder"]]
    for entry in entries:
        facts = entry.facts
        metric = next((name for name in ("val_loss", "loss") if name in facts), None)
        measured = "-" if metric is None else f"{metric} {number(facts[metric])}"
        status = f"{facts['status']}, {facts['jobs']} jobs" if "jobs" in facts else facts["status"]
        about = [str(facts["created"])[:16].replace("T", " "), facts["phase"], facts["model"]]
        size = human(entry.size, "B", 1024)
        place = f"{entry.folder.parent.name}/{entry.folder.name}"
        rows.append([*about, measured, str(status), size, place])
    total = human(sum(entry.size for entry in entries), "B", 1024)
    if not entries:
        return ["no runs"]
    count = "1 run or sweep" if len(entries) == 1 else f"{len(entries)} runs and sweeps"
    return [*columns(rows, left=7), f"{count}, {total}"]
