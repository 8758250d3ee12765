"""Find runs and checkpoints: by path, or the latest."""

import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from llmlab.checkpoints import CHECKPOINTS, Checkpoint, CheckpointFolder, load, peek
from llmlab.errors import CheckpointError, suggest
from llmlab.runs.record import RECORD, SWEEP_RECORD, read_record
from llmlab.runs.results import best_job
from llmlab.runs.shell import near
from llmlab.runs.sweep import read_result

log = logging.getLogger("llmlab")

ROOT = Path("runs")  # where the user stands
TRAINING = ("full", "pretrain", "tune")
_MODELS = (*TRAINING, "import")  # whose runs hold a model
_STAGES = ("tune", "pretrain")  # of a run of phase full, the last first
_DEPTH = 4  # runs/sweeps/<sweep>/<job>, and one more for other arrangements
_TRIES = 100  # a run of tiny steps may save faster than a file is opened
_START = "python -m llmlab starts one"


def latest_run() -> Path:
    """Return the folder of the training run that was started last."""
    for folder in _newest_first(TRAINING):
        return folder
    raise CheckpointError(f"{ROOT.absolute()}: no training run here yet; {_START}")


def latest_checkpoint() -> Path:
    """Return the result of the newest training run or import that has a sound checkpoint."""
    for folder in _newest_first(_MODELS):
        found = newest_of(folder)
        if found is not None:
            return found
        log.warning("%s: the newest run has no checkpoint; trying the one before it", folder)
    raise CheckpointError(
        f"{ROOT.absolute()}: no training run with a checkpoint here yet; {_START}"
    )


def load_present(path: Path | str) -> Checkpoint:
    """Load a checkpoint, or the newest beside it if its run has pruned it since the look-up."""
    path = Path(path)
    for _ in range(_TRIES):
        try:
            return load(path)
        except CheckpointError:
            # What was looked up was there: only a run at work removes it.
            found = None if os.path.lexists(path) else CheckpointFolder(path.parent).result()
            if found is None or path.parent.name != CHECKPOINTS:
                raise
            log.warning("%s: removed by its run, which goes on; using %s", near(path), found.name)
            path = found
    return load(path)


def newest_of(run: Path) -> Path | None:
    """Return what a run hands on, or has so far: for `full`, the last stage with a checkpoint."""
    for stage in _stages(run):
        found = CheckpointFolder(stage / CHECKPOINTS).result()
        if found is not None:
            return found
    return None


def _stages(run: Path) -> list[Path]:
    return [*(run / name for name in _STAGES), run]


def resolve_checkpoint(value: str | Path) -> Path:
    """Return the absolute path of the checkpoint that `value` means; a file isn't opened.

    It is "latest"; "best" of the newest run or sweep; a file; the folder of a run, of a stage or of
    checkpoints, or `latest` or `best` in the latter; that of a sweep, for its best job; or an id.
    """
    if str(value) == "latest":
        found = latest_checkpoint().absolute()
        _tell_of_better(found)
        return found
    if str(value) == "best":
        newest = latest_checkpoint().absolute()
        sweep = _sweep_of(newest)
        return _of_sweep(sweep) if sweep else _best(newest.parent, value)
    path = named(value)
    if path.parent.name == CHECKPOINTS and path.name == "best":
        return _best(path.parent, value)
    if path.parent.name == CHECKPOINTS and path.name == "latest":
        path = path.parent
    if not path.exists():
        raise CheckpointError(
            f"checkpoint={value}: there is no {path}{meant(value)}; name a file, a run's "
            "folder or id, latest or best"
        )
    if not path.is_dir():
        return path
    if (path / SWEEP_RECORD).is_file():
        return _of_sweep(path)
    found = newest_of(path) or CheckpointFolder(path).result()
    if found is None:
        raise CheckpointError(
            f"checkpoint={value}: {path} holds no checkpoint; name a run's folder or a file "
            "step-NNNNNN.npz"
        )
    return found


