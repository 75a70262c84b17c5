"""FlowConsist on Gaussians: the push follows the KL divergence, the tangent lowers variance."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from oracles import Gaussian, randomise

from keras_meanflow import FlowMap, Guidance, MeanFlow
from keras_meanflow.backend import BACKEND
from keras_meanflow.backend.random import Keys
from keras_meanflow.networks import MLP
from keras_meanflow.objectives import FlowConsist
from keras_meanflow.parts import SquaredError

ROWS = 4096
REAL = Gaussian(mu=0.7, s=0.5)


class Generator:
    """The real velocity on the diagonal; off it, jumps from noise e to `m + std e` at t = 1."""

    def __init__(self, m, std):
        self.m, self.std = m, std

    def __call__(self, z, r, t, condition=None):
        jump = z - (self.m + self.std * z)
        return ops.where(ops.reshape(r < t, (-1, 1)), jump, REAL(z, t, t))

    def drop(self, condition, drop):
        return condition


def _rectification(generator, objective=None):
    """The rows of the rectification at t = 1: noise, push, weight; and the problem."""
    objective = objective or FlowConsist(companion=Gaussian(generator.m, generator.std))
    x = ops.zeros((ROWS, 1))
    draws = objective.draw(Keys(seed=0, step=0), x)
    one = ops.ones((ROWS,))
    draws = draws._replace(mean_flow=draws.mean_flow._replace(t=one, r=0.5 * one))
    problem = objective(generator, x, None, draws)
    rows = slice(ROWS, 2 * ROWS)
    arrays = problem.inputs["z"], problem.target, problem.weight, problem.self_share
    return (*(ops.convert_to_numpy(a)[rows] for a in arrays), problem)


@pytest.mark.parametrize(("m", "std"), [(0.0, 0.5), (1.5, 0.5), (0.7, 0.2), (0.7, 1.1), (1.2, 0.3)])
def test_the_push_has_the_sign_of_the_gradient_of_the_kl_divergence(m, std):
    """du/dm = -1 and du/dlog std = -std e at t = 1, under `weight ||u - sg(u + push)||^2`."""
    e, push, weight, share, _ = _rectification(Generator(m, std))
    np.testing.assert_array_equal(share, 1.0)
    by_m = np.mean(-2.0 * weight * push[:, 0] * -1.0)
    by_log_std = np.mean(-2.0 * weight * push[:, 0] * -std * e[:, 0])
    kl_by_m = (m - REAL.mu) / REAL.s**2
    kl_by_log_std = std**2 / REAL.s**2 - 1.0
    for found, exact in ((by_m, kl_by_m), (by_log_std, kl_by_log_std)):
        if abs(exact) > 1e-6:
            assert np.sign(found) == np.sign(exact)
        else:
            assert abs(found) < 0.02


def test_nothing_is_pushed_where_the_companion_is_the_diagonal():
    """For any samples: the two velocities are compared at the same noisy state."""
    objective = FlowConsist(companion=lambda z, r, t, condition: REAL(z, t, t))
    _, push, weight, _, problem = _rectification(Generator(2.0, 0.1), objective)
    np.testing.assert_array_equal(push, 0.0)
    np.testing.assert_array_equal(weight, 0.5)
    assert ops.convert_to_numpy(problem.logs["rectification_norm"][0]).max() == 0.0


def test_the_companion_learns_the_velocity_of_the_samples():
    e, _, _, _, problem = _rectification(Generator(0.3, 0.4))
    second = problem.second
    s, z, v = (
        ops.convert_to_numpy(a)[:, None] if a is second.inputs["t"] else ops.convert_to_numpy(a)
        for a in (second.inputs["t"], second.inputs["z"], second.target)
    )
    samples = 0.3 + 0.4 * e
    np.testing.assert_allclose(z - s * v, samples, atol=1e-5)  # z_s - s (e' - x^) = x^
    np.testing.assert_array_equal(
        *map(ops.convert_to_numpy, (second.inputs["r"], second.inputs["t"]))
    )
    error = v - Gaussian(0.3, 0.4).numpy(z, s[:, 0], s[:, 0])
    assert abs(error.mean()) < 4.0 * error.std() / np.sqrt(ROWS)


def test_along_the_marginal_velocity_the_targets_error_is_that_of_v_alone():
    """`u - target = E[v | z] - v`: without the factor `1 - (t - r) d_z u` of the tangent v."""
    rng = np.random.default_rng(0)
    x = ops.convert_to_tensor((0.7 + 0.5 * rng.standard_normal((64, 3, 2))).astype("float32"))
    objective = FlowConsist(companion=REAL)
    draws = objective.draw(Keys(seed=0, step=1), x)
    problem = objective(REAL, x, None, draws)
    z, r, t = (ops.convert_to_numpy(problem.inputs[name])[:64] for name in "zrt")
    error = REAL.numpy(z, r, t) - ops.convert_to_numpy(problem.target)[:64]
    v = ops.convert_to_numpy(draws.mean_flow.e) - ops.convert_to_numpy(x)
    np.testing.assert_allclose(error, REAL.numpy(z, t, t) - v, atol=2e-5)


def _mlp(seed):
    return randomise(MLP(data_size=3, width=8, depth=1, num_classes=2), seed=seed)


@pytest.mark.any_backend
def test_both_networks_train_and_the_logs_leave_the_push_out(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 3)).astype("float32"), np.arange(16, dtype="int32") % 2
    plain = MeanFlow(guidance=Guidance(omega=1.0, kappa=0.3), loss=SquaredError())
    before = FlowMap(_mlp(1), plain, averages=())
    objective = FlowConsist.of(plain, before.copied_network(None))
    flow_map = FlowMap(before.network, objective, averages=(0.9,))
    flow_map.compile(keras.optimizers.SGD(1e-3), jit_compile=BACKEND == "jax")
    before = [ops.convert_to_numpy(v.value) for v in flow_map.trainable_variables]
    logs = flow_map.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False).history
    after = [ops.convert_to_numpy(v.value) for v in flow_map.trainable_variables]
    moved = [np.abs(a - b).max() > 0.0 for a, b in zip(before, after, strict=True)]
    assert len(moved) == 2 * len(flow_map.network.trainable_variables) and np.mean(moved) > 0.9
    assert all(np.isfinite(logs[name]).all() for name in objective.logs)
    flow_map.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    for a, b in zip(restored.companion.weights, flow_map.companion.weights, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (a, b)))

    # u_error and v_error are those of the MeanFlow rows, whatever the push.
    data = (ops.convert_to_tensor(x), ops.convert_to_tensor(y))
    errors = []
    for rectification in (0.5, 50.0):
        flow_map.set_objective(dataclasses.replace(objective, rectification=rectification))
        flow_map.reset_metrics()
        inputs, target, weight = flow_map.build_problem(data, training=True).as_data()
        flow_map.compute_metrics(inputs, target, flow_map(inputs), weight)
        logs = flow_map.get_metrics_result()
        errors.append([float(logs["u_error"]), float(logs["v_error"])])
    assert errors[0] == errors[1]
