"""What `keras-meanflow bench` says of operations: counted, and as a share of a device's peak."""

import keras
import numpy as np
import pytest

from keras_meanflow import FlowMap, FlowMatching
from keras_meanflow.backend import BACKEND, device_name, step_operations
from keras_meanflow.cli.bench import _operations
from keras_meanflow.cli.peaks import PEAKS, peak_of
from keras_meanflow.networks import MLP

NAMES = {  # as the drivers say them
    "NVIDIA H100 80GB HBM3": (989.0, 494.0, 67.0),
    "NVIDIA H100 PCIe": (756.0, 378.0, 51.0),
    "NVIDIA H200": (989.0, 494.0, 67.0),
    "NVIDIA A100-SXM4-80GB": (312.0, 156.0, 19.5),
    "NVIDIA A100-PCIE-40GB": (312.0, 156.0, 19.5),
    "NVIDIA L4": (121.0, 60.0, 30.3),
    "NVIDIA L40S": (362.0, 183.0, 91.6),
    "NVIDIA A10G": (70.0, 35.0, 31.2),
    "Tesla T4": (None, None, 8.1),
    "Tesla V100-SXM2-16GB": (None, None, 15.7),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6, 82.6),
    "TPU v5 lite": (197.0, 197.0, None),
    "TPU v5": (459.0, 459.0, None),
    "TPU v4": (275.0, 275.0, None),
    "cpu": (None, None, None),
    "NVIDIA L400": (None, None, None),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_device_is_known_by_its_name(name):
    products = ("bfloat16", "tf32", "float32")
    assert tuple(peak_of(name, kind) for kind in products) == NAMES[name]


def test_no_name_hides_a_longer_one():
    names = list(PEAKS)
    assert not [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if a in b]


def _flow_map():
    flow_map = FlowMap(MLP(data_size=64, width=256, depth=3), FlowMatching(), averages=())
    flow_map.compile(keras.optimizers.SGD(0.0), jit_compile=BACKEND == "jax")
    return flow_map


@pytest.mark.skipif(BACKEND == "tensorflow", reason="has no count of a compiled step")
def test_the_operations_of_a_step_are_those_of_its_products():
    rows, flow_map = 128, _flow_map()
    times = 2 * (256 * 256 + 256 * 256)  # two embeddings, two layers
    body = (64 + 2 * 256) * 256 + 2 * 256 * 256 + 256 * 64
    constant = 2 * 256 * 256  # no gradient goes back into the sinusoids
    expected = 2 * rows * (3 * (times + body) - constant)
    batch = (np.zeros((rows, 64), "float32"), None)
    found = step_operations(flow_map, batch[:1])
    assert found == pytest.approx(expected, rel=0.02)


def test_the_share_is_of_the_peak_that_is_given():
    batches = [(np.zeros((8, 64), "float32"),)]
    line = _operations(_flow_map(), batches, 0.01, None)
    given = _operations(_flow_map(), batches, 0.01, 0.5)
    if BACKEND == "tensorflow":
        assert line == given == "operations        not counted on this backend"
        return
    if device_name()[0] == "cpu":
        assert "whose peak is unknown" in line
    per_second = float(given.split()[5])
    share = float(given.split(",")[1].split()[0])
    assert share == pytest.approx(100.0 * per_second / 0.5, abs=0.15)
