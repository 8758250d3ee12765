"""What a continued training must have in common with the state that it continues from."""

import logging
from typing import Any

from llmlab import build
from llmlab.checkpoints import Checkpoint, compare
from llmlab.config import Config
from llmlab.errors import CheckpointError, ConfigError
from llmlab.train.progress import Progress, progress_of
from llmlab.train.trainer import Trainer

log = logging.getLogger("llmlab")


def continued(config: Config, state: Checkpoint, hashes: dict[str, str]) -> Progress:
    """Return where a state stands."""
    if state.meta["stage"] != config.phase:
        raise ConfigError(
            f"{state.path}: a state of phase {state.meta['stage']}, which can't be continued as "
            f"phase {config.phase}; use checkpoint= to start from its weights"
        )
    then = state.meta["hashes"]
    changed = [name for name in hashes if hashes[name] != then.get(name)]
    if changed and not config.allow_changed_data:
        typed = _changed(config, state, ("seed", "data"))
        if "data" in changed and typed:  # the same file, divided otherwise
            raise CheckpointError(
                f"{state.path}: {'; '.join(typed)}: this decides which text is trained on. Leave "
                "it out, or use checkpoint= to start from its weights"
            )
        table = "; ".join(
            f"{name} was {then.get(name, 'unknown')[:12]}, is {hashes[name][:12]}"
            for name in changed
        )
        raise CheckpointError(
            f"{state.path}: {' and '.join(changed)} changed since this checkpoint ({table}); "
            "restore the file, or resume with allow_changed_data=true"
        )
    return progress_of(state.meta)


def refuse_another_order(config: Config, state: Checkpoint, progress: Progress) -> None:
    """Refuse what would reshuffle the rest of an epoch: samples would be missed or repeated."""
    keys = ("batch_size", "seed") if config.allow_changed_data else ("batch_size", "seed", "data")
    changed = _changed(config, state, keys)
    if progress.index and changed:
        raise CheckpointError(
            f"{state.path}: in the middle of an epoch, whose order would change: "
            f"{'; '.join(changed)}. Leave this out, or use checkpoint= to start from its weights"
        )


def tell_finished(config: Config, state: Checkpoint, progress: Progress) -> None:
    """Say that there is nothing to do, and that changed keys have no effect."""
    lengths = ("epochs", "steps", "patience")
    kept = tuple(key for key in state.meta["config"] if key not in lengths)
    changed = _changed(config, state, kept)
    without = "; to train on, give more epochs or steps"
    if changed:
        without = f"; {'; '.join(changed)}: this would only affect further steps, as with epochs=N"
    log.info("%s: already finished, after %d steps%s", config.phase, progress.step, without)


def restore(trainer: Trainer, state: Checkpoint) -> None:
    """Give a trainer the arrays of a state; raise CheckpointError if they don't fit."""
    expected = {name: view.shape for name, view in trainer.arrays().items()}
    found = {name: array.shape for name, array in state.arrays.items()}
    compare(expected, found, str(state.path))
    trainer.load(state.arrays, state.meta["step"], state.meta["updates"])


def _changed(config: Config, state: Checkpoint, keys: tuple[str, ...]) -> list[str]:
    """Return a line for each of `keys`, or each key inside them, that has changed."""
    then, now = (
        build.flat({key: kept[key] for key in keys if key in kept})
        for kept in (state.meta["config"], config.reproducible())
    )
    return [
        f"{key} was {_short(then[key])}, is {_short(now[key])}"
        for key in sorted(then.keys() & now.keys())
        if then[key] != now[key] and (key, now[key]) != ("template", "auto")  # which is the run's
    ]


def _short(value: Any) -> str:
    return "null" if value is None else str(value)
