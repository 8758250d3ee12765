"""A stack of layers with its parameters: passes over token ids, and a way to look inside."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from llmlab import kernels as kernel_sets
from llmlab.params import Arena
from llmlab.plugin_errors import located
from llmlab.workspace import Context

Pre = Callable[[str, Any, np.ndarray], np.ndarray | None]
Post = Callable[[str, Any, np.ndarray, Any], np.ndarray | None]


class Network:
    """A stack that can be asked, with memory of its own for the passes.

    Parameters
    ----------
    stack
        The layers, from token ids to logits.
    params
        Their parameters; they may change between passes.
    max_seq_len
        Greatest number of tokens that the network can be given; what continues or scores a text
        needs to know it.
    kernels
        Name of the kernel set, or the set itself.
    """

    def __init__(
        self, stack: Any, params: Arena, max_seq_len: int | None = None, kernels: Any = "numpy"
    ):
        self.stack, self.params, self.max_seq_len = stack, params, max_seq_len
        self.kernels = kernel_sets.load(kernels) if isinstance(kernels, str) else kernels
        self.ctx = Context(self.kernels, params.flat.dtype)

    def forward(self, ids: ArrayLike, **circumstances: Any) -> np.ndarray:
        """Return the logits of each token: of ids (T,) or (B, T) they are (T, V) or (B, T, V).

        They live until the next pass. `circumstances` are those of `Context.begin`, for packed
        rows and for decoding; with `rows` there are logits of these alone, (rows, V).
        """
        tokens = np.asarray(ids)
        shape = tokens.shape if tokens.ndim == 2 else (1, len(tokens))
        self.ctx.begin(*shape, **circumstances)
        flat = np.ascontiguousarray(tokens, np.intp).reshape(-1)
        with located(self.stack):
            logits, _ = self.stack.forward(self.params.tree, flat, self.ctx)
        return logits if self.ctx.rows is not None else logits.reshape(*tokens.shape, -1)

    def walk(self) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """Yield dotted path, layer and parameters of the stack and of everything inside it.

        A layer and the nameless one inside it (of a residual connection) have one path.
        """
        yield from _walk("", self.stack, self.params.tree)

    @contextmanager
    def listening(self, pre: Pre | None = None, post: Post | None = None) -> Iterator[None]:
        """Call back around the `forward` of every layer, by its path, while the context is open.

        Parameters
        ----------
        pre
            `pre(path, layer, x)` before it; what it returns, if not None, is the input instead.
        post
            `post(path, layer, y, cache)` after it; what it returns, if not None, is the output
            instead. The cache stays, so a backward pass knows of no replacement.

        Notes
        -----
        Arrays lie in memory that is used again: copy what is kept. Passes in other processes,
        forked workers', and of other parameters through the same layers aren't heard.
        """
        paths = {id(p): path for path, _, p in self.walk()}

        def wrap(layer: Any, forward: Any) -> Any:
            def listened(p: Any, x: np.ndarray, ctx: Context) -> tuple[np.ndarray, Any]:
                path = paths.get(id(p))
                if path is None:
                    return forward(p, x, ctx)
                if pre is not None:
                    x = _either(pre(path, layer, x), x)
                y, cache = forward(p, x, ctx)
                if post is not None:
                    y = _either(post(path, layer, y, cache), y)
                return y, cache

            return listened

        with shadowed((layer for _, layer, _ in self.walk()), "forward", wrap):
            yield


@contextmanager
def shadowed(layers: Iterable[Any], method: str, wrap: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Let `wrap(layer, method)` stand in for a method of each layer while the context is open.

    It lies on the instances, so that layers cost nothing more when nobody listens.
    """
    before: list[tuple[dict[str, Any], Any]] = []
    try:
        for layer in {id(each): each for each in layers}.values():
            own = vars(layer)
            before.append((own, own.get(method)))
            own[method] = wrap(layer, getattr(layer, method))
        yield
    finally:
        for own, known in before:
            if known is None:
                own.pop(method, None)
            else:
                own[method] = known


def _walk(path: str, layer: Any, p: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    yield path, layer, p
    for key, child in layer.children().items():
        yield from _walk(".".join(part for part in (path, key) if part), child, p[key])


def _either(new: np.ndarray | None, old: np.ndarray) -> np.ndarray:
    return old if new is None else new
