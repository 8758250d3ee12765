"""Muon: steps of matrices whose singular values are all about 1."""

from math import sqrt
from typing import Any

import numpy as np

from llmlab.errors import ConfigError
from llmlab.optim.base import OPTIMIZERS, Optimizer, check_decay, check_share, decayed, span
from llmlab.params import Layout

# x ↦ a x + b x³ + c x⁵, five times, brings all singular values of 0.01 to 1 near 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SCALES = ("rms", "original")


@OPTIMIZERS.register("muon")
class Muon(Optimizer):
    """m = momentum · m + g; a matrix steps by the orthogonal factor of g + momentum · m.

    The factor is that of the polar decomposition, by Newton–Schulz iterations (Jordan et al.
    2024, kellerjordan.github.io/posts/muon). Only hidden matrices take such steps; embeddings,
    the head, norms and biases take AdamW's, with the same lr and weight decay.

    Parameters
    ----------
    iterations
        Of Newton–Schulz.
    scale
        "rms" multiplies a matrix's step by 0.2 · √max(d_in, d_out), which makes it as long as
        one of AdamW, so that lr and weight_decay can be AdamW's (Liu et al. 2025,
        arXiv:2502.16982); "original" by √max(1, d_out / d_in).
    adam_lr_factor
        Factor on lr for what takes AdamW's steps.
    beta1, beta2, eps
        Of AdamW.
    """

    state_names = ("m", "v")

    def __init__(
        self,
        momentum: float = 0.95,
        nesterov: bool = True,
        iterations: int = 5,
        scale: str = "rms",
        weight_decay: float = 0.1,
        adam_lr_factor: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        no_decay: list[str] | None = None,
    ):
        check_share(momentum=momentum, beta1=beta1, beta2=beta2)
        self.no_decay = check_decay(weight_decay, no_decay)
        if iterations < 1:
            raise ConfigError(f"iterations={iterations}: must be at least 1; usual is 5")
        if scale not in SCALES:
            raise ConfigError(f"scale={scale}: must be {' or '.join(SCALES)}")
        if not adam_lr_factor > 0:
            raise ConfigError(f"adam_lr_factor={adam_lr_factor}: must be positive")
        if not eps > 0:
            raise ConfigError(f"eps={eps}: must be positive")
        self.momentum, self.nesterov, self.iterations = momentum, nesterov, iterations
        self.scale, self.weight_decay, self.adam_lr_factor = scale, weight_decay, adam_lr_factor
        self.betas, self.eps = (beta1, beta2), eps
        self._plans: dict[Any, tuple[list[tuple[str, bool]], list[tuple[slice, bool]]]] = {}

    def update(self, params, grads, state, *, lr, step, scale, part, ctx):
        """Update whole matrices, about as much work in each part, and a slice of the rest."""
        matrices, rest = self._plan(params.layout, part)
        for name, shrinks in matrices:
            m, g = state["m"][name], grads[name]
            m *= self.momentum
            with ctx.scratch():
                d = ctx.empty(g.shape)
                np.multiply(g, scale, out=d)
                m += d
                if self.nesterov:
                    d += np.multiply(m, self.momentum, out=ctx.empty(m.shape))
                else:
                    np.copyto(d, m)
                d = orthogonal(d, self.iterations, ctx)
                d *= lr * self._scale(*d.shape)
                p = params[name]
                if shrinks:
                    p *= 1 - lr * self.weight_decay
                p -= d
        lr *= self.adam_lr_factor
        p, g, m, v = params.flat, grads.flat, state["m"].flat, state["v"].flat
        for at, shrinks in rest:
            decay = lr * self.weight_decay if shrinks else 0.0
            ctx.kernels.adam(
                ctx, p[at], g[at], m[at], v[at], lr, self.betas, self.eps, step, scale, decay
            )

    def owned(self, layout, part):
        """Return the matrices of the part, and its slices of the rest."""
        matrices, rest = self._plan(layout, part)
        return [*(layout.slices[name] for name, _ in matrices), *(at for at, _ in rest)]

    def _plan(
        self, layout: Layout, part: tuple[int, int]
    ) -> tuple[list[tuple[str, bool]], list[tuple[slice, bool]]]:
        """Return the matrices of a part, and what it updates by AdamW; each with its decay.

        Found at the part's first step.
        """
        if (layout, part) not in self._plans:
            matrices = [
                (name, decayed(layout, layout.slices[name], self.no_decay)[0][1])
                for name in matrices_of(layout, part)
            ]
            begin, end = layout.ranges["matrix"].stop, layout.size
            own = span(end - begin, part)
            ranges = [slice(own.start + begin, own.stop + begin)]
            ranges += others(layout) if part[0] == 0 else []
            rest = [piece for at in ranges for piece in decayed(layout, at, self.no_decay)]
            self._plans[layout, part] = matrices, rest
        return self._plans[layout, part]

    def _scale(self, d_in: int, d_out: int) -> float:
        if self.scale == "rms":
            return 0.2 * sqrt(max(d_in, d_out))
        return sqrt(max(1.0, d_out / d_in))


def orthogonal(x: np.ndarray, iterations: int, ctx: Any) -> np.ndarray:
    """Return about U Vᵀ of x = U S Vᵀ (d_in, d_out); singular values become 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    wide = x.T if x.shape[0] > x.shape[1] else x
    d, n = wide.shape
    y, z = ctx.empty((d, n)), ctx.empty((d, n))
    gram, square = ctx.empty((d, d)), ctx.empty((d, d))
    np.multiply(wide, 1 / (sqrt(float(np.vdot(x, x))) + 1e-7), out=y)
    for _ in range(iterations):
        ctx.kernels.product(y, y.T, gram)
        ctx.kernels.product(gram, gram, square)
        gram *= b
        square *= c
        gram += square
        ctx.kernels.product(gram, y, z)
        y *= a
        y += z
    return y.T if wide is not x else y


def matrices_of(layout: Layout, part: tuple[int, int]) -> list[str]:
    """Return the names of the matrices of one part; the parts have about equal work."""
    index, count = part
    shapes = {name: layout.shapes[name] for name in _in_matrices(layout)}
    costs = {name: s[0] * s[1] * min(s) for name, s in shapes.items() if _is_matrix(s)}
    loads, own = [0] * count, []
    for name in sorted(costs, key=costs.__getitem__, reverse=True):
        lightest = loads.index(min(loads))
        loads[lightest] += costs[name]
        if lightest == index:
            own.append(name)
    return own


def others(layout: Layout) -> list[slice]:
    """Return where arrays lie that are in the group of matrices and aren't matrices."""
    names = _in_matrices(layout)
    return [layout.slices[name] for name in names if not _is_matrix(layout.shapes[name])]


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2


def _in_matrices(layout: Layout) -> list[str]:
    stop = layout.ranges["matrix"].stop
    return [name for name, at in layout.slices.items() if at.start < stop]
