"""Our training step beside the authors' and zhuyu-cs's, taking turns in one process.

    KERAS_BACKEND=jax python benchmarks/side_by_side.py --official CHECKOUT [--rounds 7]
    KERAS_BACKEND=torch python benchmarks/side_by_side.py --zhuyu CHECKOUT [--rounds 7]
    KERAS_BACKEND=jax python benchmarks/side_by_side.py --generate

All train the same model on the same batches with the same mathematics: a DiT of `--image` x
`--image` x 4, patch 2, guidance by omega and kappa (1, 0.5), a quarter of the rows with r < t,
Adam, one average. The official step is that of `train.py` on one device, without its codec and
logs. The step of zhuyu-cs is its loss, Adam and average; its `train.py` no longer fits the last
commit of its `loss.py`. Printed: medians over the rounds of images a second and of the ratio within
a round, and its range. `--generate` compares one-step `generate` with a bare compiled forward pass.
The checkouts are of Gsunshine/meanflow (flax, optax) and zhuyu-cs/MeanFlow (timm). Run it on an
idle machine.
"""

import argparse
import copy
import statistics
import sys
import time

import keras
import numpy as np

from keras_meanflow import DiT, FlowMap, Guidance, MeanFlow
from keras_meanflow.backend import compiled

CLASSES, CHANNELS, PATCH = 1000, 4, 2


def sizes(arguments):
    """Of the DiT, under our names."""
    return dict(
        image_size=arguments.image,
        channels=CHANNELS,
        patch_size=PATCH,
        width=arguments.width,
        depth=arguments.depth,
        heads=arguments.width // 64,
        num_classes=CLASSES,
    )


def data(arguments):
    """`--steps` batches of noise and labels."""
    rng, rows = np.random.default_rng(0), arguments.steps * arguments.batch
    shape = (rows, arguments.image, arguments.image, CHANNELS)
    x = rng.standard_normal(shape).astype("float32")
    return x, rng.integers(0, CLASSES, rows).astype("int32")


def ours(arguments):
    """A function that trains ours for `--steps` steps."""
    flow_map = FlowMap(DiT(**sizes(arguments)), MeanFlow(guidance=Guidance()))
    flow_map.compile(keras.optimizers.Adam(1e-4, beta_2=0.95), jit_compile=arguments.jit or "auto")
    x, y = data(arguments)
    return lambda: flow_map.fit(x, y, batch_size=arguments.batch, shuffle=False, verbose=0)


def official(arguments):
    """A function that trains the official code's model for `--steps` steps."""
    sys.path.insert(0, arguments.official)
    import jax
    import jax.numpy as jnp
    import meanflow
    import optax
    from models import models_dit

    clip = jnp.clip
    jnp.clip = lambda x, a_min, a_max: clip(x, a_min, a_max)  # renamed since the code was written
    models_dit.DiT_benchmark = lambda **kwargs: models_dit.DiT(
        input_size=arguments.image,
        patch_size=PATCH,
        in_channels=CHANNELS,
        hidden_size=arguments.width,
        depth=arguments.depth,
        num_heads=arguments.width // 64,
        num_classes=CLASSES,
        **kwargs,
    )
    model = meanflow.MeanFlow(model_str="DiT_benchmark", model_config={}, num_classes=CLASSES)
    x, y = data(arguments)
    key, t = jax.random.key(0), jnp.ones(1)
    parameters = model.init({"params": key, "gen": key}, x[:1], t, y[:1])["params"]
    optimizer = optax.adamw(1e-4, b2=0.95, weight_decay=0)

    def loss(parameters, x, y, key):
        variables = {"params": parameters}
        return model.apply(variables, x, y, method=model.forward, rngs={"gen": key})

    def step(state, x, y, key):
        parameters, average, moments = state
        (value, _), gradients = jax.value_and_grad(loss, has_aux=True)(parameters, x, y, key)
        updates, moments = optimizer.update(gradients, moments, parameters)
        parameters = optax.apply_updates(parameters, updates)
        average = jax.tree.map(lambda a, p: 0.9999 * a + 0.0001 * p, average, parameters)
        return (parameters, average, moments), value

    step = jax.jit(step, donate_argnums=0)
    state = [(parameters, jax.tree.map(jnp.copy, parameters), optimizer.init(parameters))]

    def run():
        for i in range(arguments.steps):
            rows = slice(i * arguments.batch, (i + 1) * arguments.batch)
            state[0], value = step(state[0], x[rows], y[rows], jax.random.fold_in(key, i))
        jax.block_until_ready((state[0], value))

    return run


