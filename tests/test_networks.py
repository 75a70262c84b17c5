"""Networks: published parameter counts, presets, precision, and every member's round trip."""

import keras
import numpy as np
import pytest
from keras import ops
from oracles import randomise

from keras_meanflow.networks import MLP, DiT
from keras_meanflow.networks.dit import SIZES

RNG = np.random.default_rng(0)
SMALL = dict(image_size=4, channels=2, patch_size=2, width=16, depth=1, heads=2)
NETWORKS = [
    lambda **kwargs: DiT(**SMALL, **kwargs),
    lambda **kwargs: DiT(**SMALL, num_classes=3, qk_norm=True, **kwargs),
    lambda **kwargs: DiT(
        **{**SMALL, "image_size": (4, 6)}, time_inputs=("t-r",), time_scale=1000.0, **kwargs
    ),
    lambda **kwargs: MLP(data_size=3, width=8, depth=2, **kwargs),
    lambda **kwargs: MLP(data_size=3, width=8, num_classes=3, **kwargs),
]


def _inputs(network, rows=3):
    z = RNG.standard_normal((rows, *network.data_shape)).astype("float32")
    t = np.full(rows, 0.9987, "float32")
    labels = np.arange(rows, dtype="int32") if network.conditional else None
    return z, 0.25 * t, t, labels


@pytest.mark.parametrize(
    ("size", "parameters"),
    [  # as counted in the official JAX code, without a position table
        ("B/4", 131_165_248),
        ("XL/2", 676_440_592),
    ],
)
def test_parameter_counts_are_the_published_ones(size, parameters):
    name, patch = size.split("/")
    depth, width, heads = SIZES[name]

    def count(depth):
        return DiT(
            image_size=32,
            channels=4,
            patch_size=int(patch),
            width=width,
            depth=depth,
            heads=heads,
            num_classes=1000,
        ).count_params()

    one, two = count(1), count(2)  # every block has the same weights
    assert one + (depth - 1) * (two - one) == parameters


def test_a_named_size_is_built_as_its_name_says():
    network = DiT.from_size("S/8", image_size=16, channels=1)
    assert (network.depth, network.width, network.heads) == (12, 384, 6)
    assert network.patch_size == 8 and len(network.blocks) == 12
    assert SIZES == {  # Mean Flows, table 4
        "S": (12, 384, 6),
        "B": (12, 768, 12),
        "M": (16, 1024, 16),
        "L": (24, 1024, 16),
        "XL": (28, 1152, 16),
    }


@pytest.mark.parametrize("size", ["B/3", "H/2", "B", ""])
def test_an_unknown_size_names_the_known_ones(size):
    with pytest.raises(ValueError, match="S/2, S/4, S/8, B/2"):
        DiT.from_size(size, image_size=32, channels=4)


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="patch_size must divide"):
        DiT(**{**SMALL, "image_size": 5})
    with pytest.raises(ValueError, match="width must divide by heads"):
        DiT(**{**SMALL, "heads": 3})
    with pytest.raises(ValueError, match="time_inputs are some of"):
        DiT(**SMALL, time_inputs=("t", "h"))


@pytest.mark.parametrize("make", NETWORKS)
def test_the_output_starts_at_zero_in_the_shape_of_z(make):
    network = make()
    z, *rest = _inputs(network)
    u = ops.convert_to_numpy(network(z, *rest))
    assert u.shape == z.shape and u.dtype == np.float32
    np.testing.assert_array_equal(u, 0.0)


@pytest.mark.parametrize("make", NETWORKS)
def test_config_and_weights_survive_saving(make, tmp_path):
    network = randomise(make())
    inputs = _inputs(network)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert loaded.get_config() == network.get_config()
    np.testing.assert_array_equal(
        ops.convert_to_numpy(loaded(*inputs)), ops.convert_to_numpy(network(*inputs))
    )


@pytest.mark.parametrize("make", NETWORKS)
def test_bfloat16_rounds_products_and_not_times(make):
    single, mixed = randomise(make()), randomise(make(dtype="mixed_bfloat16"))
    inputs = _inputs(single)
    u, rounded = (ops.convert_to_numpy(n(*inputs)) for n in (single, mixed))
    assert rounded.dtype == np.float32
    assert 0.0 < np.abs(u - rounded).max() < 0.1 * np.abs(u).max()
    seen = []
    for embedding in mixed.times:
        embedding.call = lambda t, call=embedding.call: (seen.append(t), call(t))[1]
    mixed(*inputs)
    _, r, t, _ = inputs
    times = {"t": t, "r": r, "t-r": t - r}
    for name, got in zip(getattr(mixed, "time_inputs", ("t", "t-r")), seen, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(got), times[name])


def test_unknown_labels_are_named():
    network = NETWORKS[1]()
    network.check_condition(np.array([0, 3]))
    with pytest.raises(ValueError, match=r"must lie in 0..2 \(or 3, the null label\).*\[-1, 7\]"):
        network.check_condition(np.array([0, 7, -1]))
    with pytest.raises(ValueError, match="Labels are integers"):
        network.check_condition(np.array([0.5]))
    with pytest.raises(ValueError, match="needs labels"):
        network.check_condition(None)
    with pytest.raises(ValueError, match="unconditional"):
        NETWORKS[0]().check_condition(np.array([0]))
