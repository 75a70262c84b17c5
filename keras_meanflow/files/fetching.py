"""Fetches a file from an address into the cache, once."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from keras_meanflow.files.atomic import write_atomically
from keras_meanflow.files.cache import cache_folder, check_sha256

HUGGING_FACE = "hf://"


def fetch(address: str, sha256: str | None = None) -> Path:
    """The path of a file in the cache; the file is downloaded if it is not there.

    The cache is `$KMF_CACHE`, or `~/.cache/keras_meanflow`.

    Args:
        address: `https://...` or `hf://OWNER/REPOSITORY/FILE`. A revision other than `main`
            follows the repository as `@REVISION`. `$HF_ENDPOINT` names a mirror.
        sha256: expected checksum of the file, or None if it is not known.

    Raises:
        ValueError: for another kind of address, an address that cannot be read, or a file with
            another checksum.

    Example:
        >>> path = fetch("hf://Lyy0725/iMF/iMF-B-2.pth")
    """
    url, place = _url(address) if address.startswith(HUGGING_FACE) else _place(address)
    path = cache_folder() / place
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_atomically(path, lambda partial: _download(url, partial))
        except urllib.error.URLError as error:
            raise ValueError(f"{url} cannot be read: {error}.") from error
    check_sha256(path, sha256)
    return path


def split_address(address: str) -> tuple[str, str, str]:
    """The repository, revision and file of `hf://OWNER/REPOSITORY@REV/FILE`; "" without a file.

    Raises:
        ValueError: for an address without a repository.
    """
    parts = address.removeprefix(HUGGING_FACE).split("/")
    if len(parts) < 2 or not all(parts[:2]) or ".." in parts:
        raise ValueError(f"An address is hf://OWNER/REPOSITORY[/FILE]. Received: {address!r}.")
    name, _, revision = parts[1].partition("@")
    return f"{parts[0]}/{name}", revision or "main", "/".join(parts[2:])


def _url(address):
    repository, revision, file = split_address(address)
    if not file:
        raise ValueError(
            f"The address of a file is hf://OWNER/REPOSITORY/FILE. Received: {address!r}."
        )
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    place = Path("hf", *repository.split("/"), revision, *file.split("/"))
    return f"{endpoint}/{repository}/resolve/{revision}/{file}", place


def _place(address):
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"An address begins with hf:// or https://. Received: {address!r}.")
    return address, Path("web", parts.netloc, *filter(None, parts.path.split("/")))


def _download(url, path):
    with urllib.request.urlopen(url) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target)
