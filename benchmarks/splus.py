"""SPlus: what the refresh of its bases costs, and its steps to reach Adam's error.

    KERAS_BACKEND=jax python benchmarks/splus.py refresh [--sizes 64,128,256,512]
    KERAS_BACKEND=jax python benchmarks/splus.py train --data mnist.npz --lenet lenet_mnist_fid.pth
    python benchmarks/splus.py report

`refresh` measures the CPU time of a step on one (n, n) matrix, the least of --repeats: with SPlus
when its two factors are decomposed, with SPlus when they are not, and with Adam.

`train` takes the network of the task mnist with flow matching and with MeanFlow. First both
optimizers try the same --rates with seed 0 (the rates are Adam's; SPlus takes 2 width times as
much). Then each trains with its best rate on --seeds fresh seeds. The rate rises over --warmup
steps and stays, as in the paper; there is no weight decay. FlowMap's average of the weights is
judged on unseen digits: by the squared error of the regression problem; with --lenet, MeanFlow also
by the FID of one-step samples. Each run adds one JSON line to --out when it ends. Runs in that file
are not done again. After --minutes no new run starts. A run of the default size takes minutes; with
--width 64 --depth 2 --steps 1000 it takes about one.

`report` prints the fraction of Adam's steps at which SPlus reaches Adam's last value, and the
fraction of Adam's time. `train` needs an idle machine.
"""

import argparse
import json
import math
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # LAPACK's threads spin beside another process
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

OPTIMIZERS = ("adam", "splus")
OBJECTIVES = ("FlowMatching", "MeanFlow")
KNOBS = ("width", "depth", "heads", "patch_size", "batch_size", "steps", "warmup", "every")


# The refresh


def step_times(optimizer, size, repeats):
    """CPU seconds of the steps of one (size, size) matrix, after the first two."""
    import keras

    layer = keras.layers.Dense(size, use_bias=False)
    net = keras.Sequential([keras.Input((size,)), layer])
    jit = "auto" if keras.config.backend() == "jax" else False
    net.compile(optimizer, loss="mse", jit_compile=jit)
    x = np.random.default_rng(0).standard_normal((2 * size, size)).astype("float32")
    seconds = []
    for _ in range(2 * repeats + 2):
        start = time.process_time()
        net.train_on_batch(x, x)
        seconds.append(time.process_time() - start)
    return seconds[2:]


def refresh(options):
    """Print a table over sizes: every second step is a refresh."""
    import keras

    from keras_meanflow.optimizers import SPlus

    print(f"{machine()}, {keras.config.backend()}; CPU milliseconds a step, batch 2n")
    print("| n | Adam | SPlus | with a refresh | a refresh, over 100 steps |")
    print("|---|---|---|---|---|")
    for size in options.sizes:
        adam = min(step_times(keras.optimizers.Adam(), size, options.repeats))
        steps = step_times(SPlus(refresh_every=2, use_ema=False), size, options.repeats)
        plain, due = min(steps[0::2]), min(steps[1::2])
        row = (adam, plain, due, (due - plain) / 100)
        print(
            f"| {size} | " + " | ".join(f"{1000 * value:.2f}" for value in row) + " |", flush=True
        )


def machine():
    return f"{platform.machine()}, {os.cpu_count()} cores"


# Training


def train(options):
    """Do all runs that are not in the file yet."""
    deadline = time.monotonic() + 60 * options.minutes
    for objective in options.objectives:
        for optimizer in OPTIMIZERS:
            for rate in options.rates:
                run_once(options, deadline, objective, optimizer, rate, seed=0)
        for optimizer in OPTIMIZERS:
            done = runs(options, objective, optimizer)
            tried = [r for r in done if r["seed"] == 0 and r["rate"] in options.rates]
            if len(tried) == len(options.rates):
                rate = min(tried, key=score)["rate"]
                for seed in range(1, options.seeds + 1):
                    run_once(options, deadline, objective, optimizer, rate, seed)
    report(options)


def settings(options):
    return {name: getattr(options, name) for name in KNOBS}


def runs(options, objective, optimizer):
    """The finished runs of these settings."""
    path = Path(options.out)
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    wanted = {"objective": objective, "optimizer": optimizer, "settings": settings(options)}
    return [run for run in found if all(run[name] == value for name, value in wanted.items())]


