"""The affine map from an autoencoder's raw latents to what a flow map learns."""

import numpy as np

from keras_meanflow.parts.part import Configurable, part


@part
class Normalisation(Configurable):
    """Raw latents to normalised ones and back, channel by channel: `z = (raw - mean) / std`.

    Args:
        mean: one number, or one for each channel.
        std: one number, or one for each channel; above 0.

    Raises:
        ValueError: for numbers that are not finite, a std of 0 or less, or different lengths.

    Example:

    >>> Normalisation(std=(2.0,))(np.ones((1, 4, 4, 3))).max()
    np.float32(0.5)
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        lengths = {len(self.mean), len(self.std)} - {1}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(
                f"mean and std must be one number, or one for each channel. Received {self}."
            )
        if not np.isfinite(self.mean + self.std).all() or min(self.std) <= 0:
            raise ValueError(f"mean and std must be finite, and std above 0. Received {self}.")

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Returns normalised latents of raw ones `(..., channels)`."""
        return (raw - np.float32(self.mean)) / np.float32(self.std)

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """Returns raw latents of normalised ones `(..., channels)`."""
        return z * np.float32(self.std) + np.float32(self.mean)


# Of the SD autoencoder's latents, in the released code of MeanFlow, DiT and SiT.
SD_SCALE = Normalisation(std=(1 / 0.18215,))

# Of the same latents, in the released code of improved MeanFlow (utils/vae_util.py).
IMF = Normalisation(
    mean=(0.86488, -0.27787343, 0.21616915, 0.3738409),
    std=(4.85503674, 5.31922414, 3.93725398, 3.9870003),
)
