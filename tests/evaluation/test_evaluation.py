"""Protocols, references and reports: what is measured, what is refused, and what is said."""

import json

import keras
import numpy as np
import pytest
from scipy.linalg import sqrtm

from keras_meanflow.evaluation.judge import evaluate_images, make_reference, self_check
from keras_meanflow.evaluation.protocols import Protocol
from keras_meanflow.features.extractor import FeatureExtractor
from keras_meanflow.metrics import Reference

FIELDS = {"labels": "random", "reference": "noise", "samples": 300}


def philox(key):
    return np.random.Generator(np.random.Philox(key=key))


def random_images(key, count=300, brightness=0):
    noise = 40 * philox(key).normal(size=(count, 4, 4, 1)) + 128 + brightness
    return np.clip(noise, 0, 255).astype(np.uint8)


def batched(images, size=64):
    return (images[start : start + size] for start in range(0, len(images), size))


class Classifier(keras.Model):
    """Pixels as features, some of them as logits."""

    def call(self, x):
        flat = keras.ops.reshape(x, (-1, 16)) / 64
        return {"features": flat, "logits": flat[:, :10]}


def extractor(**kwargs):
    pixels = keras.Input((4, 4, 1))
    return FeatureExtractor("pixels", keras.Model(pixels, Classifier()(pixels)), **kwargs)


@pytest.fixture(scope="module")
def extract():
    return extractor(checksum="abc")


@pytest.fixture
def reference(extract, tmp_path):
    batches = batched(random_images(1, 500))
    return make_reference(batches, extract, tmp_path / "reference.npz", name="noise")


def refused(message):
    return pytest.raises(ValueError, match=message)


def test_a_protocol_survives_json(extract):
    protocol = Protocol.of(extract, **FIELDS, rounding="down")
    assert (protocol.features, protocol.resize, protocol.weights) == ("pixels", "none", "abc")
    assert Protocol.from_json(protocol.to_json()) == protocol


def test_both_roundings_are_the_published_expressions(extract):
    x = np.linspace(-1.2, 1.2, 4001, dtype=np.float32).reshape(1, 1, -1, 1)
    nearest = Protocol.of(extract, **FIELDS).quantise(x)
    down = Protocol.of(extract, **FIELDS, rounding="down").quantise(x)
    np.testing.assert_array_equal(nearest, (127.5 * x + 128).clip(0, 255).astype(np.uint8))
    np.testing.assert_array_equal(down, (127.5 * x + 127.5).clip(0, 255).astype(np.uint8))
    assert 0.4 < np.mean(nearest != down) < 0.6


def test_pixels_survive_the_way_to_floats_and_back(extract):
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    protocol = Protocol.of(extract, **FIELDS)
    np.testing.assert_array_equal(protocol.quantise(pixels / 127.5 - 1), pixels)
    assert protocol.quantise(pixels) is pixels


def test_the_report_is_that_of_the_features_written_out(extract, reference):
    images = random_images(2, brightness=10)
    report = evaluate_images(batched(images), Protocol.of(extract, **FIELDS), reference, extract)
    real, fake = (x.reshape(len(x), -1) / 64 for x in (random_images(1, 500), images))
    cov1, cov2 = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    step = real.mean(axis=0) - fake.mean(axis=0)
    fid = step @ step + np.trace(cov1 + cov2 - 2 * sqrtm(cov1 @ cov2).real)
    assert report["fid"]["value"] == pytest.approx(fid, rel=1e-5)
    low, high = report["fid"]["interval"]
    assert low < fid < high
    assert report["fid"]["infinity"] < fid
    assert report["pairwise"] == 300 and report["kid"]["value"] > 0
    assert report["inception_score"]["mean"] > 1
    assert report["warnings"] == []
    assert report["protocol"]["weights"] == report["reference"]["protocol"]["weights"] == "abc"
    json.dumps(report)


def test_the_report_does_not_depend_on_batches_nor_on_floats(extract, reference):
    images = random_images(3, 350)  # more than are asked for
    protocol = Protocol.of(extract, **FIELDS)
    whole = evaluate_images([images], protocol, reference, extract)
    floats = images.astype("float32") / 127.5 - 1
    parts = evaluate_images(batched(floats, 23), protocol, reference, extractor(checksum="abc"))
    assert whole["samples"] == parts["samples"] == 300
    for name in ("fid", "kid"):
        assert whole[name]["interval"] == pytest.approx(parts[name]["interval"], rel=1e-4)
    for name in ("precision", "recall", "density", "coverage"):
        assert whole[name] == pytest.approx(parts[name], abs=0.01)


