"""FastFlow beside Euler, Heun, Adams-Bashforth 2 and one jump: FID and time over velocity calls.

    keras-meanflow train mnist --set data=mnist.npz --run RUN
    KERAS_BACKEND=jax python benchmarks/fastflow.py RUN --samples 10000 --data mnist.npz \\
        --lenet lenet_mnist_fid.pth
    python benchmarks/fastflow.py --report runs/fastflow.jsonl [--figures docs]

RUN is a directory of `keras-meanflow train mnist`, by any method: the samplers read the model as a
velocity, and a MeanFlow model also jumps in one step. A run of the task digits, by default
runs/digits, needs neither --data nor --lenet: its features are the pixels. FID compares samples,
balanced over the classes, with the test set; all samplers start from the same noise.

The bandits first learn over --walks batches of other noise. They are then measured frozen, and once
more while they continue to learn: "paper" explores by a constant, "scaled" is our default. Each
result is one JSON line in --out; a result that is in the file is not measured again. Seconds are
the time of `generate` after the first batch, which compiles: run it on an idle machine. --report
prints the tables and draws two figures.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np

STEPS = (25, 50)
FEWER = (7, 9, 12, 17)  # steps of the plain solvers about where FastFlow's calls end
GAP = 4  # of the steps that call u without any bandit
# In one order, and so in the same colours in each panel.
DRAWN = (
    "Euler",
    "Heun",
    "AB2",
    f"every {GAP}th step",
    "FastFlow scaled",
    "FastFlow paper",
    "one step",
)
LEARNING_SEED, SEED = 1_000_000, 0
PATH = "runs/fastflow.jsonl"


def samplers(one_step):
    """(name, steps) -> sampler, in the order of measurement."""
    from keras_meanflow.samplers import (
        AdamsBashforth2,
        BanditSampler,
        ConstantExploration,
        Euler,
        FixedSkips,
        Heun,
        Jump,
    )

    chosen = {("one step", 1): Jump()} if one_step else {}
    for steps in (*FEWER, *STEPS):
        chosen["Euler", steps] = Euler(steps=steps)
        chosen["AB2", steps] = AdamsBashforth2(steps=steps)
    for steps in (*((n + 1) // 2 for n in FEWER), *STEPS):
        chosen["Heun", steps] = Heun(steps=steps)
    for steps in STEPS:
        evaluated = sorted({0, *range(1, steps, GAP), steps - 1})
        chosen[f"every {GAP}th step", steps] = FixedSkips(steps=steps, evaluated=evaluated)
        paper = ConstantExploration()
        chosen["FastFlow paper", steps] = BanditSampler(steps=steps, exploration=paper)
        chosen["FastFlow scaled", steps] = BanditSampler(steps=steps)
    return chosen


class Judge:
    """FID of samples against a test set, on LeNet's features or on pixels."""

    def __init__(self, shape, data, lenet):
        from keras_meanflow.data import load_arrays, load_digits
        from keras_meanflow.features import FeatureExtractor
        from keras_meanflow.metrics import Reference, Statistics

        if shape == (8, 8, 1):
            self.extract, images = None, load_digits("test")[0]
        elif data is None or lenet is None:
            raise SystemExit("A run of MNIST needs --data mnist.npz and --lenet FILE.")
        else:
            self.extract, images = FeatureExtractor.lenet(lenet), load_arrays(data, "test")[0]
        self.statistics = Statistics
        self.reference = Reference.of(self._gathered(images))

    def _gathered(self, images, batch=500):
        from keras_meanflow.evaluation.protocols import quantise

        gathered = self.statistics()
        for i in range(0, len(images), batch):
            part = images[i : i + batch]
            if self.extract is None:
                gathered.update(part.reshape(len(part), -1))
            else:
                gathered.update(self.extract(quantise(part))["features"])
        return gathered

    def __call__(self, images):
        """FID and its standard error."""
        from keras_meanflow.metrics import frechet_with_interval

        estimate = frechet_with_interval(self._gathered(images), self.reference)
        return {"fid": float(estimate.value), "fid_error": float(estimate.standard_error)}


class Bench:
    """One run and what to draw from it."""

    def __init__(self, options):
        from keras_meanflow import open_model

        self.options, self.flow_map = options, open_model(options.run).flow_map
        self.labels = np.arange(options.samples) % self.flow_map.network.num_classes
        self.judge = Judge(self.flow_map.network.data_shape, options.data, options.lenet)
        self.objective = type(self.flow_map.objective).__name__

    def generate(self, sampler, count, seed):
        return self.flow_map.generate(
            self.labels[:count],
            sampler=sampler,
            seed=seed,
            batch_size=self.options.batch_size,
            guidance_scale=self.options.guidance_scale,
            verbose=0,
        )

    def measure(self, sampler):
        """FID, calls a batch and seconds of 1,000 samples."""
        self.generate(sampler, self.options.batch_size, LEARNING_SEED - 1)  # compiles
        learning = hasattr(sampler, "state")
        known = len(sampler.state.calls) if learning else 0
        start = time.perf_counter()
        samples = self.generate(sampler, self.options.samples, SEED)
        seconds = (time.perf_counter() - start) * 1000 / self.options.samples
        calls = statistics.mean(sampler.state.calls[known:]) if learning else sampler.calls
        return {"calls": calls, "seconds": seconds, **self.judge(samples)}

    def learn(self, sampler):
        """Let the bandits walk before they are measured; the seconds it took."""
        start = time.perf_counter()
        for walk in range(self.options.walks):
            self.generate(sampler, self.options.batch_size, LEARNING_SEED + walk)
        return time.perf_counter() - start


