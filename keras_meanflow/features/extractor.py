"""From uint8 images to features, computed as in published protocols."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers

from keras_meanflow.features import dinov2, inception, lenet, squeezenet
from keras_meanflow.features.precision import float32_policy
from keras_meanflow.features.published import PUBLISHED, find_weights
from keras_meanflow.features.resize import Bicubic, LegacyBilinear, Resample
from keras_meanflow.files.cache import check_sha256
from keras_meanflow.files.readers import read_weights

PUBLISHED_CHECKSUM = "published"


class FeatureExtractor:
    """A network with its preprocessing: uint8 images (N, H, W, C) to features (N, D).

    If the network takes three channels, a single channel is repeated. Each image size compiles
    once. A smaller last batch is padded to the size of the batches before.

    Args:
        name: The name of these features in a protocol.
        network: Any model from preprocessed images to (N, D), or to a dict with `features` and
            optionally `logits`.
        preprocess: Layers applied to float32 pixels in 0..255, in order; a `Resample` first.
        checksum: SHA-256 of the weights, for the protocol; empty where there is no file.

    Raises:
        ValueError: When called on other than uint8 images, or the output is not (N, D).

    Example:
        >>> extract = FeatureExtractor.lenet("lenet_mnist_fid.pth")
        >>> extract(np.zeros((2, 28, 28, 1), "uint8"))["features"].shape
        (2, 84)
    """

    def __init__(
        self,
        name: str,
        network: keras.Model,
        preprocess: Sequence[keras.layers.Layer] = (),
        *,
        checksum: str = "",
    ):
        self.name, self.network, self.checksum = name, network, checksum
        self.preprocess = tuple(preprocess)
        self._models = {}
        self._batch_size = None

    @classmethod
    def inception(
        cls, path: str | Path | None = None, *, checksum: str | None = PUBLISHED_CHECKSUM
    ) -> FeatureExtractor:
        """FID's Inception-v3 of 2015: TensorFlow-1 bilinear resize to 299, 2048 features, logits.

        Args:
            path: `pt_inception-2015-12-05-6726825d.pth`; None uses the cache.
            checksum: The SHA-256 that the file must have; None accepts any file.
        """
        path, found = _weights("inception", path, checksum)
        with float32_policy():
            network = inception.inception_v3()
            scale = [LegacyBilinear(299), layers.Rescaling(1 / 128, offset=-1.0)]
        inception.load_inception(network, read_weights(path))
        return cls("inception-2015", network, scale, checksum=found)

    @classmethod
    def dinov2(
        cls, path: str | Path | None = None, *, checksum: str | None = PUBLISHED_CHECKSUM
    ) -> FeatureExtractor:
        """DINOv2 ViT-L/14 on 224 px, as in FD-DINOv2: antialiased bicubic resize, 1024 features.

        Args:
            path: `dinov2_vitl14_pretrain.pth`; None uses the cache.
            checksum: The SHA-256 that the file must have; None accepts any file.
        """
        path, found = _weights("dinov2-l", path, checksum)
        with float32_policy():
            network = dinov2.dinov2(dinov2.SIZES["l"], 224)
            scale = [Bicubic(224), _standardise(255 * np.array(dinov2.MEAN), dinov2.DEVIATION)]
        dinov2.load_dinov2(network, read_weights(path))
        return cls("dinov2-vitl14", network, scale, checksum=found)

    @classmethod
    def squeezenet(
        cls,
        path: str | Path | None = None,
        *,
        resize: Resample | None = None,
        checksum: str | None = PUBLISHED_CHECKSUM,
    ) -> FeatureExtractor:
        """SqueezeNet 1.1: 512 features of small colour images (48 px or more after the resize).

        Args:
            path: The Keras-1 HDF5 file without classifier; None uses the cache.
            resize: Enlarges images below 48 px; None keeps the size.
            checksum: The SHA-256 that the file must have; None accepts any file.
        """
        path, found = _weights("squeezenet", path, checksum)
        with float32_policy():
            network = squeezenet.squeezenet()
            scale = [*filter(None, [resize]), squeezenet.BlueFirst()]
        squeezenet.load_squeezenet(network, path)
        return cls("squeezenet-1.1", network, scale, checksum=found)

    @classmethod
    def lenet(
        cls,
        path: str | Path | None = None,
        *,
        resize: Resample | None = None,
        checksum: str | None = PUBLISHED_CHECKSUM,
    ) -> FeatureExtractor:
        """The LeNet trained on MNIST: images (N, 28, 28, 1), 84 features.

        Args:
            path: `lenet_mnist_fid.pth`; None uses the cache.
            resize: Resizes other images to 28 px; None keeps the size.
            checksum: The SHA-256 that the file must have; None accepts any file.
        """
        path, found = _weights("lenet", path, checksum)
        with float32_policy():
            network = lenet.lenet()
            scale = [*filter(None, [resize]), layers.Rescaling(1 / 255)]
        lenet.load_lenet(network, read_weights(path))
        return cls("lenet-mnist", network, scale, checksum=found)

    @property
    def resize(self) -> str:
        """The resize in words: "LegacyBilinear 299", or "none"."""
        resample = [layer for layer in self.preprocess if isinstance(layer, Resample)]
        return f"{type(resample[0]).__name__} {resample[0].size}" if resample else "none"

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """`features` and, if the network has them, `logits`: float32 arrays of N rows."""
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                "Features are computed from uint8 images (N, H, W, C). "
                f"Received {images.dtype} {images.shape}."
            )
        count = len(images)
        self._batch_size = max(self._batch_size or 0, count)
        padded = np.resize(images, (self._batch_size, *images.shape[1:]))
        outputs = self._model(images.shape[1:]).predict_on_batch(padded.astype(np.float32))
        return {name: np.asarray(x, np.float32)[:count] for name, x in outputs.items()}

    def _model(self, shape):
        if shape not in self._models:
            with float32_policy():
                self._models[shape] = self._built(shape)
        return self._models[shape]

    def _built(self, shape):
        pixels = keras.Input(shape)
        expected = self.network.inputs[0].shape[-1]
        x = pixels
        if shape[-1] == 1 and expected == 3:
            x = layers.Concatenate()([pixels] * 3)
        for layer in self.preprocess:
            x = layer(x)
        _check_fit(self.name, x.shape[1:], self.network.inputs[0].shape[1:])
        outputs = self.network(x)
        if not isinstance(outputs, dict):
            outputs = {"features": outputs}
        if len(outputs["features"].shape) != 2:
            raise ValueError(
                "A feature network must give (N, width). "
                f"{self.name!r} gives {outputs['features'].shape}."
            )
        return keras.Model(pixels, outputs)


def _weights(name, path, checksum):
    path = find_weights(name, path)
    expected = PUBLISHED[name].sha256 if checksum == PUBLISHED_CHECKSUM else checksum
    return path, check_sha256(path, expected)


def _standardise(mean, deviation):
    return layers.Normalization(mean=mean, variance=(255 * np.array(deviation)) ** 2)


def _check_fit(name, shape, expected):
    if any(want not in (None, got) for got, want in zip(shape, expected, strict=True)):
        raise ValueError(
            f"The features {name!r} need images of {expected}. Received {shape} after the resize."
        )
