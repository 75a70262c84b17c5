"""Networks of an objective: teachers are frozen, companions train, both are saved."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from oracles import randomise

from keras_meanflow import FlowMap, MeanFlow
from keras_meanflow.backend import BACKEND
from keras_meanflow.networks import MLP, Network
from keras_meanflow.objectives import NoisyVelocity, Objective, Problem
from keras_meanflow.objectives.problem import arguments_of, data_of, inputs_of
from keras_meanflow.parts import SquaredError, Uniform
from keras_meanflow.parts.couplings import Independent
from keras_meanflow.parts.part import part
from keras_meanflow.parts.paths import Linear
from keras_meanflow.parts.times import TimeSampler

X = np.random.default_rng(0).standard_normal((16, 3)).astype("float32")
Y = (np.arange(16) % 3).astype("int32")


@part
class Taught(Objective):
    """Regress on a teacher's velocity."""

    teacher: Network
    times: TimeSampler = Uniform(fraction_r_equals_t=0.5)
    loss: keras.losses.Loss = SquaredError()
    label_dropout: float = 0.0
    path: Linear = Linear()
    coupling: Independent = Independent()

    logs = ("v_error", "u_error")

    def __call__(self, u, x, condition, draws):
        z, _ = self.path(data_of(x), draws.e, draws.t)
        inputs = inputs_of(z, draws.r, draws.t, condition)
        return Problem(inputs=inputs, target=self.teacher(z, draws.t, draws.t, condition))


@part
class TaughtTogether(Taught):
    """The same, and a companion that learns the data's velocity at t / 2, weighted by t."""

    companion: Network

    logs = (*Taught.logs, "second_error")

    def __call__(self, u, x, condition, draws):
        problem = super().__call__(u, x, condition, draws)
        z, v = self.path(data_of(x), draws.e, 0.5 * draws.t)
        inputs = inputs_of(z, draws.r, draws.t, condition)
        second = Problem(inputs=inputs, target=v, weight=draws.t)
        return dataclasses.replace(problem, second=second)


@keras.saving.register_keras_serializable("tests")
class TwoHeads(MLP):
    """u, and a second output: u times `scale`, a trained number."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = self.add_weight((), "ones", name="scale")

    def u_and_v(self, z, r, t, condition=None):
        u = self(z, r, t, condition)
        return u, ops.stop_gradient(u) * self.scale


@part
class Headed(MeanFlow):
    """MeanFlow whose network's second output learns v."""

    logs = (*MeanFlow.logs, "second_error")

    def __call__(self, u, x, condition, draws):
        problem = super().__call__(u, x, condition, draws)
        _, v = self.path(data_of(x), draws.e, draws.t)
        return dataclasses.replace(problem, second=Problem(inputs=problem.inputs, target=v))

    def predict_both(self, u, inputs, second):
        return ops.concatenate(u.u_and_v(*arguments_of(inputs)))


def _mlp(seed, cls=MLP):
    return randomise(cls(data_size=3, width=8, depth=1, num_classes=3), seed=seed)


JIT = BACKEND == "jax"  # TensorFlow builds its graphs faster without XLA, JAX does not


def _flow_map(objective=None, network=None, jit=False):
    objective = objective or TaughtTogether(teacher=_mlp(1), companion=_mlp(2))
    flow_map = FlowMap(network or _mlp(3), objective, averages=(0.9,))
    flow_map.compile(keras.optimizers.Adam(1e-2), jit_compile=jit or JIT)
    return flow_map


def _fit(flow_map, epochs=1, **kwargs):
    return flow_map.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=False, **kwargs)


def _values(network):
    return [ops.convert_to_numpy(v.value) for v in network.weights]


def _same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_teacher_stays_and_a_companion_trains_under_one_optimizer_outside_the_averages():
    flow_map = _flow_map(jit=BACKEND != "torch")
    teacher, companion = flow_map.objective.teacher, flow_map.objective.companion
    networks = (flow_map.network, teacher, companion)
    before = [_values(network) for network in networks]
    logs = _fit(flow_map).history
    moved = [not _same(old, _values(n)) for old, n in zip(before, networks, strict=True)]
    assert moved == [True, False, True]
    assert not teacher.trainable_variables and np.isfinite(logs["second_error"][0])
    trained = len(flow_map.network.trainable_variables) + len(companion.trainable_variables)
    assert len(flow_map.trainable_variables) == trained
    assert len(flow_map.weights_of(0.9)) == len(flow_map.network.trainable_variables)


