"""Phase `summary`: the stack's shapes, parameters, work and memory, layer by layer."""

from dataclasses import dataclass
from math import prod
from typing import Any

from llmlab import build
from llmlab.config import Config
from llmlab.config.network import positions_in
from llmlab.layers import Layer, Stack
from llmlab.params import Layout, walk_params
from llmlab.phases.answering import checkpoint_model
from llmlab.report.tables import columns, human
from llmlab.text import Tokenizer
from llmlab.train.activations import activations
from llmlab.train.memory import Memory, available_memory, training_memory

HEAD = ("layer", "output", "parameters", "FLOPs", "activations")


@dataclass(frozen=True)
class Plan:
    """What there is to describe: no parameters, so that it can be of any size."""

    spec: dict[str, Any]
    stack: Stack
    layout: Layout
    tokenizer: Tokenizer
    template_spec: Any


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Print the table of the checkpoint's model, or of the configured one."""
    plan = plan_of(config)
    print(describe(config, plan), flush=True)
    return {"parameters": plan.layout.num_parameters}


def plan_of(config: Config) -> Plan:
    """Return the checkpoint's model, or the configured one."""
    if config.checkpoint is not None:
        model = checkpoint_model(config)
        return Plan(model.spec, model.stack, model.layout, model.tokenizer, model.template_spec)
    tokenizer = build.new_tokenizer(config)
    stack = build.new_stack(config.model, tokenizer.vocab_size)
    return Plan(config.model, stack, Layout(stack), tokenizer, config.template)


def facts(config: Config) -> dict[str, int]:
    """Return what is known of a training before it: parameters, bytes and operations of a step."""
    plan = plan_of(config)
    batch, time = config.batch_size, plan.spec["max_seq_len"]
    return {
        "parameters": plan.layout.num_parameters,
        "memory": step_memory(config, plan).total,
        "flops": 3 * config.accumulate * plan.stack.flops(batch, time),
    }


def step_memory(config: Config, model: Plan) -> Memory:
    """Return the memory of a training step on full batches."""
    batch, time = config.batch_size, model.spec["max_seq_len"]
    return training_memory(
        model.stack,
        model.layout,
        build.new_optimizer(config),
        batch=batch,
        time=time,
        threads=build.resolve_threads(config.threads, batch, time),
        dtype=config.dtype,
        average=config.ema is not None,
    )


def describe(config: Config, model: Plan) -> str:
    """Return the table as text, for one batch of full length."""
    batch, time = config.batch_size, model.spec["max_seq_len"]
    threads = build.resolve_threads(config.threads, batch, time)
    found = activations(model.stack, model.layout, batch, time, config.dtype)
    rows: list[tuple[str, ...]] = [HEAD]
    for name, layer in model.stack.leaves():
        size, width = ("?", "?") if found is None else found.layers[name]
        rows.append(
            (
                name,
                f"({batch}, {time}, {width})",
                f"{own_parameters(layer):,}",
                human(layer.flops(batch, time), "", 1000),
                human(size, "B", 1024) if isinstance(size, int) else size,
            )
        )
    work = model.stack.flops(batch, time)
    kinds = {kind: 0 for found in positions_in(model.spec["stack"]) for kind in found.values()}
    return "\n".join(
        [
            f"model {model.spec['name']}: {model.layout.num_parameters:,} parameters, "
            f"vocabulary {model.tokenizer.vocab_size}, {config.dtype}, "
            f"positions: {', '.join(kinds) or 'none'}",
            "",
            *columns(rows, left=2),
            "",
            f"forward pass of a batch of {batch} x {time} tokens: {human(work, 'FLOPs', 1000)}; "
            "with the backward pass three times that",
            *_memory_lines(config, model, threads),
            *template_lines(model.template_spec),
        ]
    )


def _memory_lines(config: Config, model: Plan, threads: int) -> list[str]:
    """Return what a training step takes, and what frozen parameters save of it."""
    total = step_memory(config, model)
    free = available_memory()
    lacking = ""
    if free is not None and free < total.total:
        lacking = f", more than the {human(free, 'B', 1024)} that are free"
    parts = (
        ("parameters", total.parameters),
        (f"gradients of {threads} shard{'s' * (threads > 1)}", total.gradients),
        ("optimizer", total.optimizer),
        ("activations", total.activations),
    )
    trained = model.layout.trained
    frozen = model.layout.num_parameters - trained.num_parameters
    lines = [
        "memory of a training step: "
        + ", ".join(f"{name} {human(size, 'B', 1024)}" for name, size in parts)
        + f"; together {human(total.total, 'B', 1024)}{lacking}"
    ]
    if frozen:
        # Gradients of each shard and moments, as if all were trained.
        each = (total.gradients + total.optimizer) / max(trained.size, 1)
        saved = int(each * (model.layout.size - trained.size))
        lines.append(
            f"{trained.num_parameters:,} parameters trained, {frozen:,} frozen, which saves "
            f"{human(saved, 'B', 1024)} of gradients and moments"
        )
    return lines


def template_lines(spec: Any) -> list[str]:
    """Return what is said of a chat template: its name, and all of one from a folder."""
    if isinstance(spec, str) or "source" not in spec:
        return [f"template {spec if isinstance(spec, str) else spec['type']}"]
    tokens = "".join(f", {name} {token}" for name, token in (spec.get("tokens") or {}).items())
    return [f"template {spec['type']}{tokens}:", *spec["source"].splitlines()]


def own_parameters(layer: Layer) -> int:
    """Return the number of learned values in a layer; shared ones count where they are stored."""
    return sum(prod(param.shape) for _, _, param in walk_params(layer) if param.alias is None)
