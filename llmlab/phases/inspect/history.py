"""The states that a run has kept, looked into one after the other."""

from pathlib import Path
from typing import Any

import numpy as np

from llmlab import build
from llmlab.checkpoints import CheckpointFolder, load
from llmlab.config import Config
from llmlab.errors import CheckpointError
from llmlab.inspect import Moment, likeness, moment
from llmlab.phases.inspect.look import Look
from llmlab.report.inspect_page import rounded

_FEWEST, _MOST = 3, 24  # states


def older(config: Config, look: Look) -> list[Moment]:
    """Return a look at each checkpoint beside the chosen one, up to that; none if there are few."""
    path = Path(str(config.checkpoint))
    steps = CheckpointFolder(path.parent).steps()
    last = next((step for step, other in steps if other.name == path.name), None)
    if last is None:
        return []
    kept = [(step, other) for step, other in steps if step <= last]
    if len(kept) < _FEWEST:
        return []
    places = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), _MOST)).round().astype(int))
    moments = []
    for step, other in [kept[place] for place in places]:
        try:
            checkpoint = load(other)
        except CheckpointError:
            if other.exists():
                raise
            continue  # its run, still at work, has just pruned it
        network = build.load_model(config, checkpoint).network(config.kernels)
        moments.append(moment(network, step, look.ids, look.repeated, look.rows))
    return moments if len(moments) >= _FEWEST else []


def told(moments: list[Moment]) -> dict[str, Any]:
    """Return what the page shows of it: tables of a row a state."""
    layers, states = likeness(moments)
    tables: dict[str, Any] = {
        "nats a token, read behind each layer": [each.lens for each in moments],
        "effective rank of the stream": [each.rank for each in moments],
        "likeness to the last state (linear CKA)": [
            dict(zip(moments[-1].stream, row.tolist(), strict=True)) for row in states
        ],
        "quiet units, as a share": [each.quiet for each in moments],
        "loss without the part, more in nats": [
            {part.name: change for part, change in each.effects.items()} for each in moments
        ],
    }
    for habit in ("previous", "duplicate", "induction"):
        tables[f"attention of heads, {habit}"] = [
            {
                f"{path}.head.{n}": float(value)
                for path, scores in each.scores.items()
                for n, value in enumerate(getattr(scores, habit))
            }
            for each in moments
        ]
    return {
        "steps": [each.step for each in moments],
        "loss": rounded([each.loss for each in moments]),
        "layers": {"paths": list(moments[-1].stream), "cka": rounded(layers)},
        "tables": [
            {
                "title": title,
                "columns": list(rows[0]),
                "rows": rounded([[*r.values()] for r in rows]),
            }
            for title, rows in tables.items()
            if rows[0]
        ],
    }
