"""What the checks of a layer's contract work on: a network, numbers, and how to compare them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmlab import kernels
from llmlab.layers import build_stack
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
        """Note the item nearest to 0."""
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
        """Return what layers are supplied with."""
        return {"embedding_dim": 6, "vocab_size": 7, "max_seq_len": 9, **self.context}

    def build(self) -> Any:
        """Return the stack."""
        return self.stack or build_stack(self.specs, **self.sizes())  # pyright: ignore[reportArgumentType]


class Bench:
    """A case with numbers: parameters, an input, a gradient that comes back."""

    def __init__(self, case: Case, dtype: Any = np.float64):
        self.case, self.stack, self.dtype = case, case.build(), np.dtype(dtype)
        self.layout = Layout(self.stack)
        sizes, rows = case.sizes(), case.batch * case.time
        column = np.arange(case.time)
        first = (case.time + 1) // 2  # length of the first of two packed samples
        every_row = np.ones((case.batch, 1), np.intp)
        self.segments = every_row * (column >= first)
        self.positions = every_row * np.where(column >= first, column - first, column)
        weights = stream(case.seed, "weights").uniform(0.5, 1.5, (case.batch, case.time))
        self._weights = weights.astype(dtype)
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
        """Return a context that nothing was done in."""
        return Context(kernel_set or NUMPY, self.dtype)

    def begin(self, ctx: Context, rows: slice = slice(None)) -> None:
        """Start a pass over some rows, in the circumstances of the case."""
        case, segments = self.case, self.segments[rows]
        ctx.begin(
            len(segments),
            case.time,
            rng=[generator(*draw) for draw in self._draws[rows]] if case.random else None,  # pyright: ignore[reportArgumentType]
            segments=segments if case.segments else None,
            positions=self.positions[rows] if case.positions else None,
            weights=self._weights[rows].reshape(-1) if case.weights else None,
            loss_scale=0.3,
        )

    def forward(self, ctx: Context, x: Any = None, params: Any = None) -> tuple[np.ndarray, Any]:
        """Return output and cache of a whole pass."""
        self.begin(ctx)
        return self.stack.forward((params or self.params).tree, self.x if x is None else x, ctx)

    def loss(self, ctx: Context, x: Any = None) -> float:
        """Return the number whose gradients `run` gives."""
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
    wrong = []
    for name, n in wanted.items():
        error = np.abs(found[name] - n)
        bound = 1e-6 * max(largest[name], floor)
        if not float(error.max(initial=0)) <= bound:
            wrong.append(f"gradient of {name}: {_worst(found[name], n)}, allowed {bound:.3g}")
    assert not wrong, "; ".join(wrong)


def _worst(found: np.ndarray, wanted: np.ndarray) -> str:
    """Return where two arrays of one shape differ most, and what is there."""
    error = np.abs(found - wanted)
    at = np.unravel_index(np.argmax(error), error.shape)
    place = f" at {tuple(map(int, at))}" if error.ndim else ""
    return f"off by {error[at]:.3g}{place}: {found[at]:.6g}, expected {wanted[at]:.6g}"


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
        assert value.shape == b[name].shape, f"{name}: shape {value.shape}, not {b[name].shape}"
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        error = float(np.abs(value - b[name]).max(initial=0))
        if not error <= tolerance * scale:
            raise AssertionError(f"{name}: {_worst(value, b[name])}")
