"""Published weights of feature networks: addresses, checksums, and the cache.

Only `fetch_weights` downloads files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from keras_meanflow.files.cache import cache_folder, check_sha256
from keras_meanflow.files.fetching import download


class Published(NamedTuple):
    """A file of weights: its address (None if there is none) and its SHA-256."""

    url: str | None
    sha256: str


GITHUB = "https://github.com/"
PUBLISHED = {
    "inception": Published(
        GITHUB + "toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    "dinov2-l": Published(
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    ),
    "squeezenet": Published(
        GITHUB + "rcmalli/keras-squeezenet/releases/download/v1.0/"
        "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "17154246284f555591549ac2c83e127abfbf4307dc4b0060fdaa2931d0fa38da",
    ),
    "lenet": Published(None, "26627bca2e5c378eee792d0165c3c4dcd4b6b1d351ca6b30d3ac0920fa796373"),
}


def fetch_weights(name: str) -> Path:
    """Download published weights into the cache, unless they are there, and check them.

    Args:
        name: A key of `PUBLISHED` with an address: "inception", "dinov2-l" or "squeezenet".

    Returns:
        The path of the file.

    Raises:
        ValueError: For an unknown name, a name without an address, or another checksum.

    Example:
        >>> path = fetch_weights("inception")
    """
    published = _published(name)
    if published.url is None:
        raise ValueError(f"There is no known address of {name!r}. Pass the path of its file.")
    path = cached_path(name)
    if not path.exists():
        download(published.url, path, published.sha256)
    check_sha256(path, published.sha256)
    return path


def cached_path(name: str) -> Path:
    """The path of these weights in the cache, downloaded or not."""
    return cache_folder() / f"{name}{Path(_published(name).url or '').suffix}"


def find_weights(name: str, path: str | os.PathLike | None) -> Path:
    """The given path, or the path in the cache.

    Raises:
        ValueError: When there is no such file; the message says how to download it.
    """
    found = cached_path(name) if path is None else Path(path)
    if not found.is_file():
        raise ValueError(
            f"The weights of {name!r} are not at {found}. Pass their path, or download them with "
            f"`fetch_weights({name!r})` or --fetch: nothing is downloaded by default."
        )
    return found


def _published(name):
    if name not in PUBLISHED:
        raise ValueError(f"Published weights are {sorted(PUBLISHED)}. Received {name!r}.")
    return PUBLISHED[name]
