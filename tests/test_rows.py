"""Rows with r < t are taken out of a batch and put back in their places."""

import numpy as np
import pytest
from keras import ops

from keras_meanflow.parts.rows import Chosen, Rows, mask_r_below_t

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


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("most", [2, 3, 6])
def test_chosen_rows_go_back_to_their_places_and_none_is_taken_from_another_block(blocks, most):
    mask = np.array([0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1], bool)
    x = np.arange(1.0, 37.0, dtype="float32").reshape(12, 3)
    rows = Chosen(ops.convert_to_tensor(mask), most, blocks)
    taken, none = rows.take((ops.convert_to_tensor(x), None))
    assert none is None
    taken = ops.convert_to_numpy(taken).reshape(blocks, most, 3)
    for part, block, chosen in zip(
        taken, x.reshape(blocks, -1, 3), mask.reshape(blocks, -1), strict=True
    ):
        first = min(most, chosen.sum())
        np.testing.assert_array_equal(part[:first], block[chosen][:first])
        assert {row[0] for row in part} <= {row[0] for row in block}
    kept = np.concatenate([m & (np.cumsum(m) <= most) for m in mask.reshape(blocks, -1)])
    np.testing.assert_array_equal(ops.convert_to_numpy(rows.mask), kept)
    spread = ops.convert_to_numpy(rows.spread(rows.take(ops.convert_to_tensor(x))))
    np.testing.assert_array_equal(spread, x * kept[:, None])
