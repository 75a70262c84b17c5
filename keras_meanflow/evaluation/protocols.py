"""How a number was measured: a frozen record that is stored with the number."""

from __future__ import annotations

import dataclasses
import json
import string
from typing import Any

import numpy as np

from keras_meanflow.features.extractor import FeatureExtractor
from keras_meanflow.metrics.reference import Reference

OFFSETS = {"nearest": 128.0, "down": 127.5}  # pixel = floor(127.5 x + offset)
LABELS = ("balanced", "random", "none")
SHARED = ("features", "resize", "weights")  # must be equal for samples and reference
FILE_NAME = frozenset(string.ascii_letters + string.digits + ".-_+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that a Frechet distance depends on, except the model.

    Args:
        features: Name of the feature network.
        resize: How images are resized for the network: "LegacyBilinear 299", "none", ...
        weights: SHA-256 of the network's weights; empty if there is no file.
        samples: The number of generated images.
        labels: "balanced" over the classes, "random", or "none" for an unconditional model.
        reference: Name of the reference statistics.
        rounding: "nearest", `floor(127.5 x + 128)`, as in MeanFlow and ADM; or "down",
            `floor(127.5 x + 127.5)`.
        name: Of the protocol; it is part of the names of files with its numbers.

    Raises:
        ValueError: For an unknown rounding or kind of labels, fewer than 2 samples, or a name with
            characters that are not allowed.

    Example:
        >>> protocol = Protocol.of(extract, samples=10_000, labels="balanced", reference="mnist")
        >>> Protocol.from_json(protocol.to_json()) == protocol
        True
    """

    features: str
    resize: str
    weights: str
    samples: int
    labels: str
    reference: str
    rounding: str = "nearest"
    name: str = ""

    def __post_init__(self):
        if not set(self.name) <= FILE_NAME:
            raise ValueError(
                "A protocol's name is letters, digits, '.', '-', '_' or '+'. "
                f"Received {self.name!r}."
            )
        if self.rounding not in OFFSETS:
            raise ValueError(f"`rounding` is one of {list(OFFSETS)}. Received {self.rounding!r}.")
        if self.labels not in LABELS:
            raise ValueError(f"`labels` is one of {LABELS}. Received {self.labels!r}.")
        if self.samples < 2:
            raise ValueError(f"A protocol needs 2 samples or more. Received {self.samples}.")

    @classmethod
    def of(cls, extract: FeatureExtractor, **fields: Any) -> Protocol:
        """The protocol with the features, resize and weights of an extractor."""
        return cls(**described(extract), **fields)

    @classmethod
    def from_dict(cls, fields: dict) -> Protocol:
        """The protocol of a dict from `to_dict`.

        Raises:
            ValueError: For a field that is missing or unknown.
        """
        known = {field.name: field.default for field in dataclasses.fields(cls)}
        missing = [n for n, value in known.items() if value is dataclasses.MISSING]
        missing = [name for name in missing if name not in fields]
        unknown = sorted(set(fields) - set(known))
        if missing or unknown:
            raise ValueError(
                f"A protocol has the fields {', '.join(known)}. "
                f"Missing: {', '.join(missing) or 'none'}. Unknown: {', '.join(unknown) or 'none'}."
            )
        return cls(**fields)

    @classmethod
    def from_json(cls, text: str) -> Protocol:
        """The protocol of a text from `to_json`."""
        return cls.from_dict(json.loads(text))

    def to_dict(self) -> dict:
        """The fields by name, JSON values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The fields as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def changed(self, **changes: Any) -> Protocol:
        """This protocol with other values, which are added to its name: "mnist-lenet-5000".

        Example:
            >>> find_protocol("mnist-lenet").changed(samples=5_000).name
            'mnist-lenet-5000'
        """
        new = {name: value for name, value in changes.items() if value != getattr(self, name)}
        name = "-".join(filter(None, [self.name, *map(str, new.values())]))
        return dataclasses.replace(self, **new, name=name)

    def quantise(self, images: np.ndarray) -> np.ndarray:
        """uint8 pixels of images in [-1, 1]: `quantise` with this protocol's rounding."""
        return quantise(images, self.rounding)

    def check_extractor(self, extract: FeatureExtractor) -> None:
        """Raise a ValueError if features, resize or weights are not the protocol's."""
        self._check(described(extract), "the feature network")

    def check_reference(self, reference: Reference) -> None:
        """Raise a ValueError for another reference, or other features, resize or weights.

        A reference that does not say how it was made is accepted.
        """
        if reference.protocol is not None:
            theirs = {**reference.protocol, "reference": reference.protocol.get("name")}
            self._check(theirs, "the reference statistics", (*SHARED, "reference"))

    def _check(self, theirs, owner, names=SHARED):
        for name in names:
            if theirs.get(name) != getattr(self, name):
                raise ValueError(
                    f"The protocol and {owner} must agree on `{name}`. The protocol says "
                    f"{getattr(self, name)!r}, {owner} {theirs.get(name)!r}."
                )


def described(extract: FeatureExtractor) -> dict[str, str]:
    """The fields of a protocol that describe a feature network."""
    return {"features": extract.name, "resize": extract.resize, "weights": extract.checksum}


def quantise(images: np.ndarray, rounding: str = "nearest") -> np.ndarray:
    """uint8 pixels of float images in [-1, 1], clipped; uint8 images are returned unchanged.

    Raises:
        ValueError: For NaN or infinity.
    """
    if images.dtype == np.uint8:
        return images
    bad = ~np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if bad.any():
        raise ValueError(
            "Images must be finite. Received NaN or infinity in "
            f"{bad.sum()} of {len(bad)} images of a batch, first in image {bad.argmax()}."
        )
    pixels = np.floor(127.5 * images.astype(np.float32) + OFFSETS[rounding])
    return np.clip(pixels, 0, 255).astype(np.uint8)
