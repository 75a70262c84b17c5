"""Evaluations of models: what is sampled, reported and refused, here and on the command line."""

import functools
import json
import re
import types

import keras
import numpy as np
import pytest
from commands import call, refusal
from PIL import Image
from scipy.linalg import sqrtm

from keras_meanflow import DiT, FlowMap
from keras_meanflow.data import load_digits
from keras_meanflow.evaluation import Protocol, self_check
from keras_meanflow.evaluation.images import Images
from keras_meanflow.evaluation.named import open_features
from keras_meanflow.evaluation.samples import Evaluation, open_reference
from keras_meanflow.training.run import describe

FIELDS = {"samples": 130, "labels": "balanced", "reference": "digits:test"}


def save_features(path):
    """A feature network in a `.keras` file: (N, 16) means of 2 x 2 pixels."""
    pixels = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(2)(pixels))
    keras.Model(pixels, keras.layers.Rescaling(1 / 64)(x)).save(path)


@functools.cache
def model(num_classes=10):
    """A model of 8 x 8 images with random weights, whose average is not its raw weights."""
    network = DiT(
        image_size=8, channels=1, patch_size=4, width=8, depth=1, heads=2, num_classes=num_classes
    )
    flow_map = FlowMap(network, averages=(0.9,))
    rng = np.random.default_rng(0)
    for weight in [*network.trainable_variables, *flow_map.weights_of(0.9)]:
        weight.assign(0.3 * rng.standard_normal(weight.shape))
    flow_map.step.assign(1)  # until the first step an average is the weights
    return flow_map


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that was never trained, and a feature network, `pooled.keras`."""
    path = tmp_path_factory.mktemp("evaluate")
    (path / "run" / "checkpoints").mkdir(parents=True)
    model().save(path / "run" / "checkpoints" / "step-00000000.keras")
    (path / "run" / "settings.json").write_text(json.dumps(describe()))
    save_features(path / "pooled.keras")
    return path


@pytest.fixture(scope="module")
def extract(folder):
    return open_features("pooled", weights=folder / "pooled.keras")


@pytest.fixture(scope="module")
def reference(extract):
    return open_reference("digits:test", extract)


@pytest.fixture
def evaluation(extract, reference):
    def make(settings=None, **changes):
        protocol = Protocol.of(extract, name="pooled", **{**FIELDS, **changes})
        settings = {"batch_size": 50, **(settings or {})}
        return Evaluation(protocol=protocol, extract=extract, reference=reference, **settings)

    return make


def refused(message):
    return pytest.raises(ValueError, match=message)


def to_features(x):
    """What the feature network makes of uint8 images, in NumPy."""
    return x.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(len(x), 16) / 64


def frechet(a, b):
    cov1, cov2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    step = a.mean(axis=0) - b.mean(axis=0)
    return step @ step + np.trace(cov1 + cov2 - 2 * sqrtm(cov1 @ cov2).real)


def frechet_to_grey():
    """From the digits of the reference to images whose pixels are all 128."""
    real = to_features(to_pixels(load_digits("test")[0]))
    return np.sum((real.mean(axis=0) - 128 / 64) ** 2) + real.var(axis=0, ddof=1).sum()


def to_pixels(x):
    return np.clip(np.floor(127.5 * x + 128), 0, 255).astype(np.uint8)


def test_a_report_is_that_of_the_samples_of_the_averaged_weights(evaluation):
    flow_map = model()
    report = evaluation({"seed": 3}).measure(flow_map, 2)
    samples = flow_map.generate(np.arange(130) % 10, steps=2, seed=3, batch_size=50)
    real = to_features(to_pixels(load_digits("test")[0]))
    expected = frechet(real, to_features(to_pixels(samples)))
    assert report["fid"]["value"] == pytest.approx(expected, rel=1e-4)
    assert report["model"] == {"step": 1, "average": 0.9, "seed": 3, "guidance_scale": None}
    assert (report["steps"], report["nfe"], report["samples"]) == (2, 2, 130)
    assert report["made"]["backend"] == keras.config.backend()
    assert report["reference"]["data"] == "digits:test" and report["reference"]["count"] == 898


def test_raw_weights_score_otherwise(evaluation):
    averaged = evaluation().measure(model(), 1)
    model().average = None
    try:
        raw = evaluation().measure(model(), 1)
    finally:
        model().average = 0.9
    assert raw["model"]["average"] is None
    assert abs(raw["fid"]["value"] / averaged["fid"]["value"] - 1) > 1e-3


def test_samples_come_in_batches_of_one_size(evaluation, monkeypatch):
    """Never all of them in memory, and no compiling for a smaller last batch."""
    asked = []

    def generate(labels, *, first, batch_size, **settings):
        asked.append((len(labels), first, batch_size))
        return np.zeros((len(labels), 8, 8, 1), "float32")

    monkeypatch.setattr(model(), "generate", generate)
    sizes = [len(batch) for batch in evaluation().batches(model(), 1)]
    assert sizes == [50, 50, 30] and asked == [(50, 0, 50), (50, 50, 50), (50, 100, 50)]


def test_balanced_labels_are_equally_many_and_random_ones_a_function_of_the_seed(evaluation):
    assert np.bincount(evaluation().labels(10)).tolist() == [13] * 10
    random = evaluation(labels="random", samples=5000)
    counts = np.bincount(random.labels(10))
    assert 400 < counts.min() < counts.max() < 600 and len(set(counts)) > 3
    np.testing.assert_array_equal(random.labels(10), random.labels(10))
    other = evaluation({"seed": 1}, labels="random", samples=5000)
    assert (random.labels(10) != other.labels(10)).mean() > 0.8


def test_latents_are_decoded_first(evaluation):
    seen = []

    def decode(samples):
        seen.append(samples)
        return np.zeros_like(samples)

    report = evaluation({"decode": decode}).measure(model(), 1)
    assert report["fid"]["value"] == pytest.approx(frechet_to_grey(), rel=1e-4)
    assert sum(map(len, seen)) == 130


@pytest.mark.parametrize(
    "changes, settings, message",
    [
        ({"labels": "none"}, {}, "has 10 classes: labels are balanced or random.*says 'none'"),
        ({}, {"steps": (0,)}, "`steps` must be different and at least 1. Received: \\(0,\\)"),
        ({}, {"steps": (2, 2)}, "`steps` must be different"),
        ({}, {"batch_size": 0}, "batch_size must be at least 1. Received: 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(evaluation, changes, settings, message):
    with refused(message):
        evaluation(settings, **changes).check(model())


def test_a_model_without_classes_takes_no_labels(evaluation):
    with refused("has no classes: labels must be 'none'. The protocol says 'balanced'"):
        evaluation().check(model(num_classes=None))
    sizes = [len(b) for b in evaluation(labels="none").batches(model(num_classes=None), 1)]
    assert sizes == [50, 50, 30]


def test_samples_that_are_not_finite_are_refused(evaluation, monkeypatch):
    broken = np.zeros((50, 8, 8, 1), "float32")
    broken[4] = np.nan
    monkeypatch.setattr(model(), "generate", lambda labels, **settings: broken)
    with refused("Received NaN or infinity in 1 of 50 images of a batch, first in image 4"):
        evaluation().measure(model(), 1)


@pytest.fixture
def features(folder):
    return ["--features", "pooled", "--weights", folder / "pooled.keras"]


def test_a_run_is_evaluated_on_the_command_line(folder, features, evaluation, tmp_path):
    out = tmp_path / "new" / "scores.json"
    command = [*features, "--reference", "digits:test", "--samples", 130, "--out", out, "-q"]
    output, code = call("evaluate", folder / "run", *command, "--batch-size", 50, "--steps", "1,2")
    assert code == 0 and "2 steps" in output and f"Written: {out}, " in output, output
    reports = json.loads(out.read_text())["reports"]
    for report, ours in zip(reports, evaluation({"steps": (1, 2)})(model()), strict=True):
        assert report["fid"]["value"] == pytest.approx(ours["fid"]["value"], rel=1e-4)
        assert report["coverage"] == pytest.approx(ours["coverage"], abs=0.02)
        assert report["protocol"] == {**ours["protocol"], "name": "pooled"}
        assert report["model"] == ours["model"] and "command" in report["made"]
    assert Image.open(out.with_suffix(".png")).size == (840, 200)
    # Images that a run is to be compared with come into the same file.
    others = ["--images", "digits:train", "--labels", "balanced"]
    output, code = call("evaluate", *others, *command)
    rows = [report["subject"] for report in json.loads(out.read_text())["reports"]]
    assert code == 0 and rows == ["digits:train", "samples", "samples"], output


def test_a_run_of_latents_is_decoded_by_its_codec(folder, features, monkeypatch, tmp_path):
    grey = types.SimpleNamespace(decode=np.zeros_like, factor=1, depth=1)
    monkeypatch.setattr("keras_meanflow.flow_map.opening.load_codec", lambda place: grey)
    command = [*features, "--reference", "digits:test", "--samples", 50, "-q"]
    output, code = call("evaluate", folder / "run", *command, "--out", tmp_path / "scores.json")
    assert code == 0, output
    (report,) = json.loads((tmp_path / "scores.json").read_text())["reports"]
    assert report["fid"]["value"] == pytest.approx(frechet_to_grey(), rel=1e-4)


def test_statistics_in_a_file_serve_as_the_data_does(folder, features, tmp_path):
    statistics = tmp_path / "test.npz"
    output, code = call("statistics", "digits:test", statistics, *features, "-q")
    assert code == 0 and "digits:test, 898 images of digits:test, 16 features" in output, output
    command = ["evaluate", "--images", "digits:train", *features, "-q", "--reference"]
    values = []
    for reference in ("digits:test", statistics):
        assert call(*command, reference, "--out", tmp_path / "scores.json")[1] == 0
        (report,) = json.loads((tmp_path / "scores.json").read_text())["reports"]
        values.append(report["fid"]["value"])
        assert report["subject"] == "digits:train" and report["samples"] == 899
    real, fake = (to_features(to_pixels(load_digits(s)[0])) for s in ("test", "train"))
    assert values == pytest.approx([frechet(real, fake)] * 2, rel=1e-5)
    assert report["reference"]["file"] == str(statistics) and report["reference"]["sha256"]


def test_statistics_of_another_set_are_not_labelled_as_the_protocols(folder, extract, tmp_path):
    protocol = Protocol.of(extract, name="pooled", **{**FIELDS, "reference": "digits:test"})
    (tmp_path / "pooled.json").write_text(protocol.to_json())
    known = ["--protocol", tmp_path / "pooled.json", "--weights", folder / "pooled.keras", "-q"]
    output, code = call("statistics", "digits:train", tmp_path / "train.npz", *known)
    assert code == 0 and "digits:train, 899 images of digits:train" in output, output
    for reference in (tmp_path / "train.npz", "digits:train"):
        line = refusal("evaluate", folder / "run", *known, "--reference", reference)
        assert "must agree on `reference`. The protocol says 'digits:test'" in line


def test_the_self_check_is_of_the_references_halves(features, extract, tmp_path):
    out = tmp_path / "check.json"
    command = ["evaluate", "--self-check", *features, "--reference", "digits"]
    output, code = call(*command, "--samples", 500, "--out", out, "-q")
    assert code == 0 and "self-check, 500 against 8" in output, output
    (report,) = json.loads(out.read_text())["reports"]
    ours = self_check(Images("digits").batches(), extract, samples=500)
    assert report["fid"]["value"] == pytest.approx(ours["fid"]["value"], rel=1e-6)
    output, code = call(*command, "-q")
    assert code == 0 and "898 samples" in output


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory that is to stay empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments, rule",
    [
        ([], "Name what to evaluate: a RUN, --images DATA, or --self-check"),
        (["RUN", "--images", "digits"], "Evaluate a RUN or --images, not both"),
        (["RUN"], "a protocol, or features. Received protocol=None, features=None"),
        (["RUN", "--steps", "0"], "--steps are numbers from 1 up"),
        (["RUN", "--protocol", "digit-lenet"], "Did you mean digits-lenet"),
        (["RUN", "--protocol", "digits-lenet", "--weights", "NET"], "has SHA-256 .*, not 26627b"),
        (["RUN", "FEATURES"], "--features need a --reference"),
        (["RUN", "FEATURES", "--reference", "absent.npz"], "file of statistics .* or data"),
        (["RUN", "FEATURES", "--reference", "."], "statistics .* or data. .* must hold images"),
        (["RUN", "FEATURES", "--reference", "OTHER"], "agree on `resize`.*'none'.*'Bicubic 8'"),
        (
            ["RUN", "FEATURES", "--reference", "NARROW"],
            "same width.*Received 16 .* 3 of the reference",
        ),
        (["--self-check", "FEATURES", "--reference", "OTHER"], "--self-check halves data"),
        (
            ["--images", "digits", "FEATURES", "--reference", "digits", "--samples", "1800"],
            "asks for 1800",
        ),
        (["--self-check", "FEATURES", "--reference", "digits", "--samples", "900"], "Half of the"),
        (["absent", "FEATURES", "--reference", "digits"], "There is no model 'absent'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(arguments, rule, folder, features, here, made):
    places = {"RUN": [folder / "run"], "NET": [folder / "pooled.keras"], "FEATURES": features}
    places |= {"OTHER": [made / "other.npz"], "NARROW": [made / "narrow.npz"]}
    words = [word for argument in arguments for word in places.get(argument, [argument])]
    line = refusal("evaluate", *words, "-q")
    assert re.search(rule, line), line
    assert list(here.iterdir()) == []
    assert not list((folder / "run").glob("evaluation*"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, folder):
    """References that do not go with the features as they are."""
    path = tmp_path_factory.mktemp("references")
    arguments = ["--features", "pooled", "--weights", folder / "pooled.keras", "-q"]
    resized = ["--resize", "Bicubic 8"]
    assert call("statistics", "digits:test", path / "other.npz", *arguments, *resized)[1] == 0
    np.savez(path / "narrow.npz", mu=np.zeros(3), sigma=np.eye(3))
    return path


def test_statistics_of_nothing_are_refused(features, here):
    assert "are an .npz file. Received out.txt" in refusal("statistics", "digits", "out.txt")
    line = refusal("statistics", "absent", "out.npz", *features)
    assert "existing .npz file or folder" in line
    assert list(here.iterdir()) == []


def test_fewer_samples_than_features_are_said_to_be_singular(features):
    command = ["evaluate", "--images", "digits:train", *features, "--reference", "digits:test"]
    output, code = call(*command, "--samples", 12, "-q")
    assert code == 0 and "Note: 12 samples are not more than the 16 features" in output
