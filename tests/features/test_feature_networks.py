"""Feature networks against the originals they re-implement, on the same weights and images."""

import hashlib
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from golden import metrics_networks as golden

from keras_meanflow.features import published
from keras_meanflow.features.dinov2 import dinov2, load_dinov2
from keras_meanflow.features.extractor import FeatureExtractor
from keras_meanflow.features.inception import PARTS, inception_v3, load_inception
from keras_meanflow.features.lenet import lenet, load_lenet
from keras_meanflow.features.resize import Bicubic, LegacyBilinear

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "metrics_networks.npz")
TOLERANCE = 1e-4


def assert_equals_original(ours, name):
    theirs = GOLDEN[name]
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours[:, : theirs.shape[1]] / scale, theirs / scale, atol=TOLERANCE)
    if f"{name}_norm" in GOLDEN:
        norm = np.linalg.norm(ours, axis=1)
        np.testing.assert_allclose(norm, GOLDEN[f"{name}_norm"], rtol=TOLERANCE)


def inception_shapes(network):
    """Names and shapes of the published state dict, from our layers."""
    shapes = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            height, width, inputs, filters = layer.kernel.shape
            name = layer.name.replace("-", ".")
            shapes[f"{name}.conv.weight"] = (filters, inputs, height, width)
            shapes |= {f"{name}.{part}": (filters,) for part in PARTS[1:]}
    return shapes


@pytest.fixture(scope="module")
def inception():
    network = inception_v3()
    state = golden.random_state(inception_shapes(network))
    load_inception(network, state)
    scale = [LegacyBilinear(299), keras.layers.Rescaling(1 / 128, offset=-1.0)]
    return FeatureExtractor("random inception", network, scale), state


def test_inception_takes_the_names_and_shapes_of_the_published_weights(inception):
    shapes = inception_shapes(inception[0].network)
    assert golden.checksum(shapes) == GOLDEN["inception_checksum"]


def test_inception_features_and_logits_equal_torch_fidelity(inception):
    out = inception[0](golden.made_images(40))
    assert out["features"].shape == (2, 2048) and out["logits"].shape == (2, 1008)
    assert_equals_original(out["features"], "inception_made")
    assert_equals_original(out["logits"], "inception_made_logits")


def test_inception_features_of_real_images_equal_torch_fidelity(inception, shared_data):
    out = inception[0](golden.real_images(shared_data))
    assert_equals_original(out["features"], "inception_real")
    assert_equals_original(out["logits"], "inception_real_logits")


def test_incomplete_or_foreign_weights_are_refused(inception):
    extractor, state = inception
    with pytest.raises(ValueError, match="needs 'fc.weight'"):
        load_inception(extractor.network, {k: v for k, v in state.items() if k != "fc.weight"})
    with pytest.raises(ValueError, match=r"lacks: \['AuxLogits"):
        load_inception(extractor.network, {**state, "AuxLogits.fc.weight": state["fc.bias"]})


@pytest.mark.parametrize("size", [40, 299, 512])
def test_the_legacy_resize_equals_torch_fidelity(size):
    images = golden.made_images(size, 1).astype("float32")
    resized = keras.ops.convert_to_numpy(LegacyBilinear(299)(images))
    np.testing.assert_allclose(resized[0, 5::49, 7::49], GOLDEN[f"legacy_{size}"], atol=1e-4)


@pytest.mark.parametrize("size", [40, 300])
def test_the_bicubic_resize_equals_torch_with_antialiasing(size):
    images = golden.made_images(size, 1).astype("float32")
    resized = keras.ops.convert_to_numpy(Bicubic(224)(images))
    np.testing.assert_allclose(resized[0, ::37, ::37], GOLDEN[f"bicubic_{size}"], atol=1e-3)


def dinov2_shapes():
    width, patches = golden.DINOV2["width"], (golden.DINOV2["stored"] // 14) ** 2
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, patches + 1, width)}
    shapes |= {"mask_token": (1, width), "norm.weight": (width,), "norm.bias": (width,)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,)}
    linear = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for number in range(golden.DINOV2["depth"]):
        for name, (out, into) in linear.items():
            shapes[f"blocks.{number}.{name}.weight"] = (out * width, into * width)
            shapes[f"blocks.{number}.{name}.bias"] = (out * width,)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"blocks.{number}.{name}"] = (width,)
        for name in ("ls1.gamma", "ls2.gamma"):
            shapes[f"blocks.{number}.{name}"] = (width,)
    return shapes


def test_dinov2_features_equal_the_official_code_at_another_image_size():
    assert golden.checksum(dinov2_shapes()) == GOLDEN["dinov2_checksum"]
    state = golden.random_state(dinov2_shapes())
    size = tuple(golden.DINOV2[key] for key in ("width", "depth", "heads"))
    network = dinov2(size, golden.DINOV2["image_size"])
    load_dinov2(network, state)
    images = golden.standardised(golden.made_images(golden.DINOV2["image_size"]))
    assert_equals_original(network.predict_on_batch(images)["features"], "dinov2")
    with pytest.raises(ValueError, match="lacks:.*register_tokens"):
        load_dinov2(network, {**state, "register_tokens": state["cls_token"]})
    with pytest.raises(ValueError, match="multiples of 14. Received 50"):
        dinov2(size, 50)