def test_the_loss_is_the_sum_of_two_means_and_gradients_stay_apart():
    """A second problem changes neither the first network's steps nor its part of the loss."""
    both = _flow_map()
    problem = both.build_problem((X, Y, np.arange(16.0, dtype="float32")), training=True)
    x, y, weight = problem.as_data()
    prediction = both.call(x)
    loss = both.compute_loss(x, y, prediction, weight)
    first, second = (ops.convert_to_numpy(prediction)[rows] for rows in (slice(16), slice(16, 32)))
    t, target = (ops.convert_to_numpy(a) for a in (problem.inputs["t"], problem.target))
    e = ops.convert_to_numpy(both.objective.draw(both.keys(16), X, Y).e)
    expected = np.mean(np.arange(16) * np.sum((first - target) ** 2, axis=1))
    expected += np.mean(np.arange(16) * t * np.sum((second - (e - X)) ** 2, axis=1))
    assert float(ops.convert_to_numpy(loss)) == pytest.approx(expected, rel=1e-5)

    alone = _flow_map(Taught(teacher=_mlp(1)))
    for flow_map in (both, alone):
        flow_map.fit(X, Y, batch_size=8, epochs=2, verbose=0, shuffle=False)
    pairs = zip(_values(both.network), _values(alone.network), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_both_are_saved_and_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole, first = _flow_map(), _flow_map()
    _fit(whole, 2)
    _fit(first, 1)
    first.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    assert _same(_values(loaded.objective.teacher), _values(first.objective.teacher))
    assert loaded.objective.teacher.trainable is False
    _fit(loaded, 1)
    assert _same(_values(loaded.network), _values(whole.network))
    assert _same(_values(loaded.objective.companion), _values(whole.objective.companion))
    again = _flow_map(TaughtTogether(teacher=_mlp(5), companion=_mlp(6)))
    again.optimizer.build(again.trainable_variables)
    again.load_weights(tmp_path / "half.keras")
    assert _same(_values(again.objective.teacher), _values(first.objective.teacher))
    assert _same(_values(again.objective.companion), _values(first.objective.companion))


def test_an_evaluation_uses_the_average_of_the_network_and_the_companion_as_it_is():
    flow_map = _flow_map()
    _fit(flow_map, 2)
    averaged = flow_map.evaluate(X, Y, verbose=0, return_dict=True)
    flow_map.average = None
    raw = flow_map.evaluate(X, Y, verbose=0, return_dict=True)
    assert averaged["second_error"] == pytest.approx(raw["second_error"], rel=1e-6)
    assert averaged["v_error"] != pytest.approx(raw["v_error"], rel=1e-3)


def test_a_head_is_a_second_output_of_the_same_rows():
    network = _mlp(3, TwoHeads)
    flow_map, plain = _flow_map(Headed(), network), _flow_map(MeanFlow(), _mlp(3, TwoHeads))
    logs = _fit(flow_map, 2).history
    _fit(plain, 2)
    assert np.isfinite(logs["second_error"]).all()
    assert ops.convert_to_numpy(network.scale) != 1.0
    for a, b in zip(network.weights, plain.network.weights, strict=True):
        if a is not network.scale:  # it gets u under a stop-gradient: u learns as without it
            np.testing.assert_allclose(*map(ops.convert_to_numpy, (a, b)), atol=2e-6)


def test_a_wrapped_objective_keeps_its_networks():
    inner = TaughtTogether(teacher=_mlp(1), companion=_mlp(2))
    flow_map = _flow_map(NoisyVelocity(objective=inner, k=0.1))
    assert flow_map.teachers == [inner.teacher] and flow_map.companion is inner.companion
    _fit(flow_map)


def test_a_network_cannot_be_its_own_teacher_nor_one_of_another_shape():
    network = _mlp(1)
    with pytest.raises(ValueError, match="another one than the network that is trained"):
        FlowMap(network, Taught(teacher=network))
    other = MLP(data_size=4, width=8, depth=1)
    with pytest.raises(ValueError, match=r"of its shape, \(3,\). Received: MLP"):
        FlowMap(network, TaughtTogether(teacher=_mlp(2), companion=other))


def test_a_preset_asks_for_the_objective_whose_networks_it_does_not_hold(tmp_path):
    flow_map = _flow_map()
    flow_map.save_to_preset(tmp_path / "preset")
    with pytest.raises(ValueError, match="TaughtTogether has networks of its own"):
        FlowMap.from_preset(tmp_path / "preset")
    loaded = FlowMap.from_preset(tmp_path / "preset", objective=MeanFlow())
    np.testing.assert_array_equal(loaded.generate([0, 1]), flow_map.generate([0, 1]))


def test_the_velocity_of_a_row_is_the_teachers():
    flow_map = _flow_map()
    problem = flow_map.build_problem((X, Y), training=True)
    z, t = problem.inputs["z"], problem.inputs["t"]
    expected = flow_map.objective.teacher(z, t, t, Y)
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (problem.target, expected)), rtol=1e-6)
