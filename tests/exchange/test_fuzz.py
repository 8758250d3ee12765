"""Damaged folders at random; the script itself has the long form."""

import pytest
from fuzz_folders import fuzz


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_folders_are_read_or_refused_in_one_line(seed):
    pytest.importorskip("tokenizers")
    pytest.importorskip("jinja2")
    counts, _ = fuzz(60, seed)
    outcomes = {outcome for _, outcome in counts}
    assert outcomes == {"read", "refused"}
