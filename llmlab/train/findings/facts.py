"""What findings need to know of a network, and what a finding is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log, prod
from typing import Any

from llmlab.layers.lora import Adapted
from llmlab.layers.norms import LayerNorm, RMSNorm
from llmlab.layers.residual import Parallel, PostNorm, PreNorm, SandwichNorm
from llmlab.params import Param, walk_layers, walk_params

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Facts:
    """What findings need to know of a network."""

    post_norm: bool = False  # whether its blocks norm the stream itself
    # Whether a norm stands before the output, where the stream isn't normed anyway
    final_norm: bool = True
    vocab_size: int | None = None  # number of logits; None if it isn't known
    frozen: tuple[str, ...] = ()  # arrays that are declared frozen, in a network without an adapter
    # Of each matrix √d_out: its norm divided by that is how much it enlarges a vector
    widths: Mapping[str, float] = field(default_factory=dict)
    clip_norm: float | None = None  # greatest norm of the gradient; None without clipping
    # The first layer whose output wasn't finite in the last step of a run that diverged
    bad_layer: str | None = None


@dataclass(frozen=True)
class Finding:
    """Something out of the ordinary."""

    kind: str  # its name
    text: str  # what was seen, with numbers, and what it means
    key: str  # what to type to change what most likely causes it
    # Whether it was there at the first step, so that no other finding has caused it
    from_start: bool = False

    @property
    def sentence(self) -> str:
        """The finding and its remedy in one line."""
        return f"{self.text}; try {self.key}"


def facts_of(stack: Any, clip_norm: float | None = None) -> Facts:
    """Return what a stack says about itself."""
    layers = [layer for _, layer in stack.leaves()]
    open_ended = (PreNorm, SandwichNorm, Parallel)
    last = max((i for i, layer in enumerate(layers) if isinstance(layer, open_ended)), default=None)
    closing = () if last is None else layers[last + 1 :]
    normed = last is None or any(
        isinstance(layer, LayerNorm | RMSNorm | PostNorm) for layer in closing
    )
    params = {name: param for name, _, param in walk_params(stack)}
    adapted = any(isinstance(layer, Adapted) for _, layer in walk_layers(stack))
    frozen = [name for name, param in params.items() if param.group == "frozen"]
    return Facts(
        post_norm=any(isinstance(layer, PostNorm) for layer in layers),
        final_norm=normed,
        vocab_size=_vocab_size(layers[-1]),
        frozen=() if adapted else tuple(frozen),
        widths={name: p.shape[-1] ** 0.5 for name, p in params.items() if _is_hidden(p)},
        clip_norm=clip_norm,
    )


def _is_hidden(param: Param) -> bool:
    return param.group == "matrix" and len(param.shape) == 2 and prod(param.shape) > 0


def _vocab_size(output: Any) -> int | None:
    shapes = [param.shape for param in output.params().values() if len(param.shape) == 2]
    if not shapes:
        return None
    return shapes[0][0] if hasattr(output, "tied_to") else shapes[0][1]


def guessing(facts: Facts) -> float | None:
    """Return the loss of guessing, ln V."""
    return log(facts.vocab_size) if facts.vocab_size else None


def key_of(path: str, argument: str) -> str:
    """Return the key in YAML of an argument of a layer, named by its path in the network.

    That is where presets have it: of `blocks.0.attention` or something inside it
    `model.stack.blocks.layers.attention.layer`.
    """
    parts = path.split(".")
    in_block = len(parts) > 2 and parts[0] == "blocks"
    name = ["blocks", "layers", parts[2], "layer"] if in_block else parts[:1]
    return ".".join(["model.stack", *name, argument])
