"""What MeanFlow costs: its step over the flow-matching step, and that over a plain `fit`.

    python benchmarks/step_time.py [--backends jax,tensorflow,torch] [--rounds 9] [--jit]
    python benchmarks/step_time.py --backends jax --size B/2 --batch 64 --dtype mixed_bfloat16

On each backend, in one process, three fits of the same DiT take turns: MeanFlow (a quarter of the
rows with r < t), flow matching, and a plain `keras.Model` that fits pre-drawn pairs with the mean
squared error. Counted in forward passes the first two cost 3.5 and 3. Printed: the median over the
rounds of the ratio within a round, and its range. `--jit` sets `jit_compile=True`, which is not the
default on PyTorch, and omits the plain model. `--size` is meant for a GPU: a named DiT on 32x32x4
latents with 1,000 classes, without the plain model; it also prints the rate of MeanFlow's step and
its share of the device's peak. Run it on an idle machine.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

SIZES = dict(image_size=16, channels=4, patch_size=2, width=256, depth=4, heads=4, num_classes=10)
LATENTS = dict(image_size=32, channels=4, num_classes=1000)


def fits(arguments):
    """name -> (model, a function that trains it for `--steps` steps); the first call compiles."""
    import keras
    import numpy as np

    from keras_meanflow import DiT, FlowMap, FlowMatching, MeanFlow

    def network():
        if arguments.size is None:
            return DiT(**SIZES, dtype=arguments.dtype)
        return DiT.from_size(arguments.size, **LATENTS, dtype=arguments.dtype)

    rng, sizes = np.random.default_rng(0), SIZES if arguments.size is None else LATENTS
    shape = (arguments.steps * arguments.batch, *2 * (sizes["image_size"],), sizes["channels"])
    x = rng.standard_normal(shape).astype("float32")
    y = rng.integers(0, sizes["num_classes"], len(x)).astype("int32")
    t = rng.uniform(size=len(x)).astype("float32")

    class Plain(keras.Model):
        def __init__(self):
            super().__init__(autocast=False)
            self.network = network()

        def call(self, inputs):
            return self.network(inputs["z"], inputs["r"], inputs["t"], inputs["condition"])

    models = {}
    if not arguments.jit and arguments.size is None:
        plain = Plain()
        plain.compile(keras.optimizers.Adam(1e-4), loss="mse")
        models["plain"] = (plain, {"z": x, "r": t, "t": t, "condition": y}, x)
    for objective in (FlowMatching(), MeanFlow()):
        flow_map = FlowMap(network(), objective)
        flow_map.compile(keras.optimizers.Adam(1e-4), jit_compile=arguments.jit or "auto")
        models[type(objective).__name__] = (flow_map, x, y)
    rows = dict(batch_size=arguments.batch, verbose=0, shuffle=False)
    return {name: (m[0], lambda m=m: m[0].fit(m[1], m[2], **rows)) for name, m in models.items()}


def measure(arguments):
    """Print the ratios on this process' backend."""
    import keras

    functions, seconds = fits(arguments), []
    for _, fit in functions.values():
        fit()
    for i in range(arguments.rounds):
        order = list(functions) if i % 2 else list(functions)[::-1]
        taken = {}
        for name in order:
            start = time.perf_counter()
            functions[name][1]()
            taken[name] = (time.perf_counter() - start) / arguments.steps
        seconds.append(taken)
    print(f"{keras.config.backend()} (keras {keras.__version__}, {_version()}), {arguments.dtype}")
    for top, bottom in (("MeanFlow", "FlowMatching"), ("FlowMatching", "plain")):
        if bottom not in functions:
            continue
        ratios = sorted(s[top] / s[bottom] for s in seconds)
        median = statistics.median(ratios)
        print(f"  {top} / {bottom}: {median:.3f}  ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    step = statistics.median(s["FlowMatching"] for s in seconds)
    print(f"  a flow-matching step takes {1000 * step:.0f} ms", flush=True)
    if arguments.size is not None:
        mean_flow = statistics.median(s["MeanFlow"] for s in seconds)
        _rate(functions["MeanFlow"][0], arguments.batch, mean_flow)


def _rate(flow_map, rows, seconds):
    import numpy as np

    from keras_meanflow.backend import device_name, step_operations
    from keras_meanflow.cli.peaks import peak_of

    print(f"  MeanFlow: {1000 * seconds:.1f} ms a step, {rows / seconds:.0f} images a second")
    x = np.zeros((rows, *flow_map.network.data_shape), "float32")
    counted = step_operations(flow_map, (x, np.zeros(rows, "int32")))
    if counted is None:
        return
    device, products = device_name()
    products = "bfloat16" if flow_map.network.compute_dtype == "bfloat16" else products
    per_second, peak = counted / seconds / 1e12, peak_of(device, products)
    share = "" if peak is None else f", {100 * per_second / peak:.1f} % of the peak in {products}"
    print(f"  {per_second:.1f} T operations a second on {device}{share}", flush=True)


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
    parser.add_argument("--size", help="of a DiT on latents, such as B/2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4, help="of each fit")
    parser.add_argument("--dtype", default="float32", help="of the network")
    arguments = parser.parse_args()
    if "STEP_TIME_CHILD" in os.environ:
        measure(arguments)
        return
    network = arguments.size or SIZES
    about = f"{platform.machine()}, {os.cpu_count()} cores, DiT {network}, batch {arguments.batch}"
    print(about, flush=True)
    for backend in arguments.backends.split(","):
        environment = {**os.environ, "KERAS_BACKEND": backend, "STEP_TIME_CHILD": "1"}
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        subprocess.run([sys.executable, "-W", "ignore", *sys.argv], env=environment, check=True)


if __name__ == "__main__":
    main()
