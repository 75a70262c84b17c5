"""Loads what Keras saved."""

from __future__ import annotations

import os

import keras

from keras_meanflow.files.reading import check_expansion, reading


def load_saved(path: str | os.PathLike) -> keras.Model:
    """The model in a `.keras` file, not compiled. Keras compares its checksums; it runs no code.

    Raises:
        ValueError: for a file that is damaged, holds Python code (a Lambda layer), or needs a class
            that is not imported; it names the file.

    Example:
        >>> codec = load_saved("store/codec.keras")
    """
    with reading(path):
        check_expansion(path)
        return keras.saving.load_model(path, compile=False, safe_mode=True)
