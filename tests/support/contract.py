"""The contract of a layer, as checks that any network can be held to.

A check takes a `Case`: a stack (most often of one layer), a shape, and what the context is to
hold. It raises an AssertionError that names the tensor and the numbers. Users' layers can be
held to the same: `for check in CHECKS: check(case)`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from llmlab import kernels
from llmlab.layers import Stack, build_stack
from llmlab.params import Arena, Layout
from llmlab.streams import stream
from llmlab.workspace import Context

NUMPY = kernels.load("numpy")
KINK = 1e-3  # how far from 0 the inputs of a ReLU must be
STEP = 1e-5  # of a difference; far too small to reach the kink


class Watched:
    """The reference kernels; they note how near any ReLU comes to its kink."""

    def __init__(self):
        self.nearest = np.inf

    def __getattr__(self, name: str) -> Any:
        return getattr(NUMPY, name)

    def relu(self, ctx, x):
        self.nearest = min(self.nearest, float(np.abs(x).min(initial=np.inf)))
        return NUMPY.relu(ctx, x)


@dataclass(frozen=True)
class Case:
    """A network and the circumstances to try it in.

    `specs` is a mapping as in YAML; `ids` says that it takes token ids. With `random` the context
    has generators, so dropout is on. `segments` packs two samples into each row, `positions`
    counts in each of them. With `weights` targets have weights, as in training, and extra losses
    count.
    """

    specs: dict[str, Any]
    batch: int = 2
    time: int = 4
    ids: bool = False
    random: bool = False
    segments: bool = False
    positions: bool = False
    weights: bool = False
    context: dict[str, int] = field(default_factory=dict)
    seed: int = 0
    stack: Any = None  # built already, instead of specs

    def sizes(self) -> dict[str, int]:
        return {"embedding_dim": 6, "vocab_size": 7, "max_seq_len": 9, **self.context}

    def build(self) -> Any:
        return self.stack or build_stack(self.specs, **self.sizes())


class Bench:
    """A case with numbers: parameters, an input, a gradient that comes back."""

    def __init__(self, case: Case, dtype: Any = np.float64):
        self.case, self.stack, self.dtype = case, case.build(), np.dtype(dtype)
        self.layout = Layout(self.stack)
        sizes, rows = case.sizes(), case.batch * case.time
        column = np.arange(case.time)
        first = (case.time + 1) // 2  # length of the first of two packed samples
        every_row = np.ones((case.batch, 1), np.intp)
        self._segments = every_row * (column >= first)
        self._positions = every_row * np.where(column >= first, column - first, column)
        draws = [stream(case.seed, "rng", row).bit_generator for row in range(case.batch)]
        self._draws = [(bits, bits.state) for bits in draws]
        for attempt in range(200):
            rng = stream(case.seed, "bench", attempt)
            self.params = self.layout.zeros(dtype)
            for _, view in self.params.items():
                # Not the layer's own first values: biases of 0 and norms of 1 hide mistakes.
                view[...] = rng.standard_normal(view.shape) * 0.5 + (view.ndim == 1) * 0.7
            if case.ids:
                self.x = rng.integers(sizes["vocab_size"], size=rows)
            else:
                self.x = rng.standard_normal((rows, sizes["embedding_dim"])).astype(dtype)
            watched = Watched()
            y, _ = self.forward(self.context(watched))
            if watched.nearest > KINK:
                break
        else:
            raise AssertionError("no input found that is away from the kinks")
        self.dy = rng.standard_normal(y.shape).astype(dtype)

    def context(self, kernel_set: Any = None) -> Context:
        return Context(kernel_set or NUMPY, self.dtype)

    def begin(self, ctx: Context, rows: slice = slice(None)) -> None:
        case, segments = self.case, self._segments[rows]
        ctx.begin(
            len(segments),
            case.time,
            rng=[generator(*draw) for draw in self._draws[rows]] if case.random else None,
            segments=segments if case.segments else None,
            positions=self._positions[rows] if case.positions else None,
        )

    def forward(self, ctx: Context, x: Any = None, params: Any = None) -> tuple[np.ndarray, Any]:
        self.begin(ctx)
        return self.stack.forward((params or self.params).tree, self.x if x is None else x, ctx)

    def loss(self, ctx: Context, x: Any = None) -> float:
        loss = float(np.vdot(self.forward(ctx, x)[0], self.dy))
        return loss + ctx.extra_loss() * ctx.loss_scale

    def run(self, ctx: Context | None = None, grads: Arena | None = None) -> dict[str, np.ndarray]:
        """Return copies of output, input gradient and parameter gradients by name."""
        ctx = ctx or self.context()
        grads = grads or self.layout.zeros(self.dtype)
        y, cache = self.forward(ctx)
        y = y.copy()
        dx = self.stack.backward(self.params.tree, grads.tree, self.dy, cache, ctx)
        return collect(self.case, y, dx, grads)


def generator(bits: Any, start: dict[str, Any]) -> np.random.Generator:
    """Return a generator at the start of its stream."""
    bits.state = start
    return np.random.Generator(bits)


def collect(case: Case, y: Any, dx: Any, grads: Arena) -> dict[str, np.ndarray]:
    """Return copies by name; token ids have no gradient."""
    found = {"output": y.copy()} | ({} if case.ids else {"input": dx.copy()})
    return found | {name: view.copy() for name, view in grads.items()}


def arrays(value: Any) -> Iterator[np.ndarray]:
    """Yield every array in nested tuples, lists and dictionaries."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from arrays(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from arrays(part)


