"""Counts what a training step costs, in forward passes of its network, from the compiled program.

    python benchmarks/cost.py [--backends jax,torch] [--official CHECKOUT] [--size B/4] [--batch 32]

A DiT on 32x32x4 latents with 1,000 classes, math attention. On JAX it divides XLA's cost analysis
of the compiled train step by that of the compiled forward pass. On PyTorch it divides the
operations that the counter sees in both: matrix products and attention. The optimizer hardly
counts: ours is plain gradient descent without averages (0.2 % of a step). `--official` names a
checkout of Gsunshine/meanflow: its loss and gradient are divided by its forward pass in the same
way; it needs flax.

Nothing is timed, so the machine may be busy.
"""

import argparse
import os
import subprocess
import sys

GUIDANCES = {"none": None, "omega": (2.0, 0.0), "omega, kappa": (1.0, 0.5)}
SHARES = {"none": (0.75, 0.25), "omega": (0.75,), "omega, kappa": (0.75, 0.25)}
CHANNELS, IMAGE, CLASSES = 4, 32, 1000


def flow_map(size, guidance, fraction_r_equals_t, averages=(), **network):
    """Our model, compiled with plain gradient descent."""
    import keras

    from keras_meanflow import DiT, FlowMap, FlowMatching, Guidance, LogitNormal, MeanFlow

    sizes = dict(image_size=IMAGE, channels=CHANNELS, num_classes=CLASSES)
    network = DiT.from_size(size, **sizes, **network)
    objective = FlowMatching()
    if fraction_r_equals_t is not None:
        objective = MeanFlow(
            times=LogitNormal(fraction_r_equals_t=fraction_r_equals_t),
            guidance=None if guidance is None else Guidance(omega=guidance[0], kappa=guidance[1]),
        )
    model = FlowMap(network, objective, averages=averages)
    model.compile(keras.optimizers.SGD(1e-4), jit_compile=keras.config.backend() == "jax")
    return model


def batch(rows):
    """Data and labels; their values do not matter."""
    import numpy as np

    x = np.random.default_rng(0).standard_normal((rows, IMAGE, IMAGE, CHANNELS)).astype("float32")
    return x, np.arange(rows, dtype="int32") % CLASSES


def xla_flops(function, *arguments):
    """Operations of the compiled program, by XLA's own analysis."""
    import jax

    analysis = jax.jit(function).lower(*arguments).compile().cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]


def count_jax(model, rows):
    """(step, forward) of a FlowMap on JAX."""
    import keras
    import numpy as np

    from keras_meanflow.backend.jax import step_state

    x, y = batch(rows)
    t = np.ones(rows, "float32")
    state = step_state(model)

    def forward(values, x, t, y):
        with keras.StatelessScope(list(zip(model.trainable_variables, values, strict=True))):
            return model.network(x, t, t, y)

    return xla_flops(model.train_step, state, (x, y)), xla_flops(forward, state[0], x, t, y)


def count_torch(model, rows):
    """(step, forward) of a FlowMap on PyTorch, both run once."""
    import keras
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from keras_meanflow.backend import step_operations

    x, y = (keras.ops.convert_to_tensor(array) for array in batch(rows))
    t = keras.ops.ones((rows,))
    with sdpa_kernel(SDPBackend.MATH):
        step = step_operations(model, (x, y))
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            model.network(x, t, t, y)
    return step, forward.get_total_flops()


def count_official(checkout, size, rows, guidance):
    """(loss and gradient, forward) of the official JAX code."""
    sys.path.insert(0, checkout)
    import jax
    import jax.numpy as jnp
    import meanflow
    from models import models_dit

    clip = jnp.clip
    jnp.clip = lambda x, a_min, a_max: clip(x, a_min, a_max)  # renamed since the code was written
    omega, kappa = guidance or (1.0, 0.0)
    name = f"DiT_{size.replace('/', '_')}"
    model = meanflow.MeanFlow(
        model_str=name,
        model_config={},
        num_classes=CLASSES,
        omega=omega,
        kappa=kappa,
        guidance_eq="cfg" if guidance else "",
    )
    network = getattr(models_dit, name)(class_dropout_prob=0.0)
    x, y = batch(rows)
    t, key = jnp.ones(rows), jax.random.key(0)
    parameters = jax.eval_shape(
        lambda: model.init({"params": key, "gen": key}, x[:1], t[:1], y[:1])["params"]
    )

    def loss(parameters, x, y, key):
        variables, rngs = {"params": parameters}, {"gen": key}
        return model.apply(variables, x, y, method=model.forward, rngs=rngs)

    def forward(parameters, x, t, y, key):
        return network.apply({"params": parameters["net"]}, x, t, t, y, train=False, key=key)

    step = jax.value_and_grad(loss, has_aux=True)
    return xla_flops(step, parameters, x, y, key), xla_flops(forward, parameters, x, t, y, key)


def report(arguments):
    """Print the rows of this process' backend."""
    import keras

    backend = keras.config.backend()
    count = {"jax": count_jax, "torch": count_torch}[backend]
    step, forward = count(flow_map(arguments.size, None, None), arguments.batch)
    line = "{:32} {:>8} {:>22.3f} {:>10.1f}"
    title = f"{backend}, DiT-{arguments.size}, batch {arguments.batch}"
    print(f"{title}: forward {forward / 1e9:.1f} G operations")
    print(f"{'':32} {'share':>8} {'forward passes a step':>22} {'G':>10}")
    print(line.format("flow matching", "1", step / forward, step / 1e9), flush=True)
    for name, guidance in GUIDANCES.items():
        for share in SHARES[name]:
            step, forward = count(flow_map(arguments.size, guidance, share), arguments.batch)
            label = f"MeanFlow, guidance: {name}"
            print(line.format(label, share, step / forward, step / 1e9), flush=True)
        if arguments.official and backend == "jax":
            step, forward = count_official(
                arguments.official, arguments.size, arguments.batch, guidance
            )
            label = f"official code, guidance: {name}"
            print(line.format(label, "", step / forward, step / 1e9), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backends", default="jax,torch")
    parser.add_argument("--official", help="a checkout of Gsunshine/meanflow")
    parser.add_argument("--size", default="B/4")
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    if "COST_CHILD" in os.environ:
        report(arguments)
        return
    for backend in arguments.backends.split(","):
        environment = {**os.environ, "KERAS_BACKEND": backend, "COST_CHILD": "1"}
        # The program is counted, not run: its machine code may be slow.
        environment.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
        subprocess.run([sys.executable, "-W", "ignore", *sys.argv], env=environment, check=True)


if __name__ == "__main__":
    main()
