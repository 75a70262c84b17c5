"""Pixels to latents and back; waveforms to spectrograms and back."""

from keras_meanflow.codecs.base import Codec
from keras_meanflow.codecs.identity import Identity
from keras_meanflow.codecs.normalisation import IMF, SD_SCALE, Normalisation
from keras_meanflow.codecs.rae import RAE
from keras_meanflow.codecs.sd_vae import SDVAE
from keras_meanflow.codecs.stft import STFT, pad_frames
from keras_meanflow.codecs.taef2 import TAEF2

__all__ = [
    "IMF",
    "RAE",
    "SDVAE",
    "SD_SCALE",
    "STFT",
    "TAEF2",
    "Codec",
    "Identity",
    "Normalisation",
    "pad_frames",
]
