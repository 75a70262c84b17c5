"""The studies that train: velocity before average velocity, noisy velocity, one bin of gaps."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras import ops

from keras_meanflow.flow_map.curriculum import Curriculum
from keras_meanflow.flow_map.model import FlowMap
from keras_meanflow.flow_map.opening import open_model
from keras_meanflow.objectives import NoisyVelocity
from keras_meanflow.parts.gap_laws import GapBin
from keras_meanflow.parts.schedules import Steps
from keras_meanflow.pictures.charts import line_chart, side_by_side
from keras_meanflow.studies.affinity import BINS
from keras_meanflow.studies.quality import Quality
from keras_meanflow.studies.tables import series_by, write_figure
from keras_meanflow.studies.training import Subject, train_cases
from keras_meanflow.training.training import Training

SHARES = (0.0, 0.0625, 0.125, 0.1875, 0.25)
NOISES = (0.0, 0.01, 0.03, 0.1)


def two_stages(
    subject: Subject,
    folder: str | Path,
    quality: Quality,
    *,
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = (0,),
    u_step_cost: float = 1.0,
    **kwargs: Any,
) -> list[dict]:
    """Train with the v-loss only for a share of the cost, then with the u-loss only; measure.

    All cases have the same cost, the knob `steps`: `v_steps + u_step_cost u_steps`. Both stages
    are one run: the share of rows with r = t falls from 1 to 0, and the optimizer keeps its state.

    Args:
        subject: a `Subject` with the knobs `seed` and `steps`.
        folder: where the runs, `results.csv` and `results.png` are written.
        quality: the `Quality` to measure.
        shares: shares of the cost for the v-loss. The paper spends 0 to 20 of 80 epochs on it.
        seeds: one run for each seed.
        u_step_cost: cost of a step with the u-loss, in steps with the v-loss. 1 counts steps, as
            the paper counts epochs; 5/3 counts forward passes.
        **kwargs: `at` and `verbose`, see `train_cases`.

    Returns:
        The rows of the table.

    Example:
        >>> two_stages(subject, "study", EnergyDistance(data, 1000, ONE_STEP), seeds=(0, 1, 2))

    References:
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), section 4.
    """
    cases = []
    for share in shares:
        v_steps, u_steps = stage_steps(subject.knobs["steps"], share, u_step_cost)
        change = functools.partial(first_velocity, steps=v_steps)
        for seed in seeds:
            values = {"v_share": share, "u_step_cost": u_step_cost, "seed": seed}
            cases.append(subject.case(values, change, seed=seed, steps=v_steps + u_steps))
    rows = train_cases(cases, folder, quality, **kwargs)
    title, label = "Velocity first, then average velocity", "share of the cost spent on v"
    _draw(rows, folder, quality, x="v_share", title=title, x_label=label)
    return rows


def stage_steps(cost: float, share: float, u_step_cost: float = 1.0) -> tuple[int, int]:
    """The steps (v, u) with `v = share cost` and `v + u_step_cost u = cost`, rounded.

    Raises:
        ValueError: for a share outside [0, 1], or for a cost that is not positive.
    """
    if not 0.0 <= share <= 1.0 or not u_step_cost > 0.0:
        raise ValueError(
            f"A share lies in [0, 1] and a step's cost exceeds 0. Received: {share}, {u_step_cost}."
        )
    v_steps = round(share * cost)
    return v_steps, round((cost - v_steps) / u_step_cost)


def first_velocity(training: Training, *, steps: int) -> None:
    """Train on rows with r = t only for `steps` steps, then on rows with r < t only.

    Raises:
        ValueError: for a model without `horizon`.
    """
    flow_map, total = training.flow_map, training.steps
    if flow_map.fixed_horizon is None:
        raise ValueError("Two stages need FlowMap(horizon=steps). Received: horizon=None.")
    share = 1.0 if steps else 0.0
    if 0 < steps < total:  # half a step early, so that rounding cannot shift the change
        share = Steps(values=(1.0, 0.0), at=((steps - 0.5) / total,))
    Curriculum({"times.fraction_r_equals_t": share}).apply(flow_map)


def noisy_velocity(
    subject: Subject,
    folder: str | Path,
    quality: Quality,
    *,
    noises: Sequence[float] = NOISES,
    seeds: Sequence[int] = (0,),
    **kwargs: Any,
) -> list[dict]:
    """Train with noise of standard deviation `k ||v||` in the target of the v-loss; measure.

    Args:
        subject: a `Subject` with the knob `seed`.
        folder: where the runs, `results.csv` and `results.png` are written.
        quality: the `Quality` to measure.
        noises: values of k; 0 adds no noise.
        seeds: one run for each seed.
        **kwargs: `at` and `verbose`, see `train_cases`.

    Returns:
        The rows of the table.

    References:
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), section 4.
    """
    cases = [
        subject.case({"k": k, "seed": seed}, functools.partial(add_noise, k=k), seed=seed)
        for k in noises
        for seed in seeds
    ]
    rows = train_cases(cases, folder, quality, **kwargs)
    title, label = "Noise in the target of the v-loss", "k: noise of k ||v|| per coordinate"
    _draw(rows, folder, quality, x="k", title=title, x_label=label)
    return rows


def add_noise(training: Training, *, k: float) -> None:
    """Wrap the objective of a training in a `NoisyVelocity`."""
    flow_map = training.flow_map
    flow_map.set_objective(NoisyVelocity(objective=flow_map.objective, k=k))


def one_gap(
    subject: Subject,
    folder: str | Path,
    quality: Quality,
    *,
    bins: Sequence[tuple[float, float]] = BINS,
    starts: Sequence[str] = ("random", "velocity"),
    seeds: Sequence[int] = (0,),
    **kwargs: Any,
) -> list[dict]:
    """Train with the u-loss on one bin of gaps, from random weights or from a run with the v-loss.

    Use `Euler` in `quality` to measure the velocity that each run has learned. For each seed, a run
    with the v-loss only comes first; the table has its rows too (bin "v-alone").

    Args:
        subject: a `Subject` with the knob `seed`.
        folder: where the runs, `results.csv` and `results.png` are written.
        quality: the `Quality` to measure.
        bins: pairs of the smallest and the largest gap.
        starts: "random", "velocity" (the averaged weights of the run with the v-loss), or both.
        seeds: one run for each seed.
        **kwargs: `at` and `verbose`, see `train_cases`.

    Returns:
        The rows of the table.

    References:
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), section 4.
    """
    cases = []
    for seed in seeds:
        first = subject.case({"bin": "v-alone", "seed": seed}, _velocity_alone, seed=seed)
        cases.append(first)
        for start in starts:
            weights = Path(folder) / first.name if start == "velocity" else None
            for low, high in bins:
                values = {"bin": f"{low:g}-{high:g}", "start": start, "seed": seed}
                change = functools.partial(restrict_gap, low=low, high=high, start=weights)
                cases.append(subject.case(values, change, seed=seed))
    rows = train_cases(cases, folder, quality, **kwargs)
    _draw_one_gap(rows, folder, quality)
    return rows


def _velocity_alone(training):
    Curriculum({"times.fraction_r_equals_t": 1.0}).apply(training.flow_map)


def restrict_gap(
    training: Training, *, low: float, high: float, start: str | Path | None = None
) -> None:
    """Train on rows with r < t and gaps in [low, high] only.

    Args:
        training: a `Training`.
        low, high: the smallest and the largest gap.
        start: directory of a run; the training is initialised with its averaged weights. Or None.
    """
    flow_map = training.flow_map
    times = GapBin(times=flow_map.objective.times, low=low, high=high)
    Curriculum({"times": times}).apply(flow_map)
    if start is not None:
        start_from(flow_map, open_model(start).flow_map)


def start_from(flow_map: FlowMap, other: FlowMap) -> None:
    """Copy the chosen weights of `other` into the weights of a model and into all its averages."""
    for average in (None, *flow_map.averages):
        for weight, source in zip(flow_map.weights_of(average), other.chosen_weights, strict=True):
            weight.assign(ops.copy(source.value))  # JAX donates buffers: never share one


def _draw(rows, folder, quality, *, x, title, x_label):
    """A chart for each sampler, with a line for each measured share of the steps."""
    charts = [
        line_chart(
            {f"at {at}": line for at, line in series_by(rows, x, column, by="at").items()},
            title=title,
            x_label=x_label,
            y_label=column,
        )
        for column in quality.samplers
    ]
    write_figure(Path(folder) / "results.png", side_by_side(charts))


def _draw_one_gap(rows, folder, quality):
    """A chart for each sampler over the bin: a line for each start, and the level of the v-loss."""
    last = max(row["at"] for row in rows)
    rows = [row for row in rows if row["at"] == last]
    binned = [_with_middle(row) for row in rows if "start" in row]
    alone = [row for row in rows if "start" not in row]
    ends = sorted({row["middle"] for row in binned})
    alone = [{**row, "middle": end} for row in alone for end in (ends[0], ends[-1])]
    charts = []
    for column in quality.samplers:
        lines = series_by(binned, "middle", column, by="start")
        lines |= {"v alone": series_by(alone, "middle", column, by="bin")["v-alone"]}
        label = "middle of the bin of t - r"
        charts.append(line_chart(lines, title="Trained on one bin", x_label=label, y_label=column))
    write_figure(Path(folder) / "results.png", side_by_side(charts))


def _with_middle(row):
    low, high = map(float, row["bin"].split("-"))
    return {**row, "middle": (low + high) / 2}
