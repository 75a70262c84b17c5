"""The study of docs/results/improved_training.md: MeanFlow with and without the improved training.

    python benchmarks/improved_training.py run mnist baseline min_snr_beta --seeds 0 1 2 \
        --data mnist.npz --features lenet_mnist_fid.pth --folder study
    python benchmarks/improved_training.py table mnist --folder study

`run` trains each variant with each seed and writes a line of JSON for each evaluation to
FOLDER/results.jsonl: the Frechet distance of one-step samples at every tenth of training, and of
1, 2, 4 and 16 steps at its end; with `--curves` 2, 4 and 16 steps also at every second tenth. A
run that was stopped continues; one that is finished is not done again. `--set KNOB=VALUE` sets a
knob of the task or of `progressive_mean_flow`; `--value PATH=VALUE` sets a number of the objective,
such as times.std; `--tag NAME` keeps such runs apart. `table` prints the means and spreads over
seeds, and the share of the steps after which a variant reaches the baseline's final distance. It
draws FOLDER/DATASET.png.
"""

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
from results import Lines

MEAN_ONE = 2.5  # over LogitNormal(-0.4, 1) the mean of MinSNR's weight is 0.4
# Variant: knobs of the task by `progressive_mean_flow`; with a dot, a value of the objective.
NO_PARTS = {"gamma": None, "exponent": None, "stages": None}
VARIANTS = {
    "baseline": {},
    "min_snr": {"gamma": 5.0},
    "dtd": {"stages": 20},
    "beta": {"exponent": 1.0},
    "min_snr_beta": {"gamma": 5.0, "exponent": 1.0},
    "dtd_beta": {"stages": 20, "exponent": 1.0},
    "dtd_beta_k0.5": {"stages": 20, "exponent": 0.5},
    "dtd_beta_k2": {"stages": 20, "exponent": 2.0},
    "beta_k0.5": {"exponent": 0.5},
    "beta_k2": {"exponent": 2.0},
    # Not the paper's: MinSNR weights of mean 1, and stages as short as the training here.
    "min_snr_mean1": {"gamma": 5.0, "alpha.scale": MEAN_ONE},
    "min_snr_mean1_beta": {"gamma": 5.0, "alpha.scale": MEAN_ONE, "exponent": 1.0},
    "dtd_short": {"stages": 5, "patience": 3},
    "dtd_short_beta": {"stages": 5, "patience": 3, "exponent": 1.0},
}
# Sized so that a run takes some minutes on one CPU core.
SMALL = {
    "digits": {"width": 64, "depth": 3, "heads": 4, "patch_size": 2, "steps": 6000},
    "mnist": {"width": 96, "depth": 4, "heads": 4, "patch_size": 7, "steps": 12_000},
    # A patch has 48 numbers here. With 192, more than the width, the network could not keep noise.
    "eurosat": {"width": 64, "depth": 3, "heads": 4, "patch_size": 4, "steps": 4000},
}
COMMON = {
    "batch_size": 32,
    "learning_rate": 3e-3,
    "last_rate": 1.0,
    "warmup_steps": 200,
    "power": 1.0,
    "label_dropout": 0.1,
    "averages": (0.998,),
    "patience": 10,
    "sample_every": None,
}
PROTOCOLS = {"digits": "digits-lenet", "mnist": "mnist-lenet", "eurosat": "eurosat-squeezenet"}
TENTHS = 10
DURING = (1, 5_000)  # steps of sampling and samples, at every tenth
MORE = ((2, 2_000), (4, 2_000), (16, 2_000))  # with --curves, at every second tenth
FINAL = ((1, 10_000), (2, 10_000), (4, 10_000), (16, 2_000))
SAMPLE_SEED = 1234


def run(arguments):
    """Train and evaluate each variant with each seed."""
    for seed in arguments.seeds:
        for variant in arguments.variants:
            train_and_judge(arguments, variant, seed)


