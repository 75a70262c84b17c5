"""Networks: published parameter counts, presets, precision, and every member's round trip."""

import math
import sys

import keras
import numpy as np
import pytest
from keras import ops
from oracles import randomise

from keras_meanflow.networks import MLP, TCN, DiT, DiTDH, InContextDiT, UNet
from keras_meanflow.networks.dit import SIZES
from keras_meanflow.networks.in_context import IN_CONTEXT_SIZES
from keras_meanflow.networks.tcn import TCNBlock

RNG = np.random.default_rng(0)
SMALL = dict(image_size=4, channels=2, patch_size=2, width=16, depth=1, heads=2)
IN_CONTEXT = {**SMALL, "depth": 2, "head_depth": 1}
SONG = dict(image_size=4, width=8, multipliers=(1, 2), blocks=1, attention_sizes=(2,))
SPEECH = {**SONG, "image_size": (4, 8)}
FRAMES = dict(bins=4, frames=8, width=8, depth=2, taps=3)
BODY_AND_HEAD = dict(image_size=4, channels=2, width=(16, 24), depth=(2, 1), heads=(2, 2))
NETWORKS = [
    lambda **kwargs: DiT(**SMALL, **kwargs),
    lambda **kwargs: DiT(**SMALL, num_classes=3, qk_norm=True, **kwargs),
    lambda **kwargs: DiT(
        **{**SMALL, "image_size": (4, 6)}, time_inputs=("t-r",), time_scale=1000.0, **kwargs
    ),
    lambda **kwargs: DiT(
        **{**SMALL, "depth": 2},
        time_inputs=("1-t",),
        split_depth=1,
        unused_channels=2,
        frequency_shift=1,
        **kwargs,
    ),
    lambda **kwargs: InContextDiT(**IN_CONTEXT, num_classes=3, **kwargs),
    lambda **kwargs: DiTDH(**BODY_AND_HEAD, num_classes=3, **kwargs),
    lambda **kwargs: DiTDH(**BODY_AND_HEAD, patch_size=2, time_inputs=("t",), **kwargs),
    lambda **kwargs: MLP(data_size=3, width=8, depth=2, **kwargs),
    lambda **kwargs: MLP(data_size=3, width=8, num_classes=3, **kwargs),
    lambda **kwargs: UNet.song(**SONG, **kwargs),
    lambda **kwargs: UNet.song(**SONG, num_classes=3, **kwargs),
    lambda **kwargs: UNet.ncsnpp(**SPEECH, **kwargs),
    lambda **kwargs: TCN(**FRAMES, **kwargs),
]


def _inputs(network, rows=3):
    z = RNG.standard_normal((rows, *network.data_shape)).astype("float32")
    t = np.full(rows, 0.9987, "float32")
    condition = np.arange(rows, dtype="int32") if network.num_classes else None
    if getattr(network, "context_channels", 0) or network.condition_shape:
        condition = RNG.standard_normal((rows, *network.data_shape)).astype("float32")
    return z, 0.25 * t, t, condition


@pytest.mark.any_backend
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


@pytest.mark.any_backend
def test_parameter_counts_of_the_in_context_transformer_are_the_published_ones():
    small = {"image_size": 32, "channels": 4, "patch_size": 2, "num_classes": 1000}

    def count(size, v_depth=0):  # every block has the same weights
        depth, width, heads = IN_CONTEXT_SIZES[size]
        if width not in counted:
            sizes = {"depth": 1, "width": width, "heads": heads, "head_depth": 1}
            one = InContextDiT(**small, **sizes, v_depth=0)
            counted[width] = one.count_params(), one.u_blocks[0].count_params()
        base, block = counted[width]
        return base + (depth - 1 + v_depth) * block

    counted = {}
    # Counted by building the official network; the paper's table rounds to millions.
    assert count("B") == 88_948_256 and count("B", v_depth=8) == 145_596_960
    for size, published in (("B", 89e6), ("M", 174e6), ("L", 409e6), ("XL", 610e6)):
        assert count(size) == pytest.approx(published, abs=0.7e6)


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


@pytest.mark.any_backend
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


@pytest.mark.parametrize("spacing", [1, 4])
def test_the_convolution_along_time_is_the_depthwise_one_with_gaps(spacing):
    block = TCNBlock(taps=3, spacing=spacing)
    block.build((None, 11, 8), (None, 8))
    x = RNG.standard_normal((2, 11, 8)).astype("float32")
    found = ops.convert_to_numpy(block._convolve(ops.convert_to_tensor(x)))
    kernel = ops.convert_to_numpy(block.kernel)[:, None, :, None]  # Keras' (1, taps, channels, 1)
    expected = keras.ops.depthwise_conv(
        x[:, None], kernel.transpose(1, 0, 2, 3), padding="same", dilation_rate=(1, spacing)
    )
    np.testing.assert_allclose(found, ops.convert_to_numpy(expected)[:, 0], atol=1e-6)
    with pytest.raises(ValueError, match="taps is an odd number. Received: 4"):
        TCN(bins=4, frames=8, taps=4)


