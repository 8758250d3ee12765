"""Contestants that continue token ids greedily, one token after the other."""

from time import perf_counter
from typing import Any

import numpy as np
from timing import memory
from workloads import Task, Workload

SEED = 1


class Decoding:
    """A contestant that decodes `batch` prompts of `prompt` tokens to the end of the context.

    All have the same parameters: large ones, so that the greatest logit is never in doubt and
    everybody must find the same tokens.
    """

    def __init__(self, spec: dict[str, Any]):
        self.task = Task(Workload(**spec["workload"]))
        self.params = self.task.params()
        rng = np.random.default_rng(SEED)
        for name, view in self.params.items():
            if view.ndim == 2:
                lookup = name.split(".")[0] in ("tokens", "positions")
                fan_in = view.shape[1] if lookup else view.shape[0]
                view[...] = rng.normal(0, (1 if lookup else 3) / np.sqrt(fan_in), view.shape)
        shape = (spec["batch"], spec["prompt"])
        self.prompts = rng.integers(0, self.task.vocabulary, shape)
        self.context = self.task.model["max_seq_len"]
        self.count = self.context - spec["prompt"]
        self.info: dict[str, Any] = {}

    def decode(self) -> np.ndarray:
        """Return the new tokens, (batch, count)."""
        raise NotImplementedError

    def ready(self) -> None:
        """Decode once, and tell the parent what came out."""
        self.info = {"tokens": self.decode().tolist()}

    def turn(self, number: int, repeats: int = 1) -> dict[str, Any]:
        """Decode once, then `repeats` times; return the seconds of those and their new tokens."""
        self.decode()
        start = perf_counter()
        for _ in range(repeats):
            self.decode()
        tokens = repeats * len(self.prompts) * self.count
        return {"seconds": perf_counter() - start, "tokens": tokens}

    def finish(self) -> dict[str, Any]:
        """Return the peak of resident memory."""
        return {"peak": (memory("VmHWM") or 0) / 1e6}


class LlmlabDecoding(Decoding):
    """llmlab's engine."""

    def __init__(self, spec: dict[str, Any]):
        from threadpoolctl import threadpool_limits

        from llmlab.generate import Engine
        from llmlab.network import Network

        super().__init__(spec)
        self._limit = threadpool_limits(spec["threads"], user_api="blas")
        stack, kernels = self.task.stack, spec["kernels"]
        self.engine = Engine(Network(stack, self.params, self.context, kernels))
        self.ready()

    def decode(self) -> np.ndarray:
        """Let the engine continue the prompts."""
        replies = self.engine.generate(self.prompts.tolist(), max_new_tokens=self.count)
        return np.array([reply.ids for reply in replies])


class TorchDecoding(Decoding):
    """PyTorch with keys and values in memory of fixed size, in inference mode.

    The eager one attends to the tokens that there are; the compiled one to the whole cache behind
    a mask, so that one graph serves all positions.
    """

    def __init__(self, spec: dict[str, Any]):
        import torch
        from peers import Cache, network, sizes

        super().__init__(spec)
        self.torch, self.compiled = torch, spec["compiled"]
        torch.set_num_threads(spec["threads"])
        s = sizes(self.task)
        self.net: Any = network(s, dict(self.params.items())).eval()
        self.cache = Cache(s, len(self.prompts))
        self.one: Any = torch.compile(self.net, dynamic=False) if self.compiled else self.net
        places = torch.arange(s.context)
        self.places = places
        self.masks = (places <= places[:, None]).unsqueeze(1) if self.compiled else None
        self.ids = torch.from_numpy(self.prompts)
        self.ready()

    def decode(self) -> np.ndarray:
        """Continue the prompts: all of them in one pass, then a token at a time."""
        cache, ids, length = self.cache, self.ids, self.ids.shape[1]
        new = []
        with self.torch.inference_mode():
            cache.positions, cache.length, cache.mask = self.places[:length], length, None
            token = self.net(ids, None, cache).argmax(-1)
            new.append(token)
            for at in range(length, self.context - 1):
                cache.positions = self.places[at : at + 1]
                if self.masks is None:
                    cache.length = at + 1
                else:
                    cache.length, cache.mask = self.context, self.masks[at]
                token = self.one(token, None, cache).argmax(-1)
                new.append(token)
            return self.torch.cat(new, 1).numpy()