def measures(run):
    """What a run is judged by; its rate is chosen by the first."""
    return [name for name in ("fid", "error") if name in run["curve"][-1]]


def score(run, measure=None):
    """The last value of a measure; infinite for a run that broke."""
    value = run["curve"][-1][measure or measures(run)[0]]
    return value if math.isfinite(value) else math.inf


def run_once(options, deadline, objective, optimizer, rate, seed):
    """Train and append the run, unless it is there or time is up."""
    done = runs(options, objective, optimizer)
    if any((run["rate"], run["seed"]) == (rate, seed) for run in done):
        return
    if time.monotonic() > deadline:
        raise SystemExit("Time is up: start again to go on.")
    from keras_meanflow.files.provenance import provenance

    run = {
        "objective": objective,
        "optimizer": optimizer,
        "rate": rate,
        "seed": seed,
        "settings": settings(options),
        "curve": Run(options, objective, optimizer, rate, seed).curve(),
        "machine": machine(),
        **provenance(),
    }
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    with open(options.out, "a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")
    print(objective, optimizer, rate, f"seed {seed}:", run["curve"][-1], flush=True)


class Run:
    """One training, measured as it goes."""

    def __init__(self, options, objective, optimizer, rate, seed):
        from keras_meanflow import FlowMap, FlowMatching
        from keras_meanflow.data import load_arrays
        from keras_meanflow.training import Plan

        self.options = options
        shape = {name: getattr(options, name) for name in ("width", "depth", "heads", "patch_size")}
        knobs = {"data": options.data, "steps": options.steps, "seed": seed, **shape}
        self.training = Plan.of("mnist").training({**knobs, "batch_size": options.batch_size})
        self.flow_map = self.training.flow_map
        if objective == "FlowMatching":
            self.flow_map = FlowMap(
                self.flow_map.network, FlowMatching(), averages=self.flow_map.averages, seed=seed
            )
        self.flow_map.compile(**self.optimizer(optimizer, rate))
        x, y = load_arrays(options.data, "test")
        self.unseen = x[: options.unseen], y[: options.unseen]
        self.judge = Judge(options, x) if options.lenet and objective == "MeanFlow" else None

    def optimizer(self, name, rate):
        """The task's optimizer with a rate that rises and stays, and without weight decay."""
        from keras.optimizers.schedules import CosineDecay

        from keras_meanflow.optimizers import compile_with

        options = self.options
        knobs = {"width": options.width, "steps": options.steps, "warmup_steps": options.warmup}
        arguments = compile_with(name, rate, beta_2=0.99, **knobs)
        config = arguments["optimizer"].get_config()
        peak = config["learning_rate"]["config"]["warmup_target"]
        rises = CosineDecay(
            0.0, options.steps, alpha=1.0, warmup_target=peak, warmup_steps=options.warmup
        )
        config |= {"learning_rate": rises, "weight_decay": None}
        return {**arguments, "optimizer": type(arguments["optimizer"])(**config)}

    def curve(self):
        """A dict each `every` steps; seconds are of training alone."""
        options, seen, seconds = self.options, [], 0.0
        for step in range(0, options.steps, options.every):
            start = time.perf_counter()
            self.flow_map.fit(
                self.training.batches(first_step=step),
                steps_per_epoch=options.every,
                shuffle=False,
                verbose=0,
            )
            seconds += time.perf_counter() - start
            seen.append({"step": step + options.every, "seconds": seconds, **self.measure()})
        return seen

    def measure(self):
        """Of the averaged weights: the mean squared error of unseen rows, and FID."""
        logs = self.flow_map.evaluate(*self.unseen, batch_size=250, verbose=0, return_dict=True)
        share = self.flow_map.objective.times.fraction_r_equals_t
        error = share * logs["v_error"] + (1.0 - share) * logs.get("u_error", 0.0)
        found = {"error": float(error), "v_error": float(logs["v_error"])}
        return found if self.judge is None else {**found, "fid": self.judge(self.flow_map)}


