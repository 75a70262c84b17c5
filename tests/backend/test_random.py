"""Counter-based draws."""

import numpy as np
import pytest
from keras import ops
from scipy import stats

from keras_meanflow.backend.random import (
    Keys,
    check_seed,
    keep_mask,
    philox_noise,
    threefry2x32,
)


def _int32(words):
    return [ops.convert_to_tensor(np.array([w], "uint32").view("int32")) for w in words]


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_known_answers_of_random123(key, counter, expected):
    words = threefry2x32(_int32(key), _int32(counter))
    assert tuple(int(ops.convert_to_numpy(w).view("uint32")[0]) for w in words) == expected


def _normal(seed=0, step=0, name="e", shape=(64, 5, 3), **kwargs):
    return ops.convert_to_numpy(Keys(seed, step, **kwargs).normal(name, shape))


def test_draws_are_a_pure_function_of_seed_step_name_and_row():
    np.testing.assert_array_equal(_normal(), _normal())
    others = [_normal(seed=1), _normal(seed=1 << 40), _normal(step=1), _normal(name="times")]
    for other in others:
        assert np.abs(np.corrcoef(_normal().ravel(), other.ravel())[0, 1]) < 0.1
    np.testing.assert_array_equal(_normal(shape=(8, 5, 3), first_row=16), _normal()[16:24])


def test_a_branch_has_other_draws():
    branch = Keys(0, 0).of_branch("flow")
    for name in ("e", "times"):
        one, other = (ops.convert_to_numpy(k.normal(name, (64, 15))) for k in (branch, Keys(0, 0)))
        assert np.abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1
    assert branch.of_branch("again").branch == "flow/again/"


def test_normals_and_uniforms_follow_their_law():
    keys = Keys(seed=3, step=5)
    normal = ops.convert_to_numpy(keys.normal("e", (1000, 51))).ravel()
    uniform = ops.convert_to_numpy(keys.uniform("drop", (1000, 51))).ravel()
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert 0.0 < uniform.min() and uniform.max() < 1.0
    assert np.abs(np.corrcoef(normal[:-1], normal[1:])[0, 1]) < 0.02


def test_every_backend_draws_the_same_numbers():
    drawn = _normal(seed=7, step=11, shape=(3, 3))
    expected = [
        [1.629785, 1.31294, -0.00866],
        [-0.265538, 0.482894, -0.573729],
        [1.102644, -0.498066, 0.937441],
    ]
    np.testing.assert_allclose(drawn, expected, atol=2e-6)


def test_masks_of_dropout_follow_their_rate_and_belong_to_the_row():
    keys = Keys(seed=1, step=2).row_keys("dropout", 64)
    mask = ops.convert_to_numpy(keep_mask(keys, 3, (64, 6, 7, 5), 0.2))
    assert mask.shape == (64, 6, 7, 5)
    assert np.mean(~mask) == pytest.approx(0.2, abs=0.015)
    assert np.abs(np.mean(~mask, axis=0) - 0.2).max() < 0.25  # at every position
    part = keep_mask(keys[5:9], 3, (4, 6, 7, 5), 0.2)
    np.testing.assert_array_equal(ops.convert_to_numpy(part), mask[5:9])
    turned = ops.flip(keys, axis=0)
    for other in (keep_mask(keys, 4, mask.shape, 0.2), keep_mask(turned, 3, mask.shape, 0.2)):
        both = np.corrcoef(mask.ravel(), ops.convert_to_numpy(other).ravel())[0, 1]
        assert np.abs(both) < 0.05
    neighbours = np.corrcoef(mask.ravel()[:-1], mask.ravel()[1:])[0, 1]
    assert np.abs(neighbours) < 0.05


def test_every_backend_drops_the_same_numbers():
    mask = keep_mask(Keys(seed=1, step=2).row_keys("dropout", 2), 3, (2, 5), 0.5)
    expected = [[0, 1, 1, 0, 0], [1, 0, 1, 1, 1]]
    np.testing.assert_array_equal(ops.convert_to_numpy(mask), np.array(expected, "bool"))


def test_every_seed_of_64_bits_has_its_own_noise_and_others_are_refused():
    seeds = [0, 1, 2**53 + 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]
    noises = {philox_noise(seed, [0], (4,)).tobytes() for seed in seeds}
    assert len(noises) == len(seeds)
    for seed in (1.5, 1.0, -1, 2**64, "1", None):
        with pytest.raises(ValueError, match=r"seed must be from 0 to \d+, an integer"):
            philox_noise(seed, [0], (4,))
    with pytest.raises(ValueError, match="counted from 0. Received: -1"):
        philox_noise(0, [-1], (4,))
    assert check_seed(np.int64(3)) == 3
