"""What a model scores: samples of a FlowMap, measured under a protocol."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

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
from keras_meanflow.metrics import Reference
from keras_meanflow.metrics.reference import is_reference

LABELS_NUMBER = 2**64 - 1  # keys the Philox that draws labels: no image has this number


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """How models are measured: a protocol, the feature network it names, and a reference.

    Calling it with a `FlowMap` generates the protocol's number of samples batch by batch, from the
    weights of `FlowMap.average`, and gives a report for each number of steps.

    Args:
        protocol: what is measured with.
        extract: the feature network.
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
        self.protocol.check_extractor(self.extract)
        self.protocol.check_reference(self.reference)
        if not self.steps or min(self.steps) < 1 or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"steps are different numbers from 1 up. Received: {self.steps}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Received: {self.batch_size}.")

    @classmethod
    def open(cls, protocol, *, weights=None, reference=None, **settings):
        """An evaluation by the name of its protocol.

        Args:
            protocol: a name in `metrics.named.PROTOCOLS`, or a `.json` file.
            weights: the feature network's file, or None to look into the cache.
            reference: as in `open_reference`; None for a protocol on the package's digits.
            **settings: further arguments of `Evaluation`.
        """
        protocol, extract = open_protocol(protocol, weights=weights)
        return cls(
            protocol=protocol,
            extract=extract,
            reference=open_reference(reference or protocol.reference, extract, protocol.reference),
            **settings,
        )

    def check(self, flow_map):
        """Raise a ValueError now for what would fail when the model is measured."""
        network, labels = flow_map.network, self.protocol.labels
        if len(network.data_shape) != 3 and self.decode is None:
            raise ValueError(
                "Images (height, width, channels) are measured. Received a model of "
                f"{network.data_shape}: give `decode`, from samples to images."
            )
        if network.conditional and network.num_classes is None:
            raise ValueError("Only models of classes, or without any condition, are measured.")
        if network.conditional and labels == "none":
            raise ValueError(
                f"This model has {network.num_classes} classes: labels are balanced or random. "
                "The protocol says 'none'."
            )
        if not network.conditional and labels != "none":
            raise ValueError(
                f"This model knows no classes: labels must be 'none'. The protocol says {labels!r}."
            )

    def __call__(self, flow_map, *, verbose=0):
        """A report for each number of steps, as `measure` gives it."""
        return [self.measure(flow_map, steps, verbose=verbose) for steps in self.steps]

    def measure(self, flow_map, steps, *, verbose=0):
        """The report of one number of steps: that of `evaluate_images`, and what was sampled how.

        Args:
            flow_map: the model; its `average` says which weights.
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

    def batches(self, flow_map, steps=None, *, sampler=None):
        """Yields the samples of so many jumps, or of a `Sampler`: float images in [-1, 1]."""
        n, labels = self.protocol.samples, self.labels(flow_map.network.num_classes)
        size = min(self.batch_size, n)
        for first in range(0, n, size):
            rows = np.minimum(np.arange(first, first + size), n - 1)  # padded: one compiled shape
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

    def labels(self, classes):
        """The labels of all samples, int32, as the protocol says; None without classes."""
        n = self.protocol.samples
        if self.protocol.labels == "none":
            return None
        if self.protocol.labels == "balanced":
            return (np.arange(n) % classes).astype("int32")
        philox = np.random.Philox(key=np.array([self.seed, LABELS_NUMBER], "uint64"))
        return np.random.Generator(philox).integers(classes, size=n, dtype="int32")

    @property
    def has_pairs(self):
        """Whether KID and the metrics of neighbours will be measured."""
        features = self.reference.features
        rows = 0 if features is None else min(len(features), self.protocol.samples, self.pairwise)
        return rows >= FEWEST_PAIRWISE


def open_reference(
    reference,
    extract,
    name=None,
    *,
    image_size=None,
    channels=None,
    pairwise=PAIRWISE,
    batch_size=64,
    verbose=0,
):
    """Reference statistics: those of an `.npz` file, or made now from data.

    Args:
        reference: a file of statistics, or data as `metrics.images.Images` reads it.
        extract: the feature network, for data.
        name: what to call statistics made of data; by default what the data is called.
        image_size: side of the images of a folder.
        channels: of the images of a folder.
        pairwise: how many rows of features to keep.
        batch_size: of the feature network.
        verbose: 1 for a progress bar.

    Raises:
        ValueError: for no such file or data.

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
        made = make_reference(batches, extract, path, name=name or images.name, pairwise=pairwise)
        features = np.array(made.features)  # off the disk, before its folder goes
    return dataclasses.replace(made, features=features, origin={"data": images.name})


def _reference_images(reference, image_size, channels):
    try:
        return Images(reference, image_size=image_size, channels=channels)
    except ValueError as error:
        raise ValueError(
            f"A reference is a file of statistics (mu/sigma or ref_mu/ref_sigma) or data. {error}"
        ) from error


def with_progress(batches, total, verbose=1):
    """The batches as they are, with a progress bar over `total` images."""
    bar = keras.utils.Progbar(total, unit_name="image", verbose=int(bool(verbose)))
    for batch in batches:
        yield batch
        bar.add(len(batch))
