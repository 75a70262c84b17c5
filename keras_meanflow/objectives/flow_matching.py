"""Flow matching: the network learns the instantaneous velocity, `u(z_t, t, t) = E[v | z_t]`."""

from collections.abc import Callable
from typing import Any

import keras

from keras_meanflow.backend import Tensor
from keras_meanflow.objectives.base import Objective
from keras_meanflow.objectives.problem import Draws, Problem, data_of, inputs_of
from keras_meanflow.parts.couplings import Coupling, Independent
from keras_meanflow.parts.losses import SquaredError
from keras_meanflow.parts.part import part
from keras_meanflow.parts.paths import Linear, Path
from keras_meanflow.parts.time_laws import LogitNormal
from keras_meanflow.parts.times import TimeSampler


@part
class FlowMatching(Objective):
    """Regress `u(z_t, t, t)` on `v = e - x`; sample with `Euler` or `Heun`.

    Args:
        times: the law of t, with r = t.
        loss: a `keras.losses.Loss`; the squared error summed over the sample.
        label_dropout: share of rows that get the null condition, for guidance when sampling.
        path: from x, e, t to z_t and v.
        coupling: which noise belongs to which data.

    Example:
        >>> FlowMap(DiT.from_size("S/2", image_size=32, channels=4), FlowMatching())

    References:
        Lipman et al., Flow Matching for Generative Modeling (arXiv 2210.02747).
    """

    times: TimeSampler = LogitNormal(fraction_r_equals_t=1.0)
    loss: keras.losses.Loss = SquaredError()
    label_dropout: float = 0.1
    path: Path = Linear()
    coupling: Coupling = Independent()

    def __call__(self, u: Callable, x: Tensor | dict, condition: Any, draws: Draws) -> Problem:
        """See `Objective.__call__`."""
        z, v = self.path(data_of(x), draws.e, draws.t)
        condition = self.conditioned(u, condition, draws)
        return Problem(inputs=inputs_of(z, draws.t, draws.t, condition), target=v)
