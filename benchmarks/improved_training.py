"""The study of docs/results/improved_training.md: what of the improved training of MeanFlow helps.

    python benchmarks/improved_training.py run mixture --cells all --seeds 0 1 2 3 4
    python benchmarks/improved_training.py run eurosat --cells images --seeds 0 1 2 3 \
        --data eurosat32.npz --features squeezenet1.1_imagenet_notop.h5
    python benchmarks/improved_training.py table mixture

`run` trains each cell with each seed, and each share of rows r = t (`--fractions`). The step is
compiled once for each number of rows r < t; the seed, the weights and their shares are data of it.
Cells of one seed have the same first weights, data, noise and times. Each measurement is a line of
JSON in `--results`; a cell that is there already is not done again. `--jobs N` divides the runs
among N processes. `--set KNOB=VALUE` sets a knob of the task, `--tag` keeps such lines apart.

`table` prints the primary metric with paired intervals, the further measurements, and the share of
the steps after which a cell reaches the end of the baseline; `--draw FILE` draws the figure.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
from improved_training_cells import CELLS, GROUPS, objective_of, rows_of
from results import Lines

RESULTS = Path(__file__).parent / "results"
PARTS = 20  # measurements on the way; the primary metric takes the last fifth of them
LAST = 0.8
SIZES = {"mixture": (5_000, 10_000), "eurosat": (2_000, 10_000)}  # samples on the way, at the end
STEPS = (1, 2, 4, 16)
GAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
KNOBS = {
    "mixture": {},
    # A patch of 4x4 in colour has 48 numbers, fewer than the width: the network can keep noise.
    "eurosat": dict(
        width=64, depth=3, heads=4, patch_size=4, steps=4000, batch_size=32, learning_rate=3e-3,
        warmup_steps=200, last_rate=1.0, averages=(0.998,),
    ),
}  # fmt: skip


def run(arguments):
    """Train and measure the cells; with several jobs, in as many processes."""
    if arguments.jobs > 1:
        parts = [[*sys.argv, "--jobs", "1", "--part", str(i)] for i in range(arguments.jobs)]
        started = [
            subprocess.Popen([sys.executable, *part, "--of", str(arguments.jobs)]) for part in parts
        ]
        sys.exit(max(process.wait() for process in started))
    results = Lines(_results(arguments))
    work = [
        (rows_of(cell, fraction), fraction, cell)
        for fraction in arguments.fractions
        for cell in _cells(arguments.cells)
    ]
    for rows in dict.fromkeys(rows for rows, _, _ in work):
        cells = {(f, cell): None for r, f, cell in work if r == rows}
        train_group(arguments, results, list(dict.fromkeys(map(_once, cells))))


def _once(cell):
    """A cell whose rows do not follow the fraction belongs to no fraction."""
    fraction, name = cell
    return (None, name) if CELLS[name].get("own_rows") else cell


def _cells(names):
    return list(dict.fromkeys(c for name in names for c in GROUPS.get(name, [name])))


def train_group(arguments, results, cells):
    """Train the cells that share a compiled step."""
    from keras_meanflow.studies import CellRuns
    from keras_meanflow.training import Plan

    plan = Plan.of(arguments.task, "mean_flow")
    knobs = {**KNOBS[arguments.task], **dict(_setting(text) for text in arguments.set)}
    knobs |= {"power": 1.0, "label_dropout": 0.1}
    knobs |= {"data": arguments.data} if arguments.data else {}

    def training(seed):
        return plan.training({**knobs, "seed": seed})

    work = [(seed, cell) for seed in arguments.seeds for cell in cells]
    work = [w for i, w in enumerate(work) if i % arguments.of == arguments.part]
    todo = [(seed, cell) for seed, cell in work if not _done(results, arguments, seed, cell)]
    if not todo:
        return
    base = training(0).flow_map.objective
    objectives = {cell: objective_of(base, *cell) for cell in cells}
    runs = CellRuns(training, objectives)
    measure = MEASURES[arguments.task](arguments, runs.flow_map)
    for seed, cell in todo:
        train_cell(arguments, results, runs, measure, seed, cell, knobs)


def _about(arguments, seed, cell):
    fraction, name = cell
    return dict(task=arguments.task, cell=name, fraction=fraction, seed=seed, tag=arguments.tag)


def _done(results, arguments, seed, cell):
    return results.has(**_about(arguments, seed, cell), done=1.0, final=True)


def train_cell(arguments, results, runs, measure, seed, cell, knobs):
    """Train and measure one cell of one seed; its lines are written at its end."""
    lines = []
    for done in runs.train(cell, seed=seed, parts=PARTS):
        lines.append({"done": round(done, 3), "final": False, "fd1": measure.on_the_way()})
    last = {"done": 1.0, "final": True, **measure.at_the_end()}
    machine = {"backend": os.environ["KERAS_BACKEND"], "machine": platform.machine()}
    for line in (*lines, last):
        settings = {"knobs": _plain(knobs), **machine} if line is last else {}
        results.add({**_about(arguments, seed, cell), **line, **settings})
    print(seed, *cell, round(lines[-1]["fd1"], 4), _short(last), flush=True)


def _plain(knobs):
    return {name: value for name, value in knobs.items() if name != "data"}


def _short(line):
    return {name: round(v, 4) for name, v in line.items() if name.startswith("fd")}


def _setting(text):
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


class ExactMeasure:
    """Measures a model of the task `mixture` against the exact law.

    The Frechet distance is to the exact moments. The sampling error of a model's moments is reduced
    by that of the exact one-step map at the same noise and labels (control variates): with 5,000
    samples it would otherwise exceed the distances that are compared.
    """

    def __init__(self, arguments, flow_map):
        from keras_meanflow.backend.random import philox_noise
        from keras_meanflow.data import FreshSamples
        from keras_meanflow.studies import GaussianMixture, LearnedField, Points
        from keras_meanflow.studies.u_error import Truth

        del arguments
        self.law = GaussianMixture.like_images()
        self.field = LearnedField(flow_map, batch_size=1000)
        self.few, self.many = SIZES["mixture"]
        self.e = philox_noise(1234, range(self.many), flow_map.network.data_shape)
        self.labels = (np.arange(self.many) % self.law.num_classes).astype("int32")
        self.x = self.law.one_step(self.e, self.labels)
        points = Points.of(FreshSamples(self.law.sample), 1000)
        self.truths = [Truth.of(self.law.velocity, points, gap) for gap in GAPS]

    def samples(self, n, steps):
        """n samples in some jumps of the flow map."""
        z, labels = self.e[:n], self.labels[:n]
        for i in range(steps, 0, -1):
            t, r = np.full(n, i / steps), np.full(n, (i - 1) / steps)
            z = z - self.field(z, r, t, labels) / steps
        return z

    def distance(self, x):
        """The Frechet distance of samples to the exact moments."""
        from keras_meanflow.metrics import frechet_distance

        x, exact = x.astype("float64"), self.x[: len(x)]
        mean, covariance = self.law.moments()
        moved = x.mean(axis=0) - exact.mean(axis=0) + mean
        turned = np.cov(x.T) - np.cov(exact.T) + covariance
        return float(frechet_distance(moved, turned, mean, covariance))

    def on_the_way(self):
        """The distance of samples in one step."""
        return self.distance(self.samples(self.few, 1))

    def at_the_end(self):
        """Distances by steps, errors of u by gap (v: gap 0), and that of the one-step map."""
        found = {f"fd{steps}": self.distance(self.samples(self.many, steps)) for steps in STEPS}
        for truth in self.truths:
            found[f"u{truth.gap:g}"] = truth.error(self.field)["relative"]
        apart = self.samples(self.many, 1) - self.x
        found["one_step"] = float(np.sqrt(np.mean(apart**2) / np.mean(self.x**2)))
        return found


class ImageMeasure:
    """Measures a model of EuroSAT by the distance of features."""

    def __init__(self, arguments, flow_map):
        from judge import Judge

        self.flow_map, folder = flow_map, Path(arguments.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.judge = Judge(arguments.task, arguments.features, arguments.data, folder)
        self.few, self.many = SIZES[arguments.task]

    def on_the_way(self):
        """The distance of samples in one step."""
        return self.judge(self.flow_map, 1, self.few)

    def at_the_end(self):
        """The distance by the number of steps."""
        return {
            f"fd{steps}": self.judge(self.flow_map, steps, self._count(steps)) for steps in STEPS
        }

    def _count(self, steps):
        return self.few if steps == 16 else self.many


MEASURES = {"mixture": ExactMeasure, "eurosat": ImageMeasure}


def _results(arguments):
    return Path(arguments.results or RESULTS / f"improved_training_{arguments.task}.jsonl")


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    train, show = commands.add_parser("run"), commands.add_parser("table")
    for command in (train, show):
        command.add_argument("task", choices=MEASURES)
        command.add_argument("--results", help="Default: benchmarks/results/, by the task.")
        command.add_argument("--tag", default="")
        command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    train.add_argument("--cells", nargs="+", default=["all"], choices=[*GROUPS, *CELLS])
    train.add_argument("--fractions", type=float, nargs="+", default=[0.75, 0.5])
    train.add_argument("--jobs", type=int, default=1)
    train.add_argument("--part", type=int, default=0, help=argparse.SUPPRESS)
    train.add_argument("--of", type=int, default=1, help=argparse.SUPPRESS)
    train.add_argument("--data", help="Of eurosat.")
    train.add_argument("--features", help="Of eurosat.")
    train.add_argument("--folder", default="study", help="For the reference of features.")
    train.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE")
    train.set_defaults(do=run)
    show.add_argument("--draw", help="File of the figure.")
    show.set_defaults(do=table)
    arguments = parser.parse_args()
    arguments.do(arguments)


def table(arguments):
    """Print the tables of the results; draw the figure."""
    from improved_training_tables import draw, print_tables

    lines = [line for line in Lines(_results(arguments)) if line["tag"] == arguments.tag]
    lines = [line for line in lines if line["seed"] in arguments.seeds]
    print_tables(lines, LAST)
    if arguments.draw:
        draw(lines, arguments.draw)


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "jax")
    main()
