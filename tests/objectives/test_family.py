"""SplitMeanFlow, AlphaFlow and improved MeanFlow against their authors' code, through `fit`.

`golden/family.py` ran it on the same weights and draws and wrote what is compared with.
"""

import keras
import numpy as np
import pytest
from golden import family as golden
from golden import weights_formats
from keras import ops

from keras_meanflow import FlowMap, Guidance, LogitNormal
from keras_meanflow.backend import BACKEND
from keras_meanflow.files.readers import read_weights
from keras_meanflow.files.writers import write_weights
from keras_meanflow.formats.choosing import flat, weights_of
from keras_meanflow.formats.conversion import load_network, save_network
from keras_meanflow.networks import MLP
from keras_meanflow.objectives import (
    AlphaFlow,
    Draws,
    GuidanceInput,
    ImprovedMeanFlow,
    SplitMeanFlow,
)
from keras_meanflow.parts import AdaptiveLoss

JIT = BACKEND == "jax"
TIMES = LogitNormal(fraction_r_equals_t=0.5)


def with_stored_draws(cls, shape, own, **fields):
    """The objective with draws that are the golden ones, and what it draws itself by name."""

    class Stored(cls):
        def draw(self, keys, x, condition=None):
            stored = golden.draws(shape)
            drop = stored["drop"] if own == "told" else np.zeros(golden.ROWS, "bool")
            arrays = stored["r"], stored["t"], stored["e"], drop
            arrays = [ops.convert_to_tensor(array) for array in arrays]
            drawn = keras.tree.map_structure(ops.convert_to_tensor, stored[own])
            return Draws(*arrays, **{"scale" if own == "told" else "extra": drawn})

    return Stored(times=TIMES, **fields)


def step(network, objective, shape):
    """Logs and gradients of one step: of plain descent at rate 1 these are the weights' moves."""
    flow_map = FlowMap(network, objective, averages=())
    flow_map.compile(keras.optimizers.SGD(1.0), jit_compile=JIT)
    before = [ops.convert_to_numpy(v.value).copy() for v in network.trainable_variables]
    data = golden.draws(shape)
    labels = data["labels"] if network.conditional else None
    fit = dict(batch_size=golden.ROWS, verbose=0, shuffle=False)
    history = flow_map.fit(data["x"], labels, **fit).history
    after = [ops.convert_to_numpy(v.value) for v in network.trainable_variables]
    gradients = [old - new for old, new in zip(before, after, strict=True)]
    return {name: values[0] for name, values in history.items()}, gradients, before


def mlp(classes):
    network = MLP(data_size=golden.SIZE, width=golden.WIDTH, depth=1, num_classes=classes)
    weights = golden.mlp_weights(classes)
    for variable, value in zip(network.trainable_variables, weights, strict=True):
        variable.assign(value)
    return network


def assert_same_gradients(gradients, expected, sizes, tolerance=1e-4):
    """Norms and products, to `tolerance` of the norm; rounding of the moves adds eps |w|."""
    found = golden.projections(gradients)
    slack = 1e-7 * np.array([np.linalg.norm(size) + 1.0 for size in sizes])[:, None]
    lengths = np.sqrt(np.array([[1.0] + 3 * [max(np.size(g), 1)] for g in gradients]))
    lengths[:, 0] = 1.0
    bound = (tolerance * expected[:, :1] + slack) * lengths
    assert (np.abs(found - expected) < bound).all(), np.max(np.abs(found - expected) / bound)


def test_split_mean_flow_is_the_authors():
    """Their loss is the mean over the sample, ours the sum."""
    stored = np.load(golden.golden_path("split"))
    objective = with_stored_draws(SplitMeanFlow, (golden.SIZE,), "split")
    logs, gradients, weights = step(mlp(None), objective, (golden.SIZE,))
    assert logs["loss"] / golden.SIZE == pytest.approx(stored["loss"], rel=1e-5)
    gradients = [gradient / golden.SIZE for gradient in gradients]
    assert_same_gradients(gradients, stored["gradients"], weights)


@pytest.mark.parametrize("name", golden.ALPHAS)
def test_alpha_flow_is_the_authors(name):
    """Their loss takes the mean over the sample: c is 1e-3 times its size."""
    alpha, omega, kappa, start, end, clip = golden.ALPHAS[name]
    stored = np.load(golden.golden_path("alpha"))
    guidance = Guidance(omega=omega, kappa=kappa, start=start, end=end)
    objective = with_stored_draws(
        AlphaFlow,
        (golden.SIZE,),
        "split",
        alpha=alpha,
        clip=clip,
        guidance=None if (omega, kappa) == (1.0, 0.0) else guidance,
        loss=AdaptiveLoss(p=1.0, c=1e-3 * golden.SIZE),
        label_dropout=0.0,
    )
    logs, gradients, weights = step(mlp(golden.CLASSES), objective, (golden.SIZE,))
    assert logs["loss"] == pytest.approx(stored[f"{name}/loss"], rel=1e-5)
    assert_same_gradients(gradients, stored[f"{name}/gradients"], weights)


def test_improved_mean_flow_is_the_authors(tmp_path):
    """Dropped labels are on rows with r = t, as theirs are."""
    stored = np.load(golden.golden_path("imf"))
    shapes = golden.imf_shapes()
    state = weights_formats.random_state(list(shapes), shapes.values(), {})
    write_weights(tmp_path / "theirs.msgpack", state, wrapping=("params", "net"))
    network = load_network(tmp_path / "theirs.msgpack", "imf", image_size=golden.IMF_SIZE[0])
    fields = {"guidance": GuidanceInput(), "label_dropout": 0.1}
    objective = with_stored_draws(ImprovedMeanFlow, golden.IMF_SIZE, "told", **fields)
    logs, gradients, weights = step(network, objective, golden.IMF_SIZE)
    assert logs["loss"] == pytest.approx(stored["loss"], rel=1e-5)
    assert logs["second_error"] == pytest.approx(stored["second_error"], rel=1e-4)
    mean_u_error = (logs["u_error"] + logs["v_error"]) / 2.0
    assert mean_u_error == pytest.approx(stored["u_error"], rel=1e-4)
    trees = []
    for arrays in (gradients, weights):
        for variable, array in zip(network.trainable_variables, arrays, strict=True):
            variable.assign(array)
        save_network(network, tmp_path / "in_their_names.msgpack", "imf")
        trees.append(flat(weights_of(read_weights(tmp_path / "in_their_names.msgpack"))))
    gradients, weights = ([tree[name] for name in shapes] for tree in trees)
    assert_same_gradients(gradients, stored["gradients"], weights)
