"""MeanFlowSE: from noisy to clean speech, flow matching and MeanFlow side by side."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.objectives.base import Objective
from keras_meanflow.objectives.flow_matching import FlowMatching
from keras_meanflow.objectives.mean_flow import MeanFlow
from keras_meanflow.objectives.problem import Draws, Problem, joined
from keras_meanflow.parts.couplings import Coupling, FromCondition
from keras_meanflow.parts.derivatives import (
    ClippedDerivative,
    Derivative,
    ForwardMode,
    ScaledCentralDifference,
)
from keras_meanflow.parts.gap_laws import PowerGap
from keras_meanflow.parts.losses import SquaredError
from keras_meanflow.parts.part import part
from keras_meanflow.parts.paths import NoisyToClean, Path
from keras_meanflow.parts.schedules import Line, Schedule, bounds_of, value_at
from keras_meanflow.parts.times import TimeSampler


@part
class MeanFlowSE(Objective):
    """`(1 - w) |u(z_t, t, t) - v|^2 + w |u(z_t, r, t) - target|^2` on every row, halved.

    Each row of the batch is in the problem twice, with the same z_t, t and noise: once to learn the
    velocity, once to learn the average velocity by the MeanFlow identity. Data and condition are
    clean and noisy spectrograms `(n, bins, frames, 2)`: complex numbers as real pairs. Forward
    passes a step: 6, and 2 for the derivative. `ReleasedMeanFlowSE` has the settings of the
    published training script.

    Args:
        times: the joint law of (r, t) of the second branch; the first has the same t.
        weight: w, a number or a schedule.
        least_weight: a smaller w counts as 0.
        loss: a `keras.losses.Loss`.
        derivative: how du/dt is computed.
        label_dropout: share of rows that get the null condition.
        path: from x, e, t to z_t and v.
        coupling: which noisy speech and noise belong to which clean speech.

    Raises:
        ValueError: for a weight outside [0, 1].

    Example:
        >>> flow_map = FlowMap(UNet.ncsnpp(image_size=256), MeanFlowSE())
        >>> flow_map.fit(clean, noisy, epochs=10)
        >>> enhanced = flow_map.generate(noisy, steps=1)

    References:
        MeanFlowSE: One-Step Generative Speech Enhancement via Conditional Mean Flow
        (arXiv 2509.14858); liduojia1/MeanFlowSE `model.py`.
    """

    times: TimeSampler = PowerGap(exponent=Line(start=8.0, end=1.0, until=0.7))
    weight: float | Schedule = Line(start=0.0, end=0.25, until=0.5)
    least_weight: float = 0.05
    loss: keras.losses.Loss = SquaredError()
    derivative: Derivative = ForwardMode()
    label_dropout: float = 0.0
    path: Path = NoisyToClean()
    coupling: Coupling = FromCondition(std=math.sqrt(0.5))

    logs = ("v_error", "u_error", "du_dt_norm")

    def __post_init__(self):
        super().__post_init__()
        if not all(0.0 <= weight <= 1.0 for weight in bounds_of(self.weight)):
            raise ValueError(f"weight is a share, in [0, 1]. Received: {self.weight}.")

    def __call__(self, u: Callable, x: Tensor | dict, condition: Any, draws: Draws) -> Problem:
        """See `Objective.__call__`."""
        shared = {name: getattr(self, name) for name in ("label_dropout", "path", "coupling")}
        velocity = FlowMatching(times=self.times, **shared)
        average = MeanFlow(times=self.times, derivative=self.derivative, **shared)
        w = value_at(self.weight, draws.progress)
        w = ops.where(w < self.least_weight, 0.0, w) * ops.ones_like(draws.t)
        # The mean over twice the rows halves the loss, as in the paper.
        return joined(
            dataclasses.replace(velocity(u, x, condition, draws), weight=1.0 - w),
            dataclasses.replace(average(u, x, condition, draws), weight=w),
        )


@part
class ReleasedMeanFlowSE(MeanFlowSE):
    """`MeanFlowSE` with the derivative of the published training script.

    It is a central difference whose norm is clipped to 5, then halved. `ClippedDerivative` explains
    how this changes the method. `MeanFlowSE` has the exact identity of the paper.

    Example:
        >>> flow_map = FlowMap(UNet.ncsnpp(image_size=256), ReleasedMeanFlowSE())

    References:
        liduojia1/MeanFlowSE `scripts/train_vbd.sh`.
    """

    derivative: Derivative = ClippedDerivative(
        derivative=ScaledCentralDifference(step=1e-3), coefficient=0.5, largest=5.0
    )
