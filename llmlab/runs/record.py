"""run.json: how a run was started, and on which machine and versions."""

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from llmlab.atomic_write import make_folder, refused, replace_text
from llmlab.errors import CheckpointError, ResourceError
from llmlab.regular_file import read_regular
from llmlab.runs.overrides import value_of
from llmlab.runs.provenance import bits_may_differ, provenance
from llmlab.runs.stored import MOST_BYTES, RUN, read_stored

RECORD, SWEEP_RECORD = "run.json", "sweep.json"
BEST_RECORD = "best.json"  # of a search
ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")  # what `new_id` returns


def new_id() -> str:
    """Return a name for a run: the time, and four random hex digits to tell runs of one second."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def new_folder(parent: Path) -> Path:
    """Create and return a folder with a new id, which nobody else has, in `parent`."""
    make_folder(parent)
    while True:
        folder = parent / new_id()
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise refused(folder, error) from error


def now() -> str:
    """Return the time in UTC, as run.json has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def new_record(
    phase: str,
    overrides: Sequence[str],
    hydra_overrides: Sequence[str],
    argv: Sequence[str],
    config_dir: str | None,
    parent: str | Path | None,
    origin: Path | None,
    root: Path,
) -> dict[str, Any]:
    """Return the record of a run that begins; `root` holds the runs before it."""
    return {
        "phase": phase,
        "status": "running",
        "created": now(),
        "order": _next_order(root),
        "overrides": without_resume(overrides),
        "hydra_overrides": list(hydra_overrides),
        "argv": list(argv),
        "cwd": os.getcwd(),
        "config_dir": config_dir,
        "parent": None if parent is None else str(parent),
        "origin": None if origin is None else str(origin),
        "restarts": [],
        **provenance(),
    }


def restarted(
    record: Mapping[str, Any],
    overrides: Sequence[str] | None,
    argv: Sequence[str],
    config_dir: str | None,
) -> tuple[dict[str, Any], dict[str, tuple[str, str]]]:
    """Return the record of a continued run, and the changes that may affect the last bits.

    The overrides become those of this start, so that the next one begins from them.
    """
    today = provenance()
    changed = bits_may_differ(dict(record), today)
    restart: dict[str, Any] = {"time": now(), "argv": list(argv), "changed": changed}
    fresh = {**record, **today, "status": "running"}
    fresh["config_dir"] = config_dir or record.get("config_dir")
    origin = origin_of(record)
    fresh["origin"] = None if origin is None else str(origin)
    if overrides is not None and without_resume(overrides) != record.get("overrides"):
        restart["overrides_before"] = record.get("overrides")
        fresh["overrides"] = without_resume(overrides)
    fresh["restarts"] = [*record.get("restarts", []), restart]
    return fresh, changed


def read_record(folder: Path) -> dict[str, Any]:
    """Return the run.json of a run.

    CheckpointError if there is none, or it is damaged.
    """
    return read_stored(folder / RECORD, RUN, ("phase", "order", "overrides"))


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write run.json durably, in one operation."""
    replace_text(folder / RECORD, json.dumps(record, indent=1) + "\n")


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.yaml, for people and for comparing runs."""
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100)
    replace_text(folder / "config.yaml", text)


def point_at(latest: Path, folder: Path) -> str | None:
    """Let the file `latest` name `folder`, if that is beside it; return what it named before."""
    if not folder.is_relative_to(latest.parent):
        return None
    before = latest.read_text(encoding="utf-8", errors="replace") if latest.is_file() else ""
    replace_text(latest, f"{folder.relative_to(latest.parent)}\n", sync=False)
    return before


def remove(folder: Path, root: Path, latest_before: str | None) -> None:
    """Delete the files of a run that never began; the lock last, since it is still held.

    Other files stay, and so do the folders that hold them. `latest_before` is from `point_at`.
    """
    with contextlib.suppress(OSError, ResourceError):
        if latest_before:
            replace_text(root / "latest", latest_before, sync=False)
        elif latest_before is not None:
            os.unlink(root / "latest")
    for name in (RECORD, "config.yaml", "log", "lock"):
        with contextlib.suppress(OSError):
            os.unlink(folder / name)
    empty = [Path(here) for here, _, _ in os.walk(folder, topdown=False)]
    if folder.is_relative_to(root):
        empty += [each for each in folder.parents if each.is_relative_to(root)]
    for each in empty:
        with contextlib.suppress(OSError):  # there is something in it
            if each != Path.cwd():
                os.rmdir(each)


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return what `write_config` wrote; None if it isn't there or isn't readable."""
    try:
        values = yaml.safe_load(read_regular(folder / "config.yaml", MOST_BYTES))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return values if isinstance(values, dict) else None


def _next_order(root: Path) -> int:
    """Return a number greater than that of the run before, even if the clock was set back."""
    try:
        before = read_regular(root / "latest", MOST_BYTES).decode().strip()
        last = read_record(root / before)["order"]
    except (OSError, UnicodeError, CheckpointError):
        last = 0
    return max(time.time_ns(), int(last) + 1)


def without_resume(overrides: Sequence[str]) -> list[str]:
    """Return the overrides without `resume=`, which the next start adds itself."""
    return [text for text in overrides if not text.startswith("resume=")]


def origin_of(record: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint whose state a run branched from, if it did."""
    origin = record.get("origin")
    for text in record["overrides"]:  # where older runs have it
        key, _, value = text.partition("=")
        if key == "resume" and (path := str(value_of(value))).endswith(".npz"):
            origin = path
    return None if origin is None else Path(origin)
