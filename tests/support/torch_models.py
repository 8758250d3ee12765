"""The same networks in PyTorch, written from the formulas; imported by parity tests alone.

`tensors()` of a module says which of its tensors make up each of llmlab's, by name: several
lie side by side along the last axis, and a linear weight is (d_out, d_in) in PyTorch.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.Module):
    def __init__(self, dim, eps=1e-5, bias=True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)

    def tensors(self):
        return present({"weight": [self.weight], "bias": [self.bias]})


class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)

    def tensors(self):
        return {"weight": [self.weight]}


ACTIVATIONS = {
    "relu": F.relu,
    "relu2": lambda x: F.relu(x) ** 2,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


class Attention(nn.Module):
    def __init__(self, dim, heads, kv_heads=None, bias=True, output_projection=True):
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads or heads
        width = dim // heads
        self.query = nn.Linear(dim, dim, bias)
        self.key = nn.Linear(dim, self.kv_heads * width, bias)
        self.value = nn.Linear(dim, self.kv_heads * width, bias)
        self.project = nn.Linear(dim, dim, bias) if output_projection else None

    def forward(self, x, mask=None):
        def split(y, heads):
            return y.unflatten(-1, (heads, -1)).transpose(1, 2)

        q = split(self.query(x), self.heads)
        k, v = split(self.key(x), self.kv_heads), split(self.value(x), self.kv_heads)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        mixed = mixed.transpose(1, 2).flatten(2)
        return mixed if self.project is None else self.project(mixed)

    def tensors(self):
        three = (self.query, self.key, self.value)
        found = {"qkv.weight": [m.weight for m in three], "qkv.bias": [m.bias for m in three]}
        if self.project is not None:
            found |= {"out.weight": [self.project.weight], "out.bias": [self.project.bias]}
        return present(found)


class FeedForward(nn.Module):
    def __init__(self, dim, hidden, activation=F.relu, bias=True):
        super().__init__()
        self.activation = activation
        self.up, self.down = nn.Linear(dim, hidden, bias), nn.Linear(hidden, dim, bias)

    def forward(self, x):
        return self.down(self.activation(self.up(x)))

    def tensors(self):
        return prefixed({"up": linear(self.up), "down": linear(self.down)})


class GatedFeedForward(nn.Module):
    def __init__(self, dim, hidden, activation=F.silu, bias=False):
        super().__init__()
        self.activation = activation
        self.gate, self.up = nn.Linear(dim, hidden, bias), nn.Linear(dim, hidden, bias)
        self.down = nn.Linear(hidden, dim, bias)

    def forward(self, x):
        return self.down(self.activation(self.gate(x)) * self.up(x))

    def tensors(self):
        return prefixed({n: linear(getattr(self, n)) for n in ("gate", "up", "down")})


class Sandwich(nn.Module):
    def __init__(self, layer, norm, output_norm):
        super().__init__()
        self.layer, self.norm, self.output_norm = layer, norm, output_norm

    def forward(self, x):
        return x + self.output_norm(self.layer(self.norm(x)))

    def tensors(self):
        norms = {"norm": own(self.norm), "output_norm": own(self.output_norm)}
        return own(self.layer) | prefixed(norms)


class Parallel(nn.Module):
    def __init__(self, layers, norm):
        super().__init__()
        self.layers, self.norm = nn.ModuleDict(layers), norm

    def forward(self, x):
        normed = self.norm(x)
        return x + sum(layer(normed) for layer in self.layers.values())

    def tensors(self):
        return prefixed({n: own(m) for n, m in self.layers.items()} | {"norm": own(self.norm)})


class Residual(nn.Module):
    def __init__(self, layer, norm, pre):
        super().__init__()
        self.layer, self.norm, self.pre = layer, norm, pre

    def forward(self, x):
        return x + self.layer(self.norm(x)) if self.pre else self.norm(x + self.layer(x))

    def tensors(self):
        return own(self.layer) | prefixed({"norm": own(self.norm)})


class Model(nn.Module):
    """Embeddings, residual blocks, perhaps a final norm, a head of its own or a tied one."""

    def __init__(self, vocabulary, dim, context, blocks, norm=None, tied=False):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim)
        self.positions = nn.Embedding(context, dim)
        self.blocks = nn.ModuleList(blocks)  # attention and feed-forward by turns
        self.norm = norm
        self.head = None if tied else nn.Linear(dim, vocabulary)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        x = x if self.norm is None else self.norm(x)
        return x @ self.tokens.weight.T if self.head is None else self.head(x)

    def tensors(self):
        parts = {
            "tokens": {"weight": [Untransposed(self.tokens.weight)]},
            "positions": {"weight": [Untransposed(self.positions.weight)]},
        }
        for index, block in enumerate(self.blocks):
            kind = ("attention", "feed_forward")[index % 2]
            parts[f"blocks.{index // 2}.{kind}"] = own(block)
        if self.norm is not None:
            parts["norm"] = own(self.norm)
        if self.head is not None:
            parts["output"] = linear(self.head)
        return prefixed(parts)


class Untransposed:
    """Mark a matrix that is stored the same way round in both."""

    def __init__(self, tensor):
        self.tensor = tensor


def present(tensors):
    return {name: parts for name, parts in tensors.items() if parts[0] is not None}


def linear(module):
    return present({"weight": [module.weight], "bias": [module.bias]})


def own(module):
    return linear(module) if isinstance(module, nn.Linear) else module.tensors()


def prefixed(parts):
    return {f"{part}.{name}": v for part, found in parts.items() for name, v in found.items()}


def _turn(part):
    if isinstance(part, Untransposed):
        return part.tensor, lambda x: x
    return part, (lambda x: x.T) if part.ndim == 2 else (lambda x: x)


def load(module, views):
    """Fill a module with llmlab's arrays; every array must have its place."""
    tensors = own(module)
    assert tensors.keys() == views.keys(), tensors.keys() ^ views.keys()
    with torch.no_grad():
        for name, parts in tensors.items():
            array, at = torch.from_numpy(np.array(views[name])), 0
            for part in parts:
                tensor, turn = _turn(part)
                width = turn(tensor).shape[-1]
                tensor.copy_(turn(array[..., at : at + width]))
                at += width
            assert at == array.shape[-1]


def collect(module, gradients=True):
    """Return gradients, or values, as arrays by llmlab's names."""
    found = {}
    for name, parts in own(module).items():
        turned = [_turn(part) for part in parts]
        arrays = [turn(t.grad if gradients else t.detach()) for t, turn in turned]
        found[name] = torch.cat(arrays, -1).numpy()
    return found
