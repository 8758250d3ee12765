"""Continuous batching: what a text becomes depends on itself alone."""

import numpy as np
import pytest

from llmlab.cli.start import compose
from llmlab.generate import SAMPLERS, Engine
from llmlab.layers import build_stack
from llmlab.network import Network
from llmlab.params import Layout
from llmlab.serve.batch import Batch, Text
from llmlab.serve.row_kernels import BLOCK, LARGE, product, row_kernels

VOCABULARY, CONTEXT = 61, 24
PRESETS = ("rustgpt", "gpt2", "llama", "mistral", "mixtral")


def network(preset="rustgpt", context=CONTEXT, scale=2.0):
    """Return a small network of a preset with large random parameters."""
    sizes = {"embedding_dim": 32, "hidden_dim": 48, "max_seq_len": context, "num_blocks": 2}
    sizes |= {} if preset == "rustgpt" else {"num_heads": 4, "num_kv_heads": 2}
    if preset == "mistral":
        sizes["stack.blocks.layers.attention.layer.window"] = 9
    model = compose(f"model={preset}", *(f"model.{k}={v}" for k, v in sizes.items())).model
    keys = {key: model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    stack = build_stack(model["stack"], vocab_size=VOCABULARY, **keys)
    params = Layout(stack).init(0, "float32")
    params.flat[:] = np.random.default_rng(1).normal(0, 0.1, len(params.flat)) * scale
    return Network(stack, params, context)


def texts(count, most=CONTEXT, **fields):
    """Return texts of all lengths that draw their tokens."""
    rng = np.random.default_rng(7)
    sampler = SAMPLERS.build({"type": "sample"}, "sampler", vocab_size=VOCABULARY)
    return [
        Text(
            rng.integers(0, VOCABULARY, rng.integers(1, most)).tolist(),
            int(rng.integers(1, most)),
            sampler,
            np.random.default_rng(number),
            **fields,
        )
        for number in range(count)
    ]


def finish(batch, waiting=(), every=2):
    """Make steps until all texts are over; those that wait join one by one."""
    waiting, steps = list(waiting), 0
    while waiting or batch.waiting or batch.running:
        if waiting and steps % every == 0:
            batch.add(waiting.pop(0))
        batch.step()
        steps += 1


def replies(net, found, rows):
    batch = Batch(net, rows)
    for text in found:
        batch.add(text)
    finish(batch)
    return [(text.reply, text.reason) for text in found]


@pytest.mark.every_day(1)
@pytest.mark.parametrize("preset", ["gpt2", "mixtral"])  # the others in the slow test below
def test_a_text_is_the_same_in_any_company(preset):
    net = network(preset)
    alone = [replies(net, [text], 1)[0] for text in texts(16)]
    assert len({tuple(reply) for reply, _ in alone}) > 8
    for size in (2, 3, 7, 16):
        assert replies(net, texts(size), size) == alone[:size]
    late = texts(16)
    finish(Batch(net, 5), late)  # who joins and leaves in the middle changes nothing
    assert [(text.reply, text.reason) for text in late] == alone


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", range(1, 17))
def test_a_text_is_the_same_in_every_batch_size(preset, size):
    net = network(preset, context=200)
    alone = [replies(net, [text], 1)[0] for text in texts(size, 190)]
    assert replies(net, texts(size, 190), size) == alone


@pytest.mark.parametrize("preset", ["rustgpt", "mistral"])
def test_greedy_texts_are_those_of_the_engine(preset):
    net, found = network(preset), texts(6)
    greedy = SAMPLERS.build({"type": "greedy"}, "sampler")
    for text in found:
        text.sampler = greedy
    told = [
        Engine(net).generate([t.prompt], max_new_tokens=t.limit, stop_ids={3})[0] for t in found
    ]
    for text in found:
        text.stop_ids = frozenset({3})
    assert replies(net, found, 4) == [(reply.ids, reply.reason) for reply in told]


def test_a_text_moves_to_wider_rows_and_begins_anew_when_the_context_is_full():
    net = network(context=150)
    greedy = SAMPLERS.build({"type": "greedy"}, "sampler")
    found = [Text([5, 6, 7], 300, greedy, refills=True), Text([8] * 120, 20, greedy)]
    replies(net, found, 2)
    assert [(len(text.reply), text.reason) for text in found] == [(300, "length"), (20, "length")]
    for start, stop, prompt in ((0, 148, [5, 6, 7]), (148, 224, found[0].reply[73:148])):
        reply = Engine(net).generate([prompt])[0]
        assert found[0].reply[start:stop] == reply.ids and reply.reason == "context"
    assert replies(net, [Text([5, 6, 7], 700, greedy)], 1)[0][1] == "context"
    assert len(replies(network(context=1), [Text([5], 9, greedy, refills=True)], 1)[0][0]) == 9


def test_who_has_gone_frees_the_row_within_a_token():
    found = texts(3)
    for text in found:
        text.limit, text.refills = 1_000, True
    batch = Batch(network(), 2)
    for text in found:
        batch.add(text)
    batch.step()
    assert [len(text.reply) for text in found] == [1, 1, 0]
    found[0].cancelled = True
    assert batch.step() == [found[0]]
    assert [len(text.reply) for text in found] == [1, 2, 1]
    found[1].cancelled = found[2].cancelled = True
    assert len(batch.step()) == 2 and not batch.running


def test_rows_of_a_product_dont_know_each_other():
    rng = np.random.default_rng(0)
    for shape in ((40, 50), (33, LARGE // 32)):
        b = rng.normal(size=shape).astype(np.float32)
        one = rng.normal(size=(1, shape[0])).astype(np.float32)
        for count in (1, BLOCK - 1, BLOCK, BLOCK + 1):
            for place in range(count):
                a = rng.normal(size=(count, shape[0])).astype(np.float32)
                a[place] = one[0]
                found = product(a, b, np.empty((count, shape[1]), np.float32))
                alone = product(one, b, np.empty((1, shape[1]), np.float32))
                assert np.array_equal(found[place], alone[0])
                assert np.allclose(found, a @ b, atol=1e-3)


def test_row_kernels_compute_what_the_reference_does():
    for preset in ("gpt2", "llama"):
        net, ids = network(preset), np.arange(12).reshape(2, 6)
        rowwise = Network(net.stack, net.params, CONTEXT, row_kernels())
        assert np.allclose(rowwise.forward(ids), net.forward(ids), atol=1e-4)


def test_an_extreme_neighbour_changes_nothing():
    # A fast softmax shifts all rows by their maximum as soon as one of them is large.
    scores = np.random.default_rng(0).normal(size=(3, 1, 9)).astype(np.float32)
    calm = row_kernels().softmax(None, scores.copy(), None)
    scores[1] = 1e4
    assert np.array_equal(row_kernels().softmax(None, scores, None)[[0, 2]], calm[[0, 2]])
