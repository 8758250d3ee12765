"""Sweeps: the names of their folders, what they leave, and the table at the end."""

import csv
import hashlib
import json
import logging
import math
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from llmlab.cli.arguments import Override
from llmlab.cli.resume import SWEEP_RECORD, write_record
from llmlab.errors import ConfigError
from llmlab.report.tables import columns
from llmlab.runs.shell import near, shell_command

RESULT = "result.json"
FIGURES = ("loss", "val_loss", "perplexity", "tokens", "steps")
log = logging.getLogger("llmlab")


class SweepInterrupted(KeyboardInterrupt):
    """A signal ended a sweep. Hydra counts other exceptions as a job's, and goes on."""

    def __init__(self, folder: Path | None, exit_code: int):
        command = shell_command(f"resume={near(folder)}") if folder else ""
        super().__init__(f"stopped; continue with: {command}" if folder else "stopped")
        self.exit_code = exit_code


def sweep_folder(tokens: Sequence[str]) -> Path:
    """Return where a sweep goes: `hydra.sweep.dir` if it is given, else a new folder in runs/.

    Resolvers in it, such as `${now:...}`, are resolved once, here.

    Raises
    ------
    ConfigError
        It refers to a key of the configuration, which each job may have otherwise.
    """
    from hydra.core.utils import setup_globals
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from llmlab.runs import new_id

    given = [part.value for part in map(Override.of, tokens) if part.name == "hydra.sweep.dir"]
    if not given or given[-1] is None:
        return Path("runs/sweeps").absolute() / new_id()
    setup_globals()
    text = given[-1]
    if text[:1] == text[-1:] == "'":
        text = text[1:-1].replace("\\'", "'")
    try:
        return Path(str(OmegaConf.create({"folder": text}).folder)).expanduser().absolute()
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"hydra.sweep.dir={text}: jobs of one sweep share a folder, so it can't depend on a "
            "key; write a path"
        ) from error


@contextmanager
def sweeping(folder: Path | None) -> Iterator[None]:
    """While open, let SIGINT and SIGTERM end all jobs of the sweep in `folder`, if there is one.

    A launcher's workers die with KeyboardInterrupt; SIGTERM alone would leave them behind.
    """
    before: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        raise SweepInterrupted(folder, 128 + number)

    try:
        if folder is not None and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def job_folder(overrides: Any, sweep_folder: str) -> str:
    """Return a job's folder name: a readable part, and six digits of all its overrides.

    Keys that a resumed sweep has changed for all its jobs count with their former values.
    """
    from omegaconf import OmegaConf

    tokens = OmegaConf.to_container(overrides, resolve=False)
    record = Path(sweep_folder) / SWEEP_RECORD
    changed: dict[str, str | None] = {}
    if record.is_file():
        changed = json.loads(record.read_text(encoding="utf-8")).get("changed", {})
    return folder_name([str(text) for text in tokens or []], changed)


def folder_name(tokens: Sequence[str], changed: dict[str, str | None]) -> str:
    """Return the name for these overrides; `changed` has the tokens to count instead, or None."""
    named = [changed.get(Override.of(text).name, text) for text in tokens]
    counted = sorted(
        text
        for text in named
        if text is not None and Override.of(text).name not in ("resume", "launcher")
    )
    digits = hashlib.sha256("\n".join(counted).encode()).hexdigest()[:6]
    words = [f"{o.name.rpartition('.')[2]}-{_plain(o.value)}" for o in map(Override.of, counted)]
    slug = re.sub(r"[^A-Za-z0-9.+]+", "-", "_".join(words)).strip("-.")
    return f"{slug[:60].strip('-.') or 'defaults'}-{digits}"


def _plain(value: str | None) -> str:
    """Return a value as people read it: a path's last part, without quotes."""
    text = "" if value is None else value.strip("'")
    return Path(text).name if text.startswith("/") else text


def open_sweep(folder: Path, tokens: Sequence[str], config_dir: str | None) -> None:
    """Record how the sweep was started, before its first job."""
    path = folder / SWEEP_RECORD
    record: dict[str, Any] = {
        "overrides": list(tokens),
        "config_dir": config_dir,
        "changed": {},
    }
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        record["changed"] = known.get("changed", {})
        if known == record:
            return
    write_record(path, record)


def discard(folder: Path | None) -> None:
    """Remove the folder of a sweep that Hydra refused before any job."""
    if folder is None or (folder / SWEEP_RECORD).exists():
        return
    (folder / "multirun.yaml").unlink(missing_ok=True)
    for path in (folder, folder.parent):
        try:
            path.rmdir()
        except OSError:
            return


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return what a job left, or None if it hasn't ended."""
    try:
        return json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Leave a job's result in its folder."""
    write_record(folder / RESULT, result)


def finish(folder: Path) -> int:
    """Write results.csv, print the table, and return the sweep's exit code."""
    rows = []
    for path in sorted(folder.glob(f"*/{RESULT}")):
        result = read_result(path.parent)
        if result is not None:
            rows.append({**result, "job": path.parent.name})
    rows.sort(key=lambda row: (_rank(row), row["job"]))
    keys = list(dict.fromkeys(key for row in rows for key in row["overrides"]))
    _write_csv(folder / "results.csv", rows, keys)
    varying = [k for k in keys if len({str(row["overrides"].get(k)) for row in rows}) > 1]
    print("\n".join(_table(rows, varying)))
    print(f"sweep: {near(folder)}")
    return int(any(row["status"] != "finished" for row in rows))


def _rank(row: dict[str, Any]) -> tuple[bool, float]:
    loss = row.get("loss")
    return row["status"] != "finished", math.inf if loss is None else loss


def _write_csv(path: Path, rows: list[dict[str, Any]], keys: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "job", "status", *FIGURES, *keys, "error"])
        for rank, row in enumerate(rows, 1):
            figures = [row.get(name) for name in FIGURES]
            values = [row["overrides"].get(key) for key in keys]
            writer.writerow([rank, row["job"], row["status"], *figures, *values, row.get("error")])


def _table(rows: list[dict[str, Any]], keys: list[str]) -> list[str]:
    figures = [name for name in FIGURES if any(row.get(name) is not None for row in rows)]
    cells = [["rank", *figures, *keys, "status", "job"]]
    for rank, row in enumerate(rows, 1):
        numbers = [_number(row.get(name)) for name in figures]
        values = [_plain(row["overrides"].get(key)) for key in keys]
        cells.append([str(rank), *numbers, *values, row["status"], row["job"]])
    lines = columns(cells, left=len(cells[0]))
    return lines + [f"{row['job']}: {row['error']}" for row in rows if row.get("error")]


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
