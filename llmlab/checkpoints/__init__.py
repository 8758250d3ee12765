"""Checkpoints: one self-contained, hashed file, and the folder that always holds a sound one."""

from llmlab.checkpoints.file import UPGRADES, Checkpoint, compare, load, peek, save
from llmlab.checkpoints.folder import CheckpointFolder
from llmlab.checkpoints.meta import RESUMED, require

__all__ = [
    "RESUMED",
    "UPGRADES",
    "Checkpoint",
    "CheckpointFolder",
    "compare",
    "load",
    "peek",
    "require",
    "save",
]
