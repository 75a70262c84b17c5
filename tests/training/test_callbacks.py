"""Callbacks: the stop at a NaN, checkpoints, logs, pictures."""

import functools
import math

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from keras_meanflow import FlowMap
from keras_meanflow.backend.random import philox_noise
from keras_meanflow.files.atomic import latest_checkpoint, write_atomically
from keras_meanflow.networks import MLP
from keras_meanflow.pictures.samples import draw_samples
from keras_meanflow.training.callbacks import checkpoint as checkpoint_module
from keras_meanflow.training.callbacks.checkpoint import Checkpoint
from keras_meanflow.training.callbacks.log import Curve, Log, read_log
from keras_meanflow.training.callbacks.non_finite import (
    NonFiniteError,
    StopOnNonFinite,
    first_non_finite,
)
from keras_meanflow.training.callbacks.samples import SampleGrid

DATA = np.random.default_rng(0).standard_normal((64, 2)).astype("float32")


@functools.cache
def compiled():
    """The one model of these tests, for it compiles slowly, and its state at the start."""
    flow_map = FlowMap(MLP(data_size=2, width=8, depth=1), averages=(0.9,), horizon=100)
    flow_map.compile(keras.optimizers.Adam(1e-2))
    flow_map.optimizer.build(flow_map.trainable_variables)
    return flow_map, state_of(flow_map)


@pytest.fixture
def flow_map():
    return fresh()


def fresh():
    """The model as it was at the start."""
    flow_map, start = compiled()
    for variable, value in zip(variables_of(flow_map), start, strict=True):
        variable.assign(value)
    return flow_map


def fit(flow_map, x=DATA, **kwargs):
    return flow_map.fit(x, batch_size=8, shuffle=False, verbose=0, **kwargs)


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


