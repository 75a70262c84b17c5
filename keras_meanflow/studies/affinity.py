"""Task affinity: do the v-loss and the u-loss at a gap change the weights in the same direction?"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from keras import ops
from PIL import Image

from keras_meanflow.backend import BACKEND, compiled, gradient
from keras_meanflow.backend.random import Keys
from keras_meanflow.flow_map import FlowMap
from keras_meanflow.objectives import DecoupledMeanFlow, NoisyVelocity
from keras_meanflow.parts.gap_laws import GapBin, ShapedGap
from keras_meanflow.pictures.charts import line_chart, side_by_side
from keras_meanflow.studies.points import Points
from keras_meanflow.studies.tables import series_by

_SEED = 0xAFF1
BINS = ((0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9))


def task_affinities(
    flow_map: FlowMap,
    points: Points,
    *,
    bins: Sequence[tuple[float, float]] = BINS,
    batch_size: int = 100,
    draws: int = 1,
) -> list[dict]:
    """The cosine between the gradient of the v-loss and that of the u-loss, for each bin of gaps.

    The v-loss is the loss on rows with r = t only. The u-loss is the loss on rows with r < t whose
    gap is in the bin. Both are means of the objective's loss over a fixed subset, with the same
    noise. Normalisation and guidance are included, alpha and beta are not. The gradients are with
    respect to all trainable weights, at the weights of `flow_map.average`.

    A gradient over a subset is noisy. `halves` shows how noisy: it is the cosine between the
    gradients of one loss on two halves of the subset, and would be 1 without noise. If it is near
    0, `affinity` comes mostly from the items and noise that both losses share. `across` shares
    neither: it is the mean cosine of the v-loss on one half with the u-loss on the other.

    Args:
        flow_map: a `FlowMap` with a `MeanFlow` objective.
        points: a `Points`; the paper's authors used 1,000 images in earlier work.
        bins: pairs of the smallest and the largest gap.
        batch_size: rows in a batch; an incomplete last batch is left out.
        draws: draws of noise and times for each item.

    Returns:
        A dict for each bin: `low`, `high`, `middle`, `affinity`, `across`, `halves`, `halves_v`
        (for the v-loss), `norm` and `norm_v` (of the gradients).

    Raises:
        ValueError: for an objective without a u-loss, or for fewer points than two batches.

    Example:
        >>> task_affinities(flow_map, Points.of(training.data, 1000))[0]["affinity"]

    References:
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), section 4;
        Go et al., Addressing Negative Transfer in Diffusion Models (arXiv 2306.00354).
    """
    times = _law(_objective(flow_map).times)
    gradients = _Gradients(flow_map, points, batch_size, draws)
    v = gradients.of(_velocity_times(times))
    rows = []
    for low, high in bins:
        u = gradients.of(GapBin(times=times, low=low, high=high))
        both_v, both_u = v.sum(axis=0), u.sum(axis=0)
        rows.append(
            {
                "low": low,
                "high": high,
                "middle": (low + high) / 2,
                "affinity": cosine(both_v, both_u),
                "across": (cosine(v[0], u[1]) + cosine(v[1], u[0])) / 2,
                "halves": cosine(*u),
                "halves_v": cosine(*v),
                "norm": float(np.linalg.norm(both_u)),
                "norm_v": float(np.linalg.norm(both_v)),
            }
        )
    return rows


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """`a . b / (||a|| ||b||)`; NaN if one of them is zero."""
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths > 0.0 else float("nan")


def _objective(flow_map):
    """The MeanFlow objective of a model, without the wrapper of a study."""
    objective = flow_map.objective
    objective = objective.objective if isinstance(objective, NoisyVelocity) else objective
    if isinstance(objective, DecoupledMeanFlow):
        objective = objective.branch(objective.times)
    if "u_error" not in objective.logs or objective.companion is not None:
        raise ValueError(
            "Task affinity needs a single-network objective with a u-loss, such as MeanFlow. "
            f"Received: {type(objective).__name__}."
        )
    return objective


def _law(times):
    """The sampler of all gaps, also for a model that was trained on one bin."""
    return _law(times.times) if isinstance(times, GapBin) else times


def _velocity_times(times):
    """The law of t of a sampler, with r = t on all rows."""
    if isinstance(times, ShapedGap):  # takes the law of t from its inner sampler
        return _velocity_times(times.times)
    return dataclasses.replace(times, fraction_r_equals_t=1.0)


class _U:
    """A network with the interface that objectives use."""

    def __init__(self, network):
        self.network, self.drop = network, network.drop_condition

    def __call__(self, z, r, t, condition=None):
        return self.network(z, r, t, condition)


class _Gradients:
    """Gradients of a model's loss over the batches of a subset, for any time sampler."""

    def __init__(self, flow_map, points, batch_size, draws):
        self.batches, self.draws = list(points.batches(batch_size)), draws
        if len(self.batches) < 2:
            raise ValueError(
                "The subset needs at least two batches. "
                f"Received: {len(points.x)} items in batches of {batch_size}."
            )
        objective = _objective(flow_map)
        unweighted = {name: None for name in ("alpha", "beta") if hasattr(objective, name)}
        self.objective = dataclasses.replace(objective, **unweighted)
        self.values = [weight.value for weight in flow_map.chosen_weights]
        self.weights, self.u = flow_map.weights_of(None), _U(flow_map.network)
        self._problems = {}  # compiled, one for each share of rows with r = t; draws are arguments

        def loss(inputs, target, weight):
            return flow_map.compute_loss(inputs, target, self.u(**inputs), weight)

        self.gradient = gradient(loss, self.weights)

    def of(self, times):
        """The parts of the mean gradient from even and from odd batches, (2, parameters)."""
        objective = dataclasses.replace(self.objective, times=times)
        halves = [0.0, 0.0]
        for number in range(self.draws * len(self.batches)):
            batch = number % len(self.batches)
            data = self.batches[batch]
            x, *condition = (ops.convert_to_tensor(array) for array in data)
            draws = objective.draw(_keys(times, number), x, *condition)._replace(rows=None)
            problem = self._problem(objective)(self.values, draws, x, *condition)
            parts = self.gradient(self.values, *problem)
            flat = np.concatenate([ops.convert_to_numpy(part).ravel() for part in parts])
            halves[batch % 2] += flat.astype("float64") / (self.draws * len(self.batches))
        return np.stack(halves)

    def _problem(self, objective):
        share = objective.times.fraction_r_equals_t
        if share not in self._problems:

            def problem(draws, x, condition=None):
                return objective(self.u, x, condition, draws).as_data()

            self._problems[share] = compiled(problem, self.weights, BACKEND != "torch")
        return self._problems[share]


def _keys(times, number):
    """The draws of batch `number`: only the times depend on the sampler."""
    return Keys(_SEED, number, state=times.final_state)


def draw_affinities(rows: list[dict]) -> Image.Image:
    """The figure: `affinity` and `across` over the bin, with a line for each `run`."""
    charts = [
        line_chart(
            series_by(rows, "middle", column, by="run"),
            title=title,
            x_label="middle of the bin of t - r",
            y_label="cosine",
            log=False,
        )
        for column, title in (("affinity", "Affinity of v and u"), ("across", "Across halves"))
    ]
    return side_by_side(charts)
