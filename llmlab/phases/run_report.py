"""What a run has left, read together, and its page."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmlab import build
from llmlab.checkpoints import CHECKPOINTS, CheckpointFolder
from llmlab.config import Config
from llmlab.errors import LlmlabError
from llmlab.report.page import can_draw, write_page
from llmlab.report.run_page import StageRows, run_page
from llmlab.runs import read_record
from llmlab.runs.record import RECORD
from llmlab.runs.shell import near, shell_command
from llmlab.train.findings import Facts, exploded, facts_of, find
from llmlab.train.rows import read_rows

log = logging.getLogger("llmlab")

STAGES = ("pretrain", "tune")  # of a run of phase full
ENOUGH = 20.0  # seconds that a training takes, for its page to be drawn unasked


def stages_of(config: Config, folder: Path) -> list[StageRows]:
    """Return what each stage of a run has left, with what is out of the ordinary in it."""
    return [_stage(config, part, name) for name, part in _parts(folder).items()]


def draw(folder: Path, stages: list[StageRows]) -> Path:
    """Draw report.html of a run."""
    return write_page(folder, run_page(folder, stages))


def after(config: Config, results: dict[str, Any]) -> None:
    """Say if a loss exploded, and draw the page if wanted; that it can't be drawn is no error."""
    above = Path(results["checkpoint"]).parents[1:3]
    folder = next((each for each in above if (each / RECORD).is_file()), None)
    if folder is not None:
        _tell(folder)
    if folder is None or config.report is False or not can_draw():
        return
    try:
        seconds = read_record(folder).get("seconds") or 0.0
        if config.report is True or seconds >= ENOUGH:
            path = draw(folder, stages_of(config, folder))
            print(f"report: {near(path)}", flush=True)
    except Exception as error:
        again = shell_command("phase=diagnose", f"diagnose.run={near(folder)}")
        log.warning("no page, since drawing failed (%s); %s tries again", error, again)


def _parts(folder: Path) -> dict[str, Path]:
    """Return the folder of each stage of a run, by its name."""
    inner = [name for name in STAGES if (folder / name / "metrics.jsonl").is_file()]
    if inner:
        return {name: folder / name for name in inner}
    return {read_record(folder)["phase"]: folder}


def _tell(folder: Path) -> None:
    """Warn of each stage whose loss exploded; `watch` has already said so where it looked."""
    for name, part in _parts(folder).items():
        found = exploded(read_rows(part / "metrics.jsonl"))
        if found is not None and not (part / "watch.jsonl").exists():
            log.warning("%s: %s", name, found.sentence)


def _stage(config: Config, folder: Path, name: str) -> StageRows:
    watched, metrics = (read_rows(folder / f"{part}.jsonl") for part in ("watch", "metrics"))
    findings = find(watched, _facts(config, folder), metrics)
    return StageRows(name, folder, metrics, watched, read_rows(folder / "samples.jsonl"), findings)


def _facts(config: Config, folder: Path) -> Facts:
    """Return what the newest sound checkpoint says of the network; without one, nothing."""
    facts = Facts()
    try:
        state = CheckpointFolder(folder / CHECKPOINTS).load_latest()
        if state is not None:
            stack = build.load_model(config, state).stack
            facts = facts_of(stack, state.meta["config"].get("clip_norm"))
    except LlmlabError as error:
        log.warning("the network isn't judged: %s", error)
    try:
        found = json.loads((folder / "diagnostics.json").read_bytes())["layer"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    return replace(facts, bad_layer=found if isinstance(found, str) else None)