def train_and_judge(arguments, variant, seed):
    """Train and evaluate one variant with one seed."""
    from keras_meanflow import Curriculum, backend
    from keras_meanflow.training import Plan
    from keras_meanflow.training import run as runs

    name = f"{arguments.dataset}-{variant}-{seed}{arguments.tag}"
    folder, results = Path(arguments.folder), Lines(Path(arguments.folder) / "results.jsonl")
    plan = Plan.of(arguments.dataset, "progressive_mean_flow")
    knobs = {**SMALL[arguments.dataset], **COMMON, **NO_PARTS, **VARIANTS[variant]}
    knobs |= {"seed": seed} | ({"data": arguments.data} if arguments.data else {})
    knobs |= dict(_setting(text) for text in arguments.set)
    values = {name: knobs.pop(name) for name in list(knobs) if "." in name}
    values |= dict(_setting(text) for text in arguments.value)
    judge = Judge(arguments.dataset, arguments.features, arguments.data, folder)
    training = plan.training(knobs)
    Curriculum(values).apply(training.flow_map)
    settings = runs.describe(plan, plan.resolve(knobs))
    about = {"run": name, "dataset": arguments.dataset, "variant": variant, "tag": arguments.tag}
    about |= {name: value for name, value in (knobs | values).items() if name != "data"}
    about |= {"backend": settings["backend"], "versions": settings["versions"]}
    about["machine"] = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    about["device"] = backend.device_name()[0]
    steps = training.steps
    for tenth in range(1, TENTHS + 1):
        step, started = steps * tenth // TENTHS, time.monotonic()
        runs.train(dataclasses.replace(training, steps=step), folder / name, settings, verbose=0)
        seconds = time.monotonic() - started
        if training.flow_map.batches_done > step:  # stopped before this was measured
            continue
        wanted = [DURING]
        wanted += MORE if arguments.curves and tenth % 2 == 0 else ()
        wanted += FINAL if tenth == TENTHS else ()
        for nfe, samples in wanted:
            line = {"step": step, "fraction": tenth / TENTHS, "nfe": nfe, "samples": samples}
            if not results.has(run=name, step=step, nfe=nfe, samples=samples):
                fid = judge(training.flow_map, nfe, samples)
                results.add({**about, **line, "fid": fid, "seconds": round(seconds, 1)})
                print(name, step, nfe, samples, round(fid, 3), flush=True)


def _setting(text):
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


class Judge:
    """The Frechet distance of a model's samples to the training images."""

    def __init__(self, dataset, features, data, folder):
        from keras_meanflow.data import load_digits
        from keras_meanflow.evaluation import make_reference
        from keras_meanflow.evaluation.named import open_protocol
        from keras_meanflow.metrics import Reference

        self.protocol, self.extract = open_protocol(PROTOCOLS[dataset], weights=features)
        path = Path(folder) / f"{dataset}-{self.extract.name}.npz"
        if not path.exists():
            if dataset == "digits":
                images, name = self.protocol.quantise(load_digits("test")[0]), "unseen digits"
            else:
                images, name = np.load(data)["x_train"], f"{dataset} training images"
            images = images.reshape(*images.shape[:3], -1)
            batches = (images[i : i + 500] for i in range(0, len(images), 500))
            make_reference(batches, self.extract, path, name=name)
        self.reference = Reference.load(path)

    def __call__(self, flow_map, nfe, samples):
        from keras_meanflow.metrics import Statistics, frechet_distance

        statistics = Statistics()
        for first in range(0, samples, 1000):
            labels = np.arange(first, first + 1000) % 10
            images = flow_map.generate(labels, steps=nfe, seed=SAMPLE_SEED, first=first, verbose=0)
            statistics.update(self.extract(self.protocol.quantise(images))["features"])
        total = statistics.total()
        return float(
            frechet_distance(
                total.mean, total.covariance, self.reference.mean, self.reference.covariance
            )
        )


