"""Overrides of runs that were started when layers had no names."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmlab.runs.overrides import Override


def renamed(record: Mapping[str, Any], run: Path) -> Mapping[str, Any]:
    """Return a run's record with today's keys of layers in its overrides."""
    from llmlab.checkpoints import key_of_today
    from llmlab.runs.record import read_config

    overrides = [Override.of(text) for text in record["overrides"]]
    if not any(override.key.startswith("model.") for override in overrides):
        return record
    model = (read_config(run) or {}).get("model")
    named = [replace(each, key=key_of_today(each.key, model)) for each in overrides]
    return {**record, "overrides": [str(each) for each in named]}
