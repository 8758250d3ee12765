"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): frozen maps, and small ones beside them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import sqrt

import numpy as np

from llmlab.errors import ConfigError
from llmlab.layers.attention import Attention
from llmlab.layers.base import Layer
from llmlab.layers.linear import Linear, affine
from llmlab.layers.stack import Stack
from llmlab.params import Layout, Param, walk_layers
from llmlab.registry import Registry

ADAPTERS = Registry("adapter")


class LowRank(Layer):
    """y = scale · (x @ a) @ b, with a (d_in, rank) and b (rank, d_out); b begins as zeros."""

    def __init__(self, d_in: int, d_out: int, rank: int, scale: float):
        self.d_in, self.d_out, self.rank, self.scale = d_in, d_out, rank, scale

    def params(self):
        """Return a and b, which begin as in the library peft."""
        return {
            "a": Param((self.d_in, self.rank), _uniform, "matrix"),
            "b": Param((self.rank, self.d_out), _zeros, "matrix"),
        }

    def forward(self, p, x, ctx):
        """Return the output; the cache is x and x @ a."""
        low, y = ctx.empty((len(x), self.rank)), ctx.empty((len(x), self.d_out))
        ctx.kernels.product(x, p["a"], low)
        low *= low.dtype.type(self.scale)
        ctx.kernels.product(low, p["b"], y)
        return y, (x, low)

    def backward(self, p, g, dy, cache, ctx):
        """Return dx."""
        x, low = cache
        dlow, dx = ctx.empty(low.shape), ctx.empty(x.shape)
        ctx.add_product(low.T, dy, g["b"])
        ctx.kernels.product(dy, p["b"].T, dlow)
        dlow *= dlow.dtype.type(self.scale)
        ctx.add_product(x.T, dlow, g["a"])
        ctx.kernels.product(dlow, p["a"].T, dx)
        return dx

    def flops(self, batch, time):
        """Two operations for each weight and row."""
        return 2 * batch * time * self.rank * (self.d_in + self.d_out)


class Adapted(Layer):
    """A linear layer that stays as it is, and low-rank maps that are added to its columns.

    `columns` says by name which columns of the output a low-rank map adds to.
    """

    def __init__(self, linear: Linear, columns: Mapping[str, slice], rank: int, scale: float):
        self.linear, self.columns = linear, dict(columns)
        self.maps = {
            name: LowRank(linear.d_in, cut.stop - cut.start, rank, scale)
            for name, cut in columns.items()
        }

    def params(self):
        """Return the frozen weight and bias, under their own names."""
        return self.linear.params()

    def children(self):
        """Return the low-rank maps."""
        return dict(self.maps)

    def forward(self, p, x, ctx):
        """Return the sum of all."""
        y, caches = affine(p, x, ctx), {}
        for name, layer in self.maps.items():
            part, caches[name] = layer.forward(p[name], x, ctx)
            y[:, self.columns[name]] += part
        return y, caches

    def backward(self, p, g, dy, cache, ctx):
        """Return dx; the layer itself has no gradient."""
        dx = ctx.empty((len(dy), self.linear.d_in))
        ctx.kernels.product(dy, p["weight"].T, dx)
        for name, layer in self.maps.items():
            own = ctx.empty((len(dy), layer.d_out))
            np.copyto(own, dy[:, self.columns[name]])
            dx += layer.backward(p[name], g[name], own, cache[name], ctx)
        return dx

    def flops(self, batch, time):
        """Those of the layer itself; its children count theirs."""
        return self.linear.flops(batch, time)


