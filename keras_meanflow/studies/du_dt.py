"""The size of the total derivative of u, over (r, t)."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from keras_meanflow.pictures.charts import heat_map
from keras_meanflow.studies.points import Points


def du_dt_norms(derivative: Callable, points: Points, *, cells: int = 10) -> list[dict]:
    """Mean norms of `du/dt = v . grad_z u + d_t u` over a grid of r <= t, v = e - x.

    The grid has `cells` equal cells in each direction; r and t are the middles of the cells.

    Args:
        derivative: function of `(z, r, t, v, condition)` from and to NumPy arrays, such as
            `LearnedField.derivative`.
        points: a `Points`.
        cells: number of cells in each direction.

    Returns:
        A dict for each cell: `r`, `t`, `du_dt_norm` and `correction`. The latter is the mean of
        `(t - r) ||du/dt|| / ||v||`, the relative distance of the target `v - (t - r) du/dt` to v.

    Example:
        >>> du_dt_norms(LearnedField(flow_map).derivative, points)[0]["du_dt_norm"]
    """
    middles = (np.arange(cells) + 0.5) / cells
    v = points.e - points.x
    lengths = _norms(v)
    rows = []
    for r, t in [(r, t) for t in middles for r in middles if r <= t]:
        times = (np.full(len(v), time, "float32") for time in (r, t))
        r_rows, t_rows = times
        norms = _norms(derivative(points.at(t_rows), r_rows, t_rows, v, points.condition))
        correction = np.mean((t - r) * norms / lengths)
        means = {"du_dt_norm": float(norms.mean()), "correction": float(correction)}
        rows.append({"r": float(r), "t": float(t), **means})
    return rows


def _norms(a):
    return np.linalg.norm(np.asarray(a, "float64").reshape(len(a), -1), axis=1)


def draw_du_dt_norms(
    rows: list[dict], column: str = "du_dt_norm", *, title: str = "||du/dt||"
) -> Image.Image:
    """The heat map of one column of the rows from `du_dt_norms`."""
    middles = sorted({row["t"] for row in rows})
    values = np.full((len(middles), len(middles)), np.nan)
    for row in rows:
        values[middles.index(row["t"]), middles.index(row["r"])] = row[column]
    return heat_map(values, middles, middles, title=title, x_label="r", y_label="t")
