"""Phases `pretrain` and `tune`: the same training, on other data."""

import logging
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

from llmlab import build
from llmlab.checkpoints import RESUMED, Checkpoint, CheckpointFolder, compare, load, require
from llmlab.config import Config
from llmlab.errors import CheckpointError, ConfigError
from llmlab.measure.losses import Evaluator
from llmlab.report.loss import write_report
from llmlab.runs import CHECKPOINTS, Run
from llmlab.signals import Signals
from llmlab.text import Dataset
from llmlab.train.callbacks import Checkpoints, Metrics, ProgressBar, Validation, progress_of
from llmlab.train.diagnose import Diagnosis
from llmlab.train.early_stopping import EarlyStopping
from llmlab.train.fit import Callback, Progress, fit, total_steps
from llmlab.train.trainer import Trainer

log = logging.getLogger("llmlab")


def run(config: Config, run: Run) -> dict[str, Any]:
    """Train one stage in the run's folder; a folder that holds a state is continued."""
    begin = None if config.checkpoint is None else Path(config.checkpoint)
    return train_stage(config, run, run.folder, begin)


def train_stage(config: Config, run: Run, folder: Path, begin: Path | None) -> dict[str, Any]:
    """Train `config.phase` in `folder` and return its results.

    Parameters
    ----------
    begin
        Checkpoint to take weights, model and tokenizer from.
    """
    checkpoints = CheckpointFolder(folder / CHECKPOINTS, config.keep)
    checkpoints.sweep()
    state = _whole(checkpoints.load_latest())
    offset = state.meta["metrics_offset"] if state else 0
    if state is None and config.resume and config.resume.endswith(".npz"):
        state = _whole(load(config.resume))
    model = stage_model(config, state, begin)
    training, validation = stage_data(config, model, config.phase)
    if config.patience is not None and validation is None:
        log.warning("patience=%d: %s", config.patience, f"data.{config.phase} has no validation")
    progress = _continued(config, state, training, model)
    steps = total_steps(
        training,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        epochs=config.epochs,
        steps=config.steps,
    )
    progress.patience = config.patience
    if state is not None and (progress.step >= steps or progress.is_stale):
        log.info("%s: finished, %d steps are done", config.phase, progress.step)
        return _results(config, folder, progress, checkpoints.outcome() or state.path)
    if state is not None:
        _refuse_another_order(config, state, progress)
    threads = build.resolve_threads(config.threads, config.batch_size, model.max_seq_len)
    build.check_memory(config, model.stack, model.layout, model.max_seq_len, threads)
    hashes = _hashes(training, model)

    def prepare(trainer: Trainer) -> None:
        if state is not None:
            _restore(trainer, state)
            state.arrays.clear()
        model.params = trainer.params  # one set of parameters is enough

    trainer = Trainer(
        model.stack,
        model.params,
        build.new_optimizer(config),
        lr=config.lr or 0.0,
        schedule=build.new_schedule(config, steps),
        clip_norm=config.clip_norm,
        seed=config.seed,
        label_smoothing=config.label_smoothing,
        ema=config.ema,
        threads=threads,
        kernels=config.kernels,
        prepare=prepare,
    )
    with Signals() as signals, trainer:
        tracker = build.new_tracker(config, folder, run.folder.name)
        # All that could refuse this start has been asked; from here on it is on record.
        known = run.record.get("hashes", {})
        run.update(threads=threads, kernels=config.kernels, hashes={**known, config.phase: hashes})
        metrics = Metrics(folder / "metrics.jsonl", config.log_every, tracker, offset)
        saving = Checkpoints(
            checkpoints,
            trainer,
            metrics,
            checkpoint_meta(config, model, hashes),
            every=config.save_every or max(1, ceil(steps / 10)),
            last=steps,
            signals=signals,
            command=run.resume_command,
        )
        callbacks: list[Callback] = [Diagnosis(trainer, folder, config.max_bad_steps)]
        if validation is not None:
            every = config.eval_every or ceil(
                training.num_batches(config.batch_size) / config.accumulate
            )
            callbacks.append(Validation(_measure(config, trainer, validation), every, steps))
        if config.patience is not None:
            callbacks.append(EarlyStopping(config.patience))
        callbacks += [metrics, saving, ProgressBar(config.phase, steps, run.show_progress)]
        fit(
            trainer,
            training,
            stage=config.phase,
            batch_size=config.batch_size,
            steps=steps,
            seed=config.seed,
            accumulate=config.accumulate,
            max_bad_steps=config.max_bad_steps,
            progress=progress,
            callbacks=callbacks,
        )
    # As `outcome` has it, but what was just written isn't read again.
    best = checkpoints.best() if progress.is_stale else None
    return _results(config, folder, progress, best or checkpoints.path(progress.step))


