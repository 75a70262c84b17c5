"""The lock of a run's directory: one training at a time."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import filelock

from keras_meanflow.training.settings import LOCK


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Context in which no other process trains in a directory, which is created if need be.

    The operating system holds the lock for the process, so it ends with the process. Where the
    file system has no locks, a warning says so.

    Raises:
        ValueError: if another process trains there.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(run_dir / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(
            f"Another process trains in {run_dir}. Wait for it or stop it, or name another "
            "directory with --run DIR."
        ) from None
    except NotImplementedError:
        warnings.warn(
            f"The file system of {run_dir} has no locks: start no second training there.",
            stacklevel=3,
        )
    try:
        yield
    finally:
        lock.release()