class Judge:
    """FID of one-step samples against the test set, on LeNet's features."""

    def __init__(self, options, images):
        from keras_meanflow.features import FeatureExtractor

        self.extract = FeatureExtractor.lenet(options.lenet)
        self.labels, self.real = np.arange(options.samples) % 10, self.moments(images)

    def moments(self, images):
        from keras_meanflow.evaluation.protocols import quantise

        pixels = quantise(images)
        parts = [self.extract(pixels[i : i + 500])["features"] for i in range(0, len(pixels), 500)]
        features = np.concatenate(parts).astype("float64")
        return features.mean(0), np.cov(features, rowvar=False)

    def __call__(self, flow_map):
        from keras_meanflow.metrics import frechet_distance

        samples = flow_map.generate(self.labels, seed=1, batch_size=500, verbose=0)
        if not np.isfinite(samples).all():
            return math.inf
        return float(frechet_distance(*self.real, *self.moments(samples)))


# The report


def report(options):
    """Print the sweep and the steps to Adam."""
    for objective in options.objectives:
        done = {name: runs(options, objective, name) for name in OPTIMIZERS}
        if not all(done.values()):
            continue
        judged_by = measures(done["adam"][0])
        print(f"\n{objective}, {judged_by[0]} after {options.steps} steps ({settings(options)})")
        print("| Adam's rate | " + " | ".join(OPTIMIZERS) + " |\n|---|---|---|")
        for rate in options.rates:
            cells = [
                [score(r) for r in done[o] if (r["rate"], r["seed"]) == (rate, 0)] for o in done
            ]
            print(f"| {rate:g} | " + " | ".join(f"{c[0]:.3f}" if c else "" for c in cells) + " |")
        fresh = [[run for run in done[o] if run["seed"] > 0] for o in OPTIMIZERS]
        for measure in judged_by:
            report_fractions(*fresh, measure)


def report_fractions(adam, splus, measure):
    """Fractions of Adam's steps and time, for each fresh seed."""
    if not adam or not splus:
        return
    times = [
        statistics.median(t for r in group for t in step_seconds(r)) for group in (adam, splus)
    ]
    print(f"rates {adam[0]['rate']:g} and {splus[0]['rate']:g}; ", end="")
    print(f"a step {1000 * times[0]:.1f} and {1000 * times[1]:.1f} ms")
    print(f"| seed | {measure} of adam | of splus | of adam's steps | of its time |")
    print("|---|---|---|---|---|")
    by_seed = {run["seed"]: run for run in splus}
    for run in adam:
        if run["seed"] in by_seed:
            other, goal = by_seed[run["seed"]], score(run, measure)
            steps = steps_to(other["curve"], goal, measure) / run["curve"][-1]["step"]
            row = goal, score(other, measure), steps, steps * times[1] / times[0]
            print(f"| {run['seed']} | " + " | ".join(f"{value:.3f}" for value in row) + " |")


def step_seconds(run):
    """Seconds a step of each stretch of a curve but the first, which compiles."""
    curve = run["curve"]
    return [
        (b["seconds"] - a["seconds"]) / (b["step"] - a["step"])
        for a, b in zip(curve, curve[1:], strict=False)
    ]


def steps_to(curve, goal, measure):
    """The first step at which a curve is down at `goal`, interpolated; infinite if never."""
    before = None
    for point in curve:
        if point[measure] <= goal:
            if before is None:
                return point["step"]
            part = (before[measure] - goal) / (before[measure] - point[measure])
            return before["step"] + part * (point["step"] - before["step"])
        before = point
    return math.inf


def numbers(kind):
    return lambda text: [kind(part) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "what", nargs="?", default="refresh", choices=["refresh", "train", "report"]
    )
    parser.add_argument("--sizes", type=numbers(int), default=[64, 128, 256, 512])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", help="mnist.npz")
    parser.add_argument("--lenet", help="lenet_mnist_fid.pth")
    parser.add_argument("--out", default="runs/splus.jsonl")
    parser.add_argument("--objectives", type=numbers(str), default=list(OBJECTIVES))
    parser.add_argument("--rates", type=numbers(float), default=[2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--patch_size", type=int, default=7)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--every", type=int, default=200, help="steps between two measurements")
    parser.add_argument("--unseen", type=int, default=1000, help="rows to judge by")
    parser.add_argument("--samples", type=int, default=2000, help="of a FID")
    parser.add_argument("--minutes", type=float, default=math.inf)
    options = parser.parse_args()
    if options.what == "train" and options.data is None:
        parser.error("train needs --data mnist.npz.")
    if options.steps % options.every:
        parser.error(f"--every must divide --steps. Received: {options.every}, {options.steps}.")
    {"refresh": refresh, "train": train, "report": report}[options.what](options)


if __name__ == "__main__":
    main()
