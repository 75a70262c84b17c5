"""The methods side by side: label accuracy, coverage and LeNet-FID of the runs of some recipes.

    python benchmarks/methods.py run digits digits_split digits_alpha digits_imf --folder study
    python benchmarks/methods.py run mnist mnist_split --data mnist.npz \
        --features lenet_mnist_fid.pth --folder study --seeds 0 1
    python benchmarks/methods.py table --folder study

`run` trains each recipe with each seed in FOLDER and writes a line of JSON for 1, 2 and 4 steps of
sampling to FOLDER/methods.jsonl: on digits the figures of `digits_quality.py`, on MNIST the LeNet
Frechet distance of 10,000 samples to the training images. A run that was stopped goes on; one that
is finished is not done again. `table` prints the means over seeds, and the forward passes a step,
the backward pass counted as two, of a step on average over training: those of the network, a
teacher's apart.
"""

import argparse
import collections
import dataclasses
import json
import time
from pathlib import Path

import numpy as np

NFE = (1, 2, 4)
DIGITS = ("accuracy", "coverage", "frechet", "nearest")
PROGRESS = np.linspace(0.0, 1.0, 11)
ROWS = 64


def run(arguments):
    """Train and evaluate each recipe with each seed."""
    from keras_meanflow import runs
    from keras_meanflow.recipe import find, resolve

    results = Lines(Path(arguments.folder) / "methods.jsonl")
    for recipe in map(find, arguments.recipes):
        for seed in arguments.seeds:
            settings = [f"seed={seed}", *arguments.set]
            if "data" in recipe.defaults and arguments.data:
                settings.append(f"data={arguments.data}")
            knobs = resolve(recipe.load(), settings)
            name = f"{recipe.name}{arguments.tag}-{seed}"
            if results.has(name):
                continue
            training, started = recipe.load()(**knobs), time.monotonic()
            described = runs.describe(recipe.name, knobs)
            runs.train(training, Path(arguments.folder) / name, described, verbose=0)
            about = {"run": name, "recipe": recipe.name + arguments.tag, "seed": seed}
            about |= {"steps": training.steps, "backend": described["backend"]}
            about |= {"forwards": forwards(training.flow_map)}
            about |= {"seconds_of_this_call": round(time.monotonic() - started, 1)}
            for nfe in NFE:
                found = judged(recipe.name, training.flow_map, nfe, arguments)
                results.add({**about, "nfe": nfe, **found})
                print(name, nfe, found, flush=True)


def judged(recipe, flow_map, nfe, arguments):
    """The figures of a model's samples in `nfe` steps."""
    if recipe.startswith("mnist"):
        from improved_training import Judge

        judge = Judge("mnist", arguments.features, arguments.data, arguments.folder)
        return {"fid": float(judge(flow_map, nfe, 10_000))}
    from digits_quality import SAMPLES_A_CLASS, figures, flat

    labels = np.repeat(np.arange(10), SAMPLES_A_CLASS)
    samples = flow_map.generate(labels, steps=nfe, seed=1, batch_size=len(labels), verbose=0)
    samples = samples.reshape(len(labels), -1).astype("float64")
    found = figures(samples, labels, *flat("train"), flat("test")[0])
    return {name: round(float(value), 4) for name, value in found.items()}


def forwards(flow_map):
    """Forward passes a step, on average over training: those counted, and 3 for the gradient."""
    from keras import ops

    from keras_meanflow.backend.random import Keys

    objective, network = flow_map.objective, flow_map.network
    counter = counting(network)
    if hasattr(objective, "derivative"):
        objective = dataclasses.replace(objective, derivative=counter.derivative)
    x = ops.zeros((ROWS, *network.data_shape))
    labels = ops.zeros((ROWS,), "int32") if network.conditional else None
    passes = []
    for progress in PROGRESS:
        keys = Keys(0, 0, progress=ops.convert_to_tensor(np.float32(progress)))
        counter.rows = 0
        problem = objective(counter, x, labels, objective.draw(keys, x, labels))
        rows = problem.target.shape[0]
        if objective.companion is not None:
            rows += problem.second.target.shape[0]
        passes.append((counter.rows + 3 * rows) / ROWS)
    return round(float(np.mean(passes)), 2)


def counting(network):
    """What stands for the network: it counts rows, those of a derivative twice, and returns 0."""
    from keras_meanflow.derivatives import Derivative, ForwardMode

    class Counter:
        rows, weight = 0, 1

        def __call__(self, z, r, t, condition=None):
            self.rows += self.weight * z.shape[0]
            return 0.0 * z

        velocity = __call__

        def drop(self, condition, drop):
            return network.drop_condition(condition, drop)

    class Twice(Derivative):
        def __call__(self, u, primals, tangents):
            counter.weight = 2
            found = ForwardMode()(u, primals, tangents)
            counter.weight = 1
            return found

    counter = Counter()
    counter.derivative = Twice()
    return counter


class Lines:
    """Lines of JSON in a file."""

    def __init__(self, path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def __iter__(self):
        text = self.path.read_text("utf-8") if self.path.exists() else ""
        return (json.loads(line) for line in text.splitlines() if line.endswith("}"))

    def has(self, run):
        """Whether a run has all its lines."""
        return {line["nfe"] for line in self if line["run"] == run} == set(NFE)

    def add(self, line):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def table(arguments):
    """Print a table of the means over seeds for each data set."""
    groups = collections.defaultdict(dict)
    for line in Lines(Path(arguments.folder) / "methods.jsonl"):
        groups[line["recipe"], line["steps"], line["backend"]][line["seed"], line["nfe"]] = line
    for digits in (True, False):
        columns = DIGITS[:3] if digits else ("fid",)
        some = {k: v for k, v in groups.items() if k[0].startswith("digits") == digits}
        if not some:
            continue
        heads = [f"{name} {nfe}" for name in columns for nfe in NFE]
        print("| recipe | steps | backend | seeds | forwards |", " | ".join(heads), "|")
        print("|---|" + "---|" * (len(heads) + 4))
        for (recipe, steps, backend), lines in sorted(some.items()):
            seeds = len({seed for seed, _ in lines})
            forwards = next(iter(lines.values()))["forwards"]
            cells = [mean(lines, name, nfe) for name in columns for nfe in NFE]
            print(f"| {recipe} | {steps} | {backend} | {seeds} | {forwards} |", *cells, sep=" ")


def mean(lines, name, nfe):
    """A cell: the mean over seeds."""
    values = [line[name] for (_, steps), line in lines.items() if steps == nfe]
    return f"{np.mean(values):.3f} |" if values else "|"


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("run")
    train.add_argument("recipes", nargs="+", metavar="RECIPE")
    train.add_argument("--seeds", type=int, nargs="+", default=[0])
    train.add_argument("--data", help="of the recipes that need some")
    train.add_argument("--features", help="weights of the LeNet, for MNIST")
    train.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE")
    train.add_argument("--tag", default="", help="keeps other settings apart")
    train.set_defaults(do=run)
    show = commands.add_parser("table")
    show.set_defaults(do=table)
    for command in (train, show):
        command.add_argument("--folder", default="study")
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
