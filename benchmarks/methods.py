"""The methods side by side: the quality of their runs, their cost, and their errors.

    python benchmarks/methods.py run digits digits:split_mean_flow digits:alpha_flow --folder study
    python benchmarks/methods.py run mnist mnist:split_mean_flow --data mnist.npz \
        --features lenet_mnist_fid.pth --folder study --seeds 0 1
    python benchmarks/methods.py time mnist:flow_matching mnist --data mnist.npz --folder study
    python benchmarks/methods.py table --folder study
    KERAS_BACKEND=torch python benchmarks/methods.py learn digits:flow_matching digits

Each argument is TASK:METHOD; TASK alone takes the task's first method, mean_flow. Of a file the
task is named: my.py:TASK:METHOD.

`run` trains each with each seed in FOLDER. It writes a line of JSON for 1, 2 and 4 steps of
sampling to FOLDER/methods.jsonl: on digits the figures of `digits_quality.py`, on MNIST the LeNet
Frechet distance of 10,000 samples to the training images. A run that was stopped continues; one
that is finished is not done again. `--pairs` is the pair store of Re-MeanFlow.

`time` times steps of each in turn, half-way through training, and compares them with the first. It
writes a line for each to the same file: the median over rounds of the ratio within a round. The
machine should be idle.

`table` prints the means over seeds, the least and the largest, and the forward passes of a step,
averaged over training. The backward pass counts as two. A teacher's passes are not counted.

`learn` trains each for a few steps. It prints the errors on unseen data before, half-way and after,
and the Frechet distance of one-step samples to that data, number by number. `--unseen` names that
data; the default is the other half of the digits.
"""

import argparse
import collections
import dataclasses
import re
import statistics
import time
from pathlib import Path

import numpy as np
from results import Lines

NFE = (1, 2, 4)
DIGITS = ("accuracy", "coverage", "frechet")
PROGRESS = np.linspace(0.0, 1.0, 11)
ROWS = 64
TIMED_STEPS, ROUNDS = 10, 7
ERRORS = ("v_error", "u_error", "distance")


def run(arguments):
    """Train and evaluate each plan with each seed."""
    from keras_meanflow.training import run as runs

    results = lines_of(arguments)
    for plan in plans(arguments):
        for seed in arguments.seeds:
            name = f"{plan.name}{arguments.tag}-{seed}"
            if all(results.has(run=name, nfe=nfe) for nfe in NFE):
                continue
            knobs = knobs_of(plan, arguments, seed)
            training, started = plan.training(knobs), time.monotonic()
            described = runs.describe(plan, knobs)
            runs.train(training, Path(arguments.folder) / name, described, verbose=0)
            about = {"run": name, "plan": address(plan) + arguments.tag, "seed": seed}
            about |= {"steps": training.steps, "backend": described["backend"]}
            about |= {"settings": arguments.set, "forwards": forwards(training.flow_map)}
            about |= {"seconds_of_this_call": round(time.monotonic() - started, 1)}
            for nfe in NFE:
                found = judged(plan.task.name, training, nfe, arguments)
                results.add({**about, "nfe": nfe, **found})
                print(name, nfe, found, flush=True)


def lines_of(arguments):
    return Lines(Path(arguments.folder) / "methods.jsonl")


def plans(arguments):
    """The `Plan` of each argument TASK:METHOD."""
    from keras_meanflow.training import Plan

    return [Plan.of(*_parts(text)) for text in arguments.plans]


def _parts(text):
    """The task and the method of an argument; None for the task's first method."""
    task, method = re.fullmatch(r"([^:]+\.py:\w+|[^:]+)(?::(.+))?", text).groups()
    return task, method


def address(plan):
    """TASK:METHOD, as in the arguments."""
    return f"{plan.task.name}:{plan.method.name}"


def knobs_of(plan, arguments, seed=0):
    """The knobs of a plan, with the data that it needs."""
    data = {"data": arguments.data, "pair_store": arguments.pairs}
    needed = [f"{knob}={path}" for knob, path in data.items() if path and knob in plan.knobs()]
    return plan.resolve([f"seed={seed}", *arguments.set, *needed])


def judged(task, training, nfe, arguments):
    """The figures of a model's samples in `nfe` steps."""
    if task == "mnist":
        from judge import Judge

        judge = Judge("mnist", arguments.features, arguments.data, arguments.folder)
        return {"fid": float(judge(training.flow_map, nfe, 10_000))}
    import digits_quality

    from keras_meanflow.samplers import Jump

    found = digits_quality.judged(training.flow_map, training.codec, Jump(steps=nfe))
    return {name: round(float(value), 4) for name, value in found.items()}


def forwards(flow_map):
    """Forward passes of a step, averaged over training: those counted, and 3 for the gradient."""
    from keras import ops

    from keras_meanflow.backend.random import Keys
    from keras_meanflow.parts import StoredPairs

    objective, network = flow_map.objective, flow_map.network
    counter = counting(network)
    if hasattr(objective, "derivative"):
        objective = dataclasses.replace(objective, derivative=counter.derivative)
    x = ops.zeros((ROWS, *network.data_shape))
    x = {"x": x, "e": x} if isinstance(objective.coupling, StoredPairs) else x
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
    """A function in the network's place: it counts rows, twice in a derivative, and returns 0."""
    from keras_meanflow.parts.derivatives import Derivative, ForwardMode

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


