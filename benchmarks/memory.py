"""Peak memory of the MeanFlow step over that of the flow-matching step, on each backend.

    python benchmarks/memory.py [--backends jax,tensorflow,torch] [--size S/4] [--batch 32]
    python benchmarks/memory.py --backends jax --size XL/2 --batch 1 --device 80 [--remat]

On JAX, by XLA's analysis of the compiled step, whose state is donated as `fit` does: arguments,
results and temporaries, without what they share. On PyTorch, the most that its profiler sees
allocated at a time in a step, on top of the weights, averages and optimizer state. On TensorFlow,
the most memory that a process of its own has had, with the libraries and the compiler in it: a
coarse figure. With `--device GB` (JAX) it also compiles the step for twice the batch, and prints
the largest batch that fits by a straight line. Nothing is timed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys

from cost import batch, flow_map


def step_state(model):
    """What Keras' JAX train step takes."""
    model.optimizer.build(model.trainable_variables)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    return tuple([variable.value for variable in group] for group in groups)


def jax_bytes(model, rows):
    """Of the compiled step, its state donated."""
    import jax

    step = jax.jit(model.train_step, donate_argnums=0)
    used = step.lower(step_state(model), batch(rows)).compile().memory_analysis()
    sizes = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
    return sizes - used.alias_size_in_bytes


def torch_bytes(model, rows):
    """The most allocated at a time in the second step, and what is there before it."""
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
    """The most this process has had, after three steps."""
    x, y = batch(rows)
    for _ in range(3):
        model.train_on_batch(x, y)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(arguments):
    """Print the bytes of one step of this process' backend as JSON."""
    import keras

    count = {"jax": jax_bytes, "torch": torch_bytes, "tensorflow": tensorflow_bytes}
    share = None if arguments.objective == "flow matching" else 0.75
    model = flow_map(arguments.size, None, share, averages=(0.9999,), remat=arguments.remat)
    model.compile(keras.optimizers.Adam(1e-4), jit_compile=keras.config.backend() != "torch")
    print(json.dumps(count[keras.config.backend()](model, arguments.batch)))


def in_a_process(backend, objective, rows, arguments):
    """The bytes of a step, measured in a process of its own."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    command = [sys.executable, "-W", "ignore", __file__, "--objective", objective]
    command += ["--size", arguments.size, "--batch", str(rows)]
    command += ["--remat"] if arguments.remat else []
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


if __name__ == "__main__":
    main()
