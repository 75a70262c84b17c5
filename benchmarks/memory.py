"""Peak memory of the MeanFlow step over that of the flow-matching step, on each backend.

    python benchmarks/memory.py [--backends jax,tensorflow,torch] [--size S/4] [--batch 32]
    python benchmarks/memory.py --backends jax --size XL/2 --batch 1 --device 80 [--remat]

On JAX: XLA's analysis of the compiled step, with its state donated as in `fit`: arguments, results
and temporaries, with shared buffers counted once. On PyTorch: the largest memory that the profiler
sees allocated in a step, plus the weights, averages and optimizer state. On TensorFlow: all buffers
together, from the report that XLA writes for the compiled step.

With `--device GB` (JAX) it also compiles the step for twice the batch, and prints the largest batch
that fits, by linear extrapolation. XLA's CPU compiler undoes `--remat`. So it also prints what the
gradient pass keeps for a row, counted from the program before XLA. Nothing is timed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from cost import batch, flow_map


def jax_bytes(model, rows):
    """Bytes of the compiled step, with its state donated."""
    import jax

    from keras_meanflow.backend.jax import step_state

    step = jax.jit(model.train_step, donate_argnums=0)
    used = step.lower(step_state(model), batch(rows)).compile().memory_analysis()
    sizes = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
    return sizes - used.alias_size_in_bytes


def torch_bytes(model, rows):
    """The largest memory allocated in the second step, plus that of the model's state."""
    import keras
    from torch.profiler import ProfilerActivity, profile

    data = [keras.ops.convert_to_tensor(array) for array in batch(rows)]
    model.train_step(data)
    variables = model.variables + model.optimizer.variables
    resting = sum(v.value.numel() * v.value.element_size() for v in variables)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model.train_step(data)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return resting + most


def tensorflow_bytes(model, rows):
    """Bytes of the compiled step, from the reports in the folder of `XLA_FLAGS`."""
    model.train_on_batch(*batch(rows))
    folder = re.search(r"--xla_dump_to=(\S+)", os.environ["XLA_FLAGS"])[1]
    reports = [path.read_text() for path in Path(folder).glob("*memory-usage-report.txt")]
    return max(int(re.search(r"Total bytes used: (\d+)", report)[1]) for report in reports)


def kept_bytes(model, rows):
    """Bytes that the gradient pass keeps for one more row: JAX's residuals, by shape."""
    import jax
    import keras

    variables = model.network.trainable_variables
    values = [variable.value for variable in variables]

    def kept(rows):
        x, y = batch(rows)
        t = x[:, 0, 0, 0]

        def forward(values):
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                return model.network(x, t, t, y)

        residuals = jax.eval_shape(lambda values: jax.vjp(forward, values)[1], values)
        return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(residuals))

    return kept(rows + 1) - kept(rows)


def measure(arguments):
    """Print the bytes of one step of this process' backend as JSON."""
    import keras

    count = {"jax": jax_bytes, "torch": torch_bytes, "tensorflow": tensorflow_bytes}
    share = None if arguments.objective == "flow matching" else 0.75
    model = flow_map(arguments.size, None, share, averages=(0.9999,), remat=arguments.remat)
    model.compile(keras.optimizers.Adam(1e-4), jit_compile=keras.config.backend() != "torch")
    if arguments.kept:
        count["jax"] = kept_bytes
    print(json.dumps(count[keras.config.backend()](model, arguments.batch)))


def in_a_process(backend, objective, rows, arguments, *further):
    """The bytes of a step, measured in a new process."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-W", "ignore", __file__, "--objective", objective, *further]
    command += ["--size", arguments.size, "--batch", str(rows)]
    command += ["--remat"] if arguments.remat else []
    with tempfile.TemporaryDirectory() as folder:
        environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
        if backend == "tensorflow":
            environment["XLA_FLAGS"] += f" --xla_dump_to={folder}"
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backends", default="jax,tensorflow,torch")
    parser.add_argument("--size", default="S/4")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--device", type=float, help="memory of a device in GB")
    parser.add_argument("--objective", help=argparse.SUPPRESS)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.objective:
        measure(arguments)
        return
    print(f"DiT-{arguments.size}, batch {arguments.batch}, remat {arguments.remat}")
    for backend in arguments.backends.split(","):
        plain, mean_flow = (
            in_a_process(backend, objective, arguments.batch, arguments)
            for objective in ("flow matching", "MeanFlow")
        )
        print(
            f"{backend:12} flow matching {plain / 1e9:.3f} GB, MeanFlow {mean_flow / 1e9:.3f} GB: "
            f"{mean_flow / plain:.3f}",
            flush=True,
        )
        if arguments.device and backend == "jax":
            twice = in_a_process(backend, "MeanFlow", 2 * arguments.batch, arguments)
            row = (twice - mean_flow) / arguments.batch
            fixed = mean_flow - row * arguments.batch
            most = int((1e9 * arguments.device - fixed) / row)
            print(f"  {fixed / 1e9:.2f} GB and {row / 1e6:.1f} MB a row: a batch of {most}")
            kept = in_a_process(backend, "MeanFlow", 1, arguments, "--kept")
            print(f"  the gradient pass of a row keeps {kept / 1e6:.1f} MB before XLA")


if __name__ == "__main__":
    main()