def time_steps(arguments):
    """Time the plans' steps in turn."""
    from keras_meanflow.training import run as runs

    trainings = {}
    for plan in plans(arguments):
        training = trainings[address(plan)] = plan.training(knobs_of(plan, arguments))
        training.flow_map.step.assign(training.steps // 2)  # AlphaFlow's cost rises over training
        seconds(training)  # the first call compiles
    all_names, rounds = list(trainings), []
    for i in range(ROUNDS):
        names = all_names if i % 2 else all_names[::-1]
        rounds.append({name: seconds(trainings[name]) for name in names})
    backend = runs.describe()["backend"]
    for name, training in trainings.items():
        ratios = sorted(taken[name] / taken[all_names[0]] for taken in rounds)
        line = {"plan": name, "backend": backend, "batch_size": training.batch_size}
        line |= {"milliseconds": 1000 * statistics.median(taken[name] for taken in rounds)}
        line |= {"over": all_names[0], "ratio": statistics.median(ratios)}
        line |= {"least": ratios[0], "largest": ratios[-1], "settings": arguments.set}
        lines_of(arguments).add(
            {k: round(v, 3) if type(v) is float else v for k, v in line.items()}
        )
        print(line, flush=True)


def seconds(training):
    """Seconds a step, of a few, without what surrounds them in a run."""
    start = time.perf_counter()
    fit(training, TIMED_STEPS)
    return (time.perf_counter() - start) / TIMED_STEPS


def fit(training, steps):
    """Train for some more steps, without a run's folder."""
    batches = training.batches(first_step=training.flow_map.batches_done)
    training.flow_map.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)


def learn(arguments):
    """Print the errors on unseen data over a short training."""
    from keras_meanflow.data import open_source
    from keras_meanflow.training import run as runs

    source = open_source(arguments.unseen)
    unseen = source.take(np.arange(min(len(source), 896)))
    backend = runs.describe()["backend"]
    for plan in plans(arguments):
        training = plan.training(knobs_of(plan, arguments))
        started, found = time.monotonic(), [errors(training.flow_map, *unseen)]
        for _ in range(2):
            fit(training, training.steps // 2)
            found.append(errors(training.flow_map, *unseen))
        line = {name: [round(errors[name], 3) for errors in found] for name in found[0]}
        line = {"plan": address(plan), "backend": backend, "steps": training.steps, **line}
        line |= {"seconds": round(time.monotonic() - started, 1)}
        lines_of(arguments).add(line)
        print(line, flush=True)


def errors(flow_map, x, y):
    """The squared errors on data and the Frechet distance to it, number by number, by one step."""
    from keras_meanflow.metrics import frechet_distance

    logs = flow_map.evaluate(x, y, batch_size=128, verbose=0, return_dict=True)
    samples = flow_map.generate(y, steps=1, seed=1, verbose=0)
    data = x["x"] if isinstance(x, dict) else x
    moments = []
    for array in (data, samples):
        array = array.reshape(len(array), -1).astype("float64")
        moments += [array.mean(0), np.cov(array, rowvar=False)]
    found = {**logs, "distance": frechet_distance(*moments)}
    return {name: float(found[name]) for name in ERRORS if name in found}


def table(arguments):
    """Print a table of the means over seeds for each data set."""
    groups, timed = collections.defaultdict(dict), {}
    for line in lines_of(arguments):
        plan = line["plan"]
        if "nfe" in line:
            key = plan, line["steps"], line["backend"]
            groups[key][line["seed"], line["nfe"]] = line
        elif "ratio" in line:
            timed[plan, line["backend"]] = line
    for digits in (True, False):
        columns = DIGITS if digits else ("fid",)
        some = {k: v for k, v in groups.items() if k[0].startswith("digits") == digits}
        if not some:
            continue
        heads = [f"{name} {nfe}" for name in columns for nfe in NFE]
        print("| plan | steps | backend | seeds | forwards | time |", " | ".join(heads), "|")
        print("|---|" + "---|" * (len(heads) + 5))
        for (plan, steps, backend), lines in sorted(some.items()):
            seeds = len({seed for seed, _ in lines})
            forwards = next(iter(lines.values()))["forwards"]
            ratio = timed.get((plan, backend), {}).get("ratio", "")
            cells = [mean(lines, name, nfe) for name in columns for nfe in NFE]
            print(f"| {plan} | {steps} | {backend} | {seeds} | {forwards} | {ratio} |", *cells)


def mean(lines, name, nfe):
    """A cell: the mean over seeds, and their range."""
    values = [line[name] for (_, steps), line in lines.items() if steps == nfe]
    if not values:
        return "|"
    spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
    return f"{np.mean(values):.3g}{spread} |"


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    train, timing, short = (commands.add_parser(name) for name in ("run", "time", "learn"))
    for command, do in ((train, run), (timing, time_steps), (short, learn)):
        command.set_defaults(do=do)
        command.add_argument("plans", nargs="+", metavar="TASK:METHOD")
        command.add_argument("--data", help="of the tasks that need some")
        command.add_argument("--pairs", help="a pair store, the data of Re-MeanFlow")
        command.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE")
    train.add_argument("--seeds", type=int, nargs="+", default=[0])
    train.add_argument("--features", help="weights of the LeNet, for MNIST")
    train.add_argument("--tag", default="", help="keeps other settings apart")
    short.add_argument("--unseen", default="digits:test", help="what to judge errors by")
    show = commands.add_parser("table")
    show.set_defaults(do=table)
    for command in (train, timing, short, show):
        command.add_argument("--folder", default="study")
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
