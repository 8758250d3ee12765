"""Phase `summary`: the stack's shapes, parameters, work and memory, layer by layer."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from llmlab import build
from llmlab.config import Config
from llmlab.config.network import positions_in
from llmlab.kernels import load as load_kernels
from llmlab.layers import Layer, Stack
from llmlab.params import Layout, walk_params
from llmlab.phases.answering import checkpoint_model
from llmlab.report.tables import columns, human
from llmlab.text import Tokenizer
from llmlab.train.memory import available_memory, training_memory
from llmlab.workspace import Context

HEAD = ("layer", "output", "parameters", "FLOPs", "activations")


class Network(Protocol):
    """What there is to describe; a `build.Model` is one."""

    @property
    def spec(self) -> dict[str, Any]:
        """The keys of `model`."""
        ...

    @property
    def stack(self) -> Stack:
        """The layers."""
        ...

    @property
    def layout(self) -> Layout:
        """The parameters' names and shapes."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """What the vocabulary comes from."""
        ...


@dataclass(frozen=True)
class Plan:
    """A network without parameters, so that one of any size can be described."""

    spec: dict[str, Any]
    stack: Stack
    layout: Layout
    tokenizer: Tokenizer


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Print the table of the checkpoint's model, or of the configured one."""
    if config.checkpoint is not None:
        network: Network = checkpoint_model(config)
    else:
        tokenizer = build.new_tokenizer(config)
        stack = build.new_stack(config.model, tokenizer)
        network = Plan(config.model, stack, Layout(stack), tokenizer)
    print(describe(config, network), flush=True)
    return {"parameters": network.layout.num_parameters}


def describe(config: Config, model: Network) -> str:
    """Return the table as text, for one batch of full length."""
    batch, time = config.batch_size, model.spec["max_seq_len"]
    item = np.dtype(config.dtype).itemsize
    threads = build.resolve_threads(config.threads, batch, time)
    widths = output_widths(model.stack, model.layout)
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
    free = available_memory()
    lacking = ""
    if free is not None and free < total.total:
        lacking = f", more than the {human(free, 'B', 1024)} that are free"
    work = model.stack.flops(batch, time)
    kinds = {kind: 0 for found in positions_in(model.spec["stack"]) for kind in found.values()}
    parts = (
        ("parameters", total.parameters),
        (f"gradients of {threads} shard{'s' * (threads > 1)}", total.gradients),
        ("optimizer", total.optimizer),
        ("activations", total.activations),
    )
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
            "memory of a training step: "
            + ", ".join(f"{name} {human(size, 'B', 1024)}" for name, size in parts)
            + f"; together {human(total.total, 'B', 1024)}{lacking}",
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


def output_widths(stack: Stack, layout: Layout) -> dict[str, int]:
    """Return each layer's output width, from a pass over a single token.

    Every parameter of it is one and the same zero, and products aren't computed, so that it
    takes no memory and no time.
    """
    zero = np.zeros((), np.float32)
    views = {name: np.broadcast_to(zero, shape) for name, shape in layout.shapes.items()}
    views |= {name: views[target] for name, target in layout.aliases.items()}
    kernels = SimpleNamespace(**vars(load_kernels("numpy")))
    kernels.product = _no_product
    ctx = Context(kernels, zero.dtype)
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

    walk(stack, layout.tree(views), np.zeros(1, np.intp), "")
    return widths


def _no_product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    out.fill(0)
    return out
