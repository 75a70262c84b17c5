"""Rows with r < t are taken out of a batch and put back in their places."""

import numpy as np
import pytest
from keras import ops

from keras_meanflow.parts.rows import Rows, mask_r_below_t

CASES = [(8, 2), (8, 6), (7, 3), (7, 5), (16, 15), (5, 1), (6, 6), (1, 1)]


@pytest.mark.parametrize("rows, count", CASES)
def test_the_rows_are_those_of_the_mask_and_join_puts_them_back(rows, count):
    x = np.arange(3 * rows, dtype="float32").reshape(rows, 3)
    mask = ops.convert_to_numpy(mask_r_below_t(rows, count))
    split = Rows(rows, count)
    below, none = split.below((ops.convert_to_tensor(x), None))
    assert none is None
    np.testing.assert_array_equal(ops.convert_to_numpy(below), x[mask])
    replaced = split.replace(ops.zeros((rows, 3)), below)
    np.testing.assert_array_equal(ops.convert_to_numpy(replaced), x * mask[:, None])
    if split.all_below:
        return
    equal = split.equal(ops.convert_to_tensor(x))
    np.testing.assert_array_equal(ops.convert_to_numpy(equal), x[~mask])
    np.testing.assert_array_equal(ops.convert_to_numpy(split.join(below, equal)), x)


@pytest.mark.parametrize("rows, count", [*CASES, (3, 0)])
def test_a_batch_of_unknown_size_is_taken_apart_alike(rows, count):
    x = ops.convert_to_tensor(np.arange(2 * rows, dtype="float32").reshape(rows, 2))
    split = Rows(ops.convert_to_tensor(rows), ops.convert_to_tensor(count))
    whole = split.join(split.below(x), split.equal(x))
    np.testing.assert_array_equal(ops.convert_to_numpy(whole), ops.convert_to_numpy(x))