class Poison(keras.callbacks.Callback):
    """Makes a weight infinite before a batch."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.batch:
            weight = self.model.network.trainable_variables[-2]
            weight.assign(ops.full(weight.shape, math.inf))


@pytest.mark.parametrize("step", [0, 3, 7])
def test_a_step_that_is_not_finite_stops_the_run_and_is_named(flow_map, step, tmp_path):
    fit(flow_map)
    with pytest.raises(NonFiniteError, match=f"du_dt_norm is nan at step {8 + step}. There is no"):
        fit(flow_map, callbacks=[Poison(step), StopOnNonFinite(tmp_path)])


def test_the_first_quantity_to_break_is_named():
    logs = {"loss": math.nan, "gradient_norm": math.inf, "u_error": math.nan, "v_error": 1.0}
    assert first_non_finite(logs) == "u_error"
    assert first_non_finite({"loss": 1.0, "other": math.nan}) == "other"
    assert first_non_finite({"loss": 1.0}) is None


def test_the_stop_says_which_checkpoint_is_kept(flow_map, tmp_path):
    fit(flow_map, callbacks=[Checkpoint(tmp_path)])
    with pytest.raises(NonFiniteError, match="Kept: .*step-00000008.keras"):
        fit(flow_map, callbacks=[Poison(2), StopOnNonFinite(tmp_path), Checkpoint(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000008.keras"]


def test_looking_for_a_nan_makes_no_other_callback_wait():
    """Keras reads logs in threads only if every callback at the end of a batch allows it."""
    for callback in (StopOnNonFinite, Checkpoint, Log, SampleGrid, Curve):
        assert getattr(callback, "async_safe", False) or "on_train_batch_end" not in vars(callback)


@pytest.mark.parametrize("variable", ["weights", "averages", "optimizer"])
def test_no_checkpoint_is_made_of_a_state_that_is_not_finite(flow_map, variable, tmp_path):
    checkpoint = Checkpoint(tmp_path)
    fit(flow_map, callbacks=[checkpoint])
    broken = {
        "weights": flow_map.network.trainable_variables[0],
        "averages": flow_map.weights_of(0.9)[0],
        "optimizer": flow_map.optimizer.variables[-1],
    }[variable]
    broken.assign(ops.full(broken.shape, math.nan))
    flow_map.step.assign(9)
    with pytest.raises(NonFiniteError, match="not finite after 9 steps. Kept: .*00000008"):
        checkpoint.save()


def test_a_checkpoint_in_the_middle_changes_nothing_and_restores_all(flow_map, tmp_path):
    fit(flow_map, epochs=2)
    plain = state_of(flow_map)
    checkpoint = Checkpoint(tmp_path, seconds=1e-9, keep=100)  # as often as it may
    fit(fresh(), epochs=2, callbacks=[checkpoint])
    assert_same_state(state_of(flow_map), plain)
    saved = sorted(tmp_path.iterdir())
    assert len(saved) > 1 and saved[-1] == latest_checkpoint(tmp_path)
    assert saved[-1].name == "step-00000016.keras"
    assert_same_state(state_of(keras.saving.load_model(saved[-1])), plain)


def test_training_goes_on_bit_for_bit_from_the_middle_of_an_epoch(flow_map, tmp_path):
    kept = Checkpoint(tmp_path, keep=100)
    middle = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: kept.save() if batch == 5 else None
    )
    fit(flow_map, callbacks=[kept, middle])
    uninterrupted = state_of(flow_map)
    fresh().load_weights(tmp_path / "step-00000005.keras")
    fit(flow_map, DATA[5 * 8 :])
    assert_same_state(state_of(flow_map), uninterrupted)


def test_the_last_two_checkpoints_stay(flow_map, tmp_path):
    checkpoint = Checkpoint(tmp_path)
    for _ in range(3):
        fit(flow_map, callbacks=[checkpoint])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000016.keras", "step-00000024.keras"]


def test_checkpoints_are_made_before_their_time_has_passed(flow_map, tmp_path, monkeypatch):
    """With steps of 1 s and saving in 3 s, one is complete every 20 s at the latest."""
    clock, completed = [0.0], [0.0]
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: clock[0])
    checkpoint = Checkpoint(tmp_path, seconds=20.0)
    checkpoint.set_model(flow_map)
    checkpoint.on_train_begin()

    def save():
        started = clock[0]
        clock[0] += 3.0
        completed.append((started, clock[0]))
        checkpoint._saved_at, checkpoint._free_at, checkpoint._saving = started, clock[0], 3.0

    monkeypatch.setattr(checkpoint, "save", save)
    for batch in range(200):
        checkpoint.on_train_batch_begin(batch)
        clock[0] += 1.0
    states = [0.0, *(started for started, _ in completed[1:])]
    ends = [ended for _, ended in completed[1:]]
    lost = [end - state for state, end in zip(states[:-1], ends, strict=True)]
    assert len(lost) > 5 and max(lost) <= 20.0
    assert min(lost[1:]) >= 15.0  # and not much more often than asked


def test_what_a_crash_left_half_written_is_removed_and_never_taken_for_a_checkpoint(
    flow_map, tmp_path
):
    (tmp_path / "tmp-step-00000099.keras").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) is None
    fit(flow_map, callbacks=[Checkpoint(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000008.keras"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text("old")

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_log_has_a_row_an_epoch_and_none_twice_after_going_back(flow_map, tmp_path):
    log = tmp_path / "log.csv"
    fit(flow_map, callbacks=[Log(log)], epochs=3)
    rows = read_log(log)
    assert [row["step"] for row in rows] == [8, 16, 24]
    assert list(rows[0])[:2] == ["epoch", "step"] and list(rows[0])[-1] == "seconds"
    assert not any(name.startswith("val_") for name in rows[0])
    log.write_text(log.read_text() + "3,32,0.1")  # a row that a crash cut short
    flow_map.step.assign(16)
    fit(flow_map, callbacks=[Log(log)], initial_epoch=2, epochs=3)
    again = read_log(log)
    assert again[:2] == rows[:2] and [row["step"] for row in again] == [8, 16, 24]
    assert again[2]["seconds"] > again[1]["seconds"]


def test_columns_may_come_and_go(flow_map, tmp_path):
    class Extra(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["extra"] = 7.0

    log = tmp_path / "log.csv"
    for callbacks in ([], [Extra()], []):
        fit(flow_map, callbacks=[*callbacks, Log(log)])
    rows = read_log(log)
    assert [row["step"] for row in rows] == [8, 16, 24]
    np.testing.assert_array_equal([row["extra"] for row in rows], [math.nan, 7.0, math.nan])
    assert all(math.isfinite(row["loss"]) for row in rows)


def test_the_curve_is_drawn_from_the_log(flow_map, tmp_path):
    log, picture = tmp_path / "log.csv", tmp_path / "curve.png"
    fit(flow_map, callbacks=[Log(log), Curve(log, picture)], epochs=2)
    assert Image.open(picture).size == (840, 800)  # seven quantities, two columns


@pytest.mark.any_backend
def test_pictures_of_samples_change_nothing_and_come_from_the_averaged_weights(flow_map, tmp_path):
    fit(flow_map)
    plain = state_of(flow_map)
    fit(fresh(), callbacks=[SampleGrid(tmp_path, 50, every_steps=3, seed=5, reference=DATA)])
    assert_same_state(state_of(flow_map), plain)
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == [f"step-0000000{step}.png" for step in (3, 6, 8)]
    with flow_map.using_chosen_weights():
        e = philox_noise(5, range(50), (2,))
        inputs = {"z": e, "r": np.zeros(50, "float32"), "t": np.ones(50, "float32")}
        x = e - ops.convert_to_numpy(flow_map(keras.tree.map_structure(ops.array, inputs)))
    expected = np.asarray(draw_samples(x, DATA))
    drawn = np.asarray(Image.open(tmp_path / "samples.png"))
    assert (expected != drawn).mean() < 1e-3  # a pixel where rounding differs
