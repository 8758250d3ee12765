"""Thousands of damaged checkpoints: refused with a CheckpointError, or read unharmed."""

import random
from collections import Counter

import numpy as np
import pytest
from damage import mutate, outcome, same

from llmlab.checkpoints import load, save


def state(seed):
    rng = np.random.default_rng(seed)
    arrays = {
        "params/a.weight": rng.normal(size=(6, 24)).astype("f4"),
        "params/b.weight": rng.normal(size=(24, 6)).astype("f4"),
        "params/b.bias": rng.normal(size=6),
        "optimizer/m/a.weight": rng.normal(size=(6, 24)).astype("f4"),
        "optimizer/step": np.int64(7),
    }
    return {name: np.asarray(array) for name, array in arrays.items()}, {"step": seed, "x": "é"}


def damage_many(tmp_path, count, seed):
    save(tmp_path / "sound.npz", *state(1))
    save(tmp_path / "other.npz", *state(2))
    data, other = ((tmp_path / name).read_bytes() for name in ("sound.npz", "other.npz"))
    original, rng = load(tmp_path / "sound.npz"), random.Random(seed)
    counts = Counter()
    for _ in range(count):
        damaged = mutate(data, rng, other)
        result = outcome(tmp_path / "damaged.npz", damaged, original)
        counts[result] += 1
    assert set(counts) <= {"refused", "unharmed"}, counts
    # Unharmed are only flips in fields that carry nothing, such as a member's time stamp.
    assert counts["refused"] > 0.6 * count
    assert not same(original, load(tmp_path / "other.npz"))


def test_no_damage_loads_silently(tmp_path):
    damage_many(tmp_path, 500, seed=0)


@pytest.mark.slow
def test_no_damage_loads_silently_long(tmp_path):
    damage_many(tmp_path, 30_000, seed=1)


def test_every_single_bit_of_the_data_counts(tmp_path):
    """Each byte of arrays and manifest is covered: flips there never pass."""
    save(tmp_path / "sound.npz", *state(1))
    data, original = (tmp_path / "sound.npz").read_bytes(), load(tmp_path / "sound.npz")
    covered = [original.arrays["params/a.weight"].tobytes(), b'{"arrays"']
    for content in covered:
        start = data.index(content)
        for at in range(start, start + len(content)):
            damaged = bytearray(data)
            damaged[at] ^= 1 << (at % 8)
            assert outcome(tmp_path / "damaged.npz", bytes(damaged), original) == "refused"


@pytest.mark.slow
def test_a_mix_of_two_checkpoints_is_refused_at_every_seam(tmp_path):
    """Also where all but a checksum of the first member comes from the other file."""
    save(tmp_path / "sound.npz", *state(1))
    save(tmp_path / "other.npz", *state(2))
    data, other = ((tmp_path / name).read_bytes() for name in ("sound.npz", "other.npz"))
    sound = load(tmp_path / "sound.npz"), load(tmp_path / "other.npz")
    assert len(data) == len(other)
    for seam in range(0, len(data), 7):
        for mixed in (data[:seam] + other[seam:], other[:seam] + data[seam:]):
            if mixed not in (data, other):
                assert outcome(tmp_path / "mixed.npz", mixed, sound[0]) == "refused", seam
