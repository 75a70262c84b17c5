"""The cells of benchmarks/improved_training.py: a control has the share of weight of its scheme."""

import numpy as np
import pytest
from keras import ops

from benchmarks.improved_training_cells import CELLS, objective_of, rows_of
from keras_meanflow import MeanFlow
from keras_meanflow.backend.random import Keys
from keras_meanflow.objectives.problem import Draws
from keras_meanflow.studies import Cells

CONTROLS = {
    "snr_v": "flat_0.4", "snr_v_beta": "flat_0.4", "snr_x": "flat_as_snr_x",
    "snr_x_beta": "flat_as_snr_x", "snr_e": "flat_as_snr_e", "snr_e_beta": "flat_as_snr_e",
    "temf": "flat_as_temf", "beta": "baseline", "dtd_interval_beta": "baseline",
}  # fmt: skip


def _share(objective, progress, rows=1 << 14):
    """The share of the weight on rows with r = t, in a large batch."""
    state = {"stage": 9}
    r, t = objective.times.draw(Keys(seed=2, step=0, progress=progress, state=state), rows)
    weight = objective.weight(Draws(r, t, None, None, progress, state))
    weight = np.ones(rows) if weight is None else ops.convert_to_numpy(weight)
    equal = ops.convert_to_numpy(r) == ops.convert_to_numpy(t)
    return weight[equal].sum() / weight.sum()


@pytest.mark.parametrize("fraction", [0.75, 0.5])
@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_has_the_share_of_the_weight_on_v_of_its_scheme(name, fraction):
    scheme = objective_of(MeanFlow(), fraction, name)
    control = objective_of(MeanFlow(), fraction, CONTROLS[name])
    for progress in (0.0, 0.55, 1.0):
        assert _share(scheme, progress) == pytest.approx(_share(control, progress), abs=0.012)
    assert control.alpha is None and control.beta is None


@pytest.mark.parametrize("fraction", [0.75, 0.5])
def test_all_cells_of_a_share_of_rows_are_trained_by_one_step(fraction):
    cells = [objective_of(MeanFlow(), fraction, name) for name in CELLS]
    together = [c for c, name in zip(cells, CELLS, strict=True) if rows_of(name, fraction) > 0.1]
    assert len(Cells.of(together).cells) == len(CELLS) - 1
    assert {float(c.times.fraction_r_equals_t) for c in together} == {fraction}
