"""Phases `pretrain` and `tune`: the same training, on other data."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from llmlab import build
from llmlab.checkpoints import Checkpoint, CheckpointFolder
from llmlab.config import Config
from llmlab.config.template import with_roles
from llmlab.errors import ConfigError
from llmlab.measure.losses import Evaluator
from llmlab.network import Network
from llmlab.phases.answering import replier
from llmlab.phases.budget import steps_of
from llmlab.phases.continuing import continued, refuse_another_order, restore, tell_finished
from llmlab.phases.following import others
from llmlab.phases.forecast import forecast
from llmlab.phases.outcome import training_results
from llmlab.phases.run_report import after as after
from llmlab.report.loss import Report, summarise, write_report
from llmlab.runs import CHECKPOINTS, Kind, Run, start_of_stage
from llmlab.runs.lookup import load_present
from llmlab.signals import Signals
from llmlab.text import Dataset
from llmlab.train.callbacks import CALLBACKS
from llmlab.train.callbacks.metrics import MetricsFile
from llmlab.train.fit import Callback, Progress, fit
from llmlab.train.trackers import Tracker
from llmlab.train.trainer import Trainer

log = logging.getLogger("llmlab")

# What callbacks get of the configuration, unless their own part of it says otherwise.
WATCHING = ("eval_every", "log_every", "save_every", "keep", "patience", "max_bad_steps")


def run(config: Config, run: Run) -> dict[str, Any]:
    """Train one stage in the run's folder; a state in it is continued."""
    begin = None if config.checkpoint is None else Path(config.checkpoint)
    return train_stage(config, run, run.folder, begin)


def train_stage(config: Config, run: Run, folder: Path, begin: Path | None) -> dict[str, Any]:
    """Train `config.phase` in `folder` and return its results.

    `begin` is a checkpoint to take weights, model and tokenizer from.
    """
    start = start_of_stage(run, folder, config.keep)
    state = start.state
    model = stage_model(config, state, begin)
    data = Data(*stage_data(config, model, config.phase))
    hashes = {"data": data.training.sha256, "tokenizer": model.tokenizer.sha256()}
    progress = Progress() if state is None else continued(config, state, hashes)
    progress.patience = config.patience
    steps = steps_of(config, run, model, data.training)

    def results(report: Report, checkpoint: Path) -> dict[str, Any]:
        args = (hashes["data"], data.validation, progress, report, checkpoint)
        return training_results(config, model, *args)

    if state is not None and (progress.step >= steps or progress.is_stale):
        tell_finished(config, state, progress)
        ended = CheckpointFolder(folder / CHECKPOINTS).result() or state.path
        return results(summarise(folder), ended)
    if config.patience is not None and data.validation is None:
        log.warning("patience=%d: %s", config.patience, f"data.{config.phase} has no validation")
    if state is not None:
        refuse_another_order(config, state, progress)
    length, (ranks, here) = model.max_seq_len, build.machines(config)
    threads = build.resolve_threads(config.threads, config.batch_size, length, ranks, here)
    build.check_memory(config, model.stack, model.layout, length, threads, ranks, here)
    trainer = _trainer(config, model, state, steps, threads)
    with Signals(trainer.signal_elsewhere) as signals, trainer:
        stage = Stage(config, run, folder, model, data, hashes, trainer, signals, steps)
        stage.train(progress, state if start.kind is Kind.CONTINUED else None)
    # As `result` has it, but what was just written isn't read again.
    checkpoints = CheckpointFolder(folder / CHECKPOINTS)
    best = checkpoints.best() if progress.is_stale else None
    report = write_report(folder, config.phase)
    return results(report, best or checkpoints.path(progress.step))


class Data(NamedTuple):
    """The training data of a stage, and its validation data if there are any."""

    training: Dataset
    validation: Dataset | None


def _trainer(
    config: Config, model: build.Model, state: Checkpoint | None, steps: int, threads: int
) -> Trainer:
    """Return the trainer, at the state if there is one; `model` gets its parameters."""

    def prepare(trainer: Trainer) -> None:
        if state is not None:
            restore(trainer, state)
            state.arrays.clear()
        model.params = trainer.params  # one set of parameters is enough

    return Trainer(
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
        ranks=others(config, model, threads),
        kernels=config.kernels,
        prepare=prepare,
    )


