"""SPlus: against the released optimizers step by step, and further laws."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from golden import splus as golden
from keras import ops

from keras_meanflow import FlowMap, FlowMatching
from keras_meanflow.backend import BACKEND, compiled
from keras_meanflow.networks import MLP
from keras_meanflow.optimizers import SPlus, compile_with, splus, splus_rate

GOLDEN = np.load(Path(golden.__file__).with_suffix(".npz"))


def variables(values):
    """A Keras variable for each name, which becomes its path."""
    made = []
    for name, value in values.items():
        scope, _, leaf = name.rpartition("/")
        with keras.name_scope(scope or "model"):
            made.append(keras.Variable(value, name=leaf))
    return made


def numpy(values):
    return [np.array(ops.convert_to_numpy(value)) for value in values]


def stepper(optimizer, over):
    """`step(gradients)` moves the variables; compiled on JAX, where single operations are slow."""
    optimizer.build(over)
    state = [*over, *optimizer.variables]

    def step(gradients):
        optimizer.apply([ops.convert_to_tensor(g) for g in gradients], over)
        return [variable.value for variable in state]

    if BACKEND != "jax":
        return step
    compiled_step = compiled(step, state)

    def assign(gradients):
        values = compiled_step([variable.value for variable in state], list(gradients))
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)

    return assign


def normal(*shape, seed=0):
    rng = np.random.Generator(np.random.Philox(key=seed))
    return rng.standard_normal(shape).astype("float32")


@pytest.mark.parametrize("order", ["optax", "torch"])
def test_every_step_is_that_of_the_released_optimizer(order):
    optimizer = SPlus(
        golden.RATE,
        beta_2=golden.BETA_2,
        ema_momentum=golden.AVERAGE,
        refresh_every=golden.EVERY,
        order=order,
        nonstandard=("embed", "layernorm") if order == "optax" else (),
        **golden.ARGUMENTS,
    )
    theta = variables(golden.weights())
    step = stepper(optimizer, theta)
    for gradient, expected in zip(golden.gradients(), GOLDEN[f"{order}_weights"], strict=True):
        step(gradient.values())
        found = golden.flat(dict(zip(golden.SHAPES, numpy(theta), strict=True)))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    optimizer.finalize_variable_values(theta)
    found = golden.flat(dict(zip(golden.SHAPES, numpy(theta), strict=True)))
    np.testing.assert_allclose(found, GOLDEN[f"{order}_average"], atol=1e-5)


@pytest.mark.parametrize("batches", [None, 2])
def test_the_basis_changes_at_the_first_step_and_at_every_third_and_only_then(batches):
    theta = variables({"kernel": normal(4, 4)})
    optimizer = SPlus(refresh_every=3, gradient_accumulation_steps=batches)
    step, changed = stepper(optimizer, theta), []
    basis = optimizer._sides[0][0].basis
    for i in range(7 * (batches or 1)):
        before = numpy([basis])[0]
        step([normal(4, 4, seed=i)])
        changed.append(bool((numpy([basis])[0] != before).any()))
    last_of_step = changed[(batches or 1) - 1 :: batches or 1]
    assert last_of_step == [True, False, True, False, False, True, False]
    assert sum(changed) == 3


def test_no_factor_is_decomposed_at_the_other_steps(monkeypatch):
    decomposed = []

    def count(matrix):
        decomposed.append(matrix.shape)
        return matrix

    monkeypatch.setattr(splus, "eigenvectors", count)
    theta = variables({"kernel": normal(4, 4)})
    optimizer = SPlus(refresh_every=2)
    for expected in (2, 4, 4, 6):
        optimizer.apply([ops.convert_to_tensor(normal(4, 4))], theta)
        assert len(decomposed) == expected


RULES = [  # name, shape, arguments, shape as a matrix, sides with a factor, scale
    ("kernel", (6, 4), {}, (6, 4), 2, 2 / 10),
    ("bias", (6,), {}, (6,), 0, 1e-3),
    ("scalar", (), {}, (), 0, 1e-3),
    ("Embedding_1/embeddings", (6, 4), {}, (6, 4), 2, 1e-3),
    ("Embedding_1/embeddings", (6, 4), {"nonstandard_update": "sign"}, (6, 4), 0, 1e-3),
    ("Embedding_1/embeddings", (6, 4), {"nonstandard": ()}, (6, 4), 2, 2 / 10),
    ("kernel", (6, 4), {"max_dim": 6}, (6, 4), 1, 1e-3),
    ("kernel", (6, 4), {"max_dim": 6, "order": "torch"}, (6, 4), 1, 2 / 10),
    ("kernel", (6, 4), {"max_dim": 3, "nonstandard_scale": 0.1}, (6, 4), 0, 0.1),
    ("kernel", (3, 2, 1, 4), {}, (3, 2, 1, 4), 0, 1e-3),
    ("kernel", (3, 2, 1, 4), {"fold": True}, (6, 4), 2, 2 / 10),
    ("kernel", (6, 2, 2), {"fold": True}, (6, 4), 2, 2 / 10),
]


@pytest.mark.parametrize(("name", "shape", "arguments", "matrix", "sides", "scale"), RULES)
def test_a_step_has_the_root_mean_square_of_its_rule(name, shape, arguments, matrix, sides, scale):
    (theta,) = variables({name: np.zeros(shape, "float32")})
    optimizer = SPlus(0.5, weight_decay=None, **arguments)
    optimizer.build([theta])
    assert optimizer._rules[0].shape == matrix
    assert len(optimizer._sides[0]) == sides
    for side in optimizer._sides[0]:
        size = matrix[side.axis]
        side.basis.assign(np.linalg.qr(normal(size, size))[0])
    optimizer.update_step(ops.convert_to_tensor(normal(*shape, seed=1)), theta, 0.5)
    moved = numpy([theta])[0]
    assert np.sqrt(np.mean(moved**2)) == pytest.approx(0.5 * scale, rel=1e-5)
    if not sides:
        np.testing.assert_allclose(np.abs(moved), 0.5 * scale, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e20])
def test_a_gradient_that_is_not_finite_leaves_its_variable_and_its_state(bad):
    theta = variables({"a/kernel": normal(4, 4), "b/kernel": normal(4, 4)})
    optimizer = SPlus(refresh_every=2, use_ema=False)
    optimizer.build(theta)
    step = stepper(optimizer, theta)
    step([normal(4, 4, seed=1)] * 2)
    broken = np.where(np.eye(4) > 0, bad, 1.0).astype("float32")
    side, momentum = optimizer._sides[0][0], optimizer._momentums[0]
    before = numpy([theta[0], momentum, side.factor])
    step([broken, normal(4, 4, seed=2)])  # a refresh is due
    for old, new in zip(before, numpy([theta[0], momentum, side.factor]), strict=True):
        np.testing.assert_array_equal(old, new)
    assert np.abs(numpy([theta[1]])[0] - before[0]).max() > 0.01
    step([normal(4, 4, seed=3)] * 2)
    assert all(np.isfinite(value).all() for value in numpy([*theta, *optimizer.variables]))


def test_the_basis_stays_if_the_decomposition_fails(monkeypatch):
    monkeypatch.setattr(splus, "eigenvectors", lambda matrix: matrix * float("nan"))
    theta = variables({"kernel": normal(4, 4)})
    optimizer = SPlus()
    optimizer.apply([ops.convert_to_tensor(normal(4, 4, seed=1))], theta)
    np.testing.assert_array_equal(numpy([optimizer._sides[0][0].basis])[0], np.eye(4))
    assert np.isfinite(numpy(theta)[0]).all()


def test_two_batches_accumulated_are_one_step_with_the_mean_gradient():
    found = []
    for batches in (None, 2):
        theta = variables({"kernel": normal(4, 4), "bias": normal(4)})
        optimizer = SPlus(refresh_every=2, gradient_accumulation_steps=batches)
        step = stepper(optimizer, theta)
        for i in range(3):
            pair = [[normal(4, 4, seed=2 * i + j), normal(4, seed=2 * i + j)] for j in (0, 1)]
            for gradients in (
                pair if batches else [[(a + b) / 2 for a, b in zip(*pair, strict=True)]]
            ):
                step(gradients)
        found.append(numpy([*theta, *optimizer._model_variables_moving_average]))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_weight_decay_shrinks_all_but_the_excluded_by_rate_times_scale():
    theta = variables({"kernel": np.ones((4, 4), "float32"), "bias": np.ones(4, "float32")})
    optimizer = SPlus(0.5, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.apply([ops.zeros((4, 4)), ops.zeros((4,))], theta)
    np.testing.assert_allclose(numpy(theta)[0], 1 - 0.5 * 0.1 * 2 / 8, rtol=1e-6)
    np.testing.assert_array_equal(numpy(theta)[1], 1.0)


def model(**kwargs):
    """Two square layers, data and a compiled SPlus."""
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(4)])
    net.compile(SPlus(0.2, refresh_every=2, **kwargs), loss="mse")
    return net, normal(24, 4, seed=5), normal(24, 4, seed=6)


def test_training_goes_on_bit_for_bit_after_saving_and_loading(tmp_path):
    net, x, y = model(weight_decay=1e-3, fold=True, nonstandard=("embed", "out"))
    net.fit(x, y, batch_size=8, verbose=0, shuffle=False)
    net.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    assert loaded.optimizer.get_config() == net.optimizer.get_config()
    for one in (net, loaded):
        one.fit(x, y, batch_size=8, verbose=0, shuffle=False)
    for a, b in zip(
        [*net.trainable_variables, *net.optimizer.variables],
        [*loaded.trainable_variables, *loaded.optimizer.variables],
        strict=True,
    ):
        np.testing.assert_array_equal(*numpy([a, b]))


def test_evaluation_sees_the_average_and_the_weights_after_fit_are_it():
    net, x, y = model(order="torch", ema_momentum=0.9, weight_decay=None)
    after = []
    for i in range(0, 24, 8):
        net.train_on_batch(x[i : i + 8], y[i : i + 8])
        after.append(numpy(net.trainable_variables))
    share = 0.9 ** np.arange(2, -1, -1)
    w1, b1, w2, b2 = (
        sum(s * w for s, w in zip(share, ws, strict=True)) / sum(share)
        for ws in zip(*after, strict=True)
    )
    loss = net.evaluate(x, y, verbose=0, callbacks=[keras.callbacks.SwapEMAWeights()])
    assert loss == pytest.approx(np.mean(((x @ w1 + b1) @ w2 + b2 - y) ** 2), rel=1e-5)
    np.testing.assert_allclose(numpy(net.trainable_variables)[0], after[-1][0], atol=1e-6)
    for _ in range(2):  # on JAX a shared buffer would be donated twice
        net.fit(x, y, batch_size=8, verbose=0)
        average = net.optimizer._model_variables_moving_average[0]
        np.testing.assert_array_equal(*numpy([net.trainable_variables[0], average]))


def test_half_precision_has_its_state_in_float32():
    (theta,) = variables({"kernel": normal(4, 4)})
    half = keras.Variable(normal(4, 4), dtype="bfloat16", name="half")
    optimizer = SPlus(use_ema=False)
    optimizer.build([theta, half])
    kinds = {variable.dtype for variable in optimizer.variables[2:]}
    assert kinds == {"float32"}
    optimizer.apply([ops.convert_to_tensor(normal(4, 4)), ops.ones((4, 4), "bfloat16")])
    assert np.abs(ops.convert_to_numpy(ops.cast(half, "float32")) - normal(4, 4)).max() > 0.01


def test_mixed_float16_trains_through_the_scaled_loss():
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, dtype="mixed_float16")])
    scaled = keras.optimizers.LossScaleOptimizer(SPlus(0.2, refresh_every=2))
    net.compile(scaled, loss="mse")
    x = normal(64, 4, seed=5)
    losses = net.fit(x, x, batch_size=8, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"beta_1": 1.0}, "beta_1 must be in"),
        ({"ema_momentum": 0.0}, "ema_momentum must be in"),
        ({"nonstandard": "embed"}, "nonstandard is a tuple"),
        ({"refresh_every": 0}, "refresh_every is a whole number"),
        ({"order": "paper"}, "order is one of"),
        ({"nonstandard_update": "adam"}, "nonstandard_update is one of"),
    ],
)
def test_arguments_out_of_range_are_errors(arguments, text):
    with pytest.raises(ValueError, match=text):
        SPlus(**arguments)


def test_a_flow_map_trains_with_it():
    x = 0.7 + 0.1 * normal(256, 2)
    flow_map = FlowMap(MLP(data_size=2, width=16, depth=1), FlowMatching(), averages=(0.9,))
    flow_map.compile(**compile_with("splus", 5e-3, width=16, steps=80, warmup_steps=8))
    history = flow_map.fit(x, batch_size=32, epochs=10, verbose=0).history["v_error"]
    assert history[-1] < 0.6 * history[0]


@pytest.mark.any_backend
def test_the_knob_is_adam_or_splus_and_nothing_else():
    adam = compile_with("adam", 1e-3, width=8, steps=10, warmup_steps=0, jit_compile=False)
    assert isinstance(adam["optimizer"], keras.optimizers.Adam) and adam["jit_compile"] is False
    with pytest.raises(ValueError, match="one of adam, adam-bf16, splus"):
        compile_with("sgd", 1e-3, width=8, steps=1, warmup_steps=1)


@pytest.mark.parametrize("last_rate", [0.0, 0.25, 1.0])
def test_the_rate_ends_at_its_share(last_rate):
    knobs = dict(width=8, steps=20, warmup_steps=10, last_rate=last_rate)
    rate = compile_with("adam", 2e-3, **knobs)["optimizer"]._learning_rate
    now = [float(rate(step)) for step in (0, 10, 15, 20)]
    assert now == pytest.approx([0.0, 2e-3, 1e-3 * (1 + last_rate), 2e-3 * last_rate], abs=1e-9)


def test_the_rate_moves_a_square_matrix_by_twice_adams():
    assert splus_rate(1e-3, 96) * 2 / (96 + 96) == pytest.approx(2e-3)


_RUN = """
import contextlib, json, os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import keras, numpy as np
from keras_meanflow.optimizers import SPlus
jax, two = keras.config.backend() == "jax", contextlib.nullcontext()
if not jax:
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
x, y = np.random.default_rng(0).standard_normal((2, 40, 4)).astype("float32")
for scope in (contextlib.nullcontext(), two):
    if jax and scope is two:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    keras.utils.set_random_seed(1)
    with scope:
        net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(4)])
        net.compile(SPlus(0.2, refresh_every=2), loss="mse", jit_compile=jax)
    loss = net.fit(x, y, batch_size=8, shuffle=False, verbose=0).history["loss"]
    weights = [keras.ops.convert_to_numpy(w).tolist() for w in net.trainable_variables]
    print(json.dumps([loss, *weights]))
"""


@pytest.mark.skipif(BACKEND == "torch", reason="Keras 3.15 has no data parallelism on PyTorch")
def test_two_devices_take_the_steps_of_one():
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": BACKEND}
    command = [sys.executable, "-W", "ignore", "-c", _RUN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
