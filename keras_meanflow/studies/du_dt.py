"""How large the total derivative of u is, over (r, t)."""

import numpy as np

from keras_meanflow.pictures.charts import heat_map


def du_dt_norms(derivative, points, *, cells=10):
    """Mean norms of `du/dt = v . grad_z u + d_t u` over a grid of r <= t, v = e - x.

    The grid has `cells` equal cells in each direction, t and r at their middles.

    Args:
        derivative: `(z, r, t, v, condition)`, from and to NumPy arrays, such as
            `LearnedField.derivative`.
        points: a `Points`.
        cells: of the grid in each direction.

    Returns:
        A row, a dict, for each cell: `r`, `t`, `du_dt_norm` and `correction`, the mean of
        `(t - r) ||du/dt|| / ||v||`, by which the target `v - (t - r) du/dt` is moved off v.

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


def draw_du_dt_norms(rows, column="du_dt_norm", *, title="||du/dt||"):
    """The heat map of a column of rows from `du_dt_norms`."""
    middles = sorted({row["t"] for row in rows})
    values = np.full((len(middles), len(middles)), np.nan)
    for row in rows:
        values[middles.index(row["t"]), middles.index(row["r"])] = row[column]
    return heat_map(values, middles, middles, title=title, x_label="r", y_label="t")
