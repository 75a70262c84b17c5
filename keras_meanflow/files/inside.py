"""Names that come from others, as paths inside a folder."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath


def inside(folder: str | os.PathLike, name: str | os.PathLike) -> Path:
    """The path of `name` in a folder; every name that a file or an address gives goes through here.

    Args:
        folder: the folder. It need not exist, and may be a link.
        name: a relative path with "/" between its parts.

    Raises:
        ValueError: for a name that is absolute, has empty parts, `.`, `..`, a backslash or a null
            character, or leads out of the folder by a link.

    Example:
        >>> inside("store", "shard-00000.npy").as_posix()
        'store/shard-00000.npy'
    """
    text = name.as_posix() if isinstance(name, Path) else name
    if not isinstance(text, str) or not _is_plain(text):
        raise ValueError(
            f"A name must be a relative path that stays in its folder. Received {name!r}, in "
            f"{folder}."
        )
    path = Path(folder, text)
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(
            f"A file must be in its folder. {path} is a link to {path.resolve()}: copy the file."
        )
    return path


def _is_plain(text):
    parts = text.split("/")
    forbidden = any(part in ("", ".", "..") for part in parts) or "\\" in text or "\0" in text
    return not forbidden and not PureWindowsPath(text).anchor
