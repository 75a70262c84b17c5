"""The curriculum on a model: what it weighs, when it moves, what it logs, how it resumes."""

import csv

import keras
import numpy as np
import pytest
from keras import ops

from keras_meanflow import Curriculum, FlowMap, LogitNormal, MeanFlow
from keras_meanflow.backend import BACKEND
from keras_meanflow.backend.random import Keys
from keras_meanflow.flow_map.curriculum import improved_training
from keras_meanflow.networks import MLP
from keras_meanflow.parts import (
    AdaptiveLoss,
    EasyFirst,
    Line,
    MinSNRVelocity,
    Plateau,
    Power,
    ProgressiveGap,
    ShapedGap,
    Steps,
)
from keras_meanflow.training.callbacks.log import Log

RNG = np.random.default_rng(3)
X = RNG.standard_normal((48, 3)).astype("float32")
EVERYTHING = MeanFlow(
    times=EasyFirst(
        fraction_r_equals_t=Line(start=0.75, end=0.25),
        pacing=Plateau(stages=4, patience=1, smoothing=0.0),
    ),
    alpha=MinSNRVelocity(scale=Line(start=2.0, end=1.0)),
    beta=ProgressiveGap(),
)


def _model(objective, *, optimizer=None, **kwargs):
    """A small model; on TensorFlow without XLA, because its compilation takes longest here."""
    keras.utils.set_random_seed(5)
    flow_map = FlowMap(MLP(data_size=3, width=8, depth=1), objective, averages=(0.9,), **kwargs)
    jit = False if BACKEND == "tensorflow" else "auto"
    flow_map.compile(optimizer or keras.optimizers.Adam(1e-2), jit_compile=jit)
    return flow_map


def _fit(flow_map, epochs=2, **kwargs):
    kwargs = {"batch_size": 8, "epochs": epochs, "shuffle": False, "verbose": 0, **kwargs}
    return flow_map.fit(X, **kwargs)


def _numbers(*arrays):
    return [ops.convert_to_numpy(ops.convert_to_tensor(array)) for array in arrays]


# Weights of rows


