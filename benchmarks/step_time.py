"""What MeanFlow costs: its step over the flow-matching step, and that over a plain `fit`.

    python benchmarks/step_time.py [--backends jax,tensorflow,torch] [--rounds 9] [--jit]

On each backend, in one process, three fits of the same DiT take turns: MeanFlow (a quarter of the
rows with r < t), flow matching, and a plain `keras.Model` that fits pre-drawn pairs with the mean
squared error. Counted in forward passes the first two cost 3.5 and 3. Printed: the median over the
rounds of the ratio within a round, and its range. With `--jit`, `jit_compile=True`, not the default
on PyTorch, and no plain model. Run it on an idle machine.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

STEPS = 4
SIZES = dict(image_size=16, channels=4, patch_size=2, width=256, depth=4, heads=4, num_classes=10)
BATCH = 32


def fits(jit):
    """name -> a function that trains for `STEPS` steps, as the first call compiles."""
    import keras
    import numpy as np

    from keras_meanflow import DiT, FlowMap, FlowMatching, MeanFlow

    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS * BATCH, 16, 16, 4)).astype("float32")
    y = rng.integers(0, 10, len(x)).astype("int32")
    t = rng.uniform(size=len(x)).astype("float32")

    class Plain(keras.Model):
        def __init__(self):
            super().__init__(autocast=False)
            self.network = DiT(**SIZES)

        def call(self, inputs):
            return self.network(inputs["z"], inputs["r"], inputs["t"], inputs["condition"])

    models = {}
    if not jit:
        plain = Plain()
        plain.compile(keras.optimizers.Adam(1e-4), loss="mse")
        models["plain"] = (plain, {"z": x, "r": t, "t": t, "condition": y}, x)
    for objective in (FlowMatching(), MeanFlow()):
        flow_map = FlowMap(DiT(**SIZES), objective)
        flow_map.compile(keras.optimizers.Adam(1e-4), jit_compile=jit or "auto")
        models[type(objective).__name__] = (flow_map, x, y)
    return {
        name: lambda m=m: m[0].fit(m[1], m[2], batch_size=BATCH, verbose=0, shuffle=False)
        for name, m in models.items()
    }


def measure(rounds, jit):
    """Print the ratios on this process' backend."""
    import keras

    functions, seconds = fits(jit), []
    for fit in functions.values():
        fit()
    for i in range(rounds):
        order = list(functions) if i % 2 else list(functions)[::-1]
        taken = {}
        for name in order:
            start = time.perf_counter()
            functions[name]()
            taken[name] = (time.perf_counter() - start) / STEPS
        seconds.append(taken)
    print(f"{keras.config.backend()} (keras {keras.__version__}, {_version()})")
    for top, bottom in (("MeanFlow", "FlowMatching"), ("FlowMatching", "plain"))[: 1 if jit else 2]:
        ratios = sorted(s[top] / s[bottom] for s in seconds)
        median = statistics.median(ratios)
        print(f"  {top} / {bottom}: {median:.3f}  ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    step = statistics.median(s["FlowMatching"] for s in seconds)
    print(f"  a flow-matching step takes {1000 * step:.0f} ms", flush=True)


def _version():
    import importlib.metadata

    import keras

    backend = keras.config.backend()
    for package in (backend, f"{backend}-cpu"):
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return backend


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backends", default="jax,tensorflow,torch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--jit", action="store_true")
    arguments = parser.parse_args()
    if "STEP_TIME_CHILD" in os.environ:
        measure(arguments.rounds, arguments.jit)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, DiT {SIZES}, batch {BATCH}", flush=True)
    for backend in arguments.backends.split(","):
        environment = {**os.environ, "KERAS_BACKEND": backend, "STEP_TIME_CHILD": "1"}
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        subprocess.run([sys.executable, "-W", "ignore", *sys.argv], env=environment, check=True)


if __name__ == "__main__":
    main()
