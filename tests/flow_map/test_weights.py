"""Averages and weights: float32, of their own weights, and right after freezing, loading, LoRA."""

import keras
import numpy as np
import pytest
from keras import ops
from oracles import randomise

from keras_meanflow import DiT, FlowMap, FlowMatching, MeanFlow, open_model
from keras_meanflow.backend.random import philox_noise
from keras_meanflow.networks import MLP

RNG = np.random.default_rng(0)
X = RNG.standard_normal((16, 3)).astype("float32")
Y = (np.arange(16) % 3).astype("int32")


def _network(seed=0, **kwargs):
    return randomise(MLP(data_size=3, width=8, depth=1, num_classes=3, **kwargs), seed=seed)


def _fit(flow_map, x=X, y=Y, compile=True, **kwargs):
    if compile:
        flow_map.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    flow_map.fit(x, y, **{"batch_size": 8, "verbose": 0, "shuffle": False, **kwargs})
    return flow_map


def _numpy(variables):
    return [ops.convert_to_numpy(ops.cast(v, "float32")) for v in variables]


def _one_step(network, labels):
    """The sample of one step with the raw weights of a network."""
    noise = philox_noise(0, range(len(labels)), network.data_shape)
    one = np.ones(len(labels), "float32")
    return noise - ops.convert_to_numpy(network(noise, 0.0 * one, one, labels))


# Replaced weights


def test_until_the_first_update_an_average_is_the_raw_weights(tmp_path):
    """Loading weights into the network left the average of the random start."""
    _network(seed=1).save_weights(tmp_path / "w.weights.h5")
    flow_map, labels = FlowMap(_network(), MeanFlow()), np.arange(3)
    flow_map.network.load_weights(tmp_path / "w.weights.h5")
    drawn = flow_map.generate(labels, verbose=0)
    np.testing.assert_allclose(drawn, _one_step(_network(seed=1), labels), atol=1e-6)
    flow_map.save(tmp_path / "m.keras")
    flow_map.network.set_weights(_network(seed=2).get_weights())
    flow_map.compile(jit_compile=False)
    raw = {}
    for average in (0.9999, None):
        flow_map.average = average
        raw[average] = flow_map.evaluate(X, Y, verbose=0, return_dict=True)["v_error"]
    assert raw[0.9999] == pytest.approx(raw[None])
    before = _numpy(flow_map.weights_of(None))
    flow_map.network.set_weights(_network(seed=2).get_weights())
    _fit(flow_map, X[:8], Y[:8])
    averages, weights = (_numpy(flow_map.weights_of(a)) for a in (0.9999, None))
    for average, old, new in zip(averages, before, weights, strict=True):
        np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, atol=1e-6)  # the first decay


def test_a_trained_model_takes_other_weights_by_one_call():
    flow_map, labels = _fit(FlowMap(_network(), MeanFlow())), np.arange(3)
    flow_map.network.set_weights(_network(seed=2).get_weights())
    expected = _one_step(_network(seed=2), labels)
    assert np.abs(flow_map.generate(labels, verbose=0) - expected).max() > 1e-3
    flow_map.follow_weights(replaced=True)
    np.testing.assert_allclose(flow_map.generate(labels, verbose=0), expected, atol=1e-6)


