"""Published checkpoints: a file becomes a network, and a network becomes such a file.

A format is a table with one row for each weight: its name here, its names in the file, and a
lossless conversion. `load_network` and `save_network` go through it in both directions.
`add_interval` and `decouple` turn a flow model into the start of a flow map. `CHECKPOINTS` lists
published weights, and `AUTOENCODERS` lists the codecs of their latents.
"""

from keras_meanflow.formats.autoencoders import (
    AUTOENCODERS,
)
from keras_meanflow.formats.checkpoints import (
    CHECKPOINTS,
)
from keras_meanflow.formats.conversion import (
    FORMATS,
    load_network,
    save_network,
)
from keras_meanflow.formats.fine_tuning import (
    add_interval,
    decouple,
)

__all__ = [
    "AUTOENCODERS",
    "CHECKPOINTS",
    "FORMATS",
    "add_interval",
    "decouple",
    "load_network",
    "save_network",
]
