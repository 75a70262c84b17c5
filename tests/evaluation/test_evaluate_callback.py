"""The callback Evaluate: it measures as training goes, and training does not notice."""

import functools
import json
import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_meanflow import DiT, FlowMap, MeanFlow
from keras_meanflow.data import ArraySource, Batches, load_digits
from keras_meanflow.evaluation import Evaluate, Protocol
from keras_meanflow.evaluation.samples import Evaluation, open_reference
from keras_meanflow.features.extractor import FeatureExtractor
from keras_meanflow.parts import Uniform
from keras_meanflow.training.callbacks.log import Log, read_log
from keras_meanflow.training.run import train
from keras_meanflow.training.training import Training

X, Y = (array[:32] for array in load_digits("train"))
JIT = keras.config.backend() == "jax"  # on TensorFlow, XLA is slow to compile


@functools.cache
def compiled():
    """The one model of these tests, for it compiles slowly, and its state at the start."""
    keras.utils.set_random_seed(0)
    network = DiT(image_size=8, channels=1, patch_size=4, width=8, depth=1, heads=2, num_classes=10)
    objective = MeanFlow(times=Uniform(fraction_r_equals_t=0.5))
    flow_map = FlowMap(network, objective, averages=(0.9,), horizon=8)
    flow_map.compile(keras.optimizers.Adam(1e-2), jit_compile=JIT)
    flow_map.optimizer.build(flow_map.trainable_variables)
    return flow_map, state_of(flow_map)


def variables_of(flow_map):
    """All that a training goes on from."""
    variables = flow_map.variables + flow_map.optimizer.variables
    metrics = {id(v) for v in flow_map.metrics_variables}
    return [v for v in variables if id(v) not in metrics]


def state_of(flow_map):
    return [np.array(ops.convert_to_numpy(v)) for v in variables_of(flow_map)]


def assert_same_state(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def fresh():
    """The model as it was at the start."""
    flow_map, start = compiled()
    for variable, value in zip(variables_of(flow_map), start, strict=True):
        variable.assign(value)
    return flow_map


@functools.cache
def evaluation(samples=60, name="pooled"):
    pixels = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(pixels))
    extract = FeatureExtractor("pooled", keras.Model(pixels, x))
    fields = {"samples": samples, "labels": "balanced", "reference": "digits:test"}
    return Evaluation(
        protocol=Protocol.of(extract, name=name, **fields),
        extract=extract,
        reference=open_reference("digits:test", extract),
        steps=(1, 2),
        batch_size=10,  # one size, so that one function is compiled for each number of steps
    )


def fit(flow_map, **kwargs):
    """Epochs of four steps, fed as a run feeds them: TensorFlow then traces one function."""
    batches = Batches(ArraySource(X, Y), 8, seed=0)
    return flow_map.fit(batches, steps_per_epoch=4, shuffle=False, verbose=0, **kwargs)


def steps_of(path):
    return [(r["model"]["step"], r["steps"]) for r in json.loads(path.read_text())["reports"]]


@pytest.mark.any_backend
def test_training_with_evaluations_ends_with_the_same_bits(tmp_path):
    fit(fresh(), epochs=2)
    plain = state_of(compiled()[0])
    history = fit(fresh(), epochs=2, callbacks=[Evaluate(tmp_path, evaluation(), every_steps=1)])
    assert_same_state(state_of(compiled()[0]), plain)
    assert np.isfinite(history.history["fid_1"]).all() and len(history.history["fid_2"]) == 2


def test_it_measures_what_the_evaluation_of_the_averaged_weights_gives(tmp_path):
    flow_map = fresh()
    callback = Evaluate(tmp_path, evaluation(), every_steps=1)
    logs = fit(flow_map, callbacks=[callback]).history
    for report, again in zip(callback.reports, evaluation()(flow_map), strict=True):
        assert report["model"]["average"] == 0.9
        for name in ("fid", "kid"):
            assert report[name]["value"] == pytest.approx(again[name]["value"], rel=1e-4)
            assert logs[f"{name}_{report['steps']}"] == [report[name]["value"]]


