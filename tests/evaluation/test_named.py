"""Protocols by name, feature networks by name, images wherever they lie."""

import hashlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_meanflow.data import load_digits
from keras_meanflow.evaluation.images import Images
from keras_meanflow.evaluation.named import (
    NETWORKS,
    PROTOCOLS,
    find_protocol,
    open_features,
    open_protocol,
)
from keras_meanflow.features.published import PUBLISHED
from keras_meanflow.features.resize import Bicubic, LegacyBilinear, resize_of
from keras_meanflow.metrics.reference import Reference, is_reference, reference_name


def refused(message):
    return pytest.raises(ValueError, match=message)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A feature network in a `.keras` file: the mean of each quarter, (N, 4)."""
    path = tmp_path_factory.mktemp("network") / "quarters.keras"
    pixels = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(pixels))
    keras.Model(pixels, x).save(path)
    return path


def test_every_named_protocol_is_whole_and_carries_a_published_checksum():
    checksums = {name: PUBLISHED[short].sha256 for name, (short, _) in NETWORKS.items()}
    for name, protocol in PROTOCOLS.items():
        assert find_protocol(name) is protocol and protocol.name == name
        assert protocol.weights == checksums[protocol.features]
        resize_of(protocol.resize)


def test_a_changed_protocol_has_another_name():
    protocol = find_protocol("mnist-lenet")
    assert protocol.changed(samples=10_000) == protocol
    changed = protocol.changed(samples=500, labels="random")
    assert (changed.samples, changed.labels) == (500, "random")
    assert changed.name == "mnist-lenet-500-random"


def test_a_protocol_comes_from_a_file_named_after_it(tmp_path):
    path = tmp_path / "ours.json"
    fields = {**find_protocol("mnist-lenet").to_dict(), "samples": 77}
    fields.pop("name")
    path.write_text(json.dumps(fields))
    assert find_protocol(path).to_dict() == {**fields, "name": "ours"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "must hold a protocol"),
        ("[1]", "must hold a protocol"),
        ('{"features": "lenet-mnist"}', "Missing: resize, weights, samples, labels, reference"),
        ('{"feature": 1}', "Unknown: feature"),
    ],
)
def test_a_file_that_holds_no_protocol_is_refused(text, message, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with refused(message):
        find_protocol(tmp_path / "p.json")


def test_an_unknown_protocol_is_answered_with_the_nearest():
    with refused("no protocol 'mnist-lenett'. Did you mean mnist-lenet"):
        find_protocol("mnist-lenett")
    with refused("There is no protocol file absent.json"):
        find_protocol("absent.json")


def test_a_resize_is_what_a_protocol_calls_it():
    assert resize_of("none") is None
    for text, kind in (("Bicubic 28", Bicubic), ("LegacyBilinear 299", LegacyBilinear)):
        layer = resize_of(text)
        assert type(layer) is kind and f"{kind.__name__} {layer.size}" == text
    for text in ("Bicubic", "bicubic 28", "Bicubic 0", "Lanczos 8", "Bicubic 28 px"):
        with refused("A resize is none, or"):
            resize_of(text)


def test_a_keras_file_is_a_feature_network(network):
    extract = open_features("quarters", weights=network)
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    expected = x.reshape(3, 2, 4, 2, 4).mean(axis=(2, 4)).reshape(3, 4)
    np.testing.assert_allclose(extract(x)["features"], expected, rtol=1e-5)
    assert extract.checksum == hashlib.sha256(network.read_bytes()).hexdigest()
    assert open_features("quarters", weights=network, resize="Bicubic 8").resize == "Bicubic 8"


def test_a_resize_comes_before_the_features(network):
    """Bicubic to the same size changes nothing; of a flat image any size is flat."""
    extract = open_features("quarters", weights=network, resize="Bicubic 8")
    flat = np.full((2, 5, 5, 1), 90, np.uint8)
    np.testing.assert_allclose(extract(flat)["features"], np.full((2, 4), 90.0), rtol=1e-5)


def test_weights_that_are_not_what_was_asked_for_are_refused(network, tmp_path, monkeypatch):
    monkeypatch.setenv("KMF_CACHE", str(tmp_path))
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"no weights")
    with refused("wrong.pth has SHA-256 .*, not 26627bca"):
        open_features("lenet", weights=wrong)
    with refused("weights of 'inception' are not at .*--fetch: nothing is downloaded by default"):
        open_features("inception")
    with refused("no known address of 'lenet'"):
        open_features("lenet", fetch=True)
    with refused("lenet.* or any other name with the .keras file"):
        open_features("lenett", weights=wrong)
    protocol = tmp_path / "p.json"
    fields = {"features": "q", "resize": "none", "weights": "0" * 64, "samples": 9}
    protocol.write_text(json.dumps({**fields, "labels": "none", "reference": "r"}))
    with refused("quarters.keras has SHA-256 .*, not 0000"):
        open_protocol(protocol, weights=network)


def test_one_says_a_protocol_or_features_and_the_resize_once(network):
    for arguments in ({}, {"protocol": "mnist-lenet", "features": "lenet"}):
        with refused("a protocol, or features"):
            open_protocol(**arguments)
    with refused("mnist-lenet has a fixed resize. Received 'Bicubic 28'"):
        open_protocol("mnist-lenet", resize="Bicubic 28")
    protocol, extract = open_protocol(features="q", weights=network, reference="r", samples=9)
    assert (protocol.name, protocol.features, protocol.samples) == ("q", "q", 9)
    assert protocol.weights == extract.checksum and protocol.labels == "balanced"


def pixels(n, key=0):
    return np.random.default_rng(key).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)


def rows(images):
    return sorted(image.tobytes() for image in images)


def test_images_come_whole_from_files_folders_and_the_package(tmp_path):
    train, test = pixels(11), pixels(5, 1)
    np.savez(tmp_path / "set.npz", x_train=train, x_test=test)
    np.savez_compressed(tmp_path / "adm.npz", arr_0=train)
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(test):
        Image.fromarray(image).save(tmp_path / "folder" / f"{i}.png")
    digits = np.rint((load_digits("test")[0] + 1) * 127.5).astype(np.uint8)
    for data, expected, settings in (
        (tmp_path / "set.npz", train, {}),
        (f"{tmp_path / 'set.npz'}:test", test, {}),
        (tmp_path / "adm.npz", train, {}),
        (tmp_path / "folder", test, {"image_size": 6}),
        ("digits:test", digits, {}),
    ):
        images = Images(data, **settings)
        batches = list(images.batches(4))
        assert len(images) == len(expected) and {len(b) for b in batches[:-1]} == {4}
        assert rows(np.concatenate(batches)) == rows(expected)


@pytest.mark.parametrize(
    "data, reference, name",
    [
        ("digits:train", "digits:test", "digits:train"),
        ("digits:test", "digits:test", "digits:test"),
        ("digits", "mnist-train", "digits"),
        ("set.npz", "mnist-train", "mnist-train"),
        ("set.npz:test", "mnist-train", "set.npz:test"),
        ("set.npz:test", "mnist-test", "mnist-test"),
        ("set.npz", "", "set.npz"),
        ("test", "eurosat-train", "test"),
        ("faces", "eurosat-train", "eurosat-train"),
    ],
)
def test_statistics_have_the_name_of_a_reference_only_for_its_split(
    data, reference, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    np.savez("set.npz", x_train=pixels(2), x_test=pixels(2))
    for folder in ("test", "faces"):
        Path(folder).mkdir()
        Image.fromarray(pixels(1)[0]).save(f"{folder}/a.png")
    assert Images(data, image_size=8 if "digits" in data else 6).named(reference) == name


def test_a_reference_of_floats_from_0_to_1_is_warned_of(tmp_path):
    np.savez(tmp_path / "set.npz", x=pixels(3).astype("float32") / 255)
    with pytest.warns(UserWarning, match=r"x of .*set.npz holds .*: x = x / 0.5 - 1"):
        Images(tmp_path / "set.npz")


def test_images_come_in_a_random_order_that_is_always_the_same(tmp_path):
    np.savez(tmp_path / "set.npz", x=np.arange(60, dtype=np.uint8)[:, None, None, None])
    images = Images(tmp_path / "set.npz")
    first = np.concatenate(list(images.batches(7))).ravel()
    np.testing.assert_array_equal(first, np.concatenate(list(images.batches(60))).ravel())
    assert 20 < first[:30].mean() < 39 and (first != np.arange(60)).any()


@pytest.mark.parametrize(
    "data, message",
    [
        ("absent.npz", "existing .npz file or folder"),
        ("digits:val", "split is one of all, train, test"),
        (".", "image_size must be given"),
    ],
)
def test_data_that_is_none_is_refused(data, message):
    with refused(message):
        Images(data)


def test_a_reference_knows_what_it_is_called_and_where_it_came_from(tmp_path):
    path = tmp_path / "snow.npz"
    Reference(np.zeros(2), np.eye(2)).save(path)
    assert is_reference(path) and reference_name(path) == "snow"
    origin = Reference.load(path).origin
    assert origin == {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    Reference(np.zeros(2), np.eye(2), protocol={"name": "ice"}).save(path)
    assert reference_name(path) == "ice"
    assert not is_reference("digits:test") and reference_name("digits:test") == "digits:test"
    (tmp_path / "broken.npz").write_bytes(b"PK")
    assert not is_reference(tmp_path / "broken.npz")
