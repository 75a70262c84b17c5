"""From batches of images to a report: metrics of their features, with intervals."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from keras_meanflow.evaluation.protocols import Protocol, described
from keras_meanflow.features.extractor import FeatureExtractor
from keras_meanflow.metrics.estimate import dealt
from keras_meanflow.metrics.frechet import frechet_infinity, frechet_with_interval
from keras_meanflow.metrics.inception_score import InceptionScore
from keras_meanflow.metrics.kid import kid_with_interval
from keras_meanflow.metrics.neighbours import density_coverage, precision_recall
from keras_meanflow.metrics.reference import FeatureFile, Reference, read_features
from keras_meanflow.metrics.statistics import Statistics

PAIRWISE = 10_000  # rows kept for KID and the neighbours, which compute all pairs
BLOCKS = 20
FEWEST_PAIRWISE = 2 * BLOCKS  # KID's jackknife needs two rows a block


class _Gathered:
    """Statistics of all features, and a file with the first rows."""

    def __init__(self, path, keep, blocks=BLOCKS):
        self.statistics, self.file = Statistics(blocks), FeatureFile(path, keep)

    def add(self, features):
        self.statistics.update(features)
        self.file.append(features)

    @property
    def features(self):
        return read_features(self.file.path, self.statistics.mean.size)

    def reference(self, protocol):
        plain = Reference.of(self.statistics, protocol)
        return Reference(plain.mean, plain.covariance, plain.count, protocol, self.features)


def evaluate_images(
    batches: Iterable[np.ndarray],
    protocol: Protocol,
    reference: Reference,
    extract: FeatureExtractor,
    *,
    pairwise: int = PAIRWISE,
) -> dict:
    """The report of generated images under a protocol, as JSON values.

    Frechet distance and Inception Score take one pass over all samples. KID, precision, recall,
    density and coverage use the first `pairwise` samples, whose features are kept in a temporary
    file, and as many rows of the reference, if it has features.

    Args:
        batches: Float images in [-1, 1], or uint8, (N, H, W, C) each; images beyond the protocol's
            number of samples are not used.
        protocol: How to measure.
        reference: Statistics to compare with, from `make_reference` or from other software.
        extract: The feature network that the protocol names.
        pairwise: The number of samples for the metrics of pairs.

    Returns:
        `protocol`, `reference`, `samples`, `fid` (value, standard_error, interval, infinity),
        `kid`, `precision`, `recall`, `density`, `coverage`, `pairwise`, `inception_score`, and
        `warnings`. Numbers that cannot be measured are absent.

    Raises:
        ValueError: When protocol, network and reference disagree, an image is not finite, or
            there are fewer images than the protocol says.

    Example:
        >>> report = evaluate_images(batches, protocol, reference, extract)
        >>> report["fid"]["value"], report["fid"]["interval"]
    """
    protocol.check_extractor(extract)
    protocol.check_reference(reference)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        gathered, score = _Gathered(Path(folder) / "features.f32", pairwise), None
        for images in _first(batches, protocol.samples):
            outputs = extract(protocol.quantise(images))
            _check_width(outputs["features"], reference)
            gathered.add(outputs["features"])
            if "logits" in outputs:
                score = score or InceptionScore(protocol.samples, min(10, protocol.samples))
                score.update(outputs["logits"])
        report = {"protocol": protocol.to_dict(), **compare(gathered, reference)}
    report["warnings"] += _other_shape(images.shape[1:], reference)
    if score is not None:
        report["inception_score"] = dict(zip(("mean", "std"), score.result(), strict=True))
    return report


def make_reference(
    batches: Iterable[np.ndarray],
    extract: FeatureExtractor,
    path: str | os.PathLike,
    *,
    name: str,
    pairwise: int = PAIRWISE,
) -> Reference:
    """Write the statistics of a reference set, and its first features for the metrics of pairs.

    Args:
        batches: uint8 images (N, H, W, C); in random order, if there are more than `pairwise`.
        extract: The feature network.
        path: The `.npz` to write; the features go into a file next to it.
        name: Of the reference.
        pairwise: The number of rows of features to keep.

    Returns:
        The result of `Reference.load(path)`.

    Example:
        >>> reference = make_reference(npz_images("x.npz"), extract, "ref.npz", name="x")
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        gathered, shape = _Gathered(Path(folder) / "features.f32", pairwise, blocks=1), ()
        for images in batches:
            shape = images.shape[1:]
            gathered.add(extract(images)["features"])
        protocol = {**described(extract), "name": name, "image_shape": list(shape)}
        gathered.reference(protocol).save(path)
    return Reference.load(path)


