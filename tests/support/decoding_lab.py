"""Small networks that continue ids, for tests of decoding."""

import numpy as np
from networks import gpt_specs, gpt_stack

from llmlab.generate import Engine, Sampler
from llmlab.layers import build_stack
from llmlab.network import Network
from llmlab.params import Layout

CONTEXT = 12
PROMPTS = [[3], [1, 4, 1, 5, 9, 2, 6], [5, 3, 5], [1] * CONTEXT]


def attention(**options):
    """Return a network whose attention has these options, without learned positions."""
    specs = gpt_specs()
    del specs["positions"]
    specs["blocks"]["layers"]["attention"]["layer"].update(options)
    return build_stack(specs, vocab_size=11, embedding_dim=8, max_seq_len=CONTEXT)


STACKS = {
    "learned": gpt_stack,
    "rope": lambda: attention(positions="rope"),
    "alibi": lambda: attention(positions="alibi", num_kv_heads=1),
    "window": lambda: attention(positions="rope", window=3),
    "window and alibi": lambda: attention(positions="alibi", window=5),
}


def engine(stack, context=CONTEXT, dtype=np.float64, seed=1):
    return Engine(Network(stack, Layout(stack).init(seed, dtype), context))


class Recorded(Sampler):
    """Greedy, keeping the logits of every choice."""

    def __init__(self):
        self.seen = []

    def choose(self, logits, rng):
        self.seen.append(logits.copy())
        return np.argmax(logits, axis=-1)
