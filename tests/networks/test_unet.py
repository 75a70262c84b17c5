"""UNet: conditions of several parts, other lengths, dropout as a function of the row.

Its outputs and derivatives are compared with the authors' in `weights/test_conversion.py`.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from oracles import randomise, relative_error

from keras_meanflow import FlowMap, LogitNormal, MeanFlow, UNet
from keras_meanflow.backend import BACKEND, jvp
from keras_meanflow.backend.random import Keys
from keras_meanflow.networks import ConditionResidual, NoisePrediction
from keras_meanflow.networks.resampling import fir_down, fir_up
from keras_meanflow.networks.unet_layers import group_norm

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)
SMALL = dict(width=8, multipliers=(1, 2), blocks=0)
ROWS = 3
T = np.array([0.9, 0.5, 1.0], "float32")
R = np.array([0.2, 0.5, 0.0], "float32")


def _normal(*shape):
    return RNG.standard_normal(shape).astype("float32")


def _numpy(network, *inputs):
    return ops.convert_to_numpy(network(*inputs))


def _speech(**kwargs):
    return randomise(UNet.ncsnpp(image_size=(4, 8), **{**SMALL, **kwargs}))


def _resampled(x, up):
    """With the filter [1, 3, 3, 1] / 8 as a plain sum in float64."""
    taps = np.array([1, 3, 3, 1]) / 8
    for axis in (1, 2):
        x = np.moveaxis(np.asarray(x, "float64"), axis, 0)
        if up:
            spread = np.zeros((2 * len(x), *x.shape[1:]))
            spread[::2] = 2 * x
            padded = np.pad(spread, [(2, 1)] + [(0, 0)] * 3)
            x = sum(tap * padded[k : k + len(spread)] for k, tap in enumerate(taps))
        else:
            padded = np.pad(x, [(1, 1)] + [(0, 0)] * 3)
            x = sum(tap * padded[k : k + len(x) : 2] for k, tap in enumerate(taps))
        x = np.moveaxis(x, 0, axis)
    return x


@pytest.mark.parametrize(("resample", "up"), [(fir_down, False), (fir_up, True)])
def test_resampling_is_the_filter_1_3_3_1_and_linear_in_forward_mode(resample, up):
    x, dx = (ops.convert_to_tensor(_normal(2, 4, 6, 3)) for _ in range(2))
    out, tangent = jvp(resample, (x,), (dx,))
    for given, made in ((x, out), (dx, tangent)):
        expected = _resampled(ops.convert_to_numpy(given), up)
        np.testing.assert_allclose(ops.convert_to_numpy(made), expected, atol=1e-6)


@pytest.mark.any_backend
def test_a_longer_spectrogram_needs_no_other_network():
    network = _speech()
    z, noisy = _normal(ROWS, 4, 24, 2), _normal(ROWS, 4, 24, 2)
    long = _numpy(network, z, R, T, noisy)
    assert long.shape == z.shape
    other = _numpy(network, z, R, T, np.zeros_like(noisy))
    assert np.abs(long - other).max() > 1e-3  # it depends on its context


@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (64, 16), (256, 32), (144, 24), (6, 1)])
def test_groups_divide_the_channels(channels, groups):
    norm = group_norm(channels, "float32")
    x = ops.convert_to_tensor(3.0 + 2.0 * _normal(2, 4, 4, channels))
    assert norm.groups == groups
    grouped = np.reshape(ops.convert_to_numpy(norm(x)), (2, 16, groups, -1))
    np.testing.assert_allclose(grouped.mean(axis=(1, 3)), 0.0, atol=1e-5)
    np.testing.assert_allclose(grouped.std(axis=(1, 3)), 1.0, atol=1e-4)


def test_labels_context_and_augmentation_condition_together():
    network = _speech(num_classes=3, augmentation_size=6)
    z, context = _normal(ROWS, 4, 8, 2), _normal(ROWS, 4, 8, 2)
    given = {"labels": np.arange(3, dtype="int32"), "context": context}
    u = _numpy(network, z, R, T, given)
    unaltered = {**given, "augmentation": np.zeros((ROWS, 6), "float32")}
    np.testing.assert_allclose(_numpy(network, z, R, T, unaltered), u, atol=1e-6)
    altered = {**given, "augmentation": np.ones((ROWS, 6), "float32")}
    assert np.abs(_numpy(network, z, R, T, altered) - u).max() > 1e-3
    drop = ops.convert_to_tensor(np.array([True, False, False]))
    null = network.drop_condition({k: ops.convert_to_tensor(v) for k, v in given.items()}, drop)
    np.testing.assert_array_equal(ops.convert_to_numpy(null["labels"]), [3, 1, 2])
    np.testing.assert_array_equal(ops.convert_to_numpy(null["context"])[0], 0.0)
    np.testing.assert_array_equal(ops.convert_to_numpy(null["context"])[1:], context[1:])


def test_a_condition_that_the_network_does_not_take_is_refused():
    network = _speech()
    network.check_condition(_normal(2, 4, 8, 2))
    with pytest.raises(ValueError, match=r"context is an array \(n, 4, 8, 2\). Received: None"):
        network.check_condition(None)
    with pytest.raises(ValueError, match=r"context must hold floats of shape \(n, 4, 8, 2\)"):
        network.check_condition(_normal(2, 4, 6, 2))
    with pytest.raises(ValueError, match="1 values not finite"):
        network.check_condition(
            {"context": np.where(np.arange(64) == 5, np.nan, 0.0).reshape(1, 4, 8, 2)}
        )
    with pytest.raises(ValueError, match=r"a dict of context. Received: \['noisy'\]"):
        network.check_condition({"noisy": _normal(2, 4, 8, 2)})
    image = UNet.song(image_size=4, **SMALL)
    image.check_condition(None)
    with pytest.raises(ValueError, match=r"augmentation must hold floats of shape \(n, 6\)"):
        image.check_condition({"augmentation": _normal(2, 9)})
    with pytest.raises(ValueError, match="2 levels need sides that are multiples of 2"):
        UNet.song(image_size=5, **SMALL)
    with pytest.raises(ValueError, match=r"dropout is a share in \[0, 1\)"):
        UNet.song(image_size=4, dropout=1.0, **SMALL)


def test_dropout_belongs_to_the_row_and_the_step_and_is_for_training_alone():
    network = randomise(UNet.song(image_size=4, dropout=0.3, **SMALL))
    z = _normal(ROWS, 4, 4, 3)
    still = _numpy(network, z, R, T)

    def condition_at(step):
        return network.training_condition(None, Keys(seed=0, step=step), ROWS)

    first, again, other = (_numpy(network, z, R, T, condition_at(step)) for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3 and np.abs(first - still).max() > 1e-3
    one = {"dropout": condition_at(0)["dropout"][1:2]}
    np.testing.assert_allclose(
        _numpy(network, z[1:2], R[1:2], T[1:2], one), first[1:2], rtol=1e-4, atol=1e-5
    )
    condition = condition_at(0)
    out, _ = jvp(
        lambda z, r, t: network(z, r, t, condition),
        [ops.convert_to_tensor(a) for a in (z, R, T)],
        [ops.convert_to_tensor(a) for a in (z, 0 * R, 0 * T + 1)],
    )
    assert relative_error(ops.convert_to_numpy(out), first) < 1e-5  # with the same masks


def test_a_flow_map_drops_in_training_and_not_in_evaluation():
    network = UNet.song(image_size=4, dropout=0.3, **SMALL)
    flow_map = FlowMap(network, MeanFlow(times=LogitNormal(fraction_r_equals_t=0.5)), averages=())
    how = {"augmentation": _normal(4, 6)}
    batch = (_normal(4, 4, 4, 3), how)
    training = flow_map.build_problem(batch, training=True).inputs["condition"]
    assert set(training) == {"augmentation", "dropout"} and training["dropout"].shape == (4, 2)
    assert set(flow_map.build_problem(batch, training=False).inputs["condition"]) == set(how)


def test_a_wrapper_drops_what_its_network_drops():
    inner = _speech(dropout=0.3, multipliers=(1,))
    z, noisy = _normal(ROWS, 4, 8, 2), _normal(ROWS, 4, 8, 2)
    keys = Keys(seed=0, step=0)
    dropped = _numpy(inner, z, R, T, inner.training_condition(noisy, keys, ROWS))
    network = ConditionResidual(inner)
    given = network.training_condition(ops.convert_to_tensor(noisy), keys, ROWS)
    np.testing.assert_allclose(_numpy(network, z, R, T, given), z - noisy + dropped, atol=1e-6)
    everyone = ops.ones((ROWS,), dtype="bool")
    unheard = inner.training_condition(0.0 * noisy, keys, ROWS)
    null = network.drop_condition(given, everyone)
    np.testing.assert_allclose(
        _numpy(network, z, R, T, null), z + _numpy(inner, z, R, T, unheard), atol=1e-6
    )
    noise = NoisePrediction(UNet.song(image_size=4, dropout=0.3, **SMALL))
    assert noise.training_condition(None, keys, ROWS)["dropout"].shape == (ROWS, 2)


ELSEWHERE = """
import sys
import keras
import numpy as np
from keras_meanflow import UNet
from keras_meanflow.networks import ConditionResidual

