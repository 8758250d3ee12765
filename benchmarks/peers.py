"""The same networks in PyTorch, as its users write them.

Modules are named as llmlab's layers are, so that parameters can be handed over by name;
`nn.Linear` keeps its weight transposed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from workloads import Task


@dataclass(frozen=True)
class Sizes:
    """What a network is made from.

    Attributes
    ----------
    post
        RustGPT's network: norms after the sums, no output projection in attention, ReLU, biases
        and a head of its own. Otherwise nanoGPT's: norms before, projection, GELU, no biases,
        a final norm and a tied head.
    """

    post: bool
    vocabulary: int
    width: int
    hidden: int
    heads: int
    blocks: int
    context: int
    activation: str = "relu"


def sizes(task: Task) -> Sizes:
    """Return the sizes of a task's network."""
    m = task.model
    post = task.workload.kind == "rustgpt"
    return Sizes(
        post=post,
        vocabulary=task.vocabulary,
        width=m["embedding_dim"],
        hidden=m["hidden_dim"],
        heads=m["num_heads"],
        blocks=m["num_blocks"],
        context=m["max_seq_len"],
        activation="relu"
        if post
        else m["stack"]["blocks"]["layers"]["feed_forward"]["layer"]["activation"],
    )


class Cache:
    """Keys and values (B, H, T, D) of fixed size, for decoding.

    Attributes
    ----------
    positions
        Of the new tokens, (T,).
    mask
        What they may look at (T, context), for kernels of fixed shape; None: the first `length`.
    """

    def __init__(self, s: Sizes, batch: int):
        shape = (s.blocks, 2, batch, s.heads, s.context, s.width // s.heads)
        self.stores = torch.zeros(shape)
        self.positions = torch.zeros(1, dtype=torch.long)
        self.mask: Tensor | None = None
        self.length = s.context


class Attention(nn.Module):
    """Causal attention with one product for queries, keys and values."""

    def __init__(self, s: Sizes, number: int):
        super().__init__()
        self.heads, self.number = s.heads, number
        self.qkv = nn.Linear(s.width, 3 * s.width, bias=False)
        self.out = nn.Identity() if s.post else nn.Linear(s.width, s.width, bias=False)
        self.norm = nn.LayerNorm(s.width, bias=s.post)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the heads' outputs (B, T, C)."""
        b, t, c = x.shape
        q, k, v = (
            part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.qkv(x).split(c, 2)
        )
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            keys, values = cache.stores[self.number]
            keys.index_copy_(2, cache.positions, k)
            values.index_copy_(2, cache.positions, v)
            if cache.mask is None:
                keys, values = keys[:, :, : cache.length], values[:, :, : cache.length]
            causal = cache.mask is None and t > 1
            y = F.scaled_dot_product_attention(q, keys, values, cache.mask, is_causal=causal)
        return self.out(y.transpose(1, 2).reshape(b, t, c))


class FeedForward(nn.Module):
    """Two maps with an activation between them."""

    def __init__(self, s: Sizes):
        super().__init__()
        self.up = nn.Linear(s.width, s.hidden, bias=s.post)
        self.down = nn.Linear(s.hidden, s.width, bias=s.post)
        self.activation = nn.ReLU() if s.activation == "relu" else nn.GELU(approximate="tanh")
        self.norm = nn.LayerNorm(s.width, bias=s.post)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Return (B, T, C)."""
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    """Attention and the two maps, each with a way round it and a norm."""

    def __init__(self, s: Sizes, number: int):
        super().__init__()
        self.post = s.post
        self.attention = Attention(s, number)
        self.feed_forward = FeedForward(s)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Return (B, T, C)."""
        for part in (self.attention, self.feed_forward):
            y = part(x if self.post else part.norm(x), cache)
            x = part.norm(x + y) if self.post else x + y
        return x


class Network(nn.Module):
    """Token ids (B, T) to logits (B, T, V)."""

    def __init__(self, s: Sizes):
        super().__init__()
        self.tokens = nn.Embedding(s.vocabulary, s.width)
        self.positions = nn.Embedding(s.context, s.width)
        self.blocks = nn.ModuleList(Block(s, number) for number in range(s.blocks))
        self.norm = nn.Identity() if s.post else nn.LayerNorm(s.width, bias=False)
        self.output = nn.Linear(s.width, s.vocabulary, bias=s.post)
        if not s.post:
            self.output.weight = self.tokens.weight

    def forward(self, ids: Tensor, targets: Tensor | None = None, cache: Cache | None = None):
        """Return the mean loss over targets ≥ 0, or without targets the logits."""
        places = torch.arange(ids.shape[1]) if cache is None else cache.positions
        x = self.tokens(ids) + self.positions(places)
        for block in self.blocks:
            x = block(x, cache)
        if cache is not None:
            x = x[:, -1:]
        logits = self.output(self.norm(x))
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def network(
    s: Sizes, arrays: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float32
) -> Network:
    """Return the network with llmlab's parameters, given by dotted name."""
    net = Network(s).to(dtype)
    fill(net, arrays)
    return net


def fill(net: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Give the network llmlab's parameters; raise ValueError if it has others."""
    own = dict(net.named_parameters())
    if own.keys() != arrays.keys():
        raise ValueError(f"other parameters than llmlab's: {own.keys() ^ arrays.keys()}")
    with torch.no_grad():
        for name, value in arrays.items():
            own[name].copy_(torch.from_numpy(as_torch(name, np.array(value))))


def as_torch(name: str, value: np.ndarray) -> np.ndarray:
    """Return an llmlab parameter or gradient in PyTorch's orientation."""
    lookup = name.split(".")[0] in ("tokens", "positions")
    return value if lookup or value.ndim == 1 else value.T


def tensors(batch: Any) -> tuple[Tensor, Tensor]:
    """Return ids and targets of a batch; a target without weight is −1."""
    targets = np.where(batch.weights > 0, batch.targets, -1)
    return torch.from_numpy(batch.inputs), torch.from_numpy(targets)


def gradients(net: nn.Module, batch: Any) -> dict[str, np.ndarray]:
    """Return the gradient of the mean loss by llmlab's names, in PyTorch's orientation."""
    net.zero_grad()
    net(*tensors(batch)).backward()
    return {
        name: p.grad.double().numpy() for name, p in net.named_parameters() if p.grad is not None
    }


def difference(found: Mapping[str, np.ndarray], true: Mapping[str, np.ndarray]) -> float:
    """Return the greatest error of any tensor, relative to the greatest value of that tensor."""
    if found.keys() != true.keys():
        raise ValueError(f"other gradients: {found.keys() ^ true.keys()}")
    return max(float(np.abs(found[n] - t).max() / np.abs(t).max()) for n, t in true.items())