class Adapter:
    """What an adapter does to a stack and to its parameters."""

    def __init__(self, rank: int, alpha: float, on: Sequence[str]):
        self.rank, self.alpha, self.on = rank, alpha, tuple(on)

    @property
    def scale(self) -> float:
        """Return what the low-rank maps are multiplied by."""
        return self.alpha / self.rank

    def apply(self, stack: Stack) -> None:
        """Put low-rank maps beside the maps that `on` names, and freeze all else."""
        used: set[str] = set()
        for _, parent in list(walk_layers(stack)):
            for key, child in parent.children().items():
                if type(child) is not Linear:
                    continue
                columns = {n: cut for n, cut in _maps(parent, key, child) if n in self.on}
                used |= columns.keys()
                if columns:
                    adapted = Adapted(child, columns, self.rank, self.scale)
                    setattr(parent, key, adapted)
        missing = [name for name in self.on if name not in used]
        if missing:
            known = sorted(
                {
                    name
                    for _, parent in walk_layers(stack)
                    for key, child in parent.children().items()
                    for name, _ in _maps(parent, key, getattr(child, "linear", child))
                }
            )
            raise ConfigError(
                f"adapter.on={missing[0]}: the network has no such map; it has {', '.join(known)}"
            )
        for _, layer in walk_layers(stack):
            if not isinstance(layer, LowRank):
                layer.params = partial(_frozen, layer.params())

    def maps(
        self, arrays: Mapping[str, np.ndarray], stack: Stack
    ) -> Iterator[tuple[str, slice, np.ndarray, np.ndarray]]:
        """Yield of each low-rank map the weight and the columns that it is beside, a and b."""
        for path, layer in walk_layers(stack):
            if isinstance(layer, Adapted):
                for name, cut in layer.columns.items():
                    a, b = (arrays[f"{path}.{name}.{letter}"] for letter in "ab")
                    yield f"{path}.weight", cut, a, b

    def merge(self, arrays: Mapping[str, np.ndarray], stack: Stack) -> dict[str, np.ndarray]:
        """Return the parameters of the network without an adapter that computes the same."""
        trained = Layout(stack).trained.shapes
        merged = {name: array.copy() for name, array in arrays.items() if name not in trained}
        for weight, cut, a, b in self.maps(arrays, stack):
            merged[weight][:, cut] += a.dtype.type(self.scale) * (a @ b)
        return merged


@ADAPTERS.register("lora")
def lora(rank: int = 8, alpha: float = 16.0, on: Sequence[str] = ("q", "v")) -> Adapter:
    """Train low-rank maps beside the network's, which stay as they are.

    Parameters
    ----------
    rank
        The width between the two matrices of a map.
    alpha
        They count alpha / rank.
    on
        Beside which maps: of attention `q`, `k`, `v` or all three as `qkv`, and `out`; of
        feed-forward `gate`, `up`, `down`.
    """
    if isinstance(rank, bool) or not 1 <= rank <= 4096:
        raise ConfigError(f"rank={rank}: expected a whole number from 1 to 4,096")
    if not alpha > 0:
        raise ConfigError(f"alpha={alpha}: expected a number above 0")
    if isinstance(on, str) or not on or not all(isinstance(name, str) for name in on):
        raise ConfigError(f"on={on!r}: expected names of maps, as [q,v]")
    if "qkv" in on and {"q", "k", "v"} & {*on}:
        raise ConfigError(f"on={list(on)}: qkv is q, k and v; name it or them")
    return Adapter(rank, float(alpha), on)


def columns(stack: Stack) -> dict[tuple[str, int, int], str]:
    """Return what `on` calls the columns (weight, start, stop) of a stack's linear layers."""
    return {
        (f"{path}.{key}.weight", cut.start, cut.stop): name
        for path, parent in walk_layers(stack)
        for key, child in parent.children().items()
        for name, cut in reversed(_maps(parent, key, child))
    }


def _maps(parent: Layer, key: str, child: object) -> list[tuple[str, slice]]:
    """Return the names that a linear layer's columns have."""
    if type(child) is not Linear:
        return []
    found = [(key, slice(0, child.d_out))]
    if isinstance(parent, Attention) and key == "qkv":
        at = 0
        heads = (parent.num_heads, parent.num_kv_heads, parent.num_kv_heads)
        for name, count in zip("qkv", heads, strict=True):
            found.append((name, slice(at, at + count * parent.head_dim)))
            at += count * parent.head_dim
    return found


def _frozen(params: Mapping[str, Param]) -> dict[str, Param]:
    return {name: replace(param, group="frozen") for name, param in params.items()}


def _uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    limit = 1 / sqrt(shape[0])  # Kaiming's with a = √5
    return rng.uniform(-limit, limit, shape)


def _zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape)
