"""The ways to compute du/dt, against central differences in float64 and the closed form."""

import numpy as np
import pytest
from keras import ops
from oracles import Gaussian, central_difference, randomise, relative_error

from keras_meanflow import FlowMap
from keras_meanflow.backend.random import Keys
from keras_meanflow.networks import MLP, DiT
from keras_meanflow.objectives import MeanFlow
from keras_meanflow.parts.derivatives import CentralDifference, ForwardMode, ScaledCentralDifference

DERIVATIVES = [
    ForwardMode(),
    CentralDifference(step=5e-3),
    ScaledCentralDifference(step=2e-3),
]
BY_CLASS = pytest.mark.parametrize("derivative", DERIVATIVES, ids=lambda d: type(d).__name__)


def _arguments(shape, rows=4):
    rng = np.random.default_rng(0)
    z, v = rng.standard_normal((2, rows, *shape)).astype("float32")
    t = np.array([0.9, 0.5, 1.0, 0.3][:rows], "float32")
    r = np.array([0.2, 0.5, 0.0, 0.1][:rows], "float32")
    return (z, r, t), (v, np.zeros_like(r), np.ones_like(t))


def _tensors(arrays):
    return [ops.convert_to_tensor(a) for a in arrays]


@BY_CLASS
def test_the_derivative_of_the_gaussian_is_the_one_in_float64(derivative):
    primals, tangents = _arguments((3, 2))
    found = derivative(Gaussian(), _tensors(primals), _tensors(tangents))
    double = [np.asarray(a, "float64") for a in primals]
    expected = central_difference(Gaussian().numpy, double, tangents)
    assert relative_error(ops.convert_to_numpy(found), expected) < 2e-4


@BY_CLASS
def test_the_derivative_of_a_network_is_that_of_forward_mode(derivative):
    dit = randomise(DiT(image_size=4, channels=2, patch_size=2, width=16, depth=1, heads=2))
    primals, tangents = (_tensors(a) for a in _arguments((4, 4, 2)))
    exact = ForwardMode()(dit, primals, tangents)
    found = derivative(dit, primals, tangents)
    assert relative_error(*map(ops.convert_to_numpy, (found, exact))) < 2e-3


def test_a_scaled_step_follows_the_mean_modulus_of_the_row():
    (z, r, t), (v, *rest) = _arguments((3, 5, 2))
    z[1] *= 10.0
    h = ScaledCentralDifference(step=1e-3).length(_tensors((z, r, t)), _tensors((v, *rest)))
    modulus = [np.abs(a[..., 0] + 1j * a[..., 1]).mean(axis=(1, 2)) for a in (z, v)]
    np.testing.assert_allclose(ops.convert_to_numpy(h), 1e-3 * sum(modulus), rtol=1e-5)
    still = ScaledCentralDifference().length(_tensors((0 * z, r, t)), _tensors((0 * v, *rest)))
    np.testing.assert_allclose(ops.convert_to_numpy(still), 1e-9, rtol=1e-5)


@pytest.mark.parametrize("kind", [CentralDifference, ScaledCentralDifference])
def test_a_step_is_positive(kind):
    with pytest.raises(ValueError, match="step must exceed 0. Received: 0.0"):
        kind(step=0.0)


@BY_CLASS
def test_meanflow_regresses_on_the_derivative_that_it_is_given(derivative):
    rng = np.random.default_rng(1)
    x = ops.convert_to_tensor(rng.standard_normal((16, 3, 2)).astype("float32"))
    exact, objective = MeanFlow(), MeanFlow(derivative=derivative)
    draws = exact.draw(Keys(seed=0, step=0), x)
    problems = [o(Gaussian(), x, None, draws) for o in (objective, exact)]
    targets = [ops.convert_to_numpy(problem.target) for problem in problems]
    assert relative_error(*targets) < 1e-4


@BY_CLASS
def test_a_model_trains_with_it_and_remembers_it(derivative):
    network = randomise(MLP(data_size=2, width=8, depth=1))
    flow_map = FlowMap(network, MeanFlow(derivative=derivative))
    flow_map.compile("sgd")
    x = np.random.default_rng(0).standard_normal((8, 2)).astype("float32")
    logs = flow_map.fit(x, batch_size=8, verbose=0).history
    assert np.isfinite(logs["loss"][0]) and logs["du_dt_norm"][0] > 0.0
    again = FlowMap.from_config(flow_map.get_config())
    assert again.objective.derivative == derivative
