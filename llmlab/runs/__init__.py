"""Runs: their folders, how they begin and go on, and what they leave."""

from llmlab.runs.lookup import (
    CHECKPOINTS,
    TRAINING,
    latest_checkpoint,
    latest_run,
    newest_of,
    resolve_checkpoint,
)
from llmlab.runs.record import new_id, read_record
from llmlab.runs.run import Run

__all__ = [
    "CHECKPOINTS",
    "TRAINING",
    "Run",
    "latest_checkpoint",
    "latest_run",
    "new_id",
    "newest_of",
    "read_record",
    "resolve_checkpoint",
]
