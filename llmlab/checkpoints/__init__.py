"""Checkpoints: a self-contained, hashed file, and a folder that always contains a sound one."""

from llmlab.checkpoints.file import Checkpoint, compare, load, peek, save
from llmlab.checkpoints.folder import CHECKPOINTS, CheckpointFolder
from llmlab.checkpoints.meta import RESUMED, require
from llmlab.checkpoints.upgrades import UPGRADES, key_of_today

__all__ = [
    "CHECKPOINTS",
    "RESUMED",
    "UPGRADES",
    "Checkpoint",
    "CheckpointFolder",
    "compare",
    "key_of_today",
    "load",
    "peek",
    "require",
    "save",
]