def table(arguments):
    """Print means and spreads over seeds; draw the curves."""
    rows = Lines(Path(arguments.results or Path(arguments.folder) / "results.jsonl"))
    rows = [r for r in rows if r["dataset"] == arguments.dataset and r["tag"] == arguments.tag]
    if arguments.seeds:
        rows = [r for r in rows if r["seed"] in arguments.seeds]
    if arguments.variants:
        rows = [r for r in rows if r["variant"] in arguments.variants]
    variants = [v for v in VARIANTS if any(r["variant"] == v for r in rows)]
    curves = {v: _curve(rows, v) for v in variants}
    goal = curves["baseline"][1][-1].mean()
    head = [f"{nfe}-step FID ({n:,})" for nfe, n in FINAL]
    print("| variant | seeds |", " | ".join(head), "| steps to the baseline's final FID |")
    print("|---|---|" + "---|" * (len(head) + 1))
    for variant in variants:
        fractions, values = curves[variant]
        cells = [_cell(rows, variant, nfe, n) for nfe, n in FINAL]
        reached = _reached(fractions, values.mean(axis=1), goal)
        done = [r for r in rows if r["variant"] == variant and r["fraction"] == 1.0]
        seeds = sorted({r["seed"] for r in done})
        names = ",".join(map(str, seeds))
        print(f"| {variant} | {names} |", " | ".join(cells), f"| {reached} |")
    draw(rows, variants, Path(arguments.folder) / f"{arguments.dataset}{arguments.tag}.png")


def _cell(rows, variant, nfe, samples):
    found = [
        r["fid"]
        for r in rows
        if (r["variant"], r["fraction"], r["nfe"], r["samples"]) == (variant, 1.0, nfe, samples)
    ]
    if not found:
        return ""
    spread = f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
    return f"{np.mean(found):.2f}{spread}"


def _curve(rows, variant, sampled=DURING):
    """Fractions of training (n,) and distances (n, seeds)."""
    by_seed = {}
    for r in rows:
        if r["variant"] == variant and (r["nfe"], r["samples"]) == sampled:
            by_seed.setdefault(r["seed"], {})[r["fraction"]] = r["fid"]
    whole = [curve for curve in by_seed.values() if 1.0 in curve and len(curve) > 1]
    fractions = sorted(whole[0]) if whole else []
    return np.array(fractions), np.array([[c[f] for c in whole] for f in fractions])


def _reached(fractions, values, goal):
    """The share of the steps after which a curve is first at or below a goal, on straight lines."""
    for i, value in enumerate(values):
        if value <= goal:
            if i == 0:
                return f"{fractions[0]:.2f}"
            share = (values[i - 1] - goal) / (values[i - 1] - value)
            return f"{fractions[i - 1] + share * (fractions[i] - fractions[i - 1]):.2f}"
    return "not"


def draw(rows, variants, path):
    """The distances over training, mean and range over seeds, a chart for each number of steps."""
    from keras_meanflow.pictures.charts import Series, line_chart, side_by_side

    charts = []
    for nfe, samples in (DURING, *MORE):
        curves = {v: _curve(rows, v, (nfe, samples)) for v in variants}
        lines = {
            name.replace("min_snr", "snr"): Series(
                x=fractions, y=values.mean(axis=1), low=values.min(axis=1), high=values.max(axis=1)
            )
            for name, (fractions, values) in curves.items()
            if len(fractions)
        }
        title = f"FID of {samples:,} samples, steps: {nfe}"
        labels = dict(x_label="share of the training steps", y_label="FID")
        charts += [line_chart(lines, title=title, log=True, **labels)] if lines else []
    path.parent.mkdir(parents=True, exist_ok=True)
    side_by_side(charts).save(path)


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("run")
    train.add_argument("dataset", choices=SMALL)
    train.add_argument("variants", nargs="+", choices=VARIANTS, metavar="variant")
    train.add_argument("--seeds", type=int, nargs="+", default=[0])
    train.add_argument("--data", help="Of mnist and eurosat.")
    train.add_argument("--features", required=True)
    train.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE")
    train.add_argument("--value", action="append", default=[], metavar="PATH=VALUE")
    train.add_argument("--curves", action="store_true")
    train.set_defaults(do=run)
    show = commands.add_parser("table")
    show.add_argument("dataset", choices=SMALL)
    show.add_argument("--seeds", type=int, nargs="*")
    show.add_argument("--variants", nargs="*", choices=VARIANTS, metavar="VARIANT")
    show.add_argument("--results", help="Default: FOLDER/results.jsonl.")
    show.set_defaults(do=table)
    for command in (train, show):
        command.add_argument("--folder", default="study")
        command.add_argument("--tag", default="", help="Keeps other settings apart.")
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
