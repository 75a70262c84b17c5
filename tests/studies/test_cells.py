"""Many trainings by one compiled step end as they would alone."""

import numpy as np
import pytest
from keras import ops

from keras_meanflow import Guidance, MeanFlow
from keras_meanflow.backend import BACKEND
from keras_meanflow.parts import (
    EasyFirst,
    EasyFirstInterval,
    LogitNormal,
    MinSNRNoise,
    Plateau,
    ProgressiveGap,
)
from keras_meanflow.studies.cells import CellRuns, Cells
from keras_meanflow.training.plan import Plan

FAST = Plateau(stages=3, patience=1, smoothing=0.0)
CELLS = {
    "baseline": MeanFlow(),
    "alpha and beta": MeanFlow(alpha=MinSNRNoise(), beta=ProgressiveGap()),
    "share": MeanFlow(v_share=0.4),
    "easy first": MeanFlow(times=EasyFirst(pacing=FAST), beta=ProgressiveGap()),
    "easy first, r too": MeanFlow(times=EasyFirstInterval(pacing=FAST)),
}
KNOBS = dict(size=4, centres=4, classes=2, width=8, depth=1, batch_size=16, steps=8, warmup_steps=2)
KNOBS |= dict(jit_compile=BACKEND == "jax", label_dropout=0.1)


def _training(seed):
    return Plan.of("mixture", "mean_flow").training({**KNOBS, "seed": seed})


def _weights(flow_map):
    chosen = [*flow_map.network.trainable_variables, *flow_map.chosen_weights]
    return [ops.convert_to_numpy(weight) for weight in chosen]


@pytest.fixture(scope="module")
def runs():
    return CellRuns(_training, CELLS)


@pytest.mark.parametrize("name, seed", [(name, 3) for name in CELLS] + [("baseline", 4)])
def test_a_cell_of_a_seed_ends_as_its_own_training_does(runs, name, seed):
    alone = _training(seed)
    alone.flow_map.set_objective(CELLS[name])
    alone.flow_map.fit(alone.batches(), steps_per_epoch=8, verbose=0)
    shares = list(runs.train(name, seed=seed, parts=4))
    assert shares == [0.25, 0.5, 0.75, 1.0]
    for one, other in zip(_weights(runs.flow_map), _weights(alone.flow_map), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    for state, variable in alone.flow_map.state.items():
        assert float(runs.flow_map.state[state].value) == pytest.approx(float(variable.value))


def test_all_cells_and_seeds_are_trained_by_one_compiled_step(runs):
    list(runs.train("baseline", seed=0, parts=2))
    step = runs.flow_map.train_function
    first = _weights(runs.flow_map)
    list(runs.train("share", seed=1, parts=2))
    list(runs.train("baseline", seed=0, parts=1))
    assert runs.flow_map.train_function is step
    for one, other in zip(first, _weights(runs.flow_map), strict=True):
        np.testing.assert_array_equal(one, other)


def test_cells_that_differ_in_more_than_times_and_weights_are_refused():
    with pytest.raises(ValueError, match=r"Received: \['guidance'\]"):
        Cells.of([MeanFlow(), MeanFlow(guidance=Guidance())])
    half = MeanFlow(times=LogitNormal(fraction_r_equals_t=0.5))
    with pytest.raises(ValueError, match="as many rows that may have r < t"):
        Cells.of([MeanFlow(), half])
