"""A run's folder: its lock, its record run.json, its log."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmlab.atomic_write import make_folder, sweep
from llmlab.errors import CheckpointError, ConfigError, DataError, ResourceError, Stopped
from llmlab.runs.lock import RunLock
from llmlab.runs.log import LogFile, log_traceback, status_of, warn_of_bits
from llmlab.runs.lookup import TRAINING
from llmlab.runs.record import (
    RECORD,
    new_record,
    now,
    point_at,
    read_record,
    remove,
    restarted,
    write_config,
    write_record,
)
from llmlab.runs.shell import near, shell_command

log = logging.getLogger("llmlab")

_OF_BITS = {"threads": "the number of threads", "kernels": "the set of kernels"}
_REFUSALS = (ConfigError, DataError, CheckpointError, ResourceError)


class Run:
    """A run that this process works on; use `create` or `open`, and then `with`.

    Leaving the `with` records how it ended (finished, stopped, preempted, failed) unless `finish`
    has, closes the log and unlocks. A start that never came to `begin` leaves no trace: if it was
    refused, a new run's folder goes; a run that had finished before stays as it was, to the byte.
    """

    def __init__(
        self,
        folder: Path,
        lock: RunLock,
        record: dict[str, Any],
        show_progress: bool,
        before: dict[str, Any] | None = None,
    ):
        self.folder = folder  # absolute
        self.record = record  # what run.json holds
        self.show_progress = show_progress  # whether it has the terminal for itself: not in a sweep
        self.begun = False  # whether this start does something, so that it is on record
        self.trial: Any = None  # of a search
        self._lock = lock
        self._before = before  # the record that an earlier start has left
        self._config: Mapping[str, Any] | None = None  # to be written when it begins
        self._forget: Callable[[], None] = lambda: None  # undoes `create`
        self._started = time.monotonic()
        self._ended = False
        self._level = log.level
        self._handler = LogFile(folder / "log", held=before is not None)
        log.addHandler(self._handler)
        if log.getEffectiveLevel() > logging.INFO:
            log.setLevel(logging.INFO)

    @classmethod
    def create(
        cls,
        folder: Path | str,
        *,
        phase: str,
        config: Mapping[str, Any],  # plain values; written to config.yaml
        # What `resume=` needs to compose the same configuration again
        overrides: Sequence[str] = (),
        hydra_overrides: Sequence[str] = (),
        argv: Sequence[str] = (),
        # The folder of the user's own YAML files, which `resume=` needs, too
        config_dir: str | None = None,
        parent: str | Path | None = None,  # the run or checkpoint that this one started from
        origin: Path | None = None,  # the checkpoint whose very state it goes on from
        # The folder that holds all runs: `latest` there is set to this one, if it trains
        root: Path | str = "runs",
        show_progress: bool = True,
    ) -> "Run":
        """Begin a run in a folder that has none."""
        folder = make_folder(Path(folder).absolute())
        with RunLock(folder / "lock").held() as lock:
            if (folder / RECORD).exists():
                raise ConfigError(
                    f"{folder}: already contains a run; continue it with resume={folder}, "
                    "or choose another folder"
                )
            root = Path(root).absolute()
            record = new_record(
                phase, overrides, hydra_overrides, argv, config_dir, parent, origin, root
            )
            write_config(folder, config)
            write_record(folder, record)
            before = point_at(root / "latest", folder) if phase in TRAINING else None
            run = cls(folder, lock, record, show_progress)
            run._forget = lambda: remove(folder, root, before)
            return run

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        # All of this start, if they may differ: later restarts then begin from them
        overrides: Sequence[str] | None = None,
        argv: Sequence[str] = (),
        config_dir: str | None = None,
        # The configuration of this start, if it may differ; replaces config.yaml
        config: Mapping[str, Any] | None = None,
        show_progress: bool = True,
    ) -> "Run":
        """Continue a run; how it is started this time is recorded under "restarts"."""
        folder = Path(folder).absolute()
        read_record(folder)  # before a lock is made in a folder that is no run
        with RunLock(folder / "lock").held() as lock:
            sweep(folder)
            before = read_record(folder)
            record, changed = restarted(before, overrides, argv, config_dir)
            run = cls(folder, lock, record, show_progress, before)
            run._config = config
        for what, (then, today) in changed.items():
            warn_of_bits(what, then, today)
        return run

    @property
    def resume_command(self) -> str:
        """The command that continues the run, from the current folder."""
        ranks = self.record.get("ranks", 1)
        return f"mpirun -n {ranks} " * (ranks > 1) + shell_command(f"resume={near(self.folder)}")

    def stage_folder(self, name: str) -> Path:
        """Return the folder of a stage of a `full` run."""
        return make_folder(self.folder / name)

    def begin(self, **values: Any) -> None:
        """Note that this start does something, and set entries of run.json.

        From now on its configuration is on record; warn if threads or kernels have changed.
        """
        if not self.begun and self._config is not None:
            write_config(self.folder, self._config)
        self.begun = True
        self._handler.write_held()
        for key, what in _OF_BITS.items():
            then, today = self.record.get(key), values.get(key)
            if then is not None and today is not None and then != today:
                warn_of_bits(what, then, today)
        self._write(**values)

    def finish(self, status: str, **results: Any) -> None:
        """Record how the run ended: status, time, duration of this start, results."""
        self._ended = True
        if self._before is not None and not self.begun:
            self.record = self._before  # this start had no effect
            if self.record["status"] == "finished":
                return
        seconds = round(time.monotonic() - self._started, 3)
        self._handler.write_held()
        self._write(status=status, ended=now(), seconds=seconds, results=results)

    def refused(self, error: BaseException) -> bool:
        """Tell whether `error` is the user's and came before this start had any effect."""
        return not self.begun and isinstance(error, _REFUSALS)

    def _write(self, **values: Any) -> None:
        self.record |= values
        write_record(self.folder, self.record)

    def close(self) -> None:
        """Close the log and unlock; closing twice is harmless."""
        log.removeHandler(self._handler)
        log.setLevel(self._level)
        self._handler.close()
        self._lock.release()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and self.refused(error):
            self._forget()
            self.close()
            return
        try:
            if error is not None and not isinstance(error, Stopped):
                if isinstance(error, Exception):
                    self._handler.write_held()
                log_traceback(self._handler, error)
            if error is None and not self._ended:
                self.finish("finished")
            elif error is not None:
                self.finish(status_of(error), error=" ".join(f"{error}".split()) or repr(error))
        except ResourceError as refusal:  # the disk is full, say: what came first matters more
            if error is None:
                raise
            log.warning("%s", refusal)
        finally:
            self.close()
