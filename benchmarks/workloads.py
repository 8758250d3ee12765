"""What is trained: networks and batches, the same for every contestant.

S is the default network on the shipped texts; C is nanoGPT's run for a laptop's CPU
(https://github.com/karpathy/nanoGPT, MIT); D is a larger one of the same kind.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from llmlab.batch import Batch
from llmlab.errors import MissingPackage
from llmlab.kernels import NAMES, resolve
from llmlab.layers import ACTIVATIONS, Stack, build_stack
from llmlab.params import Arena, Layout
from llmlab.text import DATASETS, Dataset, train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
FILES = ("statements", "chats")
STAGES = ("pretrain", "tune")
LR = {"pretrain": 5e-4, "tune": 1e-4}
EPOCHS = 100
SEED = 0


@dataclass(frozen=True)
class Workload:
    """Sizes of a network and of its batches.

    Attributes
    ----------
    kind
        "rustgpt": the default model on the shipped texts, whose sizes come from conf/ (the
        fields that follow `batch` are then unused). "gpt": nanoGPT's network on random tokens,
        without biases, with a tied head.
    clip_norm
        Greatest norm of the gradient, for all contestants.
    steps
        Steps of a turn; None for one epoch of statements and one of chats.
    """

    name: str
    kind: str
    batch: int
    blocks: int = 0
    heads: int = 0
    width: int = 0
    context: int = 0
    vocabulary: int = 0
    clip_norm: float = 1.0
    steps: int | None = None


WORKLOADS = {
    "S": Workload("S", "rustgpt", 1, clip_norm=5.0),
    "default": Workload("default", "rustgpt", 8, clip_norm=5.0),
    "C": Workload("C", "gpt", 12, 4, 4, 128, 64, 65, steps=10),
    "D": Workload("D", "gpt", 8, 6, 6, 384, 256, 65, steps=3),
}

SCALES = {
    "batch": [replace(WORKLOADS["C"], name=f"C, batch {n}", batch=n) for n in (1, 4, 12, 32, 64)],
    "context": [
        replace(WORKLOADS["C"], name=f"C, context {n}", context=n) for n in (32, 64, 128, 256, 512)
    ],
    "width": [replace(WORKLOADS["C"], name=f"C, width {n}", width=n) for n in (64, 128, 256, 512)],
}


def gelu() -> str:
    """Return the activation of the gpt networks: GELU where there is one."""
    return "gelu_tanh" if "gelu_tanh" in ACTIVATIONS.names() else "relu"


def kernel_sets() -> list[str]:
    """Return the names of the kernel sets that are installed."""
    found = []
    for name in NAMES:
        with suppress(MissingPackage):
            found.append(resolve(name))
    return found


class Task:
    """A workload made: stack, first parameters, batches."""

    def __init__(self, workload: Workload):
        self.workload = workload
        if workload.kind == "rustgpt":
            config = OmegaConf.load(ROOT / "conf/model/rustgpt.yaml")
            self.model: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
                OmegaConf.create({"model": config}), resolve=True
            )["model"]
            self.tokenizer = train_tokenizer("word", [ROOT / f"data/{n}.json" for n in FILES])
            self.vocabulary = self.tokenizer.vocab_size
        else:
            self.model = gpt_model(workload)
            self.vocabulary = workload.vocabulary
        sizes = {key: self.model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
        self.stack: Stack = build_stack(self.model["stack"], vocab_size=self.vocabulary, **sizes)
        self.layout = Layout(self.stack)

    def params(self, dtype: Any = np.float32) -> Arena:
        """Return the first values, the same in every process."""
        return self.layout.init(SEED, dtype)

    @cached_property
    def data(self) -> dict[str, Dataset]:
        """The shipped texts as datasets, by stage."""
        extra = {"max_seq_len": self.model["max_seq_len"], "template": "user_assistant"}
        return {
            stage: DATASETS.build(
                {"type": kind, "path": ROOT / f"data/{file}.json", "shuffle": self._shuffle},
                stage,
                tokenizer=self.tokenizer,
                **extra,
            )
            for stage, kind, file in zip(STAGES, ("lines", "chats"), FILES, strict=True)
        }

    @property
    def _shuffle(self) -> bool:
        return self.workload.name == "default"

    @cached_property
    def _random(self) -> list[Batch]:
        w = self.workload
        ids = np.random.default_rng(SEED).integers(0, w.vocabulary, (4, w.batch, w.context + 1))
        ones = np.ones((w.batch, w.context), np.float32)
        return [
            Batch(np.ascontiguousarray(x[:, :-1]), np.ascontiguousarray(x[:, 1:]), ones)
            for x in ids
        ]

    def batches(self, number: int, stage: str | None = None) -> Iterator[Batch]:
        """Yield the batches of a turn; `number` is the epoch.

        One epoch of the stage, or of both; if `steps` is less than that, a sample from all over
        it. In the gpt networks `steps` random batches.
        """
        if self.workload.kind == "gpt":
            return (self._random[i % len(self._random)] for i in range(self.workload.steps or 1))
        stages = STAGES if stage is None else (stage,)
        size, steps = self.workload.batch, self.workload.steps
        epoch = chain.from_iterable(self.data[s].batches(size, SEED, number) for s in stages)
        if steps is None:
            return epoch
        count = sum(self.data[s].num_batches(size) for s in stages)
        return islice(epoch, 0, None, max(1, count // steps))

    @property
    def epoch_tokens(self) -> float:
        """Targets of one epoch of both stages."""
        return sum(data.report["tokens"] for data in self.data.values())

    def flops(self, batch: Batch) -> int:
        """Return the operations of a step: backward costs twice forward."""
        return 3 * self.stack.flops(*batch.inputs.shape)


KERNELS = kernel_sets()


def gpt_model(w: Workload) -> dict[str, Any]:
    """Return nanoGPT's network as `model` in a configuration would say it."""
    small = {"type": "normal", "std": 0.02}
    last = {"type": "normal", "std": 0.02 / (2 * w.blocks) ** 0.5}
    norm = {"type": "layer_norm", "bias": False}
    inner = {"bias": False, "init": small, "output_init": last}
    attention = {"type": "attention", "num_heads": w.heads, **inner}
    feed_forward = {
        "type": "feed_forward",
        "hidden_dim": 4 * w.width,
        "activation": gelu(),
        **inner,
    }
    blocks = {
        "attention": {"type": "pre_norm", "norm": norm, "layer": attention},
        "feed_forward": {"type": "pre_norm", "norm": norm, "layer": feed_forward},
    }
    return {
        "embedding_dim": w.width,
        "max_seq_len": w.context,
        "num_blocks": w.blocks,
        "num_heads": w.heads,
        "hidden_dim": 4 * w.width,
        "stack": {
            "tokens": {"type": "token_embedding", "init": small},
            "positions": {"type": "learned_positions", "init": small},
            "blocks": {"type": "block", "repeat": w.blocks, "layers": blocks},
            "norm": {**norm},
            "output": {"type": "tied_output_projection"},
        },
    }
