"""A run's checkpoints: a folder that always contains a sound one."""

import logging
import os
import re
from pathlib import Path

from llmlab.atomic_write import make_folder, remove, replace_text, sweep
from llmlab.checkpoints.file import Arrays, Checkpoint, Meta, load, peek, save
from llmlab.errors import CheckpointError
from llmlab.regular_file import read_regular

_MOST = 4096  # bytes of `latest` or `best`
log = logging.getLogger("llmlab")

CHECKPOINTS = "checkpoints"  # the name of such a folder in a run's


class CheckpointFolder:
    """The checkpoints of one run: the last `keep`, or more, and the best.

    Files are named `step-NNNNNN.npz` and ordered by the step in their manifest, never by their
    time. `latest` and `best` are small files for people and scripts; a crash may leave them one
    save behind, so nothing here relies on `latest`. One writer at a time: it holds the run's lock.

    Parameters
    ----------
    folder
        Created at the first save.
    keep
        How many of the newest to keep, at least 2: one may turn out damaged. `all` keeps every
        one; `log` the newest two, and of those before them the first from each power of two on:
        steps 0, 1, 2, 4, 8, ..., where there are such.
    """

    def __init__(self, folder: Path | str, keep: int | str = 2):
        if keep not in ("all", "log") and (not isinstance(keep, int) or keep < 2):
            raise ValueError(f"keep={keep}: at least 2, since the newest may turn out damaged")
        self.folder = Path(folder)
        self.keep = keep

    def save(self, step: int, arrays: Arrays, meta: Meta, best: bool = False) -> Path:
        """Save durably, delete what is too old, then point `latest` (and `best`) to this file.

        `meta` is stored with "step" and "best_step": the latter is this step if `best`, else
        what `meta` says, else that of the checkpoint before this one.
        """
        make_folder(self.folder)
        others = self._entries()
        # From what lies on disk, so that a resumed run stores the same as one never stopped.
        before = next((known for at, _, known in reversed(others) if at < step), {})
        best_step = step if best else meta.get("best_step", before.get("best_step"))
        path = self.path(step)
        save(path, arrays, {**meta, "step": step, "best_step": best_step})
        # What is newer is damaged and was fallen back from; counted, it would push out sound ones.
        sound = [(at, other) for at, other, _ in others if at < step]
        for at, other in self._superfluous(sound):
            if at != best_step:
                remove(other)
        sweep(self.folder)
        replace_text(self.folder / "latest", f"{path.name}\n", sync=False)
        if best:
            replace_text(self.folder / "best", f"{path.name}\n", sync=False)
        return path

    def _superfluous(self, sound: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
        """Return those of the older checkpoints that needn't stay, with the newest just saved."""
        if self.keep == "all":
            return []
        if self.keep != "log":
            return sound[: 1 - int(self.keep)]
        firsts: dict[int, int] = {}
        for step, _ in sound:
            firsts.setdefault(step.bit_length(), step)
        return [(step, path) for step, path in sound[:-1] if step not in firsts.values()]

    def sweep(self) -> None:
        """Remove what a killed process left, and make `latest` and `best` name existing files.

        As with `save`, the caller holds the run's lock.
        """
        sweep(self.folder)
        entries = self._entries()
        best_step = entries[-1][2].get("best_step") if entries else None
        known = {step: path for step, path, _ in entries}
        wanted = {"latest": entries[-1][1] if entries else None, "best": known.get(best_step)}  # pyright: ignore[reportArgumentType]
        for name, path in wanted.items():
            pointer = self.folder / name
            if os.path.lexists(pointer) and _named(pointer) not in {p.name for p in known.values()}:
                remove(pointer)
                if path is not None:
                    replace_text(pointer, f"{path.name}\n", sync=False)

    def path(self, step: int) -> Path:
        """Return the file that holds `step`."""
        return self.folder / f"step-{step:06d}.npz"

    def steps(self) -> list[tuple[int, Path]]:
        """Return (step, file) for each file with a sound manifest, oldest first."""
        return [(step, path) for step, path, _ in self._entries()]

    def load_latest(self) -> Checkpoint | None:
        """Load the newest checkpoint that verifies, and warn about each newer one that doesn't.

        None if there is no checkpoint at all; a CheckpointError if all of them are damaged.
        """
        steps = {path: step for step, path in self.steps()}
        problems = []
        for path in sorted(
            self.folder.glob("step-*.npz"),
            key=lambda path: (steps.get(path, _step_in_name(path)), path.name),
            reverse=True,
        ):
            try:
                checkpoint = load(path)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                log.warning("DAMAGED CHECKPOINT: %s", problem)
            if problems:
                log.warning("falling back to %s", path)
            return checkpoint
        if problems:
            raise CheckpointError(
                f"{self.folder}: none of its {len(problems)} checkpoints is sound: "
                f"start again, or from a copy; the newest: {problems[0]}"
            )
        return None

    def latest(self) -> Path | None:
        """Return the file of `load_latest`."""
        checkpoint = self.load_latest()
        return checkpoint.path if checkpoint else None

    def result(self) -> Path | None:
        """Return the result of a training: the newest state, or the best if patience ended it."""
        newest = self.load_latest()
        if newest is None:
            return None
        patience, stale = newest.meta.get("patience"), newest.meta.get("stale", 0)
        ended = patience is not None and stale >= patience
        return (self.best() if ended else None) or newest.path

    def best(self) -> Path | None:
        """Return the best checkpoint that verifies, according to the newest manifest, or None."""
        entries = self._entries()
        paths = {step: path for step, path, _ in entries}
        for step in dict.fromkeys(meta.get("best_step") for _, _, meta in reversed(entries)):
            if step in paths:
                try:
                    return load(paths[step]).path
                except CheckpointError as error:
                    log.warning("DAMAGED CHECKPOINT: %s", error)
        return None

    def _entries(self) -> list[tuple[int, Path, Meta]]:
        entries = []
        for path in self.folder.glob("step-*.npz"):
            try:
                meta = peek(path)
                entries.append((int(meta["step"]), path, meta))
            except (CheckpointError, KeyError, TypeError, ValueError):
                continue  # load_latest reports it; here it is neither counted nor deleted
        return sorted(entries, key=lambda entry: (entry[0], entry[1].name))


def _named(pointer: Path) -> str:
    """Return the name in `latest` or `best`; empty if it can't be read."""
    try:
        return read_regular(pointer, _MOST).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _step_in_name(path: Path) -> int:
    """Return what the name says, for a file whose manifest can't be read."""
    digits = re.search(r"\d+", path.name)
    return int(digits[0]) if digits else -1