def measure_all(options):
    """Append to --out what it does not hold yet."""
    import keras

    bench, done = Bench(options), {key(line) for line in read(options.out)}
    settings = {
        "run": str(options.run),
        "objective": bench.objective,
        "samples": options.samples,
        "batch_size": options.batch_size,
        "guidance_scale": options.guidance_scale,
        "backend": keras.config.backend(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }

    def report(name, steps, sampler, **more):
        line = {**settings, "sampler": name, "steps": steps, **bench.measure(sampler), **more}
        with open(options.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{name:16} {steps:3} {line['calls']:6.1f} {line['fid']:8.4f}", flush=True)

    for (name, steps), sampler in samplers(bench.objective != "FlowMatching").items():
        if key({**settings, "sampler": name, "steps": steps}) in done:
            continue
        if not hasattr(sampler, "state"):
            report(name, steps, sampler)
            continue
        learning = bench.learn(sampler)
        learned = {"learning_calls": list(sampler.state.calls), "learning_seconds": learning}
        frozen = sampler.freeze()
        report(
            name.replace("FastFlow", "frozen"), steps, frozen, evaluated=frozen.evaluated, **learned
        )
        report(name, steps, sampler, weight=sampler.weight, **learned)


def key(line):
    """What makes two results the same measurement."""
    names = ("run", "sampler", "steps", "samples", "batch_size", "guidance_scale", "backend")
    return tuple(line[name] for name in names)


def read(path):
    """The results so far."""
    path = Path(path)
    return (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    )


def tables(lines):
    """A Markdown table for each run."""
    for run in dict.fromkeys(line["run"] for line in lines):
        mine = [line for line in lines if line["run"] == run]
        full = next((x for x in mine if (x["sampler"], x["steps"]) == ("Euler", 50)), None)
        first = mine[0]
        print(f"\n{run}: {first['objective']}, {first['samples']:,} samples, {first['backend']}\n")
        print("| sampler | steps | calls | FID | of Euler 50's | s for 1,000 | Euler 50's / it |")
        print("|---|---|---|---|---|---|---|")
        for x in sorted(mine, key=lambda x: (x["sampler"], x["steps"])):
            share, faster = (
                (x["fid"] / full["fid"], full["seconds"] / x["seconds"]) if full else (np.nan,) * 2
            )
            print(
                f"| {x['sampler']} | {x['steps']} | {x['calls']:.1f} | "
                f"{x['fid']:.3f} ± {1.96 * x['fid_error']:.3f} | {share:.3f} | "
                f"{x['seconds']:.2f} | {faster:.2f} |"
            )


def figures(lines, folder):
    """FID over calls, and the calls of each walk while the bandits learn."""
    from keras_meanflow.pictures.charts import Series, line_chart, side_by_side

    runs, quality, learning = dict.fromkeys(line["run"] for line in lines), [], []
    for run in runs:
        mine = [line for line in lines if line["run"] == run]
        by_name = {name: [] for name in DRAWN if any(x["sampler"] == name for x in mine)}
        for x in sorted(mine, key=lambda x: x["calls"]):
            by_name.get(x["sampler"], []).append(x)
        curves = {
            name: Series(x=[a["calls"] for a in xs], y=[a["fid"] for a in xs])
            for name, xs in by_name.items()
        }
        walks = {
            f"{x['sampler']}, {x['steps']}": Series(
                x=np.arange(len(x["learning_calls"])), y=x["learning_calls"]
            )
            for x in mine
            if "weight" in x
        }
        title = mine[0]["objective"]
        axes = {"x_label": "velocity calls", "y_label": "FID"}
        quality.append(line_chart(curves, title=title, log=True, **axes))
        if walks:
            chart = line_chart(walks, title=title, x_label="walk", y_label="velocity calls")
            learning.append(chart)
    for name, charts in (("fastflow-quality", quality), ("fastflow-learning", learning)):
        if charts:
            side_by_side(charts).save(Path(folder) / f"{name}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="runs/digits", help="of `keras-meanflow train`")
    parser.add_argument("--data", help="mnist.npz, for its test images")
    parser.add_argument("--lenet", help="lenet_mnist_fid.pth")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--walks", type=int, default=100, help="batches to learn from")
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--out", default=PATH)
    parser.add_argument("--report", metavar="FILE", help="print what FILE holds instead")
    parser.add_argument("--figures", metavar="FOLDER", help="of --report: draw there as well")
    options = parser.parse_args()
    if options.report is None:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        measure_all(options)
    lines = read(options.report or options.out)
    tables(lines)
    if options.figures:
        figures(lines, options.figures)


if __name__ == "__main__":
    main()