def test_averages_are_float32_and_move_where_the_weights_are_bfloat16(tmp_path):
    """In bfloat16 an average stood still at 0.8984 for 0.9039."""
    flow_map = FlowMap(_network(dtype="bfloat16"), FlowMatching(), averages=(0.999,))
    flow_map.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    flow_map.step.assign(20_000)
    weight = flow_map.network.hidden[0].kernel
    pairs = zip(flow_map.weights_of(None), flow_map.weights_of(0.999), strict=True)
    average = next(average for raw, average in pairs if raw is weight)
    assert keras.backend.standardize_dtype(weight.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(average.dtype) == "float32"
    average.assign(0.9 * ops.ones(average.shape))
    weight.assign(ops.ones(weight.shape))
    _fit(flow_map, compile=False, epochs=10)
    expected = 1.0 - 0.1 * 0.999**20
    np.testing.assert_allclose(ops.convert_to_numpy(average), expected, atol=1e-5)
    flow_map.evaluate(X, Y, verbose=0)
    flow_map.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for model in (flow_map, loaded):
        samples = model.generate(np.arange(3), verbose=0)
        assert np.isfinite(samples).all()
    kernel = flow_map.copied_network(0.999).hidden[0].kernel
    assert keras.backend.standardize_dtype(kernel.dtype) == "bfloat16"


# Frozen layers


def _freeze_first(network):
    for layer in (network.times[0], network.labels):
        layer.trainable = False


@pytest.mark.parametrize("when", ["before", "after", "between", "all of the network before"])
def test_frozen_layers_stay_and_the_averages_keep_to_their_weights(when, tmp_path):
    """Freezing before gave a file that could not be loaded; after, averages of other weights."""
    network = _network()
    if when == "before":
        _freeze_first(network)
    if when.startswith("all"):
        network.trainable = False
        network.hidden[0].trainable = True
    flow_map = FlowMap(network, MeanFlow(), averages=(0.5,))
    if when == "between":
        _fit(flow_map)
    if when in ("after", "between"):
        _freeze_first(network)
    frozen, free = network.times[0].hidden.kernel, network.hidden[0].kernel
    before = _numpy([frozen, free])
    _fit(flow_map, epochs=2, validation_data=(X, Y))
    after = _numpy([frozen, free])
    np.testing.assert_array_equal(after[0], before[0])
    assert np.abs(after[1] - before[1]).max() > 1e-3
    averages = dict(zip(map(id, flow_map.weights_of(None)), flow_map.weights_of(0.5), strict=True))
    if when != "between":
        np.testing.assert_array_equal(_numpy([averages[id(frozen)]])[0], before[0])
    assert 1e-5 < np.abs(_numpy([averages[id(free)]])[0] - after[1]).max() < 0.1
    drawn = flow_map.generate(np.arange(3), verbose=0)
    copied = flow_map.copied_network(0.5)
    np.testing.assert_allclose(drawn, _one_step(copied, np.arange(3)), atol=1e-6)
    flow_map.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.generate(np.arange(3), verbose=0), drawn, atol=1e-6)
    loaded.average = flow_map.average = None
    raw = flow_map.generate(np.arange(3), verbose=0)
    np.testing.assert_allclose(loaded.generate(np.arange(3), verbose=0), raw, atol=1e-6)


def test_a_frozen_network_trains_nothing_before_and_after_it_is_saved(tmp_path):
    network = _network()
    network.trainable = False
    flow_map = FlowMap(network, MeanFlow())
    flow_map.compile(jit_compile=False)
    flow_map.save(tmp_path / "m.keras")
    for model in (flow_map, keras.saving.load_model(tmp_path / "m.keras")):
        with pytest.raises(ValueError, match="All weights are frozen"):
            model.fit(X, Y, verbose=0)


# LoRA


def _dit():
    sizes = dict(image_size=4, channels=1, patch_size=2, width=16, depth=1, heads=2)
    return randomise(DiT(**sizes, num_classes=3))


def _enable_lora(network):
    """As in docs/guide/fine_tuning.md."""
    for block in network.blocks:
        for layer in (block.attention.qkv, block.attention.proj, block.fc1, block.fc2):
            layer.enable_lora(rank=2)
    for weight in network.weights:
        weight.trainable = weight.name.startswith("lora_")


@pytest.mark.parametrize("when", ["before", "after", "between"])
def test_lora_trains_its_factors_alone_and_generates_the_same_from_a_file(when, tmp_path):
    images = np.random.default_rng(1).standard_normal((16, 4, 4, 1)).astype("float32")
    network, labels = _dit(), np.arange(3)
    if when == "before":
        _enable_lora(network)
    flow_map = FlowMap(network, MeanFlow(), averages=(0.5, 0.9))
    if when == "between":
        _fit(flow_map, images)
    if when != "before":
        _enable_lora(network)
    kernel = network.blocks[0].fc1._kernel
    base = _numpy([kernel, network.labels.embeddings])
    _fit(flow_map, images, epochs=2, validation_data=(images, Y))
    for now, old in zip(_numpy([kernel, network.labels.embeddings]), base, strict=True):
        np.testing.assert_array_equal(now, old)
    assert len(flow_map.trainable_variables) == 8
    assert np.abs(_numpy([network.blocks[0].fc1.lora_kernel_b])[0]).max() > 1e-3
    drawn = {}
    for average in (0.5, 0.9, None):
        flow_map.average = average
        drawn[average] = flow_map.generate(labels, verbose=0)
    assert np.abs(drawn[0.5] - drawn[None]).max() > 1e-5
    flow_map.save(tmp_path / "m.keras")
    flow_map.average = 0.5
    flow_map.save_to_preset(tmp_path / "preset")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    preset = open_model(tmp_path / "preset").flow_map
    np.testing.assert_allclose(preset.generate(labels, verbose=0), drawn[0.5], atol=1e-5)
    for average, expected in drawn.items():
        loaded.average = average
        np.testing.assert_allclose(loaded.generate(labels, verbose=0), expected, atol=1e-5)
    _enable_lora(loaded.network)
    _fit(loaded, images)
    assert np.abs(_numpy([loaded.network.blocks[0].fc1.lora_kernel_b])[0]).max() > 1e-3
