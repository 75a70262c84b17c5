"""No autoencoder: the pixels are the latents."""

from __future__ import annotations

from typing import Any

from keras import layers

from keras_meanflow.codecs.base import Codec
from keras_meanflow.codecs.normalisation import Normalisation
from keras_meanflow.codecs.stack import Stack
from keras_meanflow.parts.part import register


@register
class Identity(Codec):
    """The codec whose raw latents are the pixels in [-1, 1] themselves.

    Args:
        depth: channels of the images.
        normalisation: of latents; default none.

    Example:

    >>> Identity().encode_pixels(np.zeros((2, 8, 8, 3))).shape
    (2, 1, 8, 8, 3)
    """

    def __init__(
        self,
        depth: int = 3,
        *,
        normalisation: Normalisation | None = None,
        name: str | None = None,
    ):
        encoder, decoder = (Stack([layers.Identity()], depth) for _ in range(2))
        super().__init__(
            encoder, decoder, factor=1, moments=1, normalisation=normalisation, name=name
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"depth": self.depth, **super().get_config()}