def assert_gradients(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Compare tensor by tensor: max|a − n| ≤ 1e-6 · max(max|n|, 1e-3 of the largest tensor)."""
    assert found.keys() == wanted.keys()
    largest = {name: float(np.abs(n).max(initial=0)) for name, n in wanted.items()}
    floor = 1e-3 * max(largest.values(), default=0.0)
    for name, n in wanted.items():
        error = float(np.abs(found[name] - n).max(initial=0))
        bound = 1e-6 * max(largest[name], floor)
        assert error <= bound, f"gradient of {name}: off by {error:.3g}, allowed {bound:.3g}"


def difference(loss: Any, array: np.ndarray, at: Any, step: float = STEP) -> float:
    """Return the central difference of `loss()` by one item of `array`."""
    kept = array[at]
    array[at] = kept + step
    above = loss()
    array[at] = kept - step
    below = loss()
    array[at] = kept
    return (above - below) / (2 * step)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], tolerance: float = 0.0) -> None:
    """Compare two runs by name; by default bit for bit."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        error = float(np.abs(value - b[name]).max(initial=0))
        assert error <= tolerance * scale, f"{name}: differs by {error:.3g}"


def check_gradients(case: Case) -> None:
    """Input and every parameter against central differences, in float64."""
    bench = Bench(case)
    found = bench.run()
    del found["output"]
    ctx = bench.context()
    tensors = dict(bench.params.items()) | ({} if case.ids else {"input": bench.x})
    wanted = {}
    for name, array in tensors.items():
        numeric = np.empty(array.shape)
        for at in np.ndindex(array.shape):
            numeric[at] = difference(lambda: bench.loss(ctx), array, at)
        wanted[name] = numeric
    assert_gradients(found, wanted)


def check_adds(case: Case) -> None:
    """Backward adds to what is in g; what is marked as fresh, it overwrites."""
    bench = Bench(case)
    plain = bench.run()
    filled = bench.layout.zeros(bench.dtype)
    before = {}
    for name, view in filled.items():
        view[...] = stream(1, name).standard_normal(view.shape)
        before[name] = view.copy()
    added = bench.run(grads=filled)
    same({n: added[n] - before[n] for n in before}, {n: plain[n] for n in before}, 1e-12)
    filled.flat.fill(np.nan)
    ctx = bench.context()
    ctx.fresh = set(filled.ids)
    same(bench.run(ctx, filled), plain, 1e-12)
    assert not ctx.fresh, "backward left a gradient unwritten"


def check_frozen(case: Case) -> None:
    """Where no parameter's gradient is wanted, the input's is the same."""
    bench = Bench(case)
    plain, grads, ctx = bench.run(), bench.layout.zeros(bench.dtype), bench.context()
    ctx.unwanted = grads.ids
    found = bench.run(ctx, grads)
    same(
        {n: plain[n] for n in plain if n not in grads.views},
        {n: found[n] for n in found if n not in grads.views},
    )


def check_dtype(case: Case) -> None:
    """float32 in, float32 out: outputs, gradients, and all that the cache keeps."""
    bench = Bench(case, np.float32)
    ctx = bench.context()
    y, cache = bench.forward(ctx)
    grads = bench.layout.zeros(np.float32)
    dx = bench.stack.backward(bench.params.tree, grads.tree, bench.dy, cache, ctx)
    kept = [array for array in arrays(cache) if array.dtype.kind == "f"]
    assert {array.dtype for array in (y, dx, *kept)} == {np.dtype(np.float32)}
    double = Bench(case)
    double.params.flat[:] = bench.params.flat
    double.x, double.dy = bench.x.astype(double.x.dtype), bench.dy.astype(np.float64)
    if not case.random:  # the two dtypes draw different masks
        same(collect(case, y, dx, grads), double.run(), 2e-5)


def check_untouched(case: Case) -> None:
    """What is given is not written to; what is returned is nobody else's memory."""
    bench = Bench(case)
    kept = bench.x.copy(), bench.params.flat.copy(), bench.dy.copy()
    frozen = [bench.x, bench.dy, *bench.params.views.values()]
    for array in frozen:
        array.flags.writeable = False
    ctx = bench.context()
    grads = bench.layout.zeros(bench.dtype)
    for _ in range(2):  # the second time in the workspace's own buffer
        y, cache = bench.forward(ctx)
        output = y.copy()
        dx = bench.stack.backward(bench.params.tree, grads.tree, bench.dy, cache, ctx)
        for array in frozen:
            assert not np.shares_memory(y, array), "the output lies in memory that was given"
            fresh = case.ids or not np.shares_memory(dx, array)
            assert fresh, "the input's gradient lies in memory that was given"
        assert np.array_equal(y, output), "backward wrote to the output"
        once = dx.copy()
        again = bench.stack.backward(bench.params.tree, grads.tree, bench.dy, cache, ctx)
        assert np.array_equal(once, again), "backward wrote to its cache"
    for before, after in zip(kept, (bench.x, bench.params.flat, bench.dy), strict=True):
        assert np.array_equal(before, after)


def check_rows(case: Case) -> None:
    """A batch gives what its rows give one by one."""
    bench = Bench(case)
    whole = bench.run()
    single = replace(case, batch=1)
    parts, total = [], {name: 0.0 for name in bench.params}
    for row in range(case.batch):
        ctx, grads = bench.context(), bench.layout.zeros(bench.dtype)
        bench.begin(ctx, slice(row, row + 1))
        rows = slice(row * case.time, (row + 1) * case.time)
        y, cache = bench.stack.forward(bench.params.tree, bench.x[rows], ctx)
        y = y.copy()
        dx = bench.stack.backward(bench.params.tree, grads.tree, bench.dy[rows], cache, ctx)
        part = collect(single, y, dx, grads)
        parts.append(part)
        total = {name: total[name] + part[name] for name in total}
    joined = {k: np.concatenate([p[k] for p in parts]) for k in whole if k not in total}
    same(whole, joined | total, 1e-12)


def check_repeats(case: Case) -> None:
    """The same twice is bit-identical, also in a context that was used for something else."""
    bench = Bench(case)
    ctx = bench.context()
    first, again = bench.run(ctx), bench.run(ctx)
    same(first, again)
    ctx.begin(0, 0)
    ctx.empty((1000,)).fill(np.nan)
    bench.run(ctx)
    ctx.workspace._buffer.fill(0xFF)  # NaN: nothing may be read before it is written
    same(first, bench.run(ctx))
    same(first, bench.run())


def check_interleaved(case: Case) -> None:
    """Two passes over one layer at a time, each with its context, don't disturb each other."""
    one = Bench(case)
    two = Bench(replace(case, seed=case.seed + 1, stack=one.stack))
    alone = one.run(), two.run()
    contexts = one.context(), two.context()
    grads = tuple(bench.layout.zeros(bench.dtype) for bench in (one, two))
    passes = [bench.forward(ctx) for bench, ctx in zip((one, two), contexts, strict=True)]
    for i, bench in enumerate((one, two)):
        y, cache = passes[i]
        dx = bench.stack.backward(bench.params.tree, grads[i].tree, bench.dy, cache, contexts[i])
        same(alone[i], collect(bench.case, y, dx, grads[i]))


def check_counts(case: Case) -> None:
    """Operations are whole, and grow in step with the batch."""
    stack = case.build()
    value = stack.flops(case.batch, case.time)
    assert isinstance(value, int) and value >= 0
    assert stack.flops(3 * case.batch, case.time) == 3 * value


CHECKS = (
    check_gradients,
    check_adds,
    check_frozen,
    check_dtype,
    check_untouched,
    check_rows,
    check_repeats,
    check_interleaved,
    check_counts,
)
__all__ = ["CHECKS", "Bench", "Case", "Stack", "assert_gradients", "difference", "same"]
