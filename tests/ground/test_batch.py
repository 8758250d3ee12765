"""What a batch knows of its rows."""

import numpy as np

from llmlab.batch import Batch


def test_a_row_ends_at_its_last_target_that_counts_and_has_one_token_at_least():
    weights = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], np.float32)
    ids = np.zeros((4, 4), np.intp)
    assert Batch(ids, ids, weights).lengths().tolist() == [2, 3, 1, 4]
