"""Phase `verify`: read every file that a run is continued from, and report which are sound."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llmlab.atomic_write import TEMPORARY
from llmlab.checkpoints import load, peek
from llmlab.config import Config
from llmlab.errors import CheckpointError, ResourceError
from llmlab.regular_file import open_regular
from llmlab.report.tables import human
from llmlab.runs import CHECKPOINTS, latest_run, read_record
from llmlab.runs.lookup import resolve_checkpoint
from llmlab.runs.record import RECORD
from llmlab.runs.stored import RESULT, read_stored
from llmlab.runs.sweep import read_sweep

SOUND, NOTE, DAMAGED = "sound", "note", "DAMAGED"
METRICS = "metrics.jsonl"
MOST_FOLDERS = 100_000
_EXPECTED = "name a checkpoint, a run, a sweep, a folder that holds some, latest or best"


@dataclass(frozen=True)
class Finding:
    """The finding about one file; a NOTE is about one that nothing depends on."""

    state: str
    path: Path
    text: str


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Print a line for each file of `checkpoint`.

    That is a file, a run, a sweep, a folder, `latest` (the whole run) or `best` (the file).
    """
    named = config.checkpoint or "latest"
    if named == "best":
        path = resolve_checkpoint(named)
    elif named == "latest":
        path = latest_run().absolute()
    else:
        path = Path(named).expanduser().absolute()
    if not path.exists():
        raise CheckpointError(f"checkpoint={named}: there is no {path}; {_EXPECTED}")
    found = list(check(path))
    checked = [each for each in found if each.state != NOTE]
    if not checked:
        raise CheckpointError(f"checkpoint={named}: no files of a run in {path}; {_EXPECTED}")
    base = path if path.is_dir() else path.parent
    width = max(len(str(each.path.relative_to(base))) for each in found)
    for each in found:
        print(f"{each.state:8}{each.path.relative_to(base)!s:{width}}  {each.text}")
    bad = [each for each in checked if each.state == DAMAGED]
    print(f"{base}: {len(checked) - len(bad)} of {len(checked)} files are sound", flush=True)
    if bad:
        more = f" (and {len(bad) - 1} more)" if bad[1:] else ""
        raise CheckpointError(
            f"{bad[0].path}: {bad[0].text}{more}; restore it from a copy, or continue without it: "
            "resume=RUN takes the newest sound checkpoint"
        )
    return {"files": len(checked), "damaged": 0}


def check(path: Path) -> Iterator[Finding]:
    """Yield the findings about a file, or about all files below a folder, in order."""
    if path.is_dir():
        folders = [name for name, _, _ in islice(os.walk(path), MOST_FOLDERS + 1)]
        if len(folders) > MOST_FOLDERS:
            raise CheckpointError(f"{path}: more than {MOST_FOLDERS:,} folders; name a run in it")
        for name in sorted(folders):
            yield from _folder(Path(name))
        return
    kind = _KINDS.get(path.name, _checkpoint)
    yield _judged(path, kind)


def _folder(folder: Path) -> Iterator[Finding]:
    needed = set()
    if _offset(folder):
        needed.add(METRICS)
    if (folder / "lock").exists() and any(folder.rglob("step-*.npz")):
        needed.add(RECORD)
    for name, kind in _KINDS.items():
        if (folder / name).exists() or name in needed:
            yield _judged(folder / name, kind)
    for path in sorted(folder.glob("step-*.npz")):
        finding = _judged(path, _checkpoint)
        if path.exists():  # else the run, still at work, has just pruned it
            yield finding
    for path in sorted(folder.glob(f".*{TEMPORARY}")):
        yield Finding(NOTE, path, "left by a process that was killed; the next save removes it")
    for pointer in (folder / "latest", folder / "best"):
        if folder.name == CHECKPOINTS and pointer.is_file():
            target = pointer.read_text(encoding="utf-8", errors="replace").strip()
            if not target or not (folder / target).is_file():
                yield Finding(
                    NOTE, pointer, f"names {target!r}, which isn't here; nothing depends on it"
                )


def _judged(path: Path, kind: Callable[[Path], str]) -> Finding:
    try:
        return Finding(SOUND, path, kind(path))
    except (CheckpointError, ResourceError) as error:
        reason = str(error).removeprefix(f"{path}: ")
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, KeyError, TypeError, RecursionError):
        reason = "damaged"
    return Finding(DAMAGED, path, reason.split(";")[0].removeprefix("unusable checkpoint: "))


def _checkpoint(path: Path) -> str:
    checkpoint = load(path)
    meta = checkpoint.meta
    size = human(path.stat().st_size, "B", 1024)
    return f"step {meta['step']} of {meta['stage']}, {len(checkpoint.arrays)} arrays, {size}"


def _record(path: Path) -> str:
    record = read_record(path.parent)
    return f"phase {record['phase']}, {record['status']}"


def _sweep(path: Path) -> str:
    read_sweep(path.parent)
    return f"a sweep, {sum(1 for _ in path.parent.glob('*/run.json'))} jobs begun"


def _result(path: Path) -> str:
    return f"job {read_stored(path, RESULT, ('status',))['status']}"


def _metrics(path: Path) -> str:
    """Check the rows up to the newest checkpoint: a resume keeps these and cuts the rest."""
    with open_regular(path) as file:
        data, offset = file.read(), _offset(path.parent)
    if len(data) < offset:
        raise CheckpointError(f"{len(data)} bytes long, {offset} at the newest checkpoint")
    kept = data[:offset].splitlines(keepends=True)
    before = 0
    for number, line in enumerate(kept, 1):
        try:
            step = json.loads(line)["step"] if line.endswith(b"\n") else None
        except (ValueError, KeyError, TypeError, RecursionError):
            step = None
        if not isinstance(step, int) or step <= before:
            raise CheckpointError(f"line {number} isn't the row of a step after {before}")
        before = step
    rest = data[offset:].count(b"\n")
    return f"{len(kept)} rows" + (f", and {rest} after the newest checkpoint" if rest else "")


def _offset(stage: Path) -> int:
    """Return how many bytes of the metrics the newest checkpoint relies on."""
    offsets = [0]
    for path in (stage / CHECKPOINTS).glob("step-*.npz"):
        try:
            offsets.append(int(peek(path)["metrics_offset"]))
        except (CheckpointError, KeyError, TypeError, ValueError):
            continue  # it is reported as a checkpoint
    return max(offsets)


_KINDS: dict[str, Callable[[Path], str]] = {
    "sweep.json": _sweep,
    RECORD: _record,
    "result.json": _result,
    METRICS: _metrics,
}