def test_what_was_made_otherwise_is_refused_naming_both_sides(extract, reference):
    protocol = Protocol.of(extract, **FIELDS)
    images = [random_images(2)]
    other = Protocol(**{**protocol.to_dict(), "features": "lenet"})
    with refused("agree on `features`.*'lenet', the feature network 'pixels'"):
        evaluate_images(images, other, reference, extract)
    with refused("agree on `weights`.*'abc', the feature network 'xyz'"):
        evaluate_images(images, protocol, reference, extractor(checksum="xyz"))
    theirs = {**reference.protocol, "resize": "Bicubic 224"}
    resized = Reference(reference.mean, reference.covariance, 500, theirs)
    with refused("agree on `resize`.*'none', the reference statistics 'Bicubic 224'"):
        evaluate_images(images, protocol, resized, extract)
    renamed = Reference(
        reference.mean, reference.covariance, 500, {**reference.protocol, "name": "snow"}
    )
    with refused("agree on `reference`.*'noise', the reference statistics 'snow'"):
        evaluate_images(images, protocol, renamed, extract)
    with refused("same width.*Received 16 of the feature network, 3 of the ref"):
        evaluate_images(images, protocol, Reference(np.zeros(3), np.eye(3)), extract)


def test_bad_images_are_refused(extract, reference):
    protocol = Protocol.of(extract, **FIELDS)
    images = np.zeros((300, 4, 4, 1), np.float32)
    images[7, 1, 1] = np.nan
    with refused("1 of 300 images.*first in image 7"):
        evaluate_images([images], protocol, reference, extract)
    with refused("asks for 300 samples. Received 299"):
        evaluate_images([random_images(2, 299)], protocol, reference, extract)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rounding": "up"}, "'up'"),
        ({"labels": "some"}, "'some'"),
        ({"samples": 1}, "2 samples or more"),
        ({"name": "a/b"}, "letters, digits.*Received 'a/b'"),
    ],
)
def test_an_impossible_protocol_is_refused(extract, change, message):
    with refused(message):
        Protocol.of(extract, **{**FIELDS, **change})


def test_fewer_samples_than_features_are_said_to_be_singular(extract, reference):
    protocol = Protocol.of(extract, **{**FIELDS, "samples": 12})
    report = evaluate_images([random_images(2, 12)], protocol, reference, extract)
    singular, pairs = report["warnings"]
    assert "12 samples are not more than the 16 features" in singular and "singular" in singular
    assert "KID" in pairs and "kid" not in report


def test_a_reference_of_others_is_taken_on_trust_and_said_so(extract):
    reference = Reference(np.full(16, 2.0), np.eye(16))
    protocol = Protocol.of(extract, **FIELDS)
    report = evaluate_images([random_images(2)], protocol, reference, extract)
    assert "assumed to be" in report["warnings"][0]


def test_another_image_size_than_the_reference_is_said(tmp_path):
    pixels = keras.Input((None, None, 3))
    colour = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels))
    extract = FeatureExtractor("mean colour", colour)
    images = philox(7).integers(0, 256, size=(60, 8, 8, 3), dtype=np.uint8)
    reference = make_reference([images], extract, tmp_path / "r.npz", name="8 px")
    protocol = Protocol.of(extract, labels="random", reference="8 px", samples=60)
    report = evaluate_images([images[:, :4, :4]], protocol, reference, extract)
    assert "images of [8, 8, 3], the samples are [4, 4, 3]" in report["warnings"][0]


def test_an_older_reference_leaves_no_features_behind(extract, tmp_path):
    path = tmp_path / "reference.npz"
    made = make_reference(batched(random_images(1, 100)), extract, path, name="noise", pairwise=70)
    assert made.features.shape == (70, 16)
    Reference(made.mean, made.covariance).save(path)
    assert Reference.load(path).features is None


def test_the_self_check_is_a_report_of_one_half_against_the_other(extract):
    images = random_images(5, 2000)
    report = self_check(batched(images, 50), extract)
    again = self_check(batched(images, 77), extract)
    assert report["samples"] == report["reference"]["count"] == 1000
    assert report["fid"]["value"] == pytest.approx(again["fid"]["value"], rel=1e-5)
    assert abs(report["fid"]["infinity"]) < report["fid"]["value"] < 0.1
    assert report["coverage"] > 0.9 and 0.9 < report["density"] < 1.1
    few = self_check(batched(images, 50), extract, samples=100)
    assert few["samples"] == 100 and few["fid"]["value"] > 3 * report["fid"]["value"]
    with refused("samples=1001 and 2000 images"):
        self_check(batched(images), extract, samples=1001)


def test_lenet_tells_mnist_from_its_noisy_copy(shared_data, tmp_path):
    extract = FeatureExtractor.lenet(shared_data / "lenet_mnist_fid.pth")
    with np.load(shared_data / "mnist.npz") as file:
        train, test = file["x_train"][:2000, ..., None], file["x_test"][:1000, ..., None]
    reference = make_reference(batched(train, 500), extract, tmp_path / "r.npz", name="mnist 2000")
    fields = {"samples": 1000, "labels": "random", "reference": "mnist 2000"}
    protocol = Protocol.of(extract, **fields)
    clean = evaluate_images(batched(test, 500), protocol, reference, extract)
    noisy = np.clip(test + 60 * philox(6).normal(size=test.shape), 0, 255).astype(np.uint8)
    worse = evaluate_images(batched(noisy, 500), protocol, reference, extract)
    assert worse["fid"]["interval"][0] > clean["fid"]["interval"][1]
    assert worse["kid"]["value"] > clean["kid"]["value"]
    assert clean["precision"] > 0.8 and clean["coverage"] > worse["coverage"]
