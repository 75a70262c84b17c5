"""Forward-mode derivatives on every backend, against central differences in float64 NumPy."""

import keras
import numpy as np
import pytest
from keras import ops
from oracles import Gaussian, central_difference, numpy_dit, randomise, relative_error

from keras_meanflow.backend import BACKEND, jvp
from keras_meanflow.networks import MLP, DiT, InContextDiT

RNG = np.random.default_rng(0)


def _arguments(shape, rows=3):
    z, dz = RNG.standard_normal((2, rows, *shape)).astype("float32")
    t = np.array([0.9, 0.5, 1.0][:rows], "float32")
    r = np.array([0.2, 0.5, 0.0][:rows], "float32")
    return (z, r, t), (dz, np.zeros_like(r), np.ones_like(t))


def _tensors(arrays):
    return [ops.convert_to_tensor(a) for a in arrays]


def test_jvp_of_the_gaussian_is_its_central_difference():
    primals, tangents = _arguments((4, 2))
    gaussian = Gaussian()
    out, tangent = jvp(gaussian, _tensors(primals), _tensors(tangents))
    double = [np.asarray(a, "float64") for a in primals]
    expected = central_difference(gaussian.numpy, double, tangents)
    np.testing.assert_allclose(ops.convert_to_numpy(out), gaussian.numpy(*primals), atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(tangent), expected, atol=1e-5)


@pytest.mark.parametrize("time_inputs", [("t", "t-r"), ("t", "r"), ("t", "r", "t-r"), ("t-r",)])
def test_output_and_jvp_of_the_dit_are_those_of_numpy_in_float64(time_inputs):
    network = DiT(
        image_size=(4, 6),
        channels=2,
        patch_size=2,
        width=16,
        depth=2,
        heads=2,
        num_classes=3,
        time_inputs=time_inputs,
        time_scale=1.7,
    )
    randomise(network)
    primals, tangents = _arguments((4, 6, 2))
    labels = np.array([0, 3, 1], "int32")

    def double(z, r, t):
        return numpy_dit(network, z, r, t, labels)

    out, tangent = jvp(
        lambda z, r, t: network(z, r, t, labels), _tensors(primals), _tensors(tangents)
    )
    primals = [np.asarray(a, "float64") for a in primals]
    assert relative_error(ops.convert_to_numpy(out), double(*primals)) < 3e-6
    expected = central_difference(double, primals, tangents)
    assert relative_error(ops.convert_to_numpy(tangent), expected) < 1e-5


def test_a_product_of_torch_takes_its_factors_by_name():
    if BACKEND != "torch":
        pytest.skip("PyTorch's own functions")
    import torch
    import torch.nn.functional as F

    x, dx, w, b = (torch.randn(s) for s in ((2, 3, 4), (2, 3, 4), (4, 4), (4,)))
    kernel = torch.randn(5, 3, 1)
    for product, linear in (
        (lambda x: F.linear(x, weight=w), lambda x: x @ w.T),
        (lambda x: F.linear(input=x, weight=w, bias=b), lambda x: x @ w.T),
        (lambda x: torch.matmul(x, other=w), lambda x: x @ w),
        (lambda x: x.matmul(other=w), lambda x: x @ w),
        (lambda x: torch.bmm(input=x, mat2=w.expand(2, 4, 4)), lambda x: x @ w),
        (lambda x: torch.mm(x[0], mat2=w), lambda x: x[0] @ w),
        (lambda x: F.conv1d(x, weight=kernel, bias=None), lambda x: kernel[:, :, 0] @ x),
    ):
        out, tangent = jvp(product, (x,), (dx,))
        torch.testing.assert_close(out, product(x))
        torch.testing.assert_close(tangent, linear(dx))


SMALL = {"image_size": 4, "channels": 2, "patch_size": 2, "width": 16, "depth": 1, "heads": 2}


@pytest.mark.parametrize(
    "make",
    [
        lambda: DiT(**SMALL, qk_norm=True, split_depth=0, time_inputs=("1-t",)),
        lambda: InContextDiT(**SMALL, head_depth=1, v_depth=0, class_tokens=3, time_tokens=1),
    ],
)
def test_norms_rotations_and_splits_pass_the_jvp(make):
    network = randomise(make())
    primals, tangents = _arguments((4, 4, 2))

    def u(z, r, t):
        return network(z, r, t)

    _, tangent = jvp(u, _tensors(primals), _tensors(tangents))

    def single(z, r, t):
        arrays = [np.asarray(a, "float32") for a in (z, r, t)]
        return ops.convert_to_numpy(network(*arrays)).astype("float64")

    expected = central_difference(single, primals, tangents, h=1e-2)
    assert relative_error(ops.convert_to_numpy(tangent), expected) < 5e-3


def test_the_same_tensor_twice_and_an_unused_input_are_allowed():
    t = ops.convert_to_tensor(np.ones(2, "float32"))
    out, tangent = jvp(lambda a, b: a * b, (t, t), (t, t))
    np.testing.assert_array_equal(ops.convert_to_numpy(tangent), [2.0, 2.0])
    out, tangent = jvp(lambda a: 0.0 * t + 3.0, (t,), (t,))
    np.testing.assert_array_equal(ops.convert_to_numpy(tangent), [0.0, 0.0])


def test_the_attention_layer_of_keras_passes_the_jvp():
    layer = keras.layers.MultiHeadAttention(2, 4)
    x = ops.convert_to_tensor(RNG.standard_normal((2, 5, 8)).astype("float32"))
    layer(x, x)
    out, tangent = jvp(lambda x: layer(x, x), (x,), (x,))
    h = 1e-2
    expected = (layer((1 + h) * x, (1 + h) * x) - layer((1 - h) * x, (1 - h) * x)) / (2 * h)
    error = relative_error(ops.convert_to_numpy(tangent), ops.convert_to_numpy(expected))
    assert error < 2e-3


@pytest.mark.skipif(BACKEND != "torch", reason="counts PyTorch's operations")
def test_the_jvp_costs_two_forwards():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    dit = DiT(image_size=8, channels=4, patch_size=2, width=128, depth=2, heads=2)
    mlp = MLP(data_size=64, width=256)
    for network, shape in ((dit, (8, 8, 4)), (mlp, (64,))):
        primals, tangents = (_tensors(a) for a in _arguments(shape))
        with FlopCounterMode(display=False) as forward, sdpa_kernel(SDPBackend.MATH):
            network(*primals)
        with FlopCounterMode(display=False) as forward_mode:
            jvp(network, primals, tangents)
        # Both factors of attention's products have tangents: three products, for 2 % of the whole.
        share = forward_mode.get_total_flops() / forward.get_total_flops()
        assert 1.99 < share < 2.03
