"""Where images and latents come from, and the stream of batches that `fit` reads."""

from keras_meanflow.data.arrays import ArraySource, load_arrays
from keras_meanflow.data.augmentation import EDMAugmented
from keras_meanflow.data.batches import Batches
from keras_meanflow.data.digits import load_digits
from keras_meanflow.data.folder import ImageFolder
from keras_meanflow.data.latents import LatentStore
from keras_meanflow.data.pairs import PairStore
from keras_meanflow.data.source import open_source

__all__ = [
    "ArraySource",
    "Batches",
    "EDMAugmented",
    "ImageFolder",
    "LatentStore",
    "PairStore",
    "load_arrays",
    "load_digits",
    "open_source",
]
