"""Phase `summary`: the stack's shapes, parameters, work and memory, layer by layer."""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from llmlab import build
from llmlab.config import Config
from llmlab.kernels import load as load_kernels
from llmlab.layers import Layer, Stack
from llmlab.params import walk_params
from llmlab.phases.answering import checkpoint_model
from llmlab.phases.tables import columns, human
from llmlab.train.memory import training_memory
from llmlab.workspace import Context

HEAD = ("layer", "output", "parameters", "FLOPs", "activations")


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Print the table of the checkpoint's model, or of the configured one."""
    if config.checkpoint is not None:
        model = checkpoint_model(config)
    else:
        model = build.new_model(config, build.new_tokenizer(config))
    print(describe(config, model), flush=True)
    return {"parameters": model.layout.num_parameters}


def describe(config: Config, model: build.Model) -> str:
    """Return the table as text, for one batch of full length."""
    batch, time = config.batch_size, model.max_seq_len
    item = np.dtype(config.dtype).itemsize
    threads = build.resolve_threads(config.threads, batch)
    build.check_memory(config, model.stack, model.layout, time, threads)
    widths = output_widths(model)
    rows: list[tuple[str, ...]] = [HEAD]
    for name, layer in leaves(model.stack):
        rows.append(
            (
                name,
                f"({batch}, {time}, {widths[name]})",
                f"{own_parameters(layer):,}",
                human(layer.flops(batch, time), "", 1000),
                human(layer.elements(batch, time) * item, "B", 1024),
            )
        )
    total = training_memory(
        model.stack,
        model.layout,
        build.new_optimizer(config),
        batch=batch,
        time=time,
        threads=threads,
        dtype=config.dtype,
        average=config.ema is not None,
    )
    work = model.stack.flops(batch, time)
    parts = (
        ("parameters", total.parameters),
        (f"gradients of {threads} shard{'s' * (threads > 1)}", total.gradients),
        ("optimizer", total.optimizer),
        ("activations", total.activations),
    )
    return "\n".join(
        [
            f"model {model.spec['name']}: {model.layout.num_parameters:,} parameters, "
            f"vocabulary {model.tokenizer.vocab_size}, {config.dtype}",
            "",
            *columns(rows, left=2),
            "",
            f"forward pass of a batch of {batch} x {time} tokens: {human(work, 'FLOPs', 1000)}; "
            "with the backward pass three times that",
            "memory of a training step: "
            + ", ".join(f"{name} {human(size, 'B', 1024)}" for name, size in parts)
            + f"; together {human(total.total, 'B', 1024)}",
        ]
    )


def leaves(layer: Layer, name: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield the dotted names of the layers inside the stacks."""
    for key, child in layer.children().items():
        full = f"{name}.{key}" if name else key
        if isinstance(child, Stack):
            yield from leaves(child, full)
        else:
            yield full, child


def own_parameters(layer: Layer) -> int:
    """Return the number of learned values in a layer; shared ones count where they are stored."""
    return sum(prod(param.shape) for _, _, param in walk_params(layer) if param.alias is None)


def output_widths(model: build.Model) -> dict[str, int]:
    """Return each layer's output width, from a pass over a single token."""
    ctx = Context(load_kernels("numpy"), model.params.flat.dtype)
    ctx.begin(1, 1)
    widths: dict[str, int] = {}

    def walk(layer: Layer, p: Any, x: np.ndarray, name: str) -> np.ndarray:
        if isinstance(layer, Stack):
            for key, child in layer.children().items():
                x = walk(child, p[key], x, f"{name}.{key}" if name else key)
            return x
        y, _ = layer.forward(p, x, ctx)
        widths[name] = y.shape[1]
        return y

    walk(model.stack, model.params.tree, np.zeros(1, np.intp), "")
    return widths
