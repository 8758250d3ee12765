"""Layouts and arenas: names, groups, slices, aliases, first values."""

from itertools import pairwise

import numpy as np
import pytest
from networks import gpt_stack

from llmlab.layers import Stack, build_stack
from llmlab.layers.linear import Linear
from llmlab.layers.output import TiedOutputProjection
from llmlab.params import ALIGN, GROUPS, Layout, aligned, walk_layers


def test_slices_are_disjoint_aligned_and_in_order_of_groups():
    layout = Layout(gpt_stack())
    spans = [layout.slices[name] for name in layout.params]
    for before, after in pairwise(spans):
        assert before.stop <= after.start
    assert all(span.start % (ALIGN // 4) == 0 for span in spans)
    assert spans[-1].stop <= layout.size
    end = 0
    for group in GROUPS:
        assert layout.ranges[group].start == end
        end = layout.ranges[group].stop
    assert end == layout.size
    for name, param in layout.params.items():
        own, span = layout.ranges[param.group], layout.slices[name]
        assert own.start <= span.start and span.stop <= own.stop
        assert layout.shapes[name] == param.shape


def test_groups_are_what_weight_decay_needs():
    groups = {name: param.group for name, param in Layout(gpt_stack(tied=False)).params.items()}
    assert groups["blocks.0.attention.qkv.weight"] == "matrix"
    assert groups["tokens.weight"] == groups["output.weight"] == "decayed"
    for name, group in groups.items():
        assert (group == "undecayed") == (name.endswith("bias") or "norm" in name), name


def test_number_of_parameters_counts_a_shared_table_once():
    tied, own = Layout(gpt_stack()), Layout(gpt_stack(tied=False))
    arrays = own.init(0)
    assert own.num_parameters == sum(view.size for _, view in arrays.items())
    assert own.num_parameters - tied.num_parameters == 8 * 11 + 11  # the head and its bias


def test_views_are_the_vector():
    layout = Layout(gpt_stack())
    arena = layout.zeros(np.float64)
    arena.flat[:] = np.arange(layout.size)
    for name, view in arena.items():
        assert np.shares_memory(view, arena.flat) and view.flags.c_contiguous
        assert view.reshape(-1)[0] == layout.slices[name].start
    arena["norm.bias"][...] = -1
    assert (arena.flat[layout.slices["norm.bias"]] == -1).all()
    assert (
        arena.tree["blocks.1"]["attention"][""]["qkv"]["weight"]
        is (arena["blocks.1.attention.qkv.weight"])
    )
    assert list(arena) == list(layout.slices)


def test_an_alias_is_the_same_memory_and_stored_once():
    arena = Layout(gpt_stack()).init(0)
    assert arena["output.weight"] is arena["tokens.weight"]
    assert "output.weight" not in dict(arena.items())
    assert arena.tree["output"]["weight"] is arena.tree["tokens"]["weight"]


def test_wrong_aliases_and_names_are_refused():
    with pytest.raises(ValueError, match=r"shares 'tokens\.weight', which is missing"):
        Layout(Stack({"output": TiedOutputProjection(4, 5)}))
    specs = {"tokens": {"type": "token_embedding"}}
    table = build_stack(specs, vocab_size=6, embedding_dim=4)
    layers = {**table.layers, "output": TiedOutputProjection(4, 5)}
    with pytest.raises(ValueError, match="of another shape"):
        Layout(Stack(layers))
    inner = Stack({"": Linear(3), "same": Stack({"": Linear(3)})})
    with pytest.raises(ValueError, match="two parameters of one name"):
        Layout(Stack({"a": inner, "a.same": Linear(3)}))


def test_first_values_depend_on_seed_and_name_alone():
    one = Layout(gpt_stack()).init(5)
    assert np.array_equal(one.flat, Layout(gpt_stack()).init(5).flat)
    assert not np.array_equal(one.flat, Layout(gpt_stack()).init(6).flat)
    more = Layout(gpt_stack(num_blocks=3)).init(5)
    for name, view in one.items():
        assert np.array_equal(view, more[name]), name
    first, second = (one[f"blocks.{i}.attention.qkv.weight"] for i in (0, 1))
    assert not np.array_equal(first, second)
    double = Layout(gpt_stack()).init(5, np.float64)
    assert double.flat.dtype == np.float64
    assert np.array_equal(double.flat.astype(np.float32), one.flat)


def test_arenas_lie_on_cache_lines_or_where_they_are_told():
    layout = Layout(gpt_stack())
    assert layout.zeros().flat.ctypes.data % ALIGN == 0
    for size in (1, 17, 1000):
        vector = aligned(size, np.float64)
        assert vector.ctypes.data % ALIGN == 0 and vector.shape == (size,)
    assert aligned(0, np.float64).shape == (0,)
    buffer = np.ones(layout.size + 5, np.float32)
    arena = layout.zeros(buffer=buffer)
    assert np.shares_memory(arena.flat, buffer)
    assert (buffer[: layout.size] == 0).all() and (buffer[layout.size :] == 1).all()


def test_walk_layers_names_every_layer():
    names = [name for name, _ in walk_layers(gpt_stack(num_blocks=1))]
    assert names[:3] == ["", "tokens", "positions"]
    assert "blocks.0.attention.qkv" in names and "blocks.0.feed_forward.norm" in names
    assert names[-1] == "output"
