"""MLP: a small network for vectors, such as the two dimensions of the `gaussian` recipe."""

from typing import Any

import keras
from keras import layers, ops

from keras_meanflow.backend import Tensor
from keras_meanflow.networks.base import Condition, Network
from keras_meanflow.networks.layers import TimeEmbedding
from keras_meanflow.parts.part import register
from keras_meanflow.parts.ranges import check_sizes


@register
class MLP(Network):
    """Dense layers on `[z, embed(t), embed(t - r), embed(label)]`.

    Args:
        data_size: length of a sample's vector.
        width: size of the hidden layers.
        depth: number of hidden layers.
        num_classes: number of classes, or None for an unconditional network.
        time_scale: factor between a time and its sinusoids.

    Example:
        >>> u = MLP(data_size=2)(z, r, t)  # z (B, 2), r, t (B,)
    """

    def __init__(
        self,
        *,
        data_size: int,
        width: int = 128,
        depth: int = 3,
        num_classes: int | None = None,
        time_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        check_sizes(data_size=data_size, width=width, depth=depth)
        super().__init__(data_shape=(data_size,), num_classes=num_classes, **kwargs)
        self.data_size, self.width, self.depth = data_size, width, depth
        self.time_scale = time_scale
        self.times = [TimeEmbedding(width, time_scale=time_scale) for _ in range(2)]
        for embedding in self.times:
            embedding.build((None,))
        if self.conditional:
            init = keras.initializers.RandomNormal(stddev=0.02)
            self.labels = layers.Embedding(
                num_classes + 1, width, embeddings_initializer=init, dtype="float32"
            )
            self.labels.build((None,))
        sizes = [data_size + width * (3 if self.conditional else 2)] + [width] * depth
        self.hidden = [layers.Dense(width, "silu", dtype=self.dtype_policy) for _ in range(depth)]
        for layer, size in zip(self.hidden, sizes[:-1], strict=True):
            layer.build((None, size))
        self.out = layers.Dense(data_size, kernel_initializer="zeros", dtype="float32")
        self.out.build((None, sizes[-1]))
        self.built = True

    def call(self, z: Tensor, r: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """The average velocity, float32 of the shape of `z`."""
        features = [z, self.times[0](t), self.times[1](t - r)]
        if self.conditional:
            features.append(self.labels(condition))
        x = ops.cast(ops.concatenate(features, axis=1), self.compute_dtype)
        for layer in self.hidden:
            x = layer(x)
        return self.out(x)

    def get_config(self) -> dict:
        """The arguments."""
        names = "data_size width depth num_classes time_scale".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