keras.utils.set_random_seed(0)
network = ConditionResidual(UNet.ncsnpp(image_size=(4, 8), width=8, multipliers=(1, 2), blocks=1))
rng = np.random.default_rng(0)
for variable in network.trainable_variables:
    variable.assign(0.3 * rng.standard_normal(variable.shape))
network.save(sys.argv[1] + "/network.keras")
z, y = rng.standard_normal((2, 3, 4, 8, 2)).astype("float32")
r, t = np.array([0.2, 0.5, 0.0], "float32"), np.array([0.9, 0.5, 1.0], "float32")
u = keras.ops.convert_to_numpy(network(z, r, t, y))
np.savez(sys.argv[1] + "/called.npz", z=z, y=y, r=r, t=t, u=u)
"""


@pytest.mark.long
@pytest.mark.parametrize("other", ["jax", "tensorflow", "torch"])
def test_a_network_that_another_backend_saved_is_the_same_here(other, tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": other, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    network = keras.saving.load_model(tmp_path / "network.keras")
    with np.load(tmp_path / "called.npz") as called:
        u = _numpy(network, *(called[name] for name in "zrty"))
        np.testing.assert_allclose(u, called["u"], atol=1e-4)


@pytest.mark.any_backend
def test_a_context_conditions_generation():
    flow_map = FlowMap(_speech(), averages=())
    flow_map.compile(jit_compile=BACKEND == "jax")
    noisy = _normal(2, 4, 8, 2)
    first, second = (flow_map.generate(c, seed=0, verbose=0) for c in (noisy, 0.0 * noisy))
    assert first.shape == noisy.shape and np.abs(first - second).max() > 1e-3
    assert flow_map.network.condition_inputs().shape == (None, 4, 8, 2)


@pytest.mark.skipif(BACKEND != "torch", reason="counts PyTorch's operations")
def test_the_jvp_of_a_unet_costs_two_forwards():
    from torch.utils.flop_counter import FlopCounterMode

    network = UNet.song(image_size=8, width=32, multipliers=(1, 2), blocks=1, attention_sizes=())
    primals = [ops.convert_to_tensor(a) for a in (_normal(ROWS, 8, 8, 3), R, T)]
    tangents = [ops.convert_to_tensor(a) for a in (_normal(ROWS, 8, 8, 3), 0 * R, 0 * T + 1)]
    with FlopCounterMode(display=False) as forward:
        network(*primals)
    with FlopCounterMode(display=False) as forward_mode:
        jvp(network, primals, tangents)
    assert 1.95 < forward_mode.get_total_flops() / forward.get_total_flops() < 2.05