def test_a_tcn_sees_as_far_as_its_convolutions_reach():
    network = randomise(TCN(bins=4, frames=40, width=8, depth=3, taps=3))
    z, r, t, y = _inputs(network)
    other = y.copy()
    other[:, :, 20] += 1.0
    changed = [ops.convert_to_numpy(network(z, r, t, c)) for c in (y, other)]
    frames = np.flatnonzero(np.abs(changed[0] - changed[1]).max(axis=(0, 1, 3)) > 0.0)
    assert frames.tolist() == list(range(20 - 7, 20 + 8))  # 1 + 2 + 4 on both sides


@pytest.mark.parametrize("make", NETWORKS)
def test_bfloat16_rounds_products_and_not_times(make):
    single, mixed = randomise(make()), randomise(make(dtype="mixed_bfloat16"))
    fixed = single.non_trainable_variables, mixed.non_trainable_variables
    for ours, theirs in zip(*fixed, strict=True):
        theirs.assign(ours.value)
    inputs = _inputs(single)
    u, rounded = (ops.convert_to_numpy(n(*inputs)) for n in (single, mixed))
    assert rounded.dtype == np.float32
    assert 0.0 < np.abs(u - rounded).max() < 0.1 * np.abs(u).max()
    if isinstance(mixed, InContextDiT):
        mixed.times, names = [mixed.time], ("t-r",)
    else:
        names = getattr(mixed, "time_inputs", ("t", "t-r"))
    names = ("r", "t") if isinstance(mixed, (UNet, TCN)) else names
    seen = []
    for embedding in mixed.times if isinstance(mixed.times, list) else [mixed.times]:
        embedding.call = lambda *t, call=embedding.call: (seen.extend(t), call(*t))[1]
    mixed(*inputs)
    _, r, t, _ = inputs
    times = {"t": t, "r": r, "t-r": t - r, "1-t": 1.0 - t}
    for name, got in zip(names, seen[: len(names)], strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(got), times[name])


@pytest.mark.parametrize(
    ("make", "parameters"),
    [  # counted by building the authors' models
        (UNet.ncsnpp, 65_985_190),
        (UNet.song, 55_932_419),
    ],
)
def test_parameter_counts_of_the_unets_are_the_published_ones(make, parameters):
    with keras.StatelessScope(initialize_variables=False):  # no memory for 66 million numbers
        assert make().count_params() == parameters


def test_a_split_network_with_r_at_t_is_the_flow_model_and_only_late_blocks_see_r():
    sizes = {**SMALL, "depth": 3, "num_classes": 3, "time_inputs": ("t",)}
    flow = randomise(DiT(**sizes))
    z, r, t, labels = _inputs(flow)
    expected = ops.convert_to_numpy(flow(z, r, t, labels))
    for split_depth in (0, 1, 3):
        network = randomise(DiT(**sizes, split_depth=split_depth))
        np.testing.assert_array_equal(ops.convert_to_numpy(network(z, t, t, labels)), expected)
        moved = ops.convert_to_numpy(network(z, r, t, labels))
        assert np.abs(moved - expected).max() > 1e-3
    only_r = randomise(DiT(**sizes, split_depth=0))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(only_r(z, r, t, labels)), ops.convert_to_numpy(flow(z, r, r, labels))
    )
    with pytest.raises(ValueError, match="split_depth must be in 0..depth, with one time input"):
        DiT(**sizes, split_depth=4)
    with pytest.raises(ValueError, match="with one time input"):
        DiT(**SMALL, split_depth=1)


def test_the_in_context_transformer_takes_guidance_and_depends_on_t_only_through_t_minus_r():
    network = randomise(InContextDiT(**IN_CONTEXT, num_classes=3))
    z, r, t, labels = _inputs(network)

    def u(condition, r=r, t=t):
        return ops.convert_to_numpy(network(z, r, t, condition))

    ones, zeros = np.ones_like(t), np.zeros_like(t)
    whole = {"labels": labels, "omega": ones, "t_min": zeros, "t_max": ones}
    np.testing.assert_array_equal(u(labels), u(whole))
    np.testing.assert_allclose(u(labels, r - 0.125, t - 0.125), u(labels), atol=1e-5)
    for name, value in (("omega", 3 * ones), ("t_min", 0.3 * ones), ("t_max", 0.6 * ones)):
        assert np.abs(u({**whole, name: value}) - u(whole)).max() > 1e-5
    strong = randomise(InContextDiT(**IN_CONTEXT, num_classes=3, guidance={"omega": 3.0}))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(strong(z, r, t, labels)), u({**whole, "omega": 3 * ones})
    )
    null = network.drop_condition(whole, np.array([True, False, True]))
    np.testing.assert_array_equal(ops.convert_to_numpy(null["labels"]), [3, 1, 3])
    both = network.u_and_v(z, r, t, whole)
    np.testing.assert_array_equal(ops.convert_to_numpy(both[0]), u(whole))
    assert np.abs(ops.convert_to_numpy(both[1]) - u(whole)).max() > 1e-3


