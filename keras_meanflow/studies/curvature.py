"""How much the lines of a velocity bend: the angle between it and its average over a stretch."""

import numpy as np

from keras_meanflow.pictures.charts import heat_map
from keras_meanflow.studies.fields import average_velocity


def curvatures(velocity, points, *, cells=5, ode_steps=16):
    """Mean angles between `v(z_t, t)` and the average of v from r to t, at r < t on a grid.

    Along a straight line the angle is 0. Where it is large the average velocity is hard to learn
    and a jump by the velocity alone goes astray.

    Args:
        velocity: `v(z, t, condition)` from and to NumPy arrays, such as `LearnedField.velocity`.
        points: a `Points`, on whose lines `z_t = (1 - t) x + t e` the stretches start.
        cells: of the grid: r and t are multiples of 1 / cells.
        ode_steps: Runge-Kutta steps from t to r.

    Returns:
        A row, a dict, for each pair: `r`, `t`, and `angle` in degrees.

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


def draw_curvatures(rows):
    """The heat map of rows from `curvatures`."""
    lower, upper = (sorted({row[name] for row in rows}) for name in ("r", "t"))
    values = np.full((len(upper), len(lower)), np.nan)
    for row in rows:
        values[upper.index(row["t"]), lower.index(row["r"])] = row["angle"]
    return heat_map(
        values, lower, upper, title="Angle of v to its average", x_label="r", y_label="t"
    )