@dataclass(frozen=True)
class Stage:
    """A training that is about to begin; everything that could be wrong has been checked."""

    config: Config
    run: Run
    folder: Path
    model: build.Model
    data: Data
    hashes: dict[str, str]
    trainer: Trainer
    signals: Signals
    steps: int

    def train(self, progress: Progress, own: Checkpoint | None) -> None:
        """Train from `progress`; `own` is the state in this folder that it comes from."""
        config = self.config
        tracker = build.new_tracker(config, self.folder, self.run.folder)
        known = self.run.record.get("hashes", {})
        self.run.begin(
            threads=self.trainer.shards,
            ranks=build.machines(config)[0],
            kernels=config.kernels,
            hashes={**known, config.phase: self.hashes},
        )
        offset = own.meta["metrics_offset"] if own else 0
        metrics = MetricsFile(self.folder / "metrics.jsonl", offset)
        work = (self.model, self.data.training, progress, self.steps, self.trainer.shards)
        forecast(config, *work)
        fit(
            self.trainer,
            self.data.training,
            stage=config.phase,
            batch_size=config.batch_size,
            steps=self.steps,
            seed=config.seed,
            accumulate=config.accumulate,
            max_bad_steps=config.max_bad_steps,
            progress=progress,
            callbacks=self.callbacks(metrics, tracker),
        )

    def callbacks(self, metrics: MetricsFile, tracker: Tracker) -> dict[str, Callback]:
        """Return the callbacks by name, in order."""
        config, validation = self.config, self.data.validation
        batches = self.data.training.num_batches(config.batch_size)
        built = CALLBACKS.build_named(
            config.callbacks,
            "callbacks",
            stage=config.phase,
            steps=self.steps,
            steps_of_epoch=ceil(batches / config.accumulate),
            folder=self.folder,
            trainer=self.trainer,
            model=self.model,
            measure=None if validation is None else self._measure(validation),
            batches=lambda: self.data.training.batches(config.batch_size, config.seed, 0),
            sample=replier(config, self.model, self.trainer.averaged),
            metrics=metrics,
            tracker=tracker,
            meta=checkpoint_meta(config, self.model, self.hashes),
            signals=self.signals,
            command=self.run.resume_command,
            show_progress=self.run.show_progress,
            trial=self.run.trial,
            **{key: getattr(config, key) for key in WATCHING},
        )
        return {name: callback for name, callback in built.items() if callback is not None}

    def _measure(self, validation: Dataset) -> Callable[[], float]:
        trainer, config = self.trainer, self.config
        evaluator = Evaluator(Network(trainer.stack, trainer.averaged, kernels=trainer.kernels))

        def measure() -> float:
            # Made anew each time: kept, they would take many times the memory of the text.
            return evaluator.measure(validation.batches(config.batch_size, config.seed, 0)).loss

        return measure


def stage_model(config: Config, state: Checkpoint | None, begin: Path | None) -> build.Model:
    """Return the model to train: the state's, that of a checkpoint, or a new one."""
    if state is not None:
        return build.load_model(config, state)
    if begin is not None:
        model = build.load_model(config, load_present(begin))
        model = with_roles(config, model, config.data[config.phase])
        wanted = config.phase == "tune" and config.adapter is not None
        return build.with_adapter(config, model) if wanted else model
    if config.adapter is not None:
        raise ConfigError("adapter: there is nothing to adapt; name a network: checkpoint=latest")
    if config.phase == "tune":
        log.warning("no checkpoint= given: tuning starts from random parameters")
    return build.new_model(config, build.new_tokenizer(config))


def stage_data(config: Config, model: build.Model, stage: str) -> tuple[Dataset, Dataset | None]:
    """Return training and validation data of a stage; no validation by default."""
    whole = build.new_dataset(config.data[stage], f"data.{stage}", model)
    return whole.split(whole.val_fraction, config.seed)


def checkpoint_meta(config: Config, model: build.Model, hashes: dict[str, str]) -> dict[str, Any]:
    """Return the meta of every checkpoint of a stage, without the progress."""
    kept = config.reproducible() | {"model": model.spec, "template": model.template_spec}
    kept["adapter"] = model.adapter
    return {
        "stage": config.phase,
        "config": kept,
        "tokenizer": model.tokenizer.to_dict(),
        "hashes": hashes,
    }