def stage_model(config: Config, state: Checkpoint | None, begin: Path | None) -> build.Model:
    """Return the model to train: the state's, that of a checkpoint, or a new one."""
    if state is not None:
        return build.load_model(config, state)
    if begin is not None:
        return build.load_model(config, load(begin))
    if config.phase == "tune":
        log.warning("no checkpoint= given: tuning starts from random parameters")
    return build.new_model(config, build.new_tokenizer(config))


def stage_data(config: Config, model: build.Model, stage: str) -> tuple[Dataset, Dataset | None]:
    """Return training and validation data of a stage; no validation by default."""
    whole = build.new_dataset(config.data[stage], f"data.{stage}", model)
    return whole.split(whole.val_fraction, config.seed)


def checkpoint_meta(config: Config, model: build.Model, hashes: dict[str, str]) -> dict[str, Any]:
    """Return what every checkpoint of a stage says besides its progress."""
    kept = config.reproducible() | {"model": model.spec, "template": model.template_spec}
    return {
        "stage": config.phase,
        "config": kept,
        "tokenizer": model.tokenizer.to_dict(),
        "hashes": hashes,
    }


def _continued(
    config: Config, state: Checkpoint | None, training: Dataset, model: build.Model
) -> Progress:
    """Return where the state stands, if its data are still the same."""
    if state is None:
        return Progress()
    if state.meta["stage"] != config.phase:
        raise ConfigError(
            f"{state.path}: a state of phase {state.meta['stage']}, to be continued as phase "
            f"{config.phase}; use checkpoint= to start from its weights"
        )
    now, then = _hashes(training, model), state.meta["hashes"]
    changed = [name for name in now if now[name] != then.get(name)]
    if changed and not config.allow_changed_data:
        table = "; ".join(
            f"{name} was {then.get(name, 'unknown')[:12]}, is {now[name][:12]}" for name in changed
        )
        raise CheckpointError(
            f"{state.path}: {' and '.join(changed)} changed since this checkpoint ({table}); "
            "restore the file, or resume with allow_changed_data=true"
        )
    return progress_of(state.meta)


def _refuse_another_order(config: Config, state: Checkpoint, progress: Progress) -> None:
    """Refuse what would deal the rest of an epoch out anew: lines would be missed or repeated."""
    then, now = (
        build.flat({key: kept[key] for key in ("batch_size", "seed", "data")})
        for kept in (state.meta["config"], config.reproducible())
    )
    free = "data." if config.allow_changed_data else None
    changed = [
        f"{key} was {then[key]}, is {now[key]}"
        for key in sorted(then.keys() & now.keys())
        if then[key] != now[key] and not (free and key.startswith(free))
    ]
    if progress.index and changed:
        raise CheckpointError(
            f"{state.path}: in the middle of an epoch, whose order would change: "
            f"{'; '.join(changed)}. Leave that out, or use checkpoint= to start from its weights"
        )


def _hashes(training: Dataset, model: build.Model) -> dict[str, str]:
    return {"data": training.sha256, "tokenizer": model.tokenizer.sha256()}


def _whole(state: Checkpoint | None) -> Checkpoint | None:
    """Return the state of a run, which may come from a file that something else has written."""
    if state is not None:
        require(state.meta, RESUMED, state.path, "going on")
    return state


def _restore(trainer: Trainer, state: Checkpoint) -> None:
    expected = {name: view.shape for name, view in trainer.arrays().items()}
    found = {name: array.shape for name, array in state.arrays.items()}
    compare(expected, found, str(state.path))
    trainer.load(state.arrays, state.meta["step"], state.meta["updates"])


def _measure(config: Config, trainer: Trainer, validation: Dataset) -> Callable[[], float]:
    evaluator = Evaluator(trainer.stack, trainer.averaged, trainer.kernels)

    def measure() -> float:
        # Made anew each time: kept, they would take many times the memory of the text.
        return evaluator.measure(validation.batches(config.batch_size, config.seed, 0)).loss

    return measure


def _results(config: Config, folder: Path, progress: Progress, outcome: Path) -> dict[str, Any]:
    """Draw the report and return the stage's figures."""
    report = write_report(folder, config.phase)
    results: dict[str, Any] = {
        "loss": report.loss,
        "steps": progress.step,
        "tokens": progress.tokens,
        "skipped": progress.skipped,
        "checkpoint": str(outcome),
    }
    if progress.best is not None:
        results |= {"val_loss": progress.best, "best_step": progress.best_step}
    return results
