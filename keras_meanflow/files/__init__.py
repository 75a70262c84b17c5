"""Files: written whole or not at all, fetched once into a cache, and read without running them.

Containers are `.safetensors`, torch files, `.npz`, msgpack and orbax folders. Nothing here knows a
Keras model: `formats/` says what the tensors in a container mean.
"""