def test_conditions_of_the_in_context_transformer_are_checked():
    network = InContextDiT(**IN_CONTEXT, num_classes=3)
    labels = np.array([0, 3])
    network.check_condition({"labels": labels, "omega": np.array([1.0, 8.0])})
    with pytest.raises(ValueError, match=r"a dict of labels, omega \(optional\).*'scale'"):
        network.check_condition({"labels": labels, "scale": 2.0})
    with pytest.raises(ValueError, match=r"omega must lie in \[1.0, inf\]. Received: 0.5"):
        network.check_condition({"labels": labels, "omega": 0.5})
    with pytest.raises(ValueError, match=r"a dict of labels.*Received: \['omega'\]"):
        network.check_condition({"omega": np.array([1.0, 8.0])})
    with pytest.raises(ValueError, match="head_depth must be in 0..depth"):
        InContextDiT(**{**IN_CONTEXT, "head_depth": 3})
    with pytest.raises(ValueError, match="size is one of B/2, M/2, L/2, XL/2"):
        InContextDiT.from_size("B/4", image_size=32, channels=4)


@pytest.mark.parametrize("index", [4, 10, 11])  # labels, labels, a context
def test_a_single_required_part_comes_with_or_without_its_name_and_optional_ones_stay(index):
    network = randomise(NETWORKS[index]())
    z, r, t, alone = _inputs(network)
    part = network.by_name(alone)
    assert list(part) == ["context" if index == 11 else "labels"]
    network.check_condition(alone)
    network.check_condition(part)
    u, named = (ops.convert_to_numpy(network(z, r, t, c)) for c in (alone, part))
    np.testing.assert_array_equal(u, named)
    drop = np.array([True, False, True])
    null = network.drop_condition(ops.convert_to_tensor(alone), drop)
    whole = {k: ops.convert_to_tensor(a) for k, a in {**part, "omega": t, "dropout": r}.items()}
    dropped = network.drop_condition(whole, drop)
    for name, expected in {**network.by_name(null), "omega": t, "dropout": r}.items():
        found, expected = (ops.convert_to_numpy(a) for a in (dropped[name], expected))
        np.testing.assert_array_equal(found, expected)
    assert network.condition_inputs().shape == (None, *alone.shape[1:])


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


@pytest.mark.parametrize(
    ("size", "time_inputs", "millions"),
    [("XL", ("t",), 838.7), ("XL", ("t", "t-r"), 840.6)],  # of the papers' 839 and 841
)
def test_dit_dh_has_the_published_numbers_of_parameters(size, time_inputs, millions):
    with keras.StatelessScope(initialize_variables=False):  # shapes, no numbers
        network = DiTDH.from_size(
            size, image_size=16, channels=768, num_classes=1000, time_inputs=time_inputs
        )
        count = sum(math.prod(v.shape) for v in network.weights)
    tables = 256 * 1152  # the published file also holds the position table
    assert (count + tables) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.any_backend
def test_dit_dh_starts_at_zero_and_refuses_heads_that_cannot_rotate():
    small = {"image_size": (4, 2), "channels": 3, "width": (8, 16), "depth": (1, 1)}
    network = DiTDH(**small, heads=(2, 2), num_classes=3)
    z, t = np.ones((2, 4, 2, 3), "float32"), np.full(2, 0.5, "float32")
    labels = np.array([0, 3], "int32")
    assert not ops.convert_to_numpy(network(z, t, t, labels)).any()
    with pytest.raises(ValueError, match="multiple of 4.*width 16, heads 8"):
        DiTDH(**small, heads=(2, 8))
    with pytest.raises(ValueError, match="size is one of S, B, XL. Received: 'L'"):
        DiTDH.from_size("L", image_size=16, channels=768)
    with pytest.raises(ValueError, match="time_inputs are some of"):
        DiTDH(**small, heads=(2, 2), time_inputs=("s",))


def test_no_module_holds_an_initializer():
    """It would draw its seed on import, before a run sets the seed of its weights."""
    held = [
        f"{name}.{key}"
        for name, module in sys.modules.items()
        if name.startswith("keras_meanflow")
        for key, value in vars(module).items()
        if isinstance(value, keras.initializers.Initializer)
    ]
    assert held == []
