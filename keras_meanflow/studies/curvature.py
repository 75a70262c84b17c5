"""How curved trajectories are: the angle between a velocity and its average over an interval."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from keras_meanflow.pictures.charts import heat_map
from keras_meanflow.studies.fields import average_velocity
from keras_meanflow.studies.points import Points


def curvatures(
    velocity: Callable, points: Points, *, cells: int = 5, ode_steps: int = 16
) -> list[dict]:
    """Mean angles between `v(z_t, t)` and the average of v from r to t, for r < t on a grid.

    The angle is 0 if the trajectory is straight. A large angle means that the average velocity is
    hard to learn, and that a long Euler step along v is inaccurate.

    Args:
        velocity: `v(z, t, condition)` from and to NumPy arrays, such as `LearnedField.velocity`.
        points: a `Points`; the trajectories start at `z_t = (1 - t) x + t e`.
        cells: number of cells; r and t are multiples of 1 / cells.
        ode_steps: Runge-Kutta steps from t to r.

    Returns:
        A dict for each pair: `r`, `t`, and `angle` in degrees.

    Example:
        >>> curvatures(LearnedField(flow_map).velocity, points)[-1]["angle"]

    References:
        Re-MeanFlow (arXiv 2511.23342), the proxy Curv(r, t).
    """
    pairs = [(i / cells, j / cells) for j in range(1, cells + 1) for i in range(j)]
    return [
        {"r": r, "t": t, "angle": _mean_angle(velocity, points, r, t, ode_steps)} for r, t in pairs
    ]


def _mean_angle(velocity, points, r, t, ode_steps):
    r, t = (np.full(len(points.x), time, "float32") for time in (r, t))
    z = points.at(t)

    def v(z, t):
        return velocity(z, t, points.condition)

    u = average_velocity(v, z, r, t, steps=ode_steps)
    return float(np.degrees(_angles(u, v(z, t))).mean())


def _angles(a, b):
    """The angle between each row of a and of b, (n,): `2 atan2(|a^ - b^|, |a^ + b^|)`."""
    a, b = (np.asarray(c, "float64").reshape(len(c), -1) for c in (a, b))
    a, b = (c / np.linalg.norm(c, axis=1, keepdims=True) for c in (a, b))
    return 2.0 * np.arctan2(np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1))


def draw_curvatures(rows: list[dict]) -> Image.Image:
    """The heat map of the rows from `curvatures`."""
    lower, upper = (sorted({row[name] for row in rows}) for name in ("r", "t"))
    values = np.full((len(upper), len(lower)), np.nan)
    for row in rows:
        values[upper.index(row["t"]), lower.index(row["r"])] = row["angle"]
    return heat_map(
        values, lower, upper, title="Angle between v and its average", x_label="r", y_label="t"
    )
