"""Protocols by name, and their feature networks."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from keras_meanflow.evaluation.protocols import Protocol
from keras_meanflow.features.extractor import PUBLISHED_CHECKSUM, FeatureExtractor
from keras_meanflow.features.published import PUBLISHED, fetch_weights
from keras_meanflow.features.resize import resize_of
from keras_meanflow.files.cache import check_sha256
from keras_meanflow.files.reading import read_json
from keras_meanflow.files.saved import load_saved

# Name of the features in protocols -> name of the published weights, function for the network.
NETWORKS = {
    "inception-2015": ("inception", FeatureExtractor.inception),
    "dinov2-vitl14": ("dinov2-l", FeatureExtractor.dinov2),
    "squeezenet-1.1": ("squeezenet", FeatureExtractor.squeezenet),
    "lenet-mnist": ("lenet", FeatureExtractor.lenet),
}
SHORT = {short: name for name, (short, _) in NETWORKS.items()}
OWN_RESIZE = ("inception-2015", "dinov2-vitl14")


def _named(name, features, resize, samples, labels, reference):
    checksum = PUBLISHED[NETWORKS[features][0]].sha256
    return Protocol(
        name=name,
        features=features,
        resize=resize,
        weights=checksum,
        samples=samples,
        labels=labels,
        reference=reference,
    )


_INCEPTION = ("inception-2015", "LegacyBilinear 299")
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        _named("digits-lenet", "lenet-mnist", "Bicubic 28", 1_000, "balanced", "digits:test"),
        _named("mnist-lenet", "lenet-mnist", "none", 10_000, "balanced", "mnist-train"),
        _named(
            "eurosat-squeezenet", "squeezenet-1.1", "Bicubic 64", 9_000, "balanced", "eurosat-train"
        ),
        _named("cifar10-inception", *_INCEPTION, 50_000, "none", "cifar10-train"),
        # As in Mean Flows (arXiv 2505.13447) and its code: 50,000 samples of random classes.
        _named("imagenet256-inception", *_INCEPTION, 50_000, "random", "imagenet256-train"),
        _named(
            "imagenet256-dinov2",
            "dinov2-vitl14",
            "Bicubic 224",
            50_000,
            "random",
            "imagenet256-train",
        ),
    )
}


def find_protocol(name: str | Path) -> Protocol:
    """The protocol of a name in `PROTOCOLS`, or of a `.json` file.

    A protocol in a file without the field `name` gets the name of the file.

    Raises:
        ValueError: For an unknown name, or a file that holds no protocol.

    Example:
        >>> find_protocol("mnist-lenet").samples
        10000
    """
    if str(name) in PROTOCOLS:
        return PROTOCOLS[str(name)]
    path = Path(name)
    if path.suffix != ".json":
        near = difflib.get_close_matches(str(name), PROTOCOLS, n=3, cutoff=0.5)
        raise ValueError(
            f"There is no protocol {str(name)!r}. "
            + (f"Did you mean {' or '.join(near)}? " if near else "")
            + f"Protocols are {', '.join(PROTOCOLS)}, or a .json file."
        )
    if not path.is_file():
        raise ValueError(f"There is no protocol file {path}.")
    try:
        return Protocol.from_dict({"name": path.stem, **read_json(path)})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold a protocol. {error}") from error


def open_features(
    features: str,
    *,
    resize: str | None = None,
    weights: str | Path | None = None,
    checksum: str | None = PUBLISHED_CHECKSUM,
    fetch: bool = False,
) -> FeatureExtractor:
    """The feature network of a name, with its weights.

    Args:
        features: "lenet", "inception", "dinov2-l" or "squeezenet", or their names in protocols. Any
            other name stands for a `keras.Model` from float pixels 0..255 to (N, width).
        resize: "Bicubic 28", ..., or "none"; None is the network's default.
        weights: The weights file; for a `keras.Model` its `.keras` file. None uses the cache.
        checksum: The SHA-256 that the file must have.
        fetch: Whether to download published weights that are not in the cache.

    Raises:
        ValueError: For weights that are absent or have another checksum, and for another resize
            than the network's, if that is fixed.

    Example:
        >>> open_features("lenet", resize="Bicubic 28", weights="lenet_mnist_fid.pth").resize
        'Bicubic 28'
    """
    features = SHORT.get(features, features)
    if features not in NETWORKS:
        return _keras_features(features, resize, weights, checksum)
    short, make = NETWORKS[features]
    if weights is None and fetch:
        weights = fetch_weights(short)
    if features not in OWN_RESIZE:
        resize = resize_of(resize or "none")
        return make(weights, resize=resize, checksum=checksum)  # type: ignore[call-arg]
    extract = make(weights, checksum=checksum)
    if resize not in (None, extract.resize):
        raise ValueError(f"{features} has a fixed resize, {extract.resize}. Received {resize!r}.")
    return extract


def _keras_features(name, resize, weights, checksum):
    if weights is None or Path(weights).suffix != ".keras":
        raise ValueError(
            f"Features are {', '.join(SHORT)}, or any other name with the .keras file of its "
            f"network as weights. Received {name!r} with weights {weights}."
        )
    if not Path(weights).is_file():
        raise ValueError(f"There is no file {weights}.")
    found = check_sha256(weights, None if checksum == PUBLISHED_CHECKSUM else checksum)
    layer = resize_of(resize or "none")
    network = load_saved(weights)
    return FeatureExtractor(name, network, [layer] if layer else [], checksum=found)


def open_protocol(
    protocol: str | Path | None = None,
    *,
    features: str | None = None,
    resize: str | None = None,
    weights: str | Path | None = None,
    fetch: bool = False,
    **changes: Any,
) -> tuple[Protocol, FeatureExtractor]:
    """A protocol and its feature network: from the protocol's name, or from features.

    Args:
        protocol: A name in `PROTOCOLS` or a `.json` file; the weights must have its checksum.
        features: As in `open_features`, without a `protocol`.
        resize: As in `open_features`, without a `protocol`.
        weights: The weights file.
        fetch: As in `open_features`.
        **changes: Other values for fields of `Protocol`. A protocol from features has 10,000
            samples, balanced labels and the rounding "nearest" by default.

    Raises:
        ValueError: For neither or both of `protocol` and `features`, and as in `find_protocol` and
            `open_features`.

    Example:
        >>> open_protocol("mnist-lenet", weights="lenet_mnist_fid.pth", samples=5_000)
    """
    if (protocol is None) == (features is None):
        raise ValueError(
            "Give either a protocol, or features. "
            f"Received protocol={protocol}, features={features}."
        )
    if protocol is None:
        extract = open_features(features, resize=resize, weights=weights, fetch=fetch)
        changes = {"samples": 10_000, "labels": "balanced", "reference": "", **changes}
        return Protocol.of(extract, name=extract.name, **changes), extract
    if resize is not None:
        raise ValueError(f"The protocol {protocol} has a fixed resize. Received {resize!r}.")
    found = find_protocol(protocol).changed(**changes)
    extract = open_features(
        found.features, resize=found.resize, weights=weights, checksum=found.weights, fetch=fetch
    )
    found.check_extractor(extract)
    return found, extract
