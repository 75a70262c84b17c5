"""Codecs: pixels to the latents that a model learns, and back."""

from keras_meanflow.codecs.base import Codec
from keras_meanflow.codecs.identity import Identity
from keras_meanflow.codecs.normalisation import IMF, SD_SCALE, Normalisation
from keras_meanflow.codecs.rae import RAE
from keras_meanflow.codecs.sd_vae import SDVAE
from keras_meanflow.codecs.taef2 import TAEF2

__all__ = [
    "IMF",
    "RAE",
    "SDVAE",
    "SD_SCALE",
    "TAEF2",
    "Codec",
    "Identity",
    "Normalisation",
]