def test_squeezenet_features_equal_the_original(shared_data):
    pytest.importorskip("h5py", reason="the published file is HDF5")
    extract = FeatureExtractor.squeezenet(shared_data / "squeezenet1.1_imagenet_notop.h5")
    assert_equals_original(extract(golden.made_images(64))["features"], "squeezenet")
    with pytest.raises(ValueError, match="48 px or more"):
        extract(golden.made_images(40))
    assert FeatureExtractor.squeezenet(
        shared_data / "squeezenet1.1_imagenet_notop.h5", resize=LegacyBilinear(64)
    )(golden.made_images(40))["features"].shape == (2, 512)


def test_lenet_features_equal_torch(shared_data):
    extract = FeatureExtractor.lenet(shared_data / "lenet_mnist_fid.pth")
    images = np.load(shared_data / "mnist.npz")["x_test"][:4, :, :, None]
    out = extract(images)
    assert_equals_original(out["features"], "lenet")
    assert_equals_original(out["logits"], "lenet_logits")


def random_lenet():
    network = lenet()
    shapes = {"conv1.weight": (6, 1, 5, 5), "conv2.weight": (16, 6, 5, 5)}
    shapes |= {"fc1.weight": (120, 256), "fc2.weight": (84, 120), "fc3.weight": (10, 84)}
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    load_lenet(network, golden.random_state(shapes))
    return FeatureExtractor("random lenet", network, [keras.layers.Rescaling(1 / 255)])


def test_features_do_not_depend_on_the_batch():
    extract = random_lenet()
    images = golden.philox("digits").integers(0, 256, size=(7, 28, 28, 1), dtype=np.uint8)
    whole = extract(images)["features"]
    parts = [extract(images[:4])["features"], extract(images[4:])["features"]]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_features_are_float32_under_a_mixed_policy(shared_data):
    path = shared_data / "lenet_mnist_fid.pth"
    images = golden.philox("digits").integers(0, 256, size=(2, 28, 28, 1), dtype=np.uint8)
    expected = FeatureExtractor.lenet(path)(images)["features"]
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = FeatureExtractor.lenet(path)(images)["features"]
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)


def test_any_keras_model_gives_features():
    network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()])
    extract = FeatureExtractor("mean colour", network, [LegacyBilinear(8)])
    grey = np.full((3, 16, 16, 1), 7, np.uint8)
    np.testing.assert_allclose(extract(grey)["features"], np.full((3, 3), 7.0), rtol=1e-6)
    assert extract.resize == "LegacyBilinear 8"
    with pytest.raises(ValueError, match=r"uint8 images.*float32"):
        extract(grey.astype("float32"))
    with pytest.raises(ValueError, match=r"need images of \(28, 28, 1\). Received \(16, 16, 3\)"):
        random_lenet()(np.zeros((1, 16, 16, 3), np.uint8))
    flat = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="must give"):
        FeatureExtractor("map", flat)(np.zeros((1, 8, 8, 3), np.uint8))


def test_weights_are_never_fetched_unasked(tmp_path, monkeypatch):
    monkeypatch.setenv("KMF_CACHE", str(tmp_path))
    monkeypatch.setattr(published, "download", lambda *_: pytest.fail("fetched"))
    with pytest.raises(ValueError, match="with `fetch_weights..inception"):
        FeatureExtractor.inception()


def test_fetched_weights_are_checked_and_cached(hub, monkeypatch):
    source, url = hub / "weights.pth", f"{os.environ['HF_ENDPOINT']}/weights.pth"
    source.write_bytes(b"weights")
    good = published.Published(url, hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(published.PUBLISHED, "good", good)
    monkeypatch.setitem(published.PUBLISHED, "bad", good._replace(sha256="0" * 64))
    path = published.fetch_weights("good")
    source.unlink()
    assert published.fetch_weights("good") == path and path.read_bytes() == b"weights"
    source.write_bytes(b"other")
    with pytest.raises(ValueError, match=f"has SHA-256 .*, not {'0' * 64}"):
        published.fetch_weights("bad")
    assert not published.cached_path("bad").exists()
    with pytest.raises(ValueError, match="no known address of 'lenet'"):
        published.fetch_weights("lenet")


def test_weights_of_another_checksum_are_refused_unless_named(tmp_path):
    path = tmp_path / "lenet.pth"
    path.write_bytes(b"other weights")
    with pytest.raises(ValueError, match="lenet.pth has SHA-256"):
        FeatureExtractor.lenet(path)
    with pytest.raises(ValueError, match="not a torch file"):
        FeatureExtractor.lenet(path, checksum=None)
