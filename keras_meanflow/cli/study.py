"""`keras-meanflow study`: the diagnostics, each with a CSV file and a figure."""

import shlex
import sys
from pathlib import Path

import click

from keras_meanflow.cli.backend import (
    choose_backend,
    open_named,
    start,
)
from keras_meanflow.cli.errors import one_line_errors
from keras_meanflow.cli.options import OUT_FOLDER, Number
from keras_meanflow.cli.plans import open_plan
from keras_meanflow.cli.recipes import with_named_files
from keras_meanflow.cli.study_options import QUALITY, RUN, TRAINING, TRUTH, with_options

LARGEST = 2.0**32


@click.group()
def study():
    """Look inside training: each study writes a CSV file and a figure.

    The same command again continues where it stopped.
    """


@study.command("two-stages")
@click.option("--shares", default="0,0.0625,0.125,0.1875,0.25", show_default=True,
              help="Shares of the cost for the v-loss.")  # fmt: skip
@click.option("--u-step-cost", type=Number(0, min_open=True), default=1.0, show_default=True,
              help="Cost of a step with the u-loss, in steps with the v-loss.")  # fmt: skip
@with_options(QUALITY)
@with_options(TRAINING)
def two_stages(shares, u_step_cost, **options):
    """Train v first, then u, at a fixed total cost.

    v is the velocity (loss on rows with r = t); u is the average velocity (loss on rows r < t).
    """
    with one_line_errors():
        special = {"shares": numbers(shares, "--shares"), "u_step_cost": u_step_cost}
        _train("two_stages", special, "jump1", **options)


@study.command("noisy-velocity")
@click.option("--noises", default="0,0.01,0.03,0.1", show_default=True,
              help="Values of k; the noise has standard deviation k ||v||.")  # fmt: skip
@with_options(QUALITY)
@with_options(TRAINING)
def noisy_velocity(noises, **options):
    """Train with noise in the target of the v-loss."""
    with one_line_errors():
        _train(
            "noisy_velocity", {"noises": numbers(noises, "--noises", LARGEST)}, "jump1", **options
        )


@study.command("one-gap")
@click.option("--bins", default="0.1-0.3,0.3-0.5,0.5-0.7,0.7-0.9", show_default=True,
              help="Bins of the gap t - r.")  # fmt: skip
@click.option("--starts", default="random,velocity", show_default=True,
              help="Initial weights: random, or of a run with the v-loss.")  # fmt: skip
@with_options(QUALITY)
@with_options(TRAINING)
def one_gap(bins, starts, **options):
    """Train with the u-loss on one bin of gaps; measure v."""
    with one_line_errors():
        starts = tuple(starts.split(","))
        if not set(starts) <= {"random", "velocity"}:
            raise ValueError(f"--starts are random, velocity. Received: {','.join(starts)}.")
        _train("one_gap", {"bins": pairs(bins), "starts": starts}, "euler32", **options)


@study.command("affinity")
@click.argument("run_dirs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--random", "untrained", is_flag=True, help="Also measure the first RUN with random weights."
)
@click.option("--bins", default="0.1-0.3,0.3-0.5,0.5-0.7,0.7-0.9", show_default=True,
              help="Bins of the gap t - r.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True,
              help="Rows per batch.")  # fmt: skip
@click.option("--draws", type=click.IntRange(1), default=1, show_default=True,
              help="Draws of noise and times for each item.")  # fmt: skip
@click.option("--out", type=OUT_FOLDER, help="Folder to write to; default the first RUN.")
@with_options(RUN)
def affinity(
    run_dirs, untrained, bins, batch_size, draws, out, count, data, average, recipes, backend
):
    """Compare the gradients of the v-loss and of the u-loss.

    The result is their cosine, for each bin of gaps of the u-loss.
    """
    with one_line_errors():
        rows, settings = [], {"bins": pairs(bins), "batch_size": batch_size, "draws": draws}
        for run_dir in run_dirs:
            flow_map, points = _load(run_dir, backend, recipes, data, count, average)
            from keras_meanflow.studies.affinity import draw_affinities, task_affinities

            models = {Path(run_dir).name: flow_map}
            if untrained and run_dir == run_dirs[0]:
                models = {"random": _untrained(flow_map), **models}
            for name, model in models.items():
                found = task_affinities(model, points, **settings)
                rows += [{"run": name, **row} for row in found]
        _write(rows, draw_affinities(rows), Path(out or run_dirs[0]), "affinity")


