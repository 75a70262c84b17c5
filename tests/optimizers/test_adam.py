"""Adam with its momentum in bfloat16, against Adam of Keras."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from oracles import relative_error

from keras_meanflow import FlowMap
from keras_meanflow.backend import BACKEND
from keras_meanflow.networks import MLP
from keras_meanflow.optimizers import Adam, compile_with

RNG = np.random.default_rng(0)


def _bytes(optimizer, name):
    wanted = [v for v in optimizer.variables if v.path.endswith(name)]
    sizes = {"float32": 4, "bfloat16": 2}
    return sum(ops.size(v) * sizes[keras.backend.standardize_dtype(v.dtype)] for v in wanted)


def _rounded(x):
    return ops.convert_to_numpy(ops.cast(ops.cast(x, "bfloat16"), "float32"))


def test_a_step_is_adams_and_its_momentum_is_rounded_once():
    start, *gradients = RNG.standard_normal((7, 5, 4)).astype("float32")
    theirs, ours = keras.Variable(start), keras.Variable(start)
    reference, optimizer = keras.optimizers.Adam(0.01), Adam(0.01)
    m, v, x = np.zeros((5, 4)), np.zeros((5, 4)), start.astype("float64")
    for step, g in enumerate(gradients, 1):
        reference.apply([ops.convert_to_tensor(g)], [theirs])
        optimizer.apply([ops.convert_to_tensor(g)], [ours])
        m, v = m + 0.1 * (g - m), v + 0.001 * (np.square(g) - v)
        x = x - 0.01 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step) * m / (np.sqrt(v) + 1e-7)
        m = _rounded(m.astype("float32")).astype("float64")
    (momentum,) = (u for u in optimizer.variables if u.path.endswith("momentum"))
    assert keras.backend.standardize_dtype(momentum.dtype) == "bfloat16"
    assert relative_error(ops.convert_to_numpy(ops.cast(momentum, "float32")), m) < 2.0**-8
    assert relative_error(ops.convert_to_numpy(ours), x) < 1e-5
    assert 0.0 < relative_error(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs)) < 1e-3


def _flow_map(optimizer):
    keras.utils.set_random_seed(0)
    flow_map = FlowMap(MLP(data_size=2, width=32, depth=2), averages=(), horizon=300)
    flow_map.compile(optimizer, jit_compile="auto" if BACKEND == "torch" else BACKEND == "jax")
    return flow_map


def _trained(optimizer, steps):
    x = np.random.default_rng(1).standard_normal((512, 2)).astype("float32") * 0.3 + 1.0
    flow_map = _flow_map(optimizer)
    settings = dict(batch_size=64, epochs=steps // 8, shuffle=False, verbose=0)
    losses = flow_map.fit(x, **settings).history["v_error"]
    return flow_map, losses


@pytest.mark.any_backend
def test_a_run_ends_where_adams_does_with_three_quarters_of_the_state():
    theirs, expected = _trained(keras.optimizers.Adam(3e-3), 160)
    ours, losses = _trained(Adam(3e-3), 160)
    assert expected[-1] < 0.7 * expected[0]
    assert np.mean(losses[-8:]) == pytest.approx(np.mean(expected[-8:]), rel=0.05)
    weights = theirs.network.count_params()
    for optimizer, bytes_a_weight in ((theirs.optimizer, (4, 4)), (ours.optimizer, (2, 4))):
        found = (_bytes(optimizer, name) / weights for name in ("momentum", "velocity"))
        assert tuple(found) == bytes_a_weight


def test_a_saved_run_goes_on_with_the_same_weights(tmp_path):
    whole, _ = _trained(Adam(3e-3), 16)
    half, _ = _trained(Adam(3e-3), 8)
    half.save(tmp_path / "half.keras")
    again = keras.saving.load_model(tmp_path / "half.keras")
    assert again.optimizer.momentum_dtype == "bfloat16"
    x = np.random.default_rng(1).standard_normal((512, 2)).astype("float32") * 0.3 + 1.0
    again.fit(x, batch_size=64, epochs=1, shuffle=False, verbose=0)
    pairs = zip(whole.network.weights, again.network.weights, strict=True)
    assert max(relative_error(*(ops.convert_to_numpy(w) for w in pair)) for pair in pairs) < 1e-6


def test_accumulated_gradients_step_once_as_their_mean():
    start, (g, h) = np.ones(3, "float32"), RNG.standard_normal((2, 3)).astype("float32")
    one, two = keras.Variable(start), keras.Variable(start)
    Adam(0.1).apply([ops.convert_to_tensor((g + h) / 2.0)], [one])
    accumulating = Adam(0.1, gradient_accumulation_steps=2)
    for gradient in (g, h):
        accumulating.apply([ops.convert_to_tensor(gradient)], [two])
    np.testing.assert_allclose(ops.convert_to_numpy(two), ops.convert_to_numpy(one), atol=1e-6)


def test_a_second_moment_moves_where_bfloat16_would_freeze_it():
    v = half = np.float32(1.0)
    weight = keras.Variable(np.ones(1, "float32"), dtype="bfloat16")
    optimizer = Adam(0.0)
    optimizer.build([weight])
    (velocity,) = (u for u in optimizer.variables if u.path.endswith("velocity"))
    velocity.assign([1.0])
    for _ in range(200):
        v, half = v + 1e-3 * (4.0 - v), _rounded(half + np.float32(1e-3) * (4.0 - half))
        optimizer.apply([ops.cast([2.0], "bfloat16")], [weight])
    assert half == 1.0 and v > 1.5
    assert ops.convert_to_numpy(velocity)[0] == pytest.approx(v, rel=1e-5)


def test_clipping_is_that_of_keras():
    weight, gradient = keras.Variable(np.ones((8, 4), "float32")), 100.0 * np.ones((8, 4))
    optimizer = Adam(0.1, global_clipnorm=1.0)
    optimizer.apply([ops.convert_to_tensor(gradient.astype("float32"))], [weight])
    (momentum,) = (u for u in optimizer.variables if u.path.endswith("momentum"))
    expected = 0.1 * gradient / np.linalg.norm(gradient)
    np.testing.assert_allclose(
        ops.convert_to_numpy(ops.cast(momentum, "float32")), expected, rtol=2.0**-8
    )


SHARDED = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import json, keras
from keras_meanflow.optimizers import Adam
mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"))
layouts = keras.distribution.LayoutMap(mesh)
layouts[".*dense/kernel"] = (None, "model")
keras.distribution.set_distribution(
    keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch"))
net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="dense")])
adam = Adam()
adam.build(net.trainable_variables)
for variable in (net.trainable_variables[0], adam._momentums[0], adam._velocities[0]):
    print(json.dumps([list(s.data.shape) for s in variable.value.addressable_shards]))
"""


@pytest.mark.skipif(BACKEND != "jax", reason="Keras divides weights over devices on JAX alone")
def test_the_state_is_divided_over_devices_like_its_weight():
    command = [sys.executable, "-W", "ignore", "-c", SHARDED]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[[4, 4], [4, 4]]] * 3


@pytest.mark.any_backend
def test_what_it_cannot_do_is_refused_and_recipes_can_choose_it():
    with pytest.raises(ValueError, match="no amsgrad"):
        Adam(amsgrad=True)
    with pytest.raises(ValueError, match="bfloat16 or float32. Received: float16"):
        Adam(momentum_dtype="float16")
    with pytest.raises(ValueError, match="beta_1 up to 0.99. Received: 0.999"):
        Adam(beta_1=0.999)
    chosen = compile_with("adam-bf16", 1e-3, width=8, steps=9, warmup_steps=2)["optimizer"]
    assert isinstance(chosen, Adam) and chosen.momentum_dtype == "bfloat16"
    with pytest.raises(ValueError, match="optimizer is one of adam, adam-bf16, splus"):
        compile_with("lion", 1e-3, width=8, steps=9, warmup_steps=2)
