"""The error of the learned average velocity, by the gap t - r that it averages over."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image

from keras_meanflow.flow_map import FlowMap
from keras_meanflow.pictures.charts import line_chart, side_by_side
from keras_meanflow.studies.fields import LearnedField, average_velocity
from keras_meanflow.studies.points import Points
from keras_meanflow.studies.tables import series_by, series_of
from keras_meanflow.studies.training import Subject, train_cases

GAPS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def u_errors(
    u: Callable,
    velocity: Callable,
    points: Points,
    *,
    gaps: Sequence[float] = GAPS,
    ode_steps: int = 64,
) -> list[dict[str, float]]:
    """The errors of u at some gaps, against the average of a velocity by a fine ODE solve.

    At each gap the times t are evenly spaced in [gap, 1], and `z = (1 - t) x + t e`. `rmse` is the
    root mean square error per coordinate; `relative` is `sqrt(E||u - truth||^2 / E||truth||^2)`.

    Args:
        u: `u(z, r, t, condition)` from and to NumPy arrays, such as a `LearnedField`.
        velocity: `v(z, t, condition)`, in closed form or learned. Against the learned velocity the
            error shows whether u is the average of the velocity of the same model.
        points: a `Points` of data, noise and conditions.
        gaps: values of t - r; at 0, u is compared with the velocity.
        ode_steps: Runge-Kutta steps from t to r.

    Returns:
        A dict for each gap: `gap`, `rmse` and `relative`.

    Example:
        >>> field = LearnedField(flow_map)
        >>> u_errors(field, field.velocity, points)[0]["relative"]
    """
    return [Truth.of(velocity, points, gap, ode_steps).error(u) for gap in gaps]


class Truth(NamedTuple):
    """The average velocities of some points at one gap; a velocity in closed form needs it once.

    `gap`: t - r; `inputs`: z, r, t and the condition; `u`: the true average velocity.
    """

    gap: float
    inputs: tuple
    u: np.ndarray

    @classmethod
    def of(cls, velocity: Callable, points: Points, gap: float, ode_steps: int = 64) -> Self:
        """The truth by a fine ODE solve; arguments as in `u_errors`."""
        t = gap + (1.0 - gap) * (np.arange(len(points.x)) + 0.5) / len(points.x)
        # Rounded to float32 like the network's inputs, so that u and the truth share the times.
        t = t.astype("float32")
        r = np.maximum(t - np.float32(gap), 0.0)
        z, condition = points.at(t), points.condition

        def v(z, t):
            return velocity(z, t, condition)

        truth = v(z, t) if gap == 0.0 else average_velocity(v, z, r, t, steps=ode_steps)
        return cls(gap, (z, r, t, condition), truth)

    def error(self, u: Callable) -> dict[str, float]:
        """The `gap`, `rmse` and `relative` of `u(z, r, t, condition)`."""
        error = np.mean((u(*self.inputs) - self.u) ** 2)
        size = np.mean(np.square(self.u))
        relative = np.sqrt(error / size) if size > 0.0 else np.nan
        return {"gap": self.gap, "rmse": float(np.sqrt(error)), "relative": float(relative)}


class UErrors:
    """`u_errors` of a FlowMap, to measure during the training of a study.

    Args:
        points: a `Points`.
        velocity: the true velocity, or None for the velocity of the model.
        gaps: values of t - r.
        ode_steps: Runge-Kutta steps from t to r.
    """

    def __init__(
        self,
        points: Points,
        velocity: Callable | None = None,
        *,
        gaps: Sequence[float] = GAPS,
        ode_steps: int = 64,
    ):
        self.points, self.velocity = points, velocity
        self.gaps, self.ode_steps = tuple(gaps), ode_steps
        truth = "learned" if velocity is None else "exact"
        self.name = f"u-error-{truth}-{len(points.x)}-{ode_steps}"

    def __call__(self, flow_map: FlowMap) -> dict[str, float]:
        """`{"rmse 0.1": ..., "relative 0.1": ..., ...}`."""
        u = LearnedField(flow_map)
        rows = u_errors(
            u,
            self.velocity or u.velocity,
            self.points,
            gaps=self.gaps,
            ode_steps=self.ode_steps,
        )
        return {
            f"{name} {row['gap']:g}": row[name] for row in rows for name in ("rmse", "relative")
        }


def draw_u_errors(rows: list[dict]) -> Image.Image:
    """The figure of rows with `step`, `gap` and `relative`: over the steps, and over the gap."""
    gaps, steps = (sorted({row[name] for row in rows}) for name in ("gap", "step"))
    last = [row for row in rows if row["step"] == steps[-1]]
    charts = [("gap", {"last step": last}, "t - r")]
    if len(steps) > 1:
        by_gap = {f"gap {gap:g}": [row for row in rows if row["gap"] == gap] for gap in gaps}
        charts.insert(0, ("step", by_gap, "step"))
    return side_by_side(
        [
            line_chart(
                {name: series_of(found, x, "relative") for name, found in lines.items()},
                title="Error of u",
                x_label=label,
                y_label="relative",
            )
            for x, lines, label in charts
        ]
    )


def draw_u_errors_of_runs(rows: list[dict]) -> Image.Image:
    """The figure of rows with `run`, `gap` and `relative`: a line over the gap for each run."""
    lines = series_by(rows, "gap", "relative", by="run")
    return line_chart(lines, title="Error of u", x_label="t - r", y_label="relative")


def errors_in_training(
    subject: Subject,
    folder: str | Path,
    measure: UErrors,
    *,
    seeds: Sequence[int] = (0,),
    at: Sequence[float] = (0.1, 0.25, 0.5, 1.0),
    **kwargs: Any,
) -> list[dict]:
    """Train, and measure the error of u at some shares of the steps.

    Args:
        subject: a `Subject` with the knob `seed`.
        folder: where the runs and `results.csv` are written.
        measure: a `UErrors`.
        seeds: one run for each seed.
        at: shares of the steps.
        **kwargs: `verbose`, see `train_cases`.

    Returns:
        A dict for each seed, step and gap.
    """
    cases = [subject.case({"seed": seed}, seed=seed) for seed in seeds]
    rows = train_cases(cases, folder, measure, at=at, **kwargs)
    return [
        {
            **{name: row[name] for name in ("seed", "at", "step")},
            "gap": gap,
            **{name: row[f"{name} {gap:g}"] for name in ("rmse", "relative")},
        }
        for row in rows
        for gap in measure.gaps
    ]