@study.command("u-error")
@click.argument("run_dirs", metavar="RUN...", nargs=-1, required=True)
@click.option("--out", type=OUT_FOLDER, help="Folder to write to; default the first RUN.")
@with_options(TRUTH)
@with_options(RUN)
def u_error(run_dirs, out, gaps, truth, ode_steps, count, data, average, recipes, backend):
    """Measure the error of u by gap.

    The error is the difference to the average of v from a fine ODE solve.
    """
    with one_line_errors():
        gaps, rows = numbers(gaps, "--gaps"), []
        for run_dir in run_dirs:
            flow_map, points = _load(run_dir, backend, recipes, data, count, average)
            from keras_meanflow.studies.fields import LearnedField
            from keras_meanflow.studies.u_error import draw_u_errors_of_runs, u_errors

            u = LearnedField(flow_map)
            velocity = _true_velocity(truth) or u.velocity
            found = u_errors(u, velocity, points, gaps=gaps, ode_steps=ode_steps)
            rows += [{"run": Path(run_dir).name, **row} for row in found]
        _write(rows, draw_u_errors_of_runs(rows), Path(out or run_dirs[0]), "u-error")


@study.command("u-error-training")
@click.option("--images", "count", type=click.IntRange(1), default=512, show_default=True,
              help="Size of the fixed random subset of the data.")  # fmt: skip
@with_options(TRUTH)
@with_options(TRAINING)
def u_error_training(gaps, truth, count, ode_steps, **options):
    """Train, and measure the error of u by gap during training."""
    with one_line_errors():
        gaps = numbers(gaps, "--gaps")
        subject, folder, options = _begin("u-error-training", **options)
        from keras_meanflow.studies.points import Points
        from keras_meanflow.studies.u_error import UErrors, draw_u_errors, errors_in_training

        points = Points.of(subject.plan.training(subject.knobs).data, count)
        measure = UErrors(points, _true_velocity(truth), gaps=gaps, ode_steps=ode_steps)
        rows = errors_in_training(subject, folder, measure, **options)
        _write(rows, draw_u_errors(rows), folder, "results")


@study.command("du-dt")
@click.argument("run_dir", metavar="RUN")
@click.option("--cells", type=click.IntRange(1), default=10, show_default=True,
              help="Cells of the grid, in r and in t.")  # fmt: skip
@click.option("--out", type=OUT_FOLDER, help="Folder to write to; default RUN.")
@with_options(RUN)
def du_dt(run_dir, cells, out, count, data, average, recipes, backend):
    """Measure the norm of du/dt over (r, t); draw a heat map."""
    with one_line_errors():
        flow_map, points = _load(run_dir, backend, recipes, data, count, average)
        from keras_meanflow.studies.du_dt import draw_du_dt_norms, du_dt_norms
        from keras_meanflow.studies.fields import LearnedField

        rows = du_dt_norms(LearnedField(flow_map).derivative, points, cells=cells)
        _write(rows, draw_du_dt_norms(rows), Path(out or run_dir), "du-dt")


@study.command()
@click.argument("run_dir", metavar="RUN")
@click.option("--cells", type=click.IntRange(1), default=5, show_default=True,
              help="r and t are multiples of 1 / CELLS.")  # fmt: skip
@click.option("--ode-steps", type=click.IntRange(1), default=16, show_default=True,
              help="Runge-Kutta steps from t to r.")  # fmt: skip
@click.option("--out", type=OUT_FOLDER, help="Folder to write to; default RUN.")
@with_options(RUN)
def curvature(run_dir, cells, ode_steps, out, count, data, average, recipes, backend):
    """Measure how curved the trajectories are; draw a heat map.

    The measure is the angle between v and its average from r to t.
    """
    with one_line_errors():
        flow_map, points = _load(run_dir, backend, recipes, data, count, average)
        from keras_meanflow.studies.curvature import curvatures, draw_curvatures
        from keras_meanflow.studies.fields import LearnedField

        velocity = LearnedField(flow_map).velocity
        rows = curvatures(velocity, points, cells=cells, ode_steps=ode_steps)
        _write(rows, draw_curvatures(rows), Path(out or run_dir), "curvature")
        mean = sum(row["angle"] for row in rows) / len(rows)
        click.echo(f"{mean:.3g} degrees on average")


def numbers(text: str, option: str, most: float = 1.0) -> tuple[float, ...]:
    """The numbers of a text like 0,0.5,1; each lies in [0, most]."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0.0 <= number <= most for number in found):
        within = f"from 0 to {most:g}"
        raise ValueError(f"{option} are numbers {within}, as in 0,0.5,1. Received: {text!r}.")
    return found


def _seeds(text):
    """The whole numbers of a text like 0,1,2: not as floats, which round large ones."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) <= LARGEST for part in parts):
        raise ValueError(
            f"--seeds are whole numbers from 0 to {LARGEST:g}, as in 0,1,2. Received: {text!r}."
        )
    return tuple(map(int, parts))


