"""Sources of images and latents, and the stream of batches that `fit` reads.

A source has `len(source)`, `shape`, `num_classes` and `take(indices) -> (x, y)`. `open_source`
opens one from a name, a path or arrays. `Batches` makes an endless, shuffled stream of a source:
each batch is a function of (seed, step). On disk, a `LatentStore` holds encoded images, and a
`PairStore` holds noise and a teacher's samples.
"""

from keras_meanflow.data.arrays import ArraySource, load_arrays
from keras_meanflow.data.augmentation import EDMAugmented
from keras_meanflow.data.batches import Batches
from keras_meanflow.data.digits import load_digits
from keras_meanflow.data.folder import ImageFolder
from keras_meanflow.data.fresh import FreshSamples
from keras_meanflow.data.latents import LatentStore
from keras_meanflow.data.pairs import PairStore
from keras_meanflow.data.source import open_source

__all__ = [
    "ArraySource",
    "Batches",
    "EDMAugmented",
    "FreshSamples",
    "ImageFolder",
    "LatentStore",
    "PairStore",
    "load_arrays",
    "load_digits",
    "open_source",
]
