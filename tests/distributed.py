"""A process of tests/backend/test_distribution.py: trains, and prints the result as JSON.

python tests/distributed.py '{"devices": 2, "steps": 8, ...}'
"""

import contextlib
import json
import os
import sys

ASKED = {"devices": 1, "model_devices": 1, "steps": 8, "network": "mlp", "resume": None}
ASKED |= {"save": None, "wrapper": True, "optimizer": "sgd"} | json.loads(sys.argv[1])
if ASKED["devices"] > 1:
    on_this = ASKED["devices"] // int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", "1"))
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={on_this}"

import keras  # noqa: E402
import numpy as np  # noqa: E402

from keras_meanflow import DiT, FlowMap, Guidance, LogitNormal, MeanFlow, backend  # noqa: E402
from keras_meanflow.data import ArraySource, Batches  # noqa: E402
from keras_meanflow.networks import DIT_LAYOUT, MLP  # noqa: E402
from keras_meanflow.parts import EasyFirst, Plateau, ProgressiveGap  # noqa: E402

BATCH, SHAPES = 16, {"mlp": (3,), "dit": (4, 4, 2)}


def numpy(variable):
    """The value as this process has it."""
    return keras.ops.convert_to_numpy(backend.local(variable.value))


def flow_map():
    """A small model, guided, whose times move by stages or whose steps take one pass."""
    if ASKED["network"] == "mlp":
        network = MLP(data_size=3, width=8, depth=1, num_classes=3)
        times = EasyFirst(pacing=Plateau(stages=4, patience=1, smoothing=0.0))
        objective = MeanFlow(times=times, beta=ProgressiveGap(), guidance=Guidance())
    else:
        sizes = dict(image_size=4, channels=2, patch_size=2, width=16, depth=1, heads=2)
        network = DiT(**sizes, num_classes=3)
        objective = MeanFlow(times=LogitNormal(fraction_r_equals_t=0.25))
    model = FlowMap(network, objective, averages=(0.9,), horizon=40)
    optimizer = {"sgd": keras.optimizers.SGD(0.1), "adam": keras.optimizers.Adam(1e-2)}
    model.compile(optimizer[ASKED["optimizer"]])
    return model


def main():
    backend.join_processes()
    devices = ASKED["devices"]
    several = backend.distributed(devices, ASKED["model_devices"], DIT_LAYOUT)
    with several if devices > 1 else contextlib.nullcontext():
        # PyTorch takes the first process' weights; JAX wants the same ones in each.
        own = backend.process_index() if backend.BACKEND == "torch" else 0
        keras.utils.set_random_seed(1 + own)
        model = flow_map()
        if not ASKED["wrapper"]:
            model._join = lambda: None
        if ASKED["resume"]:
            model.optimizer.build(model.trainable_variables)
            model.load_weights(ASKED["resume"])
        rng = np.random.default_rng(0)
        x = rng.standard_normal((64, *SHAPES[ASKED["network"]])).astype("float32")
        source = ArraySource(x, (np.arange(64) % 3).astype("int32"))
        part = (backend.process_index(), backend.process_count())
        first = int(numpy(model.step))
        batches = Batches(source, BATCH, seed=0, part=part, first_step=first)
        steps = dict(steps_per_epoch=1, epochs=ASKED["steps"], shuffle=False, verbose=0)
        history = model.fit(batches, **steps).history
        evaluated = model.evaluate(
            Batches(source, BATCH, seed=0, part=part), steps=4, verbose=0, return_dict=True
        )
        kernel = model.network.trainable_variables[-2]
        out = {
            "history": history,
            "evaluated": evaluated,
            "weights": [numpy(w).tolist() for w in model.network.trainable_variables],
            "average": [numpy(w).tolist() for w in model.weights_of(0.9)],
            "samples": model.generate(np.arange(5) % 3, seed=2, verbose=0).tolist(),
            "jit": model.jit_compile,
            "step": int(numpy(model.step)),
            "layout": str(getattr(kernel.value, "sharding", None)),
        }
        if keras.config.backend() == "torch":
            out["gradients"] = [v.value.grad.tolist() for v in model.trainable_variables]
        if ASKED["save"] and backend.process_index() == 0:
            model.save(ASKED["save"])
        print(json.dumps(out))


if __name__ == "__main__":
    main()