def self_check(
    batches: Iterable[np.ndarray],
    extract: FeatureExtractor,
    *,
    samples: int | None = None,
    pairwise: int = PAIRWISE,
) -> dict:
    """The numbers of a perfect model: one half of a reference set against the other half.

    Images are assigned to the halves at random. A model with a lower FID copies its reference, or
    the difference is noise.

    Args:
        batches: uint8 images of the reference set, (N, H, W, C).
        extract: The feature network.
        samples: The number of images in place of the model's samples: use the number of samples of
            the models to compare with. By default the whole first half.
        pairwise: The number of rows of each half for the metrics of pairs.

    Returns:
        The report of `evaluate_images`, without `protocol` and Inception Score.

    Raises:
        ValueError: When half of the set has fewer images than `samples`.

    Example:
        >>> self_check(batches, extract, samples=2_000)["fid"]["value"]
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model = _Gathered(Path(folder) / "model.f32", pairwise)
        other = _Gathered(Path(folder) / "other.f32", pairwise, blocks=1)
        rows = 0
        for images in batches:
            features = extract(images)["features"]
            half = dealt(rows, len(images), 2)
            rows += len(images)
            left = len(images) if samples is None else samples - model.statistics.count
            model.add(features[half == 0][: max(left, 0)])
            other.add(features[half == 1])
        if samples is not None and model.statistics.count < samples:
            raise ValueError(
                "Half of the reference must have at least as many images as `samples`. "
                f"Received samples={samples} and {rows} images."
            )
        return compare(model, other.reference({**described(extract), "name": "the other half"}))


def compare(samples: _Gathered, reference: Reference) -> dict:
    """The numbers of a report, from the features of samples and a reference."""
    statistics, width = samples.statistics, reference.mean.size
    fid = frechet_with_interval(statistics, reference).to_dict()
    fid["infinity"] = frechet_infinity(statistics, reference)
    source = {"count": reference.count, "protocol": reference.protocol, **reference.origin}
    report = {"reference": source, "samples": statistics.count, "fid": fid}
    rows = 0
    if reference.features is not None:
        rows = min(len(reference.features), len(samples.features))
    if rows >= FEWEST_PAIRWISE:
        report |= _pairs(reference.features[:rows], samples.features[:rows])
    return {**report, "warnings": _warnings(statistics.count, reference, width, rows)}


def _pairs(real, fake):
    precision, recall = precision_recall(real, fake)
    density, coverage = density_coverage(real, fake)
    return {
        "kid": kid_with_interval(real, fake, blocks=BLOCKS).to_dict(),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "pairwise": len(real),
    }


def _warnings(count, reference, width, rows):
    texts = []
    for owner, number in (("samples", count), ("reference images", reference.count)):
        if number is not None and number <= width:
            texts.append(
                f"{number} {owner} are not more than the {width} features: their covariance is "
                f"singular, of rank {number - 1} at most. The Frechet distance is mostly bias; "
                "compare it only with values for the same number of samples."
            )
    if reference.protocol is None:
        texts.append(
            "The reference does not say how it was made. Its features, resize and weights are "
            "assumed to be the protocol's."
        )
    if rows < FEWEST_PAIRWISE:
        texts.append(
            "KID, precision, recall, density and coverage need features of the reference and "
            f"{FEWEST_PAIRWISE} samples or more: make the reference with `make_reference`."
        )
    return texts


def _other_shape(shape, reference):
    theirs = (reference.protocol or {}).get("image_shape", list(shape))
    if list(shape) == theirs:
        return []
    return [f"The reference was made from images of {theirs}, the samples are {list(shape)}."]


def _check_width(features, reference):
    """Raise at the first batch, and not after the last one."""
    if features.shape[1] != reference.mean.size:
        raise ValueError(
            "Samples and reference must have features of the same width. Received "
            f"{features.shape[1]} of the feature network, {reference.mean.size} of the reference."
        )


def _first(batches, samples):
    """Yields batches as arrays, up to `samples` images; fewer are an error."""
    seen = 0
    for batch in batches:
        images = keras.ops.convert_to_numpy(batch)[: samples - seen]
        seen += len(images)
        yield images
        if seen == samples:
            return
    raise ValueError(f"The protocol asks for {samples} samples. Received {seen}.")
