"""Fetches a file from an address into the cache, once."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from keras_meanflow.files.atomic import sha256_of, write_atomically, write_text
from keras_meanflow.files.cache import cache_folder, check_sha256
from keras_meanflow.files.inside import inside

HUGGING_FACE = "hf://"
TIMEOUT = 60.0  # seconds in which a server must send something
CHUNK = 2**20  # bytes


def fetch(address: str, sha256: str | None = None) -> Path:
    """The path of a file in the cache; the file is downloaded if it is not there.

    The cache is `$KMF_CACHE`, or `~/.cache/keras_meanflow`. The folder `sha256` in it keeps the
    checksum of each file as it came, which is compared whenever the file is used.

    Args:
        address: `https://...` or `hf://OWNER/REPOSITORY/FILE`. A revision other than `main`
            follows the repository as `@REVISION`. `$HF_ENDPOINT` names a mirror.
        sha256: expected checksum of the file, or None if it is not known.

    Raises:
        ValueError: for another kind of address, such as http://, for a name that leads out of the
            cache, an address that cannot be read or does not send all, or a file with another
            checksum.

    Example:
        >>> path = fetch("hf://Lyy0725/iMF/iMF-B-2.pth")
    """
    url, place = _url(address) if address.startswith(HUGGING_FACE) else _place(address)
    path, record = inside(cache_folder(), place), inside(cache_folder() / "sha256", place)
    if not path.exists():
        found = download(url, path, sha256)
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text(record, found)
    if sha256 is None and record.is_file():
        sha256 = record.read_text("utf-8")
    check_sha256(path, sha256)
    return path


def download(url: str, path: Path, sha256: str | None = None) -> str:
    """Download a file, completely or not at all; returns its SHA-256.

    Args:
        url: `https://...`. An address on this machine may begin with http://.
        path: where it goes.
        sha256: the checksum that it must have; by default that of the Hugging Face hub, if it sends
            one.

    Raises:
        ValueError: for a server that answers with an error, sends nothing for a minute, or less
            than it announced; for a redirection that is not encrypted; for another checksum.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    answer = _Redirections()

    def write(partial):
        with open(partial, "wb") as file:
            for chunk in _chunks(url, answer):
                file.write(chunk)
        check_sha256(partial, sha256 or answer.checksum)

    write_atomically(path, write)
    return sha256_of(path)


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
    url = f"{endpoint}/{quote(repository)}/resolve/{quote(revision, safe='')}/{quote(file)}"
    return url, f"hf/{repository}/{revision}/{file}"


def _place(address):
    """The address, and its place in the cache; what follows a "?" is a part of the name."""
    parts = urlsplit(address)
    if parts.scheme != "https":
        raise ValueError(f"An address begins with hf:// or https://. Received: {address!r}.")
    place = Path(f"web/{parts.netloc}{parts.path}")
    if parts.query:
        digest = hashlib.sha256(parts.query.encode()).hexdigest()[:16]
        place = place.with_name(f"{place.stem}-{digest}{place.suffix}")
    return address, place


def _chunks(url, answer) -> Iterator[bytes]:
    """Yields what an address sends; an answer that stalls or is cut short is an error."""
    try:
        _check_encrypted(url, url)
        opener = urllib.request.build_opener(answer)
        with opener.open(url, timeout=TIMEOUT) as source:
            answer.note(source.headers)
            announced, received = source.headers.get("Content-Length"), 0
            while chunk := source.read(CHUNK):
                received += len(chunk)
                yield chunk
            if announced is not None and received != int(announced):
                raise OSError(f"{received:,} of {int(announced):,} bytes came")
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"{url} cannot be read: {error}.") from error


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follows redirections that are encrypted; keeps the checksum that the hub sends."""

    checksum = None

    def redirect_request(self, request, file, code, message, headers, url):
        self.note(headers)
        _check_encrypted(url, request.full_url)
        return super().redirect_request(request, file, code, message, headers, url)

    def note(self, headers):
        digits = headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch("[0-9a-f]{64}", digits):
            self.checksum = digits


def _check_encrypted(url, asked):
    """Refuse what is not https, unless it is on this machine and was asked for."""
    here = ("localhost", "127.0.0.1", "::1")
    local = all(urlsplit(u).scheme == "http" and urlsplit(u).hostname in here for u in (url, asked))
    if urlsplit(url).scheme != "https" and not local:
        raise OSError(f"{url} is not encrypted; use https")
