"""A task: the parts of a training that do not depend on the method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_meanflow.networks import Network
from keras_meanflow.parts import Coupling, Independent, Linear, LogitNormal, TimeSampler
from keras_meanflow.parts import Path as NoisePath
from keras_meanflow.samplers import Heun, Sampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Data, a network, an optimizer and a budget; a `Method` adds the objective.

    Args:
        data: a data source, an argument of `open_source`, or a function without arguments that
            returns one of these. It is opened unless the method replaces the data.
        network: makes a new `Network`, such as `functools.partial(DiT, image_size=8, ...)`. A
            method may replace some of its keyword arguments.
        compile: arguments of `FlowMap.compile`: the optimizer and `jit_compile`.
        averages: decays of the averages of the weights.
        times: the law of (r, t); methods set its share of rows with r = t.
        path, coupling: how data and noise make z_t; a method may replace them.
        solver: the sampler that draws the pictures of flow models.
        batch_size, steps, sample_labels, seed, flip, log_every, sample_every, sample_columns,
            reference, checkpoint_seconds: see `Training`.

    Example:
        >>> task = Task(
        ...     data="digits:train",
        ...     network=functools.partial(DiT, image_size=8, channels=1, num_classes=10, ...),
        ...     compile=compile_with("adam", 1e-3, width=96),
        ...     batch_size=64,
        ...     steps=4000,
        ...     sample_labels=np.arange(10),
        ... )
    """

    data: Any
    network: Callable[..., Network]
    compile: dict
    batch_size: int
    steps: int
    sample_labels: Any
    averages: tuple[float, ...] = (0.9999,)
    times: TimeSampler = LogitNormal()
    path: NoisePath = Linear()
    coupling: Coupling = Independent()
    solver: Sampler = Heun(steps=25)
    seed: int = 0
    flip: bool = False
    log_every: int = 100
    sample_every: int | None = 1000
    sample_columns: int | None = None
    reference: np.ndarray | None = None
    checkpoint_seconds: float = 60.0

    def law(self, fraction_r_equals_t: float) -> TimeSampler:
        """The law of (r, t) with this share of rows with r = t."""
        return dataclasses.replace(self.times, fraction_r_equals_t=fraction_r_equals_t)

    @property
    def noise(self) -> dict:
        """The arguments `path` and `coupling` of an objective."""
        return {"path": self.path, "coupling": self.coupling}


def given(value: str | None, knob: str, what: str) -> str:
    """The value of a knob that must not be None.

    Raises:
        ValueError: for None; the message says what to give.
    """
    if value is None:
        raise ValueError(f"This needs --set {knob}=PATH: {what}. Received: None.")
    return value
