"""The base class of codecs."""

from __future__ import annotations

import hashlib
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_meanflow.codecs.normalisation import Normalisation

CODEC = "codec.keras"  # the file of the codec in a store, a run or a preset


class Codec(keras.Model):
    """Pixels in [-1, 1] to raw latents to normalised latents, and back to pixels.

    Raw latents are what a store keeps, `(n, moments, h, w, channels)`: the latent itself, or the
    mean and the standard deviation of an encoder that gives a distribution. Normalised latents
    `(n, h, w, channels)` are what a flow map learns. All three methods take and return NumPy
    arrays. A codec saves and loads as any Keras model, its normalisation included.

    Args:
        encoder: `Stack` from pixels `(n, h * factor, w * factor, depth)` to
            `(n, h, w, moments * channels)`.
        decoder: `Stack` from raw latents `(n, h, w, channels)` to pixels.
        factor: pixels per latent, in each direction.
        moments: 1, or 2 for mean and standard deviation.
        normalisation: of latents; None for none.
    """

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        *,
        factor: int,
        moments: int,
        normalisation: Normalisation | None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.encoder, self.decoder = encoder, decoder
        self.factor, self.moments = factor, moments
        self.depth, self.channels = encoder.channels, decoder.channels
        self.normalisation = normalisation or Normalisation()
        self.built = True

    def call(self, x: Any) -> Any:
        """Returns the reconstruction of pixels, from the means of their latents."""
        return self.decoder(self.encoder(x)[..., : self.channels])

    def encode_pixels(self, x: np.ndarray, batch_size: int = 16) -> np.ndarray:
        """Returns raw latents `(n, moments, h, w, channels)` of pixels in [-1, 1].

        Raises:
            ValueError: for another number of channels, or a height or width that is no multiple
                of `factor`.
        """
        self._check_pixels(x)
        raw = _in_batches(self.encoder, x, batch_size)
        raw = raw.reshape(*raw.shape[:3], self.moments, self.channels)
        return np.moveaxis(raw, 3, 1)

    def encode_latents(self, raw: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """Returns normalised latents of raw ones: `(mean + std * noise - shift) / scale`.

        Args:
            raw: `(n, moments, h, w, channels)`.
            noise: standard normal `(n, h, w, channels)`; None takes the means.
        """
        x = raw[:, 0].astype("float32")
        if self.moments == 2 and noise is not None:
            x += raw[:, 1] * noise
        return self.normalisation(x)

    def decode(self, z: np.ndarray, batch_size: int = 16) -> np.ndarray:
        """Returns pixels, about [-1, 1], of normalised latents.

        Raises:
            ValueError: for latents of another number of channels.
        """
        self.check_latents(z.shape[1:])
        return _in_batches(self.decoder, self.normalisation.inverse(z), batch_size)

    def picture(self, z: np.ndarray) -> np.ndarray:
        """Returns images in [-1, 1] that show normalised latents: their pixels."""
        return self.decode(z)

    def check_latents(self, shape: tuple[int, ...]) -> None:
        """Raises a ValueError unless `shape`, without the batch axis, is that of a latent."""
        if len(shape) != 3 or shape[-1] != self.channels:
            raise ValueError(
                f"{type(self).__name__} has latents of {self.channels} channels. Received latents "
                f"of {tuple(shape)}: they are of another codec."
            )

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that name the weights, the same on every backend."""
        digest = hashlib.sha256()
        for variable in self.variables:
            digest.update(np.ascontiguousarray(ops.convert_to_numpy(variable.value), "float32"))
        return digest.hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """Returns what identifies this codec, as JSON values: class, weights, normalisation."""
        return {
            "class": type(self).__name__,
            "fingerprint": self.fingerprint(),
            "normalisation": {
                "mean": list(self.normalisation.mean),
                "std": list(self.normalisation.std),
            },
        }

    def get_config(self) -> dict[str, Any]:
        """The normalisation; a subclass adds its arguments."""
        return {"normalisation": keras.saving.serialize_keras_object(self.normalisation)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The codec with these settings."""
        normalisation = keras.saving.deserialize_keras_object(config["normalisation"])
        return cls(**{**config, "normalisation": normalisation})

    def _check_pixels(self, x):
        wrong = x.ndim != 4 or x.shape[-1] != self.depth
        if wrong or x.shape[1] % self.factor or x.shape[2] % self.factor:
            raise ValueError(
                f"{type(self).__name__} encodes images (n, height, width, {self.depth}) of sides "
                f"that are multiples of {self.factor}. Received {x.shape}."
            )


def _in_batches(model, x, batch_size):
    """The outputs for all rows; the last batch is filled up, so that only one shape is compiled."""
    x = np.asarray(x, "float32")
    if len(x) <= batch_size:
        return ops.convert_to_numpy(model.predict_on_batch(x))
    outputs = []
    for start in range(0, len(x), batch_size):
        rows = x[start : start + batch_size]
        filled = np.concatenate([rows, np.repeat(rows[-1:], batch_size - len(rows), axis=0)])
        outputs.append(ops.convert_to_numpy(model.predict_on_batch(filled))[: len(rows)])
    return np.concatenate(outputs)
