"""The method `temporal_equilibrium_mean_flow` has the published formulas over training."""

import numpy as np
import pytest
from keras import ops

from keras_meanflow.backend.random import Keys
from keras_meanflow.objectives.problem import Draws
from keras_meanflow.parts import FallingGap
from keras_meanflow.training.plan import Plan

SMALL = dict(size=4, centres=4, classes=2, width=8, depth=1, jit_compile=False)


def _objective(**settings):
    plan = Plan.of("mixture", "temporal_equilibrium_mean_flow")
    return plan.training({**SMALL, **settings}).flow_map.objective


def _numpy(array):
    return ops.convert_to_numpy(ops.convert_to_tensor(array))


@pytest.mark.parametrize("p", [0.0, 0.3, 0.6, 1.0])
def test_the_share_of_rows_r_below_t_follows_the_stated_sigmoid(p):
    objective = _objective()
    share = 0.1 + 0.8 / (1.0 + np.exp(-8.0 * (p - 0.6)))
    assert float(objective.times.fraction_r_equals_t(p)) == pytest.approx(1.0 - share, abs=1e-6)
    r, t = objective.times.draw(Keys(seed=0, step=0, progress=p), 1000)
    draws = Draws(r, t, None, None, p)
    gap = _numpy(t - r)
    assert np.mean(gap > 0.0) == pytest.approx(share, abs=1e-3)
    weight = 1.0 / ((1.0 + 0.5 * gap) * np.sqrt(1.0 + gap**2))
    np.testing.assert_allclose(_numpy(objective.weight(draws)), weight, rtol=1e-5)
    assert objective.beta == FallingGap() and objective.alpha is None


@pytest.mark.parametrize("p, mixing", [(0.0, 0.3), (0.5, 0.2), (1.0, 0.1)])
def test_the_mixing_of_guidance_falls_and_keeps_the_effective_scale(p, mixing):
    """`m (w v + (1 - w) u_null) + (1 - m) u_label`."""
    guidance, w = _objective(scale=2.5).guidance, 2.5
    t = ops.convert_to_tensor(np.array([0.2, 0.7], "float32"))
    draws = Draws(t, t, None, ops.zeros((2,), "bool"), p)
    omega, kappa, null = (_numpy(weight) for weight in guidance.weights(draws))
    np.testing.assert_allclose(omega, mixing * w, rtol=1e-5)
    np.testing.assert_allclose(kappa, 1.0 - mixing, rtol=1e-5)
    np.testing.assert_allclose(null, mixing * (1.0 - w), rtol=1e-4)
    assert guidance.needs_null and guidance.needs_own
    assert _objective().guidance is None
