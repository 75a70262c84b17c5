"""Evaluation of a model: samples of a FlowMap, measured under a protocol."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_meanflow.backend.random import check_seed
from keras_meanflow.evaluation.images import Images
from keras_meanflow.evaluation.judge import (
    FEWEST_PAIRWISE,
    PAIRWISE,
    evaluate_images,
    make_reference,
)
from keras_meanflow.evaluation.named import open_protocol
from keras_meanflow.evaluation.protocols import Protocol
from keras_meanflow.features.extractor import FeatureExtractor
from keras_meanflow.files.provenance import provenance
from keras_meanflow.flow_map.model import FlowMap
from keras_meanflow.metrics import Reference
from keras_meanflow.metrics.reference import is_reference
from keras_meanflow.samplers.base import Sampler

LABELS_NUMBER = 2**64 - 1  # key of the Philox generator of labels; no image has this number


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """How models are measured: a protocol, its feature network, and a reference.

    Calling it with a `FlowMap` generates the protocol's number of samples batch by batch, from the
    weights of `FlowMap.average`. It returns a report for each number of steps.

    Args:
        protocol: how to measure.
        extract: the feature network that the protocol names.
        reference: the statistics to compare with.
        steps: numbers of jumps, one report each.
        seed: of the noise, and of random labels.
        guidance_scale: as in `FlowMap.generate`.
        batch_size: samples generated at once.
        pairwise: samples kept for KID, precision, recall, density and coverage.
        decode: from a batch of samples to float images in [-1, 1], for a model of latents.

    Raises:
        ValueError: if protocol, network and reference disagree, or for steps below 1.

    Example:
        >>> evaluation = Evaluation.open("digits-lenet", weights="lenet_mnist_fid.pth")
        >>> evaluation(flow_map)[0]["fid"]["value"]
    """

    protocol: Protocol
    extract: FeatureExtractor
    reference: Reference
    steps: tuple[int, ...] = (1,)
    seed: int = 0
    guidance_scale: float | None = None
    batch_size: int = 250
    pairwise: int = PAIRWISE
    decode: Callable | None = None

    def __post_init__(self):
        check_seed(self.seed)
        self.protocol.check_extractor(self.extract)
        self.protocol.check_reference(self.reference)
        if not self.steps or min(self.steps) < 1 or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"`steps` must be different and at least 1. Received: {self.steps}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Received: {self.batch_size}.")

    @classmethod
    def open(
        cls,
        protocol: str | Path,
        *,
        weights: str | Path | None = None,
        reference: str | Path | None = None,
        **settings: Any,
    ) -> Evaluation:
        """The evaluation with the protocol of this name.

        Args:
            protocol: a name in `evaluation.named.PROTOCOLS`, or a `.json` file.
            weights: the feature network's file, or None for the file in the cache.
            reference: as in `open_reference`; None for a protocol on the package's digits.
            **settings: other arguments of `Evaluation`.
        """
        protocol, extract = open_protocol(protocol, weights=weights)
        return cls(
            protocol=protocol,
            extract=extract,
            reference=open_reference(reference or protocol.reference, extract, protocol.reference),
            **settings,
        )

    def check(self, flow_map: FlowMap) -> None:
        """Raise a ValueError now, if measuring this model would fail later."""
        network, labels = flow_map.network, self.protocol.labels
        if len(network.data_shape) != 3 and self.decode is None:
            raise ValueError(
                "Only images (height, width, channels) can be measured. This model has samples of "
                f"{network.data_shape}: give `decode`, a function from samples to images."
            )
        if network.conditional and network.num_classes is None:
            raise ValueError("Only unconditional models and models of classes can be measured.")
        if network.conditional and labels == "none":
            raise ValueError(
                f"This model has {network.num_classes} classes: labels are balanced or random. "
                "The protocol says 'none'."
            )
        if not network.conditional and labels != "none":
            raise ValueError(
                f"This model has no classes: labels must be 'none'. The protocol says {labels!r}."
            )

    def __call__(self, flow_map: FlowMap, *, verbose: int = 0) -> list[dict]:
        """The report of `measure` for each number of steps."""
        return [self.measure(flow_map, steps, verbose=verbose) for steps in self.steps]

    def measure(self, flow_map: FlowMap, steps: int, *, verbose: int = 0) -> dict:
        """The report for one number of steps: that of `evaluate_images`, and how it was sampled.

        Args:
            flow_map: the model, with the weights that its `average` selects.
            steps: number of jumps.
            verbose: 1 for a progress bar.
        """
        self.check(flow_map)
        batches = with_progress(self.batches(flow_map, steps), self.protocol.samples, verbose)
        report = evaluate_images(
            batches, self.protocol, self.reference, self.extract, pairwise=self.pairwise
        )
        model = {
            "step": flow_map.batches_done,
            "average": flow_map.average,
            "seed": self.seed,
            "guidance_scale": self.guidance_scale,
        }
        nfe = steps * (1 if self.guidance_scale is None else 2)
        about = {"subject": "samples", "steps": steps, "nfe": nfe, "model": model}
        return {**about, **report, "made": provenance()}

    def batches(
        self, flow_map: FlowMap, steps: int | None = None, *, sampler: Sampler | None = None
    ) -> Iterator[np.ndarray]:
        """Yields samples from `steps` jumps or from a `Sampler`: float images in [-1, 1]."""
        n, labels = self.protocol.samples, self.labels(flow_map.network.num_classes)
        size = min(self.batch_size, n)
        for first in range(0, n, size):
            # The last batch is padded, so that only one shape is compiled.
            rows = np.minimum(np.arange(first, first + size), n - 1)
            samples = flow_map.generate(
                size if labels is None else labels[rows],
                steps=steps,
                sampler=sampler,
                seed=self.seed,
                first=first,
                batch_size=size,
                guidance_scale=self.guidance_scale,
                verbose=0,
            )[: n - first]
            yield samples if self.decode is None else self.decode(samples)

    def labels(self, classes: int | None) -> np.ndarray | None:
        """The labels of all samples, (samples,) int32; None if the protocol has no labels."""
        n = self.protocol.samples
        if self.protocol.labels == "none":
            return None
        if self.protocol.labels == "balanced":
            return (np.arange(n) % classes).astype("int32")
        philox = np.random.Philox(key=np.array([self.seed, LABELS_NUMBER], "uint64"))
        return np.random.Generator(philox).integers(classes, size=n, dtype="int32")

    @property
    def has_pairs(self) -> bool:
        """Whether KID and the metrics of neighbours can be measured."""
        features = self.reference.features
        rows = 0 if features is None else min(len(features), self.protocol.samples, self.pairwise)
        return rows >= FEWEST_PAIRWISE


def open_reference(
    reference: str | Path,
    extract: FeatureExtractor,
    name: str | None = None,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    pairwise: int = PAIRWISE,
    batch_size: int = 64,
    verbose: int = 0,
) -> Reference:
    """Reference statistics, read from an `.npz` file or computed from data.

    Args:
        reference: a file of statistics, or data as in `evaluation.images.Images`.
        extract: the feature network, for data.
        name: of statistics computed from data; by default, and for data that are another set, the
            name of the data (see `Images.named`).
        image_size: side of the images of a folder.
        channels: of the images of a folder.
        pairwise: number of rows of features to keep.
        batch_size: of the feature network.
        verbose: 1 for a progress bar.

    Raises:
        ValueError: if there is no such file or data.

    Example:
        >>> open_reference("digits:test", extract).count
        898
    """
    if is_reference(reference):
        return Reference.load(reference)
    images = _reference_images(reference, image_size, channels)
    batches = with_progress(images.batches(batch_size), len(images), verbose)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "reference.npz"
        made = make_reference(batches, extract, path, name=images.named(name), pairwise=pairwise)
        features = np.array(made.features)  # into memory, before the folder is deleted
    return dataclasses.replace(made, features=features, origin={"data": images.name})


def _reference_images(reference, image_size, channels):
    try:
        return Images(reference, image_size=image_size, channels=channels)
    except ValueError as error:
        raise ValueError(
            f"A reference is a file of statistics (mu/sigma or ref_mu/ref_sigma) or data. {error}"
        ) from error


def with_progress(
    batches: Iterable[np.ndarray], total: int, verbose: int = 1
) -> Iterator[np.ndarray]:
    """Yields the batches, and shows a progress bar over `total` images."""
    bar = keras.utils.Progbar(total, unit_name="image", verbose=int(bool(verbose)))
    for batch in batches:
        yield batch
        bar.add(len(batch))
