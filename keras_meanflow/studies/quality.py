"""The quality of samples, which the studies measure during training."""

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_meanflow.evaluation.judge import evaluate_images
from keras_meanflow.evaluation.samples import Evaluation
from keras_meanflow.flow_map import FlowMap
from keras_meanflow.samplers import Euler, Jump, Sampler
from keras_meanflow.studies.points import Points

ONE_STEP, VELOCITY = {"jump1": Jump(steps=1)}, {"euler32": Euler(steps=32)}


class Quality(abc.ABC):
    """A number for each sampler; lower is better. Called as `quality(flow_map)`.

    Args:
        samplers: column of the table -> `Sampler`. `Euler` uses the velocity `u(z, t, t)` of the
            model; `Jump` uses u.
    """

    name: str

    def __init__(self, samplers: Mapping[str, Sampler]):
        self.samplers = dict(samplers)

    def __call__(self, flow_map: FlowMap) -> dict[str, float]:
        """`{column: number}`."""
        return {name: self.measure(flow_map, sampler) for name, sampler in self.samplers.items()}

    @abc.abstractmethod
    def measure(self, flow_map: FlowMap, sampler: Sampler) -> float:
        """The number for one sampler."""


class EnergyDistance(Quality):
    """`sqrt(2 E|X - Y| - E|X - X'| - E|Y - Y'|)` of samples X and data Y, without a network.

    Args:
        source: the data.
        count: number of data items, and of samples; both have the same conditions.
        samplers: as in `Quality`.

    References:
        Szekely and Rizzo, Energy statistics (2013).
    """

    def __init__(self, source: Any, count: int, samplers: Mapping[str, Sampler]):
        super().__init__(samplers)
        self.points = Points.of(source, min(count, len(source)))
        self.name = "-".join(["energy", str(len(self.points.x)), *self.samplers])

    def measure(self, flow_map: FlowMap, sampler: Sampler) -> float:
        """See `Quality.measure`."""
        x, labels = self.points.x, self.points.condition
        labels = len(x) if labels is None else labels
        return energy_distance(flow_map.generate(labels, sampler=sampler, verbose=0), x)


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The energy distance of two sets (n, ...) and (m, ...), over all pairs."""
    x, y = (np.asarray(a, "float64").reshape(len(a), -1) for a in (x, y))
    square = 2.0 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)
    return float(np.sqrt(max(square, 0.0)))


def _mean_distance(x, y):
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2.0 * x @ y.T
    return np.sqrt(np.maximum(squares, 0.0)).mean()


class FrechetDistance(Quality):
    """FID under a protocol, with its features and its number of samples.

    Args:
        evaluation: an `Evaluation`; its `steps` are not used.
        samplers: as in `Quality`.
    """

    def __init__(self, evaluation: Evaluation, samplers: Mapping[str, Sampler]):
        super().__init__(samplers)
        protocol, self.evaluation = evaluation.protocol, evaluation
        self.name = "-".join([protocol.name, str(protocol.samples), *self.samplers])

    def measure(self, flow_map: FlowMap, sampler: Sampler) -> float:
        """See `Quality.measure`."""
        evaluation = self.evaluation
        evaluation.check(flow_map)
        report = evaluate_images(
            evaluation.batches(flow_map, sampler=sampler),
            evaluation.protocol,
            evaluation.reference,
            evaluation.extract,
            pairwise=0,
        )
        return report["fid"]["value"]
