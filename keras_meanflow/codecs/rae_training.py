"""A representation autoencoder for small images: an encoder trained on labels, then a decoder."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_meanflow.backend.random import check_seed
from keras_meanflow.codecs.rae import EPSILON, RAE
from keras_meanflow.features.dinov2 import TokenAttention, Tokens


def small_vit(
    *, image_size: int, channels: int, patch_size: int, width: int, depth: int, heads: int
) -> keras.Model:
    """A small vision transformer without a class token: images to tokens (n, N, width)."""
    images = keras.Input((image_size, image_size, channels))
    x = layers.Conv2D(width, patch_size, patch_size)(images)
    x = Tokens()(layers.Reshape((-1, width))(x))[:, 1:]
    for _ in range(depth):
        y = layers.Dense(3 * width)(layers.LayerNormalization(epsilon=1e-6)(x))
        x = x + layers.Dense(width)(TokenAttention(heads)(y))
        y = layers.Dense(4 * width, "gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = x + layers.Dense(width)(y)
    return keras.Model(images, x, name="tokens")


def fit_encoder(
    encoder: keras.Model,
    source: Any,
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    verbose: int = 0,
) -> None:
    """Train a token encoder to classify images by the mean of its normalised tokens.

    Args:
        encoder: from images (n, S, S, channels) to tokens (n, N, D).
        source: a labelled data source.
        steps, batch_size, learning_rate: of Adam, whose learning rate decays to zero on a cosine.
        seed: of the order of the samples.
        verbose: as in `keras.Model.fit`.

    Raises:
        ValueError: for a source without labels.
    """
    if source.take([0])[1] is None:
        raise ValueError("An encoder is trained on labels, and this data has none: give --encoder.")
    norm = layers.LayerNormalization(epsilon=1e-6, center=False, scale=False)
    pooled = layers.GlobalAveragePooling1D()(norm(encoder.output))
    classifier = keras.Model(encoder.input, layers.Dense(source.num_classes)(pooled))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(_adam(learning_rate, steps), loss, metrics=["accuracy"])
    batches = _Batches(len(source), batch_size, seed, steps, lambda rows, _: source.take(rows))
    classifier.fit(batches, epochs=1, shuffle=False, verbose=verbose)


def fit_decoder(
    codec: RAE,
    source: Any,
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    noise: float = 0.8,
    seed: int = 0,
    verbose: int = 0,
) -> RAE:
    """The codec with a decoder trained on noisy latents, by the mean absolute error.

    A flow map's latents differ a little from those of images, so each sample's tokens get normal
    noise. Its standard deviation is uniform between 0 and `noise`. The paper also has perceptual
    and adversarial losses; they need more networks and are left out.

    Args:
        codec: a `RAE` with statistics.
        source: a data source; all its latents are held in memory.
        steps, batch_size, learning_rate: of Adam, whose learning rate decays to zero on a cosine.
        noise: tau, in the units of the tokens before the statistics.
        seed: of the order of the samples and of the noise.
        verbose: as in `keras.Model.fit`.
    """
    scale = 1.0 / np.sqrt(ops.convert_to_numpy(codec.decoder.statistics.variance) + EPSILON)
    latents = codec.encode_pixels(source.take(np.arange(len(source)))[0], batch_size)[:, 0]

    def noisy(rows, rng):
        z, tau = latents[rows], noise * rng.uniform(size=(len(rows), 1, 1, 1))
        z = z + tau * scale * rng.standard_normal(z.shape)
        return z.astype("float32"), source.take(rows)[0]

    codec.decoder.compile(_adam(learning_rate, steps), "mean_absolute_error")
    batches = _Batches(len(source), batch_size, seed, steps, noisy)
    codec.decoder.fit(batches, epochs=1, shuffle=False, verbose=verbose)
    fitted = type(codec).from_config(codec.get_config())  # without the optimizer
    fitted.set_weights(codec.get_weights())
    return fitted


def _adam(learning_rate, steps):
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=learning_rate, warmup_steps=max(steps // 20, 1)
    )
    return keras.optimizers.Adam(schedule)


class _Batches(keras.utils.PyDataset):
    """`steps` batches `make(rows, generator)` of random rows, each a function of (seed, step)."""

    def __init__(self, count, batch_size, seed, steps, make):
        super().__init__()
        self.count, self.batch_size, self.seed = count, batch_size, check_seed(seed)
        self.steps, self.make = steps, make

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, step], "uint64")))
        return self.make(rng.integers(self.count, size=self.batch_size), rng)
