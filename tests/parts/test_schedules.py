"""Values over training progress: at given points, at the ends, in configs."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_meanflow.parts.gap_laws import ShapedGap
from keras_meanflow.parts.schedules import (
    Cosine,
    Line,
    Piecewise,
    Power,
    Sigmoid,
    Steps,
    bounds_of,
    scheduled_values,
    value_at,
)
from keras_meanflow.parts.time_laws import LogitNormal

CASES = [
    (Line(start=2.0, end=-2.0), {0.0: 2.0, 0.25: 1.0, 1.0: -2.0}),
    (Line(start=0.0, end=1.0, begin=0.2, until=0.6), {0.1: 0.0, 0.3: 0.25, 0.6: 1.0, 0.9: 1.0}),
    (Power(start=1.0, end=0.0, exponent=2.0), {0.0: 1.0, 0.5: 0.75, 1.0: 0.0}),
    (Power(start=1.0, end=0.0, exponent=0.5), {0.25: 0.5, 0.81: 0.1}),
    (Cosine(start=1.0, end=3.0), {0.0: 1.0, 1 / 3: 1.5, 0.5: 2.0, 1.0: 3.0}),
    (Sigmoid(start=0.0, end=4.0, steepness=4.0), {0.5: 2.0, 0.75: 4.0 / (1.0 + np.exp(-1.0))}),
    (Steps(values=(1.0, 0.5, 0.25), at=(0.3, 0.6)), {0.29: 1.0, 0.3: 0.5, 0.59: 0.5, 0.6: 0.25}),
    (Piecewise(values=(1.0, 3.0, 0.0), at=(0.25, 0.5, 1.0)), {0.1: 1.0, 0.375: 2.0, 0.75: 1.5}),
]
SCHEDULES = [schedule for schedule, _ in CASES]


@pytest.mark.parametrize("schedule, points", CASES)
def test_a_schedule_has_the_stated_values(schedule, points):
    for progress, value in points.items():
        assert float(schedule(progress)) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bounds_hold_over_all_of_training(schedule):
    low, high = bounds_of(schedule)
    values = [float(schedule(p)) for p in np.linspace(0.0, 1.0, 101)]
    assert low - 1e-6 <= min(values) and max(values) <= high + 1e-6
    assert min(values) - low < 0.5 and high - max(values) < 0.5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_survives_its_config(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    assert again == schedule and float(again(0.4)) == float(schedule(0.4))


def test_a_number_is_its_own_schedule():
    assert value_at(0.3, 0.5) == 0.3 and bounds_of(0.3) == (0.3, 0.3)
    assert ops.convert_to_numpy(value_at(Line(start=0.0, end=1.0), 0.5)) == 0.5


def test_schedules_are_found_by_path():
    mean, largest = Line(start=-2.0, end=-0.4), Line(start=0.1, end=1.0)
    sampler = ShapedGap(times=LogitNormal(mean=mean), largest=largest)
    assert scheduled_values(sampler) == {"times.mean": mean, "largest": largest}


@pytest.mark.parametrize(
    "kind, arguments, message",
    [
        (Line, {"start": 0.0, "end": 1.0, "begin": 0.5, "until": 0.5}, "begins before it ends"),
        (Power, {"start": 0.0, "end": 1.0, "exponent": 0.0}, "exponent must exceed 0"),
        (Steps, {"values": (1.0, 2.0), "at": ()}, "one value more than turning points"),
        (Steps, {"values": (1.0, 2.0, 3.0), "at": (0.6, 0.3)}, "rising numbers in"),
        (Piecewise, {"values": (1.0, 2.0), "at": (0.0, 1.5)}, "rising numbers in"),
        (Piecewise, {"values": (1.0,), "at": (0.0, 1.0)}, "a value for each point"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)
