"""Two devices take the steps that one takes: draws belong to rows of the global batch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from keras_meanflow.backend import BACKEND

_RUN = """
import json, os, sys
devices = int(sys.argv[1])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
import keras, numpy as np
from keras_meanflow import EasyFirst, FlowMap, Guidance, MeanFlow, MLP, Plateau, ProgressiveGap
if keras.config.backend() == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, logical)
    names = [f"CPU:{i}" for i in range(devices)]
    strategy = tf.distribute.MirroredStrategy(names) if devices > 1 else None
    scope = strategy.scope() if strategy else __import__("contextlib").nullcontext()
else:
    scope = __import__("contextlib").nullcontext()
    if devices > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
keras.utils.set_random_seed(1)
with scope:
    network = MLP(data_size=3, width=8, depth=1, num_classes=3)
    times = EasyFirst(pacing=Plateau(stages=4, patience=1, smoothing=0.0))
    objective = MeanFlow(times=times, beta=ProgressiveGap(), guidance=Guidance())
    flow_map = FlowMap(network, objective, averages=(0.9,))
    flow_map.compile(keras.optimizers.SGD(0.1))
rng = np.random.default_rng(0)
x, y = rng.standard_normal((32, 3)).astype("float32"), np.arange(32) % 3
history = flow_map.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
flow_map.average = 0.9
numpy = keras.ops.convert_to_numpy
samples = flow_map.generate(np.arange(5) % 3, seed=2, verbose=0)
print(json.dumps({
    "history": history.history,
    "weights": [numpy(w).tolist() for w in network.trainable_variables],
    "average": [numpy(w).tolist() for w in flow_map.weights_of(0.9)],
    "samples": samples.tolist(),
    "jit": flow_map.jit_compile,
    "step": int(numpy(flow_map.step)),
}))
"""


def _run(devices):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": BACKEND}
    command = [sys.executable, "-W", "ignore", "-c", _RUN, str(devices)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(BACKEND == "torch", reason="Keras 3.15 has no data parallelism on PyTorch")
def test_two_devices_take_the_steps_of_one():
    one, two = _run(1), _run(2)
    assert one["step"] == two["step"] == 8
    assert one["history"]["stage"] == two["history"]["stage"]
    assert one["history"]["stage"][-1] > 0
    for name, values in one["history"].items():
        if name != "gradient_norm" or BACKEND == "jax":  # TensorFlow's is the replicas' mean
            np.testing.assert_allclose(two["history"][name], values, rtol=1e-4)
    np.testing.assert_allclose(two["samples"], one["samples"], atol=1e-4)
    for name in ("weights", "average"):
        for a, b in zip(one[name], two[name], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    assert BACKEND != "tensorflow" or not two["jit"]
