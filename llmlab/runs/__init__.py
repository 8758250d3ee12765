"""Runs: how they begin and continue, their folders, and what they leave behind."""

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
from llmlab.runs.start import Kind, Start, start_of_stage

__all__ = [
    "CHECKPOINTS",
    "TRAINING",
    "Kind",
    "Run",
    "Start",
    "latest_checkpoint",
    "latest_run",
    "new_id",
    "newest_of",
    "read_record",
    "resolve_checkpoint",
    "start_of_stage",
]
