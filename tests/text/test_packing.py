"""Short samples that share a row."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import gpt_specs

from llmlab.errors import ConfigError
from llmlab.layers import build_stack
from llmlab.measure import Evaluator
from llmlab.network import Network
from llmlab.optim import OPTIMIZERS
from llmlab.params import Layout
from llmlab.text import DATASETS, TOKENIZERS
from llmlab.text.datasets.packing import pack
from llmlab.text.datasets.samples import Samples
from llmlab.train.trainer import Trainer

fixed = settings(derandomize=True, max_examples=100, deadline=None)


@fixed
@given(st.lists(st.integers(1, 10), max_size=40), st.integers(10, 25))
def test_rows_hold_every_sample_once(lengths, capacity):
    rows = pack(lengths, capacity)
    assert sorted(n for row in rows for n in row) == list(range(len(lengths)))
    sums = [sum(lengths[n] for n in row) for row in rows]
    assert max(sums, default=0) <= capacity
    # No two rows would fit into one.
    assert all(a + b > capacity for a, b in pairwise(sorted(sums)))


def test_a_perfect_fit_is_found():
    assert pack([3, 7, 5, 5, 8, 2], 10) == [[0, 1], [2, 3], [4, 5]]


@fixed
@given(st.lists(st.integers(2, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_is_every_sample_once(lengths, size, epoch):
    texts = [([n] * length, [1.0] * length) for n, length in enumerate(lengths, 1)]
    dataset = Samples(texts, "test", max_seq_len=12, packed=True)
    found = []
    batches = list(dataset.batches(size, 3, epoch))
    assert len(batches) == dataset.num_batches(size)
    for batch in batches:
        assert batch.inputs.shape[1] <= 12
        for row in range(len(batch.inputs)):
            used = batch.weights[row] > 0
            assert ((batch.segments[row] >= 0) == used).all()
            for segment in range(batch.segments[row].max() + 1):
                own = batch.segments[row] == segment
                assert batch.positions[row][own].tolist() == list(range(own.sum()))
                assert (batch.inputs[row][own] == batch.targets[row][own]).all()
                found.append((int(batch.inputs[row][own][0]), int(own.sum())))
    assert sorted(found) == [(n, length - 1) for n, length in enumerate(lengths, 1)]
    resumed = list(dataset.batches(size, 3, epoch, 1))
    assert [b.inputs.tolist() for b in resumed] == [b.inputs.tolist() for b in batches[1:]]


@pytest.fixture
def build(tmp_path):
    lines = ["a b", "c d e f", "g", "b c d", "e", "f g a"]
    tokenizer = TOKENIZERS.build("word", "tokenizer").train(lines)

    def make(**arguments):
        path = tmp_path / "lines.json"
        path.write_text(json.dumps(lines))
        spec = {"type": "lines", "path": str(path), "max_seq_len": 8, **arguments}
        return DATASETS.build(spec, "data", tokenizer=tokenizer)

    return make


def test_packed_samples_have_the_loss_that_they_have_alone(build):
    stack = build_stack(gpt_specs(), vocab_size=20, embedding_dim=8, max_seq_len=8)
    params = Layout(stack).init(0, "float64")
    losses = []
    for packed in (False, True):
        dataset = build(packed=packed)
        batches = list(dataset.batches(2, 0, 0))
        losses.append(Evaluator(Network(stack, params)).measure(batches))
        assert (batches[0].segments is None) is not packed
    assert losses[0].tokens == losses[1].tokens
    assert losses[0].loss == pytest.approx(losses[1].loss, rel=1e-12)


def test_packed_samples_have_the_auxiliary_loss_that_they_have_alone(build):
    """The balance of experts is counted sample by sample: value and gradient."""
    experts = {"type": "mixture_of_experts", "hidden_dim": 12, "num_experts": 4, "top_k": 2}
    layers = {
        "tokens": "token_embedding",
        "mixture": {**experts, "balance": 1.0},
        "output": "output_projection",
    }
    stack = build_stack(layers, vocab_size=20, embedding_dim=8, max_seq_len=8)
    params = Layout(stack).init(0, "float64")
    rule = OPTIMIZERS.build("adam", "optimizer")
    found = []
    for packed in (False, True):
        dataset = build(packed=packed, shuffle=False)
        batches = list(dataset.batches(8, 0, 0))
        with Trainer(stack, params, rule, lr=0.0, clip_norm=None) as trainer:
            found.append((trainer.step(batches), trainer.grads.flat.copy()))
        assert (batches[0].segments is None) is not packed
    (alone, gradient), (together, packed_gradient) = found
    assert together.tokens == alone.tokens
    assert together.loss == pytest.approx(alone.loss, rel=1e-12)
    np.testing.assert_allclose(packed_gradient, gradient, rtol=0, atol=1e-12)


def test_packing_is_the_same_data(build):
    packed, plain = build(packed=True), build()
    assert packed.sha256 == plain.sha256 and packed.report == plain.report
    assert packed.num_batches(1) < plain.num_batches(1) == 6
    training, validation = packed.split(0.34, seed=0)
    assert len(training) == 4 and len(validation) == 2
    assert (
        np.concatenate([b.targets[b.weights > 0] for b in validation.batches(1, 0, 0)]).size
        == (validation.report["tokens"])
    )


def test_packed_is_true_or_false(build):
    with pytest.raises(ConfigError, match="packed='yes': expected true or false"):
        build(packed="yes")
