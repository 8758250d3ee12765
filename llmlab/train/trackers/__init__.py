"""Where metrics go besides the run's own folder; importing this registers all of it."""

from llmlab.registry import load_package
from llmlab.train.trackers.base import TRACKERS, NoTracker, Tracker

__all__ = ["TRACKERS", "NoTracker", "Tracker"]

load_package(__name__, __path__)
