"""Looks into small networks of every preset, without a training."""

from copy import deepcopy
from functools import cache

import numpy as np
from threadpoolctl import threadpool_limits

from llmlab.batch import Batch
from llmlab.build import Model
from llmlab.cli.start import compose
from llmlab.layers import build_stack
from llmlab.params import Layout
from llmlab.phases.inspect.look import Look
from llmlab.report.inspect_page import write_inspect_page


class Words:
    """As much of a tokenizer as a look needs; tokens are given by the test."""

    end_id = 0

    def __init__(self, tokens):
        self.tokens, self.vocab_size = tokens, len(tokens)

    def token(self, id):
        """Return a token's text."""
        return self.tokens[id]


def small_model(*overrides, tokens, dtype=np.float32, time=64):
    """Return a preset's model with these tokens."""
    spec = deepcopy(_composed(*overrides))
    spec["max_seq_len"] = time
    for layer in spec["stack"].values():
        if layer and "max_seq_len" in layer:
            layer["max_seq_len"] = time
    sizes = {key: spec[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    stack = build_stack(spec["stack"], vocab_size=len(tokens), **sizes)
    return Model(spec, stack, Layout(stack).init(0, dtype), Words(tokens), "none")


@cache
def _composed(*overrides):
    return compose(*overrides).model


def random_rows(vocab_size, count, time, seed=1):
    """Return random rows to measure on."""
    ids = np.random.default_rng(seed).integers(vocab_size, size=(count, time + 1))
    return Batch(ids[:, :-1], ids[:, 1:], np.ones((count, time), np.float32))


def look_at(model, ids, rows=None, name="a checkpoint"):
    """Return a look and its content."""
    with threadpool_limits(1, user_api="blas"):  # small products: threads would only wait
        look = Look(model, model.network("numpy"), ids, rows, [], name)
        return look, look.content()


def write(folder, look, content):
    """Write the page; return it and what it shows."""
    return write_inspect_page(folder, lambda tokens: look.cut(content, tokens))