def zhuyu(arguments):
    """A function that trains zhuyu-cs's model for `--steps` steps."""
    sys.path.insert(0, arguments.zhuyu)
    import torch
    from loss import SILoss
    from sit import SiT

    network = SiT(
        input_size=arguments.image,
        patch_size=PATCH,
        in_channels=CHANNELS,
        hidden_size=arguments.width,
        decoder_hidden_size=arguments.width,
        depth=arguments.depth,
        num_heads=arguments.width // 64,
        num_classes=CLASSES,
        fused_attn=False,
        qk_norm=False,
    )
    average = copy.deepcopy(network)
    loss = SILoss(
        weighting="adaptive", ratio_r_not_equal_t=0.25, cfg_omega=1.0, cfg_kappa=0.5, cfg_max_t=1.0
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-4, betas=(0.9, 0.95))
    x, y = data(arguments)
    x, y = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(y).long()

    def model(*inputs, **condition):
        return network(*inputs, **condition)

    model.module = network  # where the loss looks for num_classes

    def run():
        for i in range(arguments.steps):
            rows = slice(i * arguments.batch, (i + 1) * arguments.batch)
            value, _ = loss(model, x[rows], {"y": y[rows]})
            optimizer.zero_grad(set_to_none=True)
            value.mean().backward()
            optimizer.step()
            with torch.no_grad():
                for mean, new in zip(average.parameters(), network.parameters(), strict=True):
                    mean.lerp_(new, 1e-4)

    return run


def generating(arguments):
    """`generate` in one step and a bare compiled forward pass, `--steps` batches each."""
    flow_map = FlowMap(DiT(**sizes(arguments)))
    flow_map.compile(jit_compile=arguments.jit or "auto")
    rows, variables = arguments.batch, flow_map.network.variables
    x, y = data(arguments)
    t = keras.ops.ones((rows,))
    z, label = (keras.ops.convert_to_tensor(array[:rows]) for array in (x, y))
    jit = keras.config.backend() != "torch" or arguments.jit
    forward = compiled(lambda z, r, t, y: z - flow_map.network(z, r, t, y), variables, jit)
    values = [variable.value for variable in variables]

    def run():
        for _ in range(arguments.steps):
            keras.ops.convert_to_numpy(forward(values, z, 0.0 * t, t, label))

    return {"generate": lambda: flow_map.generate(y, batch_size=rows, verbose=0), "forward": run}


def compare(functions, rounds, images):
    """Print the medians; the ratio is the first one's rate over the second one's."""
    first, second = functions
    for run in functions.values():
        run()
    seconds = []
    for i in range(rounds):
        order, taken = list(functions)[:: 1 if i % 2 else -1], {}
        for name in order:
            started = time.perf_counter()
            functions[name]()
            taken[name] = time.perf_counter() - started
        seconds.append(taken)
    for name in functions:
        rate = images / statistics.median(taken[name] for taken in seconds)
        print(f"{name:10} {rate:8.2f} images a second")
    ratios = sorted(taken[second] / taken[first] for taken in seconds)
    print(f"{first} / {second}: {statistics.median(ratios):.3f} ", end="")
    print(f"({ratios[0]:.3f} to {ratios[-1]:.3f})", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--official", help="a checkout of Gsunshine/meanflow")
    parser.add_argument("--zhuyu", help="a checkout of zhuyu-cs/MeanFlow")
    parser.add_argument("--generate", action="store_true")
    parser.add_argument("--jit", action="store_true", help="compile ours on PyTorch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image", type=int, default=16)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    arguments = parser.parse_args()
    backend, images = keras.config.backend(), arguments.steps * arguments.batch
    print(f"{backend}, DiT {sizes(arguments)}, batch {arguments.batch}", flush=True)
    if arguments.generate:
        compare(generating(arguments), arguments.rounds, images)
    if arguments.official:
        functions = {"ours": ours(arguments), "official": official(arguments)}
        compare(functions, arguments.rounds, images)
    if arguments.zhuyu:
        compare({"ours": ours(arguments), "zhuyu-cs": zhuyu(arguments)}, arguments.rounds, images)


if __name__ == "__main__":
    main()