def test_an_evaluation_is_due_when_its_steps_are_full_and_at_the_end(tmp_path):
    log = tmp_path / "log.csv"
    callback = Evaluate(tmp_path / "new", evaluation(), every_steps=8)
    fit(fresh(), epochs=3, callbacks=[callback, Log(log)])
    path = tmp_path / "new" / "evaluation-pooled-training.json"
    assert steps_of(path) == [(8, 1), (8, 2), (12, 1), (12, 2)]
    rows = read_log(log)
    assert [math.isfinite(row["fid_1"]) for row in rows] == [False, True, True]
    assert rows[1]["fid_2"] == pytest.approx(callback.reports[1]["fid"]["value"])
    only_last = Evaluate(tmp_path / "last", evaluation(), every_steps=None)
    fit(fresh(), epochs=2, callbacks=[only_last])
    assert {report["model"]["step"] for report in only_last.reports} == {8}


def test_too_few_samples_for_pairs_leave_kid_out_of_the_log(tmp_path):
    few = evaluation(samples=20)
    logs = fit(fresh(), callbacks=[Evaluate(tmp_path, few)]).history
    assert "fid_1" in logs and "kid_1" not in logs


class Failing(ArraySource):
    """Data that fails once, when it is asked for the n-th time."""

    def __init__(self, takes):
        super().__init__(X, Y)
        self.left = takes

    def take(self, indices):
        self.left -= 1
        if self.left == 0:
            raise OSError("the disk is gone")
        return super().take(indices)


def training(data):
    return Training(
        flow_map=fresh(),
        data=data,
        batch_size=8,
        steps=11,
        sample_labels=np.arange(10),
        log_every=2,
        sample_every=None,
        checkpoint_seconds=1e-9,
        evaluation=evaluation(),
        evaluate_every=4,
    )


@pytest.mark.any_backend
def test_a_run_that_was_stopped_has_the_numbers_of_one_that_was_not(tmp_path):
    name, due = "evaluation-pooled-training.json", [(4, 1), (8, 1), (11, 1)]
    train(training(ArraySource(X, Y)), tmp_path / "whole", verbose=0)
    assert steps_of(tmp_path / "whole" / name)[::2] == due
    whole = state_of(compiled()[0])
    data = Failing(takes=10)
    with pytest.raises(Exception, match="the disk is gone"):  # TensorFlow has its own kind
        train(training(data), tmp_path / "stopped", verbose=0)
    assert train(training(data), tmp_path / "stopped", verbose=0) < 11
    assert_same_state(state_of(compiled()[0]), whole)
    assert steps_of(tmp_path / "stopped" / name)[::2] == due
    logs = [read_log(tmp_path / run / "log.csv") for run in ("whole", "stopped")]
    columns = ("step", "fid_1", "fid_2", "kid_1", "kid_2")
    one, other = (np.array([[row[c] for c in columns] for row in rows]) for rows in logs)
    np.testing.assert_array_equal(one, other)
    assert np.isfinite(one[:, 1]).tolist() == [False, True, False, True, False, True]


def test_numbers_of_two_protocols_do_not_mix(tmp_path):
    fit(fresh(), callbacks=[Evaluate(tmp_path, evaluation())])
    with pytest.raises(ValueError, match="one protocol only.*'samples': 60.*'samples': 50"):
        fit(compiled()[0], callbacks=[Evaluate(tmp_path, evaluation(samples=50))])
    beside = Evaluate(tmp_path, evaluation(samples=50, name="fifty"))
    fit(compiled()[0], callbacks=[beside])
    assert len(list(tmp_path.iterdir())) == 2


def test_what_does_not_suit_the_model_is_refused_before_training(tmp_path):
    flow_map = FlowMap(DiT(image_size=8, channels=1, patch_size=8, width=8, depth=1, heads=2))
    flow_map.compile()
    settings = {"batch_size": 8, "steps": 2, "sample_labels": 4, "evaluation": evaluation()}
    with pytest.raises(ValueError, match="has no classes: labels must be 'none'"):
        train(Training(flow_map=flow_map, data=X, **settings), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="evaluate_every must be a whole number of at least 1"):
        Training(flow_map=flow_map, data=X, evaluate_every=0, **settings)
