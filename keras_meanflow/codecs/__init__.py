"""Codecs: from pixels to the latents that a model learns, and back.

An encoder turns pixels into raw latents, which a store keeps. A normalisation turns raw latents
into those that a flow map learns. Decoding goes the other way. `SDVAE`, `TAEF2` and `RAE` are
autoencoders that load published weights; `Identity` is for models that learn the pixels themselves.
"""

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
