"""What is wrong in broken networks is said in words, and nothing of sound ones."""

import numpy as np
import pytest
from inspect_lab import look_at, random_rows, small_model

from llmlab.inspect.findings import habits
from llmlab.inspect.heads import HeadScores

SIZES = ("model.embedding_dim=32", "model.hidden_dim=64", "model.num_blocks=3")
WORDS = tuple(f"word{n}" for n in range(40))
IDS = np.random.default_rng(3).integers(40, size=32)


def network(name, *more):
    """Return a model whose maps are about as large as after a training."""
    heads = () if name == "rustgpt" else ("model.num_heads=4",)
    model = small_model(f"model={name}", *heads, *SIZES, *more, tokens=WORDS)
    rng = np.random.default_rng(0)
    for array in model.params.views.values():
        if array.ndim == 2:
            array[...] = 0.15 * rng.standard_normal(array.shape)
    return model


def found(model):
    return look_at(model, IDS, random_rows(40, 2, 8))[1]["findings"]


SLOW = (pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "mixtral"))


@pytest.mark.every_day(1)
@pytest.mark.parametrize("name", ["gpt2", "rustgpt", *SLOW])
def test_nothing_is_found_in_sound_networks(name):
    assert found(network(name)) == []


def not_a_number(p):
    p["blocks.1.feed_forward.down.weight"][0, 0] = np.nan


def overflow(p):
    p["blocks.1.feed_forward.down.weight"][:] = 1e38


def dead_units(p):
    p["blocks.1.feed_forward.up.bias"][:40] = -50


def nothing_added(p):
    p["blocks.2.attention.out.weight"][:] = 0
    p["blocks.2.attention.out.bias"][:] = 0


def saturated(p):
    p["blocks.0.attention.qkv.weight"] *= 60


def small_start(p):
    for array in p.values():
        array *= 0.001 if array.ndim == 2 else 1


def large_start(p):
    for name, array in p.items():
        array *= 20 if array.ndim == 2 and "blocks" in name else 1


def no_output(p):
    p["norm.weight"][:] = 0


def one_vector(p):
    p["tokens.weight"][:] = p["tokens.weight"][:1]
    p["positions.weight"][:] = 0


def nowhere(p):
    for n in range(3):
        p[f"blocks.{n}.attention.qkv.weight"][:, :64] = 0


FAULTS = {
    not_a_number: ("gpt2", ["blocks.1.feed_forward.down: gives numbers that aren't finite."]),
    overflow: ("gpt2", ["blocks.1.feed_forward.down: gives numbers that aren't finite."]),
    dead_units: ("rustgpt", ["blocks.1.feed_forward: 4", "of 64 units are dead"]),
    nothing_added: ("gpt2", ["blocks.2.attention: gives zeros only."]),
    saturated: ("gpt2", ["blocks.0.attention, head ", "all of its attention is on one token"]),
    small_start: ("gpt2", ["blind guess", "its output is too small", "where to look"]),
    large_start: ("gpt2", ["The stream grows ", "on one token each"]),
    no_output: ("gpt2", ["blind guess", "norm: gives zeros only."]),
    one_vector: ("gpt2", ["tokens: gives every token of the text the same vector."]),
    nowhere: ("gpt2", ["Every head looks at all tokens alike"]),
}


@pytest.mark.every_day(3)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: each.__name__)
def test_a_planted_fault_is_named(fault):
    name, said = FAULTS[fault]
    model = network(name)
    fault(dict(model.params.views))
    text = "\n".join(found(model))
    for part in said:
        assert part in text


def test_a_missing_final_norm_is_named():
    said = found(network("gpt2", "model.stack.norm=null"))
    assert said == ["There is no norm between the last block and the output, which pre-norm needs."]


def test_only_the_cause_is_named_and_not_what_follows():
    model = network("gpt2")
    no_output(dict(model.params.views))
    assert sum("zeros" in each for each in found(model)) == 1


def test_a_head_is_named_by_its_habit_and_the_clearest_first():
    nothing = np.zeros(2)
    scores = HeadScores(np.array([0.25, 0.1]), nothing, np.array([0.1, 0.4]), nothing, nothing)
    assert habits({"blocks.1.attention": scores}) == [
        "blocks.1.attention, head 1 looks at what came after the same token a while ago "
        "(induction): 0.40.",
        "blocks.1.attention, head 0 looks at the token before: 0.25.",
    ]


def test_habits_are_measured_on_two_periods():
    """A head that looks a fixed way back then has no clear score of induction."""
    model = network("gpt2")
    look, _ = look_at(model, IDS, random_rows(40, 2, 8))
    lengths = {len(row) for row in look.repeated}
    assert lengths == {48, 32}
    assert all(np.array_equal(row[: len(row) // 2], row[len(row) // 2 :]) for row in look.repeated)
    assert not any((row == 0).any() for row in look.repeated)  # the end of a text


def test_a_layer_of_far_larger_parameters_is_named():
    model = network("rustgpt")
    model.params["blocks.1.feed_forward.up.bias"][:] = -60
    said = [text for text in found(model) if "norm of" in text]
    assert len(said) == 1 and said[0].startswith("blocks.1.feed_forward: its parameters have")
