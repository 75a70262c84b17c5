"""The tables and the figure of the study of docs/results/improved_training.md, from its lines."""

import math

import numpy as np
from improved_training_cells import CELLS
from scipy import stats

CONTROL = {  # cell -> the flat weight of equal share; the baseline's own share for the others
    "snr_v": "flat_0.4", "snr_v_beta": "flat_0.4",
    "snr_x": "flat_as_snr_x", "snr_x_beta": "flat_as_snr_x",
    "snr_e": "flat_as_snr_e", "snr_e_beta": "flat_as_snr_e",
    "temf": "flat_as_temf",
}  # fmt: skip
ENDS = ("fd1", "fd2", "fd4", "fd16", "u0", "u0.1", "u0.5", "u1", "one_step")


class Runs:
    """The lines of a study by cell and seed.

    `primary`: (fraction, cell) -> {seed: mean ln of the one-step distance after the share `last`};
    `final`: the last line; `curves`: {seed: [(share of the steps, distance), ...]}.
    """

    def __init__(self, lines, last):
        self.final, self.curves = {}, {}
        for line in lines:
            key, seed = (line["fraction"], line["cell"]), line["seed"]
            if line["final"]:
                self.final.setdefault(key, {})[seed] = line
            else:
                points = self.curves.setdefault(key, {}).setdefault(seed, [])
                points.append((line["done"], line["fd1"]))
        self.primary = {
            key: {
                seed: float(np.mean([math.log(fd) for done, fd in points if done > last + 1e-9]))
                for seed, points in seeds.items()
                if seed in self.final.get(key, {})
            }
            for key, seeds in self.curves.items()
        }

    def of(self, fraction, cell):
        """The primary metric by seed; TEMF has its own rows."""
        found = self.primary.get((fraction, cell))
        return found or (self.primary.get((None, cell)) if CELLS[cell].get("own_rows") else None)

    def key(self, fraction, cell):
        """The key of a cell's lines."""
        return (None, cell) if CELLS[cell].get("own_rows") else (fraction, cell)


def paired(values, others):
    """The mean difference over common seeds and half of its 95 % interval (Student's t)."""
    seeds = sorted(set(values) & set(others))
    difference = np.array([values[seed] - others[seed] for seed in seeds])
    if len(seeds) < 2:
        return (float(difference.mean()), math.nan) if len(seeds) else None
    error = difference.std(ddof=1) / math.sqrt(len(seeds))
    return float(difference.mean()), float(stats.t.ppf(0.975, len(seeds) - 1) * error)


def percent(pair):
    """A difference of logarithms as a change in per cent, with its interval."""
    if pair is None:
        return ""
    mean, half = pair
    low, high = (100.0 * math.expm1(mean + sign * half) for sign in (-1, 1))
    interval = "" if math.isnan(half) else f" ({low:+.0f} to {high:+.0f})"
    return f"{100.0 * math.expm1(mean):+.0f} %{interval}"


def print_tables(lines, last):
    """Print a table of the primary metric and one of the ends, for each share of rows r = t."""
    runs = Runs(lines, last)
    for fraction in sorted({f for f, _ in runs.primary if f is not None}, reverse=True):
        print(f"\nShare of rows r = t: {fraction}\n")
        print("| cell | seeds | one-step distance | to the baseline | to its control | reached |")
        print("|---|---|---|---|---|---|")
        for cell in CELLS:
            if runs.of(fraction, cell):
                print(_row(runs, fraction, cell))
        _print_ends(runs, fraction)


def _row(runs, fraction, cell):
    own, base = runs.of(fraction, cell), runs.of(fraction, "baseline") or {}
    control = runs.of(fraction, CONTROL[cell]) if cell in CONTROL else None
    values = [math.exp(value) for value in own.values()]
    distance = f"{math.exp(np.mean(list(own.values()))):.4f}"
    if len(values) > 1:
        distance += f" ({min(values):.4f} to {max(values):.4f})"
    to_base = "" if cell == "baseline" else percent(paired(own, base))
    to_control = "" if control is None else percent(paired(own, control))
    seeds = ",".join(map(str, sorted(own)))
    cells = (cell, seeds, distance, to_base, to_control, _reached(runs, fraction, cell))
    return "| " + " | ".join(cells) + " |"


def _mean_curve(runs, fraction, cell, seeds):
    curves = runs.curves.get(runs.key(fraction, cell), {})
    points = np.array([curves[seed] for seed in seeds if seed in curves])
    return points[0, :, 0], points[:, :, 1].mean(axis=0)


def _reached(runs, fraction, cell):
    """The share of the steps after which the mean distance is at the baseline's last one."""
    seeds = sorted(set(runs.of(fraction, cell)) & set(runs.of(fraction, "baseline") or ()))
    if cell == "baseline" or not seeds:
        return ""
    goal = _mean_curve(runs, fraction, "baseline", seeds)[1][-1]
    shares, values = _mean_curve(runs, fraction, cell, seeds)
    below = np.flatnonzero(values <= goal)
    if not len(below):
        return "not"
    i = below[0]
    if i == 0:
        return f"{shares[0]:.2f}"
    part = (values[i - 1] - goal) / (values[i - 1] - values[i])
    return f"{shares[i - 1] + part * (shares[i] - shares[i - 1]):.2f}"


def _print_ends(runs, fraction):
    names = None
    for cell in CELLS:
        final = runs.final.get(runs.key(fraction, cell), {})
        if not final:
            continue
        if names is None:
            names = [name for name in ENDS if name in next(iter(final.values()))]
            print("\n| cell |", " | ".join(names), "|")
            print("|---|" + "---|" * len(names))
        means = (np.mean([line[name] for line in final.values()]) for name in names)
        print(f"| {cell} |", " | ".join(f"{mean:.3g}" for mean in means), "|")


def draw(lines, path):
    """The one-step distance over training, mean and range over seeds; a chart for each fraction."""
    from keras_meanflow.pictures.charts import Series, line_chart, side_by_side

    runs, charts = Runs(lines, 0.8), []
    for fraction in sorted({f for f, _ in runs.primary if f is not None}, reverse=True):
        series = {}
        for cell in ("baseline", "beta", "flat_0.4", "snr_v_beta", "snr_e_beta", "temf"):
            curves = runs.curves.get(runs.key(fraction, cell))
            if curves:
                points = np.array(list(curves.values()))
                y = points[:, :, 1]
                series[cell] = Series(
                    x=points[0, :, 0], y=y.mean(axis=0), low=y.min(axis=0), high=y.max(axis=0)
                )
        title = f"One step, {fraction:g} of rows r = t"
        labels = dict(x_label="share of the training steps", y_label="Frechet distance")
        charts.append(line_chart(series, title=title, log=True, **labels))
    side_by_side(charts).save(path)