@pytest.mark.parametrize("s, gap, mean_gap, value", [
    (1.0, 0.0, 0.25, 4 / 3), (1.0, 1.0, 0.25, 0.0), (0.0, 0.7, 0.25, 1.0),
    (0.5, 0.4, 0.2, 0.5 + 0.5 * 0.6 / 0.8),
])  # fmt: skip
def test_beta_is_one_minus_s_plus_lambda_s_times_one_minus_the_gap(s, gap, mean_gap, value):
    beta = ProgressiveGap(s=s)(ops.convert_to_tensor([gap]), 1.0 - mean_gap, 0.3)
    np.testing.assert_allclose(*_numbers(beta, [value]), rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_beta_follows_one_minus_p_to_the_k(exponent):
    beta = ProgressiveGap(s=Power(start=1.0, end=0.0, exponent=exponent))
    for p in (0.0, 0.3, 1.0):
        s = 1.0 - p**exponent
        value = beta(ops.convert_to_tensor([0.6]), 0.75, p)
        np.testing.assert_allclose(*_numbers(value, [1 - s + s * 0.4 / 0.75]), rtol=1e-5)


def test_weights_multiply_the_loss_after_its_normalisation_beta_below_t_alpha_on_it():
    objective = MeanFlow(
        times=LogitNormal(fraction_r_equals_t=0.5),
        loss=AdaptiveLoss(p=1.0, c=0.5),
        alpha=MinSNRVelocity(),
        beta=ProgressiveGap(),
    )
    flow_map = _model(objective, horizon=10)
    flow_map.step.assign(3)
    x = ops.convert_to_tensor(X[:8])
    problem = flow_map.build_problem((x,), training=True)
    prediction = flow_map.call(problem.inputs)
    loss = objective.loss(problem.target, prediction, sample_weight=problem.weight)
    r, t, u, target = _numbers(problem.inputs["r"], problem.inputs["t"], prediction, problem.target)
    error = ((u - target) ** 2).sum(axis=1)
    (gap,) = objective.times.mean_gaps()
    beta = 0.3 + 0.7 * (1 - (t - r)) / (1 - gap)
    alpha = np.minimum((1 - t) ** 2, 5 * t**2) / (t**2 + (1 - t) ** 2)
    weight = np.where(r < t, beta, alpha)
    np.testing.assert_allclose(*_numbers(problem.weight, weight.astype("float32")), rtol=1e-4)
    expected = np.mean(weight * error / (error + 0.5))
    np.testing.assert_allclose(*_numbers(loss, np.float32(expected)), rtol=1e-4)


# The callback


@pytest.mark.any_backend
def test_schedules_given_to_the_callback_train_as_those_given_to_the_objective():
    moving = Line(start=-2.0, end=0.0)
    declared = _model(MeanFlow(times=LogitNormal(mean=moving), beta=ProgressiveGap()))
    _fit(declared)
    given = _model(MeanFlow())
    _fit(given, callbacks=[Curriculum({"times.mean": moving, "beta": ProgressiveGap()})])
    plain = _model(MeanFlow())
    _fit(plain)
    weights = [_numbers(*m.network.trainable_variables)[0] for m in (declared, given, plain)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


@pytest.mark.any_backend
def test_every_scheduled_value_is_in_the_log_as_the_next_step_uses_it(tmp_path):
    flow_map = _model(EVERYTHING)
    _fit(flow_map, epochs=4, callbacks=[Curriculum(), Log(tmp_path / "log.csv")])
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        p = int(row["step"]) / 24
        assert float(row["progress"]) == pytest.approx(p, abs=1e-6)
        assert float(row["beta.s"]) == pytest.approx(1.0 - p, abs=1e-6)
        assert float(row["alpha.scale"]) == pytest.approx(2.0 - p, abs=1e-6)
        assert float(row["times.fraction_r_equals_t"]) == pytest.approx(0.75 - p / 2, abs=1e-6)
    assert int(rows[-1]["stage"]) == int(flow_map.state["stage"].value) > 0


def test_progress_counts_optimizer_steps_under_accumulation():
    adam = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=3)
    flow_map = _model(MeanFlow(beta=ProgressiveGap()), optimizer=adam)
    _fit(flow_map, epochs=1)
    assert int(flow_map.horizon.value) == 2
    for step, progress in ((0, 0.0), (2, 0.0), (3, 0.5), (5, 0.5), (6, 1.0)):
        flow_map.step.assign(step)
        assert float(flow_map.progress) == progress


def test_a_run_that_stops_in_mid_epoch_goes_on_at_the_very_value(tmp_path):
    whole = _model(EVERYTHING, horizon=12)
    _fit(whole)
    first = _model(EVERYTHING, horizon=12)
    first.fit(X[:40], batch_size=8, shuffle=False, verbose=0)  # five of the first six steps
    first.save_weights(tmp_path / "at5.weights.h5")
    second = _model(EVERYTHING, horizon=12)
    second.optimizer.build(second.trainable_variables)
    second.load_weights(tmp_path / "at5.weights.h5")
    for rows in (X[40:], X):
        second.fit(rows, batch_size=8, shuffle=False, verbose=0)
    saved = [v for v in whole.variables if "metric" not in v.path]
    assert any("stage_best" in v.path for v in saved)
    for a, b in zip(saved, [v for v in second.variables if "metric" not in v.path], strict=True):
        np.testing.assert_array_equal(*_numbers(a.value, b.value), err_msg=a.path)


def test_a_saved_model_keeps_its_curriculum(tmp_path):
    flow_map = _model(EVERYTHING)
    _fit(flow_map)
    flow_map.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.objective.times == EVERYTHING.times and again.objective.beta == EVERYTHING.beta
    assert int(again.state["stage"].value) == int(flow_map.state["stage"].value)
    assert float(again.progress) == 1.0


class _Counted(LogitNormal):
    """Counts how often Python draws from it: once a trace."""

    traces = 0

    def pair(self, keys, rows, below):
        if isinstance(keys, Keys):
            type(self).traces += 1
        return super().pair(keys, rows, below)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs the step eagerly")
def test_the_compiled_step_is_traced_no_more_over_a_curriculum_than_without():
    counts = []
    for mean, share, beta in (
        (-0.4, 0.5, None),
        (Line(start=-2.0, end=0.0), Steps(values=(1.0, 0.5), at=(0.5,)), ProgressiveGap()),
    ):
        times = _Counted(mean=mean, fraction_r_equals_t=share)
        flow_map = _model(MeanFlow(times=times, beta=beta), horizon=24)
        flow_map.optimizer.build(flow_map.trainable_variables)
        _Counted.traces = 0
        _fit(flow_map, epochs=1)
        counts.append(_Counted.traces)
        _fit(flow_map, epochs=3)
        assert _Counted.traces == counts[-1]
    assert counts == [1, 1]


# Stages


def test_the_stage_follows_the_unnormalised_error_on_the_diagonal():
    """At learning rate 0 every step's error is known beforehand."""
    flow_map = _model(EVERYTHING, optimizer=keras.optimizers.SGD(0.0), horizon=12)
    expected = []
    state = (0, 0, -1.0, 0.0)
    for step in range(12):
        flow_map.step.assign(step)
        flow_map.state["stage"].assign(int(state[0]))
        rows = ops.convert_to_tensor(X[8 * (step % 6) :][:8])
        problem = flow_map.build_problem((rows,), training=True)
        r, t, u, target = _numbers(
            problem.inputs["r"],
            problem.inputs["t"],
            flow_map.call(problem.inputs),
            problem.target,
        )
        error = ((u - target) ** 2).sum(axis=1)[r == t].mean()
        stage, count, smooth, best = state
        if smooth < 0 or error < best:
            state = (stage, 0, error, error)
        elif count + 1 >= 1 and stage < 3:
            state = (stage + 1, 0, -1.0, best)
        else:
            state = (stage, count + 1, error, best)
        expected.append(state[0])
    flow_map.step.assign(0)
    flow_map.state["stage"].assign(0)
    _fit(flow_map)
    assert int(flow_map.state["stage"].value) == expected[-1] > 0
    np.testing.assert_allclose(*_numbers(flow_map.state["stage_error"].value, state[2]), rtol=1e-4)


def test_evaluation_is_over_all_times_whatever_the_stage():
    flow_map = _model(EVERYTHING)
    assert int(ops.convert_to_numpy(flow_map.keys(8, training=False).state["stage"])) == 3
    flow_map.evaluate(X, batch_size=8, verbose=0)
    assert int(flow_map.state["stage"].value) == 0


# The paper's scheme, and what is refused


def test_the_papers_two_variants():
    objective = MeanFlow(times=LogitNormal(mean=-1.0, fraction_r_equals_t=0.6))
    weighted, staged = _model(objective), _model(objective)
    improved_training(objective).apply(weighted)
    assert weighted.objective.alpha == MinSNRVelocity() and weighted.state == {}
    improved_training(objective, gamma=None, exponent=2.0, stages=5, patience=7).apply(staged)
    expected = EasyFirst(mean=-1.0, fraction_r_equals_t=0.6, pacing=Plateau(stages=5, patience=7))
    assert staged.objective.times == expected and staged.objective.alpha is None
    assert staged.objective.beta.s.exponent == 2.0
    assert weighted.objective.times == objective.times


@pytest.mark.parametrize("path, message", [
    ("times.meen", "Did you mean mean"), ("tmies.mean", "Did you mean times"),
    ("beta.s", "has the values none"),
])  # fmt: skip
def test_an_unknown_path_is_refused_with_the_known_ones(path, message):
    with pytest.raises(ValueError, match=message):
        Curriculum({path: 1.0}).apply(_model(MeanFlow()))


def test_a_plateau_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Plateau(stages=0)
    with pytest.raises(ValueError, match="smoothing"):
        Plateau(stages=2, smoothing=1.0)
    both = ShapedGap(times=EasyFirst(), exponent=Line(start=8.0, end=1.0))
    with pytest.raises(ValueError, match="by stages and by schedules"):
        MeanFlow(times=both, beta=ProgressiveGap())
