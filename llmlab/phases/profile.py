"""Phase `profile`: where the time of a training step goes, by layer and by kernel."""

from itertools import count, islice
from time import perf_counter
from typing import Any

from threadpoolctl import threadpool_limits

from llmlab import build
from llmlab.config import Config
from llmlab.config.specs import STAGES
from llmlab.config.template import with_roles
from llmlab.errors import ConfigError
from llmlab.kernels import load as load_kernels
from llmlab.layers import Stack
from llmlab.phases.answering import checkpoint_model
from llmlab.phases.training import stage_data
from llmlab.report.tables import columns, human
from llmlab.train.profiling import Clock, sgemm_peak, timed_kernels, timed_layers
from llmlab.train.trainer import Trainer

WARM_UP, STEPS = 3, 30


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Train a few steps on one core, on the data of `on` (pretrain), and print the times."""
    stage = config.on or "pretrain"
    if stage not in STAGES:
        raise ConfigError(f"on={stage}: steps are profiled on a stage's text: pretrain or tune")
    if config.checkpoint is not None:
        model = checkpoint_model(config)
    else:
        model = build.new_model(config, build.new_tokenizer(config))
    model = with_roles(config, model, config.data[stage])
    build.check_memory(config, model.stack, model.layout, model.max_seq_len, 1)
    batches = _batches(config, model, stage)
    with threadpool_limits(1, user_api="blas"):
        peak = sgemm_peak(config.dtype)
    kernels, calls = timed_kernels(load_kernels(config.kernels))
    with Trainer(
        model.stack,
        model.params,
        build.new_optimizer(config),
        lr=config.lr or 5e-4,
        clip_norm=config.clip_norm,
        seed=config.seed,
        kernels=kernels,
    ) as trainer:
        for batch in batches[:WARM_UP]:
            trainer.step([batch])
        for clock in calls.values():
            clock[:] = [0, 0.0]
        with timed_layers(model.stack) as clocks:
            began = perf_counter()
            for batch in batches[WARM_UP:]:
                trainer.step([batch])
            seconds = perf_counter() - began
    shapes = [batch.inputs.shape for batch in batches[WARM_UP:]]
    tokens = sum(batch.tokens for batch in batches[WARM_UP:])
    work = 3 * sum(model.stack.flops(*shape) for shape in shapes)
    # A layer can be faster than the large product that is timed alone.
    rates = [
        3 * sum(layer.flops(*s) for s in shapes) / clocks[name].spent
        for name, layer in model.stack.leaves()
    ]
    peak = max(peak, work / seconds, *rates)
    print(
        f"{STEPS} steps of {config.batch_size} x up to {max(t for _, t in shapes)} tokens "
        f"({stage}), one core, kernels {config.kernels}: {seconds / STEPS * 1e3:.2f} ms a step, "
        f"{tokens / seconds:,.0f} target tokens/s\n"
        f"fastest measured: {human(peak, 'FLOP/s', 1000)}; the step reaches "
        f"{work / seconds / peak:.0%} of it\n"
    )
    print("\n".join(columns(_layer_rows(model.stack, clocks, shapes, seconds, peak))), end="\n\n")
    print("\n".join(columns(_kernel_rows(calls, seconds))), flush=True)
    return {"ms": seconds / STEPS * 1e3, "tokens_per_second": tokens / seconds}


def _batches(config: Config, model: build.Model, stage: str) -> list[Any]:
    data, _ = stage_data(config, model, stage)
    epochs = (data.batches(config.batch_size, config.seed, epoch) for epoch in count())
    return list(islice((batch for epoch in epochs for batch in epoch), WARM_UP + STEPS))


def _layer_rows(
    stack: Stack,
    clocks: dict[str, Clock],
    shapes: list[tuple[int, ...]],
    seconds: float,
    peak: float,
) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("layer", "forward ms", "backward ms", "share", "FLOPs", "of peak")
    ]
    known = 0.0
    for name, layer in stack.leaves():
        forward, backward, spent = clocks[name].forward, clocks[name].backward, clocks[name].spent
        work = 3 * sum(layer.flops(b, t) for b, t in shapes)
        known += spent
        rows.append(
            (
                name,
                f"{forward / STEPS * 1e3:.3f}",
                f"{backward / STEPS * 1e3:.3f}",
                f"{spent / seconds:.1%}",
                human(work / STEPS, "", 1000),
                f"{work / spent / peak:.0%}" if work else "-",
            )
        )
    rest = f"{(seconds - known) / seconds:.1%}"
    return [*rows, ("loss, clipping, optimizer", "", "", rest, "", "")]


def _kernel_rows(calls: dict[str, list[float]], seconds: float) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("kernel", "calls a step", "ms a step", "share")]
    for name, (number, spent) in sorted(calls.items(), key=lambda item: -item[1][1]):
        if number:
            share = f"{spent / seconds:.1%}"
            rows.append((name, f"{number / STEPS:.0f}", f"{spent / STEPS * 1e3:.3f}", share))
    return rows