def _sweep_of(checkpoint: Path) -> Path | None:
    return next((f for f in checkpoint.parents if (f / SWEEP_RECORD).is_file()), None)


def _tell_of_better(latest: Path) -> None:
    """Warn that the latest checkpoint is of a job that its sweep doesn't rank first."""
    sweep = _sweep_of(latest)
    if sweep is None:
        return
    try:
        best, _ = best_job(sweep)
    except CheckpointError:  # none has finished
        return
    if best not in latest.parents:
        job = latest.relative_to(sweep).parts[0]
        log.warning(
            "latest: %s, which of %s began last; checkpoint=best takes the best, %s",
            job,
            near(sweep),
            best.name,
        )


def _of_sweep(folder: Path) -> Path:
    """Return the checkpoint of a sweep's job of rank 1: its best, or its last without any."""
    job, why = best_job(folder)
    best = [CheckpointFolder(stage / CHECKPOINTS).best() for stage in _stages(job)]
    found = next((each for each in best if each is not None), None) or newest_of(job)
    if found is None:
        raise CheckpointError(f"{job}: the best job of its sweep, and it has no checkpoint")
    lowest = (read_result(job) or {}).get("best_val_loss")
    if any(best) and isinstance(lowest, float):
        why = f"best_val_loss {lowest:.4f}; {why}"
    log.warning("%s: taken from %s (%s)", near(found), near(folder), why)
    return found


def _best(folder: Path, value: str | Path) -> Path:
    found = CheckpointFolder(folder).best()
    if found is None:
        raise CheckpointError(
            f"checkpoint={value}: {folder} has no best, since nothing was validated; use the "
            f"latest, or train with data.{_stage(folder)}.val_fraction=0.1"
        )
    if str(value) == "best":
        log.warning("%s: taken as the best of the newest run", near(found))
    return found


def named(value: str | Path) -> Path:
    """Return the absolute path that `value` means: its own, or that of the run with this id.

    Sweeps and their jobs have ids, too: the names of their folders.
    """
    path = Path(value).expanduser().absolute()
    if path.exists() or len(Path(value).parts) != 1:
        return path
    found = [folder for folder in _started(ROOT) if folder.name == str(value)]
    if found[1:]:
        raise CheckpointError(
            f"{value}: the name of {len(found)} folders, such as {found[0]} and {found[1]}; "
            "give the path"
        )
    return found[0] if found else path


def meant(value: str | Path) -> str:
    """Return `` (did you mean ...?)`` for the word or the id nearest to `value`, if any is."""
    if len(Path(value).parts) != 1:
        return ""
    return suggest(str(value), ["latest", "best", *(each.name for each in _started(ROOT))])


def _stage(folder: Path) -> str:
    """Return the stage whose checkpoints a folder holds."""
    steps = CheckpointFolder(folder).steps()
    return "tune" if steps and peek(steps[-1][1]).get("stage") == "tune" else "pretrain"


def find_runs(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folder and the record of each run below `root`, in no particular order."""
    for folder in _started(root):
        if (folder / RECORD).is_file():
            try:
                yield folder, read_record(folder)
            except CheckpointError as error:
                log.warning("skipped: %s", error)


def _started(root: Path) -> Iterator[Path]:
    """Yield the folder of each run and each sweep below `root`, in no particular order."""
    root = root.absolute()
    for here, folders, files in os.walk(root):
        folder = Path(here)
        if RECORD in files or len(folder.relative_to(root).parts) >= _DEPTH:
            folders.clear()  # a run holds no runs
        if RECORD in files or SWEEP_RECORD in files:
            yield folder


def _newest_first(phases: Collection[str]) -> list[Path]:
    runs = [(r["order"], folder) for folder, r in find_runs(ROOT) if r["phase"] in phases]
    return [folder for _, folder in sorted(runs, reverse=True)]
