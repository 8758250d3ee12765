"""Weights & Biases."""

import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.errors import ConfigError, TrainingError
from llmlab.train.trackers.base import TRACKERS, StepTracker, keep_id, kept_id, needed

MODES = (None, "online", "offline")
_HEAD, _BLOCK, _CHUNK = 7, 32768, struct.Struct("<IHB")  # of a file; checksum, length, kind


@TRACKERS.register("wandb")
class WandB(StepTracker):
    """A run at Weights & Biases, or in its files in the run's folder; needs the package wandb.

    A resume continues the run of the same id, and sends only steps after the last that arrived.

    Parameters
    ----------
    project, entity
        Where the run goes; without an entity to that of the login.
    mode
        `online`, or `offline` for files that `wandb sync` sends later; None: as wandb is set.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        config: dict[str, Any],
        project: str = "llmlab",
        entity: str | None = None,
        mode: str | None = None,
    ):
        super().__init__(folder)
        if mode not in MODES:
            raise ConfigError(f"mode={mode}: must be online, offline or null")
        self._package = needed("wandb", "wandb")
        needed("PIL", "wandb")  # for pictures; found out here, and not at the end of a run
        self._name, self._config = name, config
        self._options = {"project": project, "entity": entity, "mode": mode}
        self._run: Any = None

    def _open(self):
        path = self._folder / "wandb.json"
        own = kept_id(path) or secrets.token_hex(8)
        last = max(map(self._last_step, sorted(self._folder.rglob(f"*{own}.wandb"))), default=0)
        keep_id(path, own)
        try:
            self._run = self._package.init(
                id=own,
                name=self._name,
                dir=str(self._folder),
                config=self._config,
                resume="allow",
                **self._options,
            )
        except (self._package.Error, OSError) as error:
            raise TrainingError(
                f"tracker wandb: {error}; tracker.mode=offline needs no login"
            ) from error
        return last if self._run.offline else self._run.step - 1

    def _last_step(self, path: Path) -> int:
        """Return the last step in one of wandb's own files, which a kill may have torn."""
        record = needed("wandb.proto.wandb_internal_pb2", "wandb").Record
        decode_error = needed("google.protobuf.message", "wandb").DecodeError
        last = 0
        for data in log_records(path.read_bytes()):
            found = record()
            try:
                found.ParseFromString(data)
            except decode_error:
                break
            keys = [item.key or ".".join(item.nested_key) for item in found.history.item]
            if any(not key.startswith("_") for key in keys):  # wandb adds rows of its own
                last = max(last, found.history.step.num)
        return last

    def _send(self, steps):
        for step, values in steps.items():
            self._run.log({name: self._shown(value) for name, value in values.items()}, step=step)

    def _shown(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return self._package.Image(value)
        if isinstance(value, str):
            return self._package.Table(columns=["text"], data=[[value]])
        return value

    def _close(self):
        self._run.finish()


def log_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file of wandb's: LevelDB's log format behind a head of 7 bytes."""
    at, part = _HEAD, b""
    while at + _CHUNK.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _CHUNK.size:
            at += left
            continue
        _, size, kind = _CHUNK.unpack_from(data, at)
        at += _CHUNK.size
        if kind == 0 or at + size > len(data):
            return
        part += data[at : at + size]
        at += size
        if kind in (1, 4):  # the whole of a record, or its last part
            yield part
            part = b""
