"""Files on disk: atomic writes, a download cache, and readers that run no code.

A file is written completely or not at all, and a published file is fetched once, into the cache.
Containers are `.safetensors`, torch files, `.npz`, msgpack and orbax folders. They are read without
torch or flax, and a pickle is never run. The results are arrays by name:
`formats/` maps these to the weights of a network.
"""

from keras_meanflow.files.atomic import (
    write_atomically,
)
from keras_meanflow.files.cache import (
    cache_folder,
)
from keras_meanflow.files.fetching import (
    fetch,
)
from keras_meanflow.files.readers import (
    read_weights,
)
from keras_meanflow.files.writers import (
    write_weights,
)

__all__ = [
    "cache_folder",
    "fetch",
    "read_weights",
    "write_atomically",
    "write_weights",
]
