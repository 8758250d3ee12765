"""Arguments for each kernel, and PyTorch's counterparts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from llmlab.workspace import Context

Call = Callable[[], Any]


class Shape(NamedTuple):
    """Sizes of a step."""

    batch: int
    time: int
    width: int
    hidden: int
    heads: int
    vocabulary: int
    parameters: int


SHAPES = {
    "S": Shape(1, 18, 128, 256, 1, 515, 494_000),
    "C": Shape(12, 64, 128, 512, 4, 65, 803_000),
    "D": Shape(8, 256, 384, 1536, 6, 65, 10_700_000),
}
BLOCK = 64  # queries of attention at a time
EPS = 1e-5
ADAM: tuple[Any, ...] = (1e-4, (0.9, 0.999), 1e-8, 10, 1.0)


class Arrays:
    """Random operands of the shapes of a step, shared by all variants."""

    def __init__(self, shape: Shape):
        self.shape = s = shape
        rng = np.random.default_rng(0)

        def normal(*size: int) -> np.ndarray:
            return rng.standard_normal(size, np.float32)

        n = s.batch * s.time
        self.x, self.dy = normal(n, s.width), normal(n, s.width)
        self.weight, self.bias = normal(s.width), normal(s.width)
        self.dweight, self.dbias = normal(s.width), normal(s.width)
        self.h, self.dh = normal(n, s.hidden), normal(n, s.hidden)
        self.up, self.out = normal(s.width, s.hidden), normal(n, s.hidden)
        queries = min(BLOCK, s.time)
        self.scores = normal(s.batch, s.heads, 1, queries, s.time)
        self.dscores, self.dots = normal(*self.scores.shape), normal(*self.scores.shape[:-1], 1)
        self.mask = np.triu(np.full((queries, queries), -np.inf, np.float32), 1)
        self.logits = normal(n, s.vocabulary)
        self.ids = rng.integers(0, s.vocabulary, n)
        self.ones = np.ones(n, np.float32)
        self.table = normal(s.vocabulary, s.width)
        self.flat = [normal(s.parameters) for _ in range(3)] + [np.ones(s.parameters, np.float32)]
        self.gradients = {id(a) for a in (self.dweight, self.dbias, self.table)}

    def begin(self, ctx: Context) -> None:
        """Make `ctx` one of a step."""
        streams = [np.random.default_rng(row) for row in range(self.shape.batch)]
        ctx.begin(self.shape.batch, self.shape.time, rng=streams)


def _norm_backward(a: Arrays, ctx: Context) -> Call:
    kernels = ctx.kernels
    _, cache = kernels.layer_norm(ctx, a.x, a.weight, a.bias, EPS)
    kept = tuple(np.array(part) for part in cache)
    return lambda: kernels.layer_norm_backward(ctx, a.dy, a.weight, kept, a.dweight, a.dbias)


def _rms_backward(a: Arrays, ctx: Context) -> Call:
    kernels = ctx.kernels
    _, cache = kernels.rms_norm(ctx, a.x, a.weight, EPS)
    kept = tuple(np.array(part) for part in cache)
    return lambda: kernels.rms_norm_backward(ctx, a.dy, a.weight, kept, a.dweight)


def _activation(name: str) -> Callable[[Arrays, Context], Call]:
    """Make a case of what works in place: it gets the same numbers each time, as PyTorch does."""

    def case(a: Arrays, ctx: Context) -> Call:
        kernel, own = getattr(ctx.kernels, name), a.h.copy()

        def call() -> Any:
            np.copyto(own, a.h)
            return kernel(ctx, own)

        return call

    return case


def _activation_backward(name: str, forward: str) -> Callable[[Arrays, Context], Call]:
    def case(a: Arrays, ctx: Context) -> Call:
        _, cache = getattr(ctx.kernels, forward)(ctx, a.h.copy())
        kernel, kept, own = getattr(ctx.kernels, name), np.array(cache), a.dh.copy()

        def call() -> Any:
            np.copyto(own, a.dh)
            return kernel(ctx, own, kept)

        return call

    return case


def _softmax(a: Arrays, ctx: Context) -> Call:
    # In place: what it is given next time is a softmax already, which costs the same.
    scores = a.scores.copy()
    return lambda: ctx.kernels.softmax(ctx, scores, a.mask)


def _softmax_backward(a: Arrays, ctx: Context) -> Call:
    probabilities = ctx.kernels.softmax(ctx, a.scores.copy(), a.mask)
    kept, zeros = np.array(probabilities), np.zeros_like(a.dscores)
    return lambda: ctx.kernels.softmax_backward(ctx, zeros, kept, a.dots)


CASES: dict[str, Callable[[Arrays, Context], Call]] = {
    "layer_norm": lambda a, c: lambda: c.kernels.layer_norm(c, a.x, a.weight, a.bias, EPS),
    "layer_norm_backward": _norm_backward,
    "rms_norm": lambda a, c: lambda: c.kernels.rms_norm(c, a.x, a.weight, EPS),
    "rms_norm_backward": _rms_backward,
    **{n: _activation(n) for n in ("relu", "relu_squared", "gelu_tanh", "gelu", "silu")},
    "relu_backward": _activation_backward("relu_backward", "relu"),
    "multiply_slope": _activation_backward("multiply_slope", "gelu_tanh"),
    "softmax": _softmax,
    "softmax_backward": _softmax_backward,
    "cross_entropy": lambda a, c: lambda: c.kernels.cross_entropy(c, a.logits, a.ids, a.ones, 1.0),
    "add_rows": lambda a, c: lambda: c.kernels.add_rows(c, a.ids, a.x, a.table),
    "dropout": lambda a, c: lambda: c.kernels.dropout(c, a.x, 0.1),
    "adam": lambda a, c: lambda: c.kernels.adam(c, *a.flat, *ADAM),
    "product": lambda a, c: lambda: c.kernels.product(a.x, a.up, a.out),
}


def torch_cases(torch: Any, a: Arrays) -> dict[str, Call]:
    """Return PyTorch's counterparts by the kernels' names; dropout's stream is another."""
    functional, aten = torch.nn.functional, torch.ops.aten
    convert = torch.from_numpy
    x, dy, h, dh = convert(a.x), convert(a.dy), convert(a.h), convert(a.dh)
    weight, bias, width = convert(a.weight), convert(a.bias), [a.shape.width]
    _, mean, deviation = aten.native_layer_norm(x, width, weight, bias, EPS)
    scores, mask = convert(a.scores), torch.zeros(a.scores.shape[-2:])
    mask[:, -len(a.mask) :] = convert(a.mask)
    probabilities, logits = torch.softmax(scores + mask, -1), convert(a.logits)
    dscores = convert(a.dscores)
    ids, table, up = convert(a.ids), convert(a.table), convert(a.up)
    p, g, m, v = (convert(flat) for flat in a.flat)
    step = torch.tensor(10.0)
    rule = {"lr": 1e-4, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-8}
    flags = {"amsgrad": False, "maximize": False}

    def cross_entropy() -> Any:
        leaf = logits.detach().requires_grad_()
        return torch.autograd.grad(functional.cross_entropy(leaf, ids), leaf)

    outputs = [True, True, True]
    return {
        "layer_norm": lambda: functional.layer_norm(x, width, weight, bias, EPS),
        "layer_norm_backward": lambda: aten.native_layer_norm_backward(
            dy, x, width, mean, deviation, weight, bias, outputs
        ),
        "rms_norm": lambda: functional.rms_norm(x, width, weight, EPS),
        "relu": lambda: torch.relu(h),
        "relu_backward": lambda: aten.threshold_backward(dh, h, 0),
        "gelu_tanh": lambda: functional.gelu(h, approximate="tanh"),
        "gelu": lambda: functional.gelu(h),
        "multiply_slope": lambda: aten.gelu_backward(dh, h, approximate="tanh"),
        "silu": lambda: functional.silu(h),
        "softmax": lambda: torch.softmax(scores + mask, -1),
        "softmax_backward": lambda: aten._softmax_backward_data(
            dscores, probabilities, -1, torch.float32
        ),
        "cross_entropy": cross_entropy,
        "add_rows": lambda: aten.embedding_dense_backward(x, ids, len(table), -1, False),
        "dropout": lambda: functional.dropout(x, 0.1),
        "adam": lambda: torch._fused_adamw_([p], [g], [m], [v], [], [step], **rule, **flags),
        "product": lambda: torch.matmul(x, up),
    }
