"""Where a token stands, told to attention: rotations of queries and keys, biases of scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import log2
from typing import Any, ClassVar

import numpy as np

from llmlab.errors import ConfigError
from llmlab.layers.base import POSITIONS
from llmlab.registry import Registry, Spec
from llmlab.workspace import Context

SCALINGS = ("none", "linear", "ntk")


class Position:
    """What attention is told of where a token stands: a `Rotation` or a `Bias`."""

    registry: ClassVar[Registry] = POSITIONS


class Rotation(Position, ABC):
    """Positions that turn queries and keys."""

    @abstractmethod
    def rotate(self, rows: np.ndarray, heads: int, ctx: Context, back: bool = False) -> None:
        """Turn the first `heads` heads of the rows (B·T, …) in place, or turn them back."""


class Bias(Position, ABC):
    """Positions that add a constant to the scores."""

    @abstractmethod
    def block(self, start: int, first_key: int, stop: int, ctx: Context) -> np.ndarray:
        """Return what to add for queries from `start` and keys [first_key, stop).

        (K, G, Q or 1, L).
        """

    @abstractmethod
    def cached(self, offsets: np.ndarray, ctx: Context) -> np.ndarray:
        """Return the same for keys (B, L) so far from the first query, (B, K, G, Q or 1, L)."""


def build_positions(
    spec: Position | Spec | None, head_dim: int, num_heads: int, num_kv_heads: int
) -> Position | None:
    """Return the rotation or bias that `spec` describes, or is; None for none."""
    if spec is None or isinstance(spec, Position):
        return spec
    sizes = {"head_dim": head_dim, "num_heads": num_heads, "num_kv_heads": num_kv_heads}
    return POSITIONS.build(spec, "positions", **sizes)


@POSITIONS.register("none")
def none() -> None:
    """Tell attention nothing about positions."""


@POSITIONS.register("rope")
class RoPE(Rotation):
    """Turn pair i of a head by position · theta^(−2i / D) (Su et al. 2021, arXiv:2104.09864).

    A score then depends on the distance alone.

    Parameters
    ----------
    theta
        Base of the wave lengths, which reach from 2π to about 2π · theta.
    interleaved
        Whether a pair is two neighbours (2i, 2i + 1), as in the paper, or i and i + D / 2, as
        in Llama's checkpoints.
    scaling, factor
        For texts `factor` times as long as in training: `linear` divides positions by it (Chen
        et al. 2023, arXiv:2306.15595); `ntk` takes theta · factor^(D / (D − 2)), which keeps
        the short waves ("NTK-aware", bloc97 2023).
    """

    def __init__(
        self,
        head_dim: int,
        theta: float = 10_000.0,
        interleaved: bool = False,
        scaling: str = "none",
        factor: float = 1.0,
    ):
        if head_dim % 2:
            raise ConfigError(
                f"rope turns pairs, so the width of a head, embedding_dim / num_heads={head_dim}, "
                f"must be even; nearest: {head_dim - 1 or 2} or {head_dim + 1}"
            )
        if not theta > 1:
            raise ConfigError(f"theta={theta}: must be more than 1; usual is 10000")
        if scaling not in SCALINGS:
            raise ConfigError(f"scaling={scaling}: must be one of {', '.join(SCALINGS)}")
        if not factor >= 1:
            raise ConfigError(f"factor={factor}: must be at least 1")
        if scaling == "none" and factor != 1:
            raise ConfigError(f"factor={factor}: has no effect with scaling=none; set scaling")
        if scaling == "ntk":
            if head_dim == 2:
                raise ConfigError("scaling=ntk: needs a head width of at least 4, got 2")
            theta *= factor ** (head_dim / (head_dim - 2))
        self.head_dim, self.theta, self.interleaved = head_dim, theta, interleaved
        self.stretch = factor if scaling == "linear" else 1.0

    def rotate(self, rows, heads, ctx, back=False):
        """Turn, or turn back: then it is the gradient of turning."""
        cos, sin = self._angles(ctx)
        ctx.kernels.rotate(ctx, rows, heads, cos, sin, self.interleaved, back)

    def _angles(self, ctx: Context) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and sines, (1 or B, T, D / 2)."""
        if ctx.position is None and ctx.positions is None:
            table = self._table(ctx.time, ctx)
            return table[0, None, : ctx.time], table[1, None, : ctx.time]
        key = ("rope", self.head_dim, self.theta, self.stretch)
        cos, sin = once_a_pass(ctx, key, lambda: self._taken(token_positions(ctx), ctx))
        return cos, sin

    def _taken(self, index: Any, ctx: Context) -> np.ndarray:
        """Return the cosines and sines of positions (B, T), (2, B, T, D / 2)."""
        table = self._table(int(index.max(initial=0)) + 1, ctx)
        taken = ctx.empty((2, *index.shape, self.head_dim // 2))
        for angles, rows in zip(table, taken, strict=True):
            np.take(angles, index, axis=0, out=rows, mode="clip")
        return taken

    def _table(self, length: int, ctx: Context) -> np.ndarray:
        """Return (2, at least `length`, D / 2), kept in the context."""
        size = table_size(length)
        key = ("rope", self.head_dim, self.theta, self.stretch, size)
        known = ctx.memo.get(key)
        if known is None:
            speeds = self.theta ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
            angles = np.arange(size)[:, None] / self.stretch * speeds
            known = np.stack((np.cos(angles), np.sin(angles))).astype(ctx.dtype)
            ctx.memo[key] = known
        return known


@POSITIONS.register("alibi")
class ALiBi(Bias):
    """Subtract slope · distance from a head's scores (Press et al. 2021, arXiv:2108.12409).

    Slopes are 2^(−8h / H) for h = 1 … H; if H is no power of two, those of the next lower power
    and then every other one of the next higher.
    """

    def __init__(self, num_heads: int, num_kv_heads: int):
        self.shape = (num_kv_heads, num_heads // num_kv_heads)
        power = 2 ** int(log2(num_heads))
        slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
        slopes += [2 ** (-4 * h / power) for h in range(1, 2 * power, 2)]
        self.slopes = np.array(slopes[:num_heads])

    # A constant of a query's own changes nothing after softmax. So the bias is slope · (key −
    # first query of the block), which needs no row for each query, and is small near them.

    def block(self, start, first_key, stop, ctx):
        """Return slope · (key − start), (K, G, 1, L)."""
        size = table_size(stop)
        key = ("alibi", self.shape, size)
        known = ctx.memo.get(key)
        if known is None:
            known = self.slopes[:, None] * np.arange(-size, size)
            known = known.astype(ctx.dtype).reshape(*self.shape, 1, -1)
            ctx.memo[key] = known
        return known[..., size + first_key - start : size + stop - start]

    def cached(self, offsets, ctx):
        """Return slope · offset, (B, K, G, 1, L)."""
        slopes = self.slopes.reshape(*self.shape, 1, 1)
        return (slopes * offsets[:, None, None, None]).astype(ctx.dtype)


def token_positions(ctx: Context) -> np.ndarray | None:
    """Return each token's position (B, T), or None where they are 0 … T−1 in each row."""
    if ctx.position is not None:
        return ctx.position[:, None] + np.arange(ctx.time)
    return ctx.positions


def once_a_pass(ctx: Context, key: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return `make()`, the same array for all layers that ask for `key` in one pass.

    For what depends on the rows, such as masks of packed ones. It may lie in the workspace, so
    it is not to be asked for first inside `ctx.scratch()`.
    """
    known = ctx.pass_memo.get(key)
    if known is None:
        known = ctx.pass_memo[key] = make()
    return known


def table_size(length: int) -> int:
    """Return the power of two that is not below `length`, and at least 64."""
    return max(64, 1 << (length - 1).bit_length())