def pairs(text: str) -> tuple[tuple[float, float], ...]:
    """The pairs of a text like 0.1-0.3,0.3-0.5."""
    try:
        ends = (part.split("-") for part in text.split(","))
        bins = tuple((float(low), float(high)) for low, high in ends)
    except ValueError:
        bins = ()
    if not bins or not all(0.0 <= low < high <= 1.0 for low, high in bins):
        raise ValueError(
            f"--bins are pairs that rise in [0, 1], as in 0.1-0.3,0.3-0.5. Received: {text!r}."
        )
    return bins


def _begin(name, task, method, size, settings, seeds, at, out, backend, verbose):
    """The subject, the folder, and the options of all studies that train: seeds, at, verbose."""
    options = {
        "seeds": _seeds(seeds),
        "at": numbers(at, "--at"),
        "verbose": 2 if verbose else 0,
    }
    if not all(0.0 < share <= 1.0 for share in options["at"]):
        raise ValueError(f"--at are shares of the steps in (0, 1]. Received: {at!r}.")
    plan, settings, plan_name = open_plan(task, method, size, settings)
    start(choose_backend(backend))
    from keras_meanflow.studies.training import Subject

    command = shlex.join(["keras-meanflow", *sys.argv[1:]])
    subject = Subject(plan=plan, knobs=plan.resolve(settings), command=command)
    return subject, Path(out or Path("studies") / f"{name}-{plan_name}"), options


def _train(name, special, default, *, protocol, weights, reference, samples, samplers, **options):
    """Run one of the studies that train and measure the quality of samples."""
    subject, folder, options = _begin(name.replace("_", "-"), **options)
    from keras_meanflow import studies as diagnostics

    samplers = _samplers(samplers or default)
    if protocol is None:
        data = subject.plan.training(subject.knobs).data
        quality = diagnostics.EnergyDistance(data, samples or 2000, samplers)
    else:
        evaluation = _evaluation(protocol, weights, reference, samples)
        quality = diagnostics.FrechetDistance(evaluation, samplers)
    getattr(diagnostics, name)(subject, folder, quality, **special, **options)
    click.echo(f"{folder / 'results.csv'}, {folder / 'results.png'}")


def _samplers(text):
    from keras_meanflow.samplers import Euler, Jump

    kinds, chosen = {"jump": Jump, "euler": Euler}, {}
    for name in text.split(","):
        kind = name.rstrip("0123456789")
        if kind not in kinds or kind == name:
            raise ValueError(f"--samplers are as in jump1,jump4,euler32. Received: {text!r}.")
        chosen[name] = kinds[kind](steps=int(name.removeprefix(kind)))
    return chosen


def _evaluation(protocol, weights, reference, samples):
    import dataclasses

    from keras_meanflow.evaluation.samples import Evaluation

    evaluation = Evaluation.open(protocol, weights=weights, reference=reference)
    if samples is None:
        return evaluation
    smaller = dataclasses.replace(evaluation.protocol, samples=samples)
    return dataclasses.replace(evaluation, protocol=smaller)


def _load(run_dir, backend, recipes, data, count, average):
    """The model of a run, and a subset of its task's data."""
    flow_map = open_named(run_dir, backend, recipes).flow_map
    flow_map.average = flow_map.average if average else None
    from keras_meanflow.studies.points import Points
    from keras_meanflow.training import run as runs

    found = runs.plan_of(with_named_files(runs.read_settings(run_dir), recipes))
    if found is None:
        raise ValueError(f"{run_dir} has no task, whose data is needed.")
    plan, knobs = found
    knobs = {name: value for name, value in knobs.items() if name != "study"}
    source = plan.training(knobs | ({} if data is None else {"data": data})).data
    return flow_map, Points.of(source, min(count, len(source)))


def _true_velocity(truth):
    """The closed-form velocity of a task; None for the velocity of the model."""
    from keras_meanflow.studies.mixture import GaussianMixture

    laws = {"ring": GaussianMixture.ring, "mixture": GaussianMixture.like_images}
    return laws[truth]().velocity if truth in laws else None


def _untrained(flow_map):
    import keras

    keras.utils.set_random_seed(flow_map.seed)
    model = type(flow_map).from_config(flow_map.get_config())
    model.average = None
    return model


def _write(rows, image, folder, name):
    from keras_meanflow.studies.tables import write_figure, write_table

    write_table(folder / f"{name}.csv", rows)
    write_figure(folder / f"{name}.png", image)
    click.echo(f"{folder / name}.csv, {folder / name}.png")
