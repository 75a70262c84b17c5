"""Half precision, times at the ends, large values; attention and memory inside the derivative."""

import keras
import numpy as np
import pytest
from keras import ops
from oracles import randomise, relative_error

from keras_meanflow.backend import BACKEND, inside_jvp, jvp
from keras_meanflow.flow_map.model import FlowMap
from keras_meanflow.networks import DiT, layers
from keras_meanflow.objectives import MeanFlow
from keras_meanflow.parts.time_laws import LogitNormal, MaskedThenClamped

SIZES = dict(image_size=4, channels=3, patch_size=2, width=16, depth=2, heads=2)
ROWS = 8
X = np.random.default_rng(0).standard_normal((ROWS, 4, 4, 3)).astype("float32")


def _flow_map(dtype="float32", objective=None, network=None, **arguments):
    network = randomise(DiT(**{**SIZES, "dtype": dtype, **(network or {})}))
    flow_map = FlowMap(network, objective or MeanFlow(), averages=(), **arguments)
    flow_map.compile(keras.optimizers.SGD(1.0), jit_compile=BACKEND == "jax")
    return flow_map


def _du_dt_norm(flow_map):
    norm, weight = flow_map.build_problem((X,), training=True).logs["du_dt_norm"]
    return ops.convert_to_numpy(norm)[ops.convert_to_numpy(weight) > 0]


def test_the_derivative_may_be_float32_in_a_network_of_bfloat16():
    exact = _du_dt_norm(_flow_map())
    half = _flow_map("mixed_bfloat16")
    mixed = _flow_map("mixed_bfloat16", float32_derivative=True)
    np.testing.assert_allclose(_du_dt_norm(mixed), exact, rtol=1e-6)
    assert relative_error(_du_dt_norm(half), exact) > 1e-4
    assert mixed.network.blocks[0].fc1.compute_dtype == "bfloat16"
    assert FlowMap.from_config(mixed.get_config()).field.float32_derivative


@pytest.mark.parametrize("scale", [1.0, 1e15])
def test_bfloat16_keeps_times_targets_and_losses_in_float32(monkeypatch, scale):
    """With t at both ends and, in bfloat16's range, data whose squares overflow nothing."""
    t = np.array([1.0, 1.0 - 2.0**-24, 1e-7, 0.0] * 2, "float32")
    r = np.array([0.0, 0.9999, 0.0, 0.0] * 2, "float32")
    both = ops.convert_to_tensor(r), ops.convert_to_tensor(t)
    monkeypatch.setattr(LogitNormal, "pair", lambda self, keys, rows, below: both)
    objective = MeanFlow(times=LogitNormal(fraction_r_equals_t=0.5))
    flow_map = _flow_map("mixed_bfloat16", objective)
    problem = flow_map.build_problem((scale * X,), training=True)
    for array in keras.tree.flatten((problem.inputs, problem.target)):
        assert keras.backend.standardize_dtype(array.dtype) == "float32"
    for name, given in zip("rt", (r, t), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(problem.inputs[name]), given)
    logs = flow_map.train_on_batch(scale * X, return_dict=True)
    assert all(np.isfinite(float(value)) for value in logs.values())
    assert float(logs["loss"]) == pytest.approx(1.0, abs=1e-2)


def test_float16_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="65,504.*Use mixed_bfloat16"):
        _flow_map("mixed_float16")


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX's fused attention")
@pytest.mark.parametrize("share", [0.75, 0.25])
def test_the_fused_attention_of_a_gpu_stays_out_of_the_derivative(monkeypatch, share):
    """With what Keras does on a GPU: its kernel has a gradient and refuses forward mode."""
    import jax

    plain, calls = jax.nn.dot_product_attention, []

    def attention(*args, implementation=None, **kwargs):
        if implementation != "cudnn":
            return plain(*args, implementation="xla", **kwargs)
        calls.append(inside_jvp())
        kernel = jax.custom_vjp(lambda *args: plain(*args, implementation="xla", **kwargs))
        kernel.defvjp(
            lambda *args: jax.vjp(lambda *a: plain(*a, implementation="xla", **kwargs), *args),
            lambda pullback, output: pullback(output),
        )
        return kernel(*args)

    step = {}
    for device in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda device=device: device)
        if device == "gpu":
            monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
            monkeypatch.setattr(
                "keras.src.backend.jax.nn._can_use_flash_attention", lambda *args, **kwargs: True
            )
        objective = MeanFlow(times=LogitNormal(fraction_r_equals_t=share))
        flow_map = _flow_map("mixed_bfloat16", objective)
        step[device] = flow_map.train_on_batch(X, return_dict=True)["loss"]
    assert set(calls) == {False}
    np.testing.assert_allclose(step["gpu"], step["cpu"], rtol=1e-2)


def test_attention_by_blocks_of_queries_has_the_same_derivative(monkeypatch):
    """Also with heads of 72, DiT-XL's, which fused kernels often lack."""
    network = randomise(DiT(**{**SIZES, "width": 144}))
    network.set_weights([0.3 * weight for weight in network.get_weights()])
    t = ops.convert_to_tensor(np.linspace(0.2, 1.0, ROWS).astype("float32"))
    x = ops.convert_to_tensor(X)
    sizes, attention = [], layers.attention

    def spy(q, k, v):
        sizes.append(q.shape[1])
        return attention(q, k, v)

    monkeypatch.setattr(layers, "attention", spy)

    def derivative():
        out = jvp(lambda z, t: network(z, 0.5 * t, t), (x, t), (0.3 * x, ops.ones_like(t)))
        return [ops.convert_to_numpy(a) for a in out]

    whole = derivative()
    monkeypatch.setattr(layers, "QUERY_BLOCK", 3)
    blocks = derivative()
    assert set(sizes[-4:]) == {3, 1} and sizes[0] == 4
    for a, b in zip(blocks, whole, strict=True):
        assert relative_error(a, b) < 2e-6
    sizes.clear()
    network(x, t, t)
    assert set(sizes) == {4}


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(LogitNormal(), id="two"),
        pytest.param(MaskedThenClamped(), id="one", marks=pytest.mark.long),
    ],
)
def test_blocks_computed_again_give_the_same_step(times):
    steps = []
    for remat in (False, True):
        flow_map = _flow_map(objective=MeanFlow(times=times), network={"remat": remat})
        flow_map.train_on_batch(X)
        steps.append(flow_map.network.get_weights())
    for kept, again in zip(*steps, strict=True):
        np.testing.assert_allclose(again, kept, atol=1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="counts PyTorch's operations")
def test_blocks_are_computed_again_in_the_gradient_pass_alone():
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for remat in (False, True):
        flow_map = _flow_map(network={"remat": remat, "width": 64, "depth": 4})
        data = (ops.convert_to_tensor(X),)
        with FlopCounterMode(display=False) as counter:
            flow_map.train_step(data)
        counts.append(counter.get_total_flops())
    assert counts[1] / counts[0] == pytest.approx(4.5 / 3.5, abs=0.05)
