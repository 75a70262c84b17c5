"""Folders of shards: written one by one, with checksums, resumable; memory-mapped when read."""

import dataclasses
import hashlib
import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np

from keras_meanflow.codecs.base import CODEC, Codec
from keras_meanflow.files.atomic import TEMPORARY, sha256_of, write_atomically, write_text
from keras_meanflow.files.inside import inside
from keras_meanflow.files.reading import check_fields, read_json, reading

LABELS, CHECKSUM = "labels.npy", "sha256"  # of the labels; of the entries of an index
SHARD_SIZE, MOST_SHARDS = 4096, 512  # every shard in use is an open file


@dataclasses.dataclass(frozen=True)
class ShardedFolder:
    """A folder of shards, written by a plan.

    A shard is written completely or not at all. Its record holds the checksum and what else the
    caller adds. The index is written last and makes the folder a finished store.

    Args:
        path: the folder.
        plan: everything that the contents depend on, with `count` (items) and `shard_size`.
        plan_file, index_file: file names of the plan and of the index.
        kind: what the plan makes, for error messages.
        worker: (k, n): process k of n makes every n-th shard from shard k.

    Raises:
        ValueError: for a worker out of range.
    """

    path: Path
    plan: dict
    plan_file: str
    index_file: str
    kind: str
    worker: tuple[int, int] = (0, 1)

    def __post_init__(self):
        if not 0 <= self.worker[0] < self.worker[1]:
            raise ValueError(f"worker is (k, n) with 0 <= k < n. Received {self.worker}.")

    def claim(self, codec: Codec | None = None) -> None:
        """Make the folder, or raise a ValueError if it has other content.

        A process that works alone removes the temporary files of a killed one, and replaces a plan
        of which no shard has been made.
        """
        alone = self.worker[1] == 1
        if not (self.path / self.plan_file).is_file():
            self._check_empty()
            self._make(codec)
        elif changes := self._changes():
            if not alone or next(self.path.glob("shard-*"), None):
                raise ValueError(
                    f"{self.path} holds another {self.kind}: {changes}. Choose another folder."
                )
            self._make(codec)
        if alone:
            for leftover in self.path.glob(f"{TEMPORARY}*"):
                leftover.unlink()

    def _changes(self):
        """How the plan differs from the one in the folder; entries that are new there are not."""
        old, plan = read_json(self.path / self.plan_file), self.plan
        names = [n for n in {**old, **plan} if old.get(n, plan.get(n)) != plan.get(n)]
        return ", ".join(f"{n} was {old.get(n)!r}, now {plan.get(n)!r}" for n in names)

    def _check_empty(self):
        self.path.mkdir(parents=True, exist_ok=True)
        names = (path.name for path in self.path.iterdir())
        stranger = next((name for name in names if not name.startswith((TEMPORARY, CODEC))), None)
        if stranger:
            raise ValueError(
                f"{self.path} must be empty or hold an earlier {self.kind}. It holds {stranger}."
            )

    def _make(self, codec):
        if codec is not None:
            write_atomically(self.path / CODEC, codec.save)
        write_json(self.path / self.plan_file, self.plan)

    @property
    def finished(self) -> bool:
        """Whether the index exists."""
        return (self.path / self.index_file).exists()

    def remaining(self) -> list[int]:
        """This worker's shards that are missing or damaged."""
        k, n = self.worker
        return [i for i in range(self._shards)[k::n] if not self._is_done(i)]

    @property
    def _shards(self):
        return planned_shards(self.plan)

    def indices(self, shard: int) -> np.ndarray:
        """The indices of a shard's items."""
        first = shard * self.plan["shard_size"]
        return np.arange(first, min(first + self.plan["shard_size"], self.plan["count"]))

    def write(self, shard: int, array: np.ndarray, **more: Any) -> None:
        """Write a shard, then its record, to which `more` is added."""
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
        data = buffer.getbuffer()
        record = {
            "file": f"shard-{shard:05d}.npy",
            "count": len(array),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            **more,
        }
        write_atomically(self.path / record["file"], lambda path: path.write_bytes(data))
        write_json(self._record(shard), record)

    def records(self) -> list[dict[str, Any]] | None:
        """The records of all shards in order; None if some are missing."""
        paths = [self._record(i) for i in range(self._shards)]
        if not all(path.exists() for path in paths):
            return None
        return [read_json(path) for path in paths]

    def finish(self, records: list[dict[str, Any]], **index: Any) -> None:
        """Write the index, with the shards and `index`: this makes the folder a finished store."""
        shards = [{n: r[n] for n in ("file", "count", "bytes", "sha256")} for r in records]
        index = {**index, "shards": shards}
        write_json(self.path / self.index_file, {**index, CHECKSUM: _checksum(index)})

    def _record(self, shard):
        return self.path / f"shard-{shard:05d}.json"

    def _is_done(self, shard):
        """Whether a shard and its record exist and agree."""
        record = self._record(shard)
        if not record.is_file():
            return False
        known = read_json(record)
        check_fields(record, known, {"file": str, "sha256": str})
        path = inside(self.path, known["file"])
        return path.is_file() and sha256_of(path) == known["sha256"]


class Shards:
    """The shards of a finished folder, with random access.

    Args:
        path: the folder.
        records: from its index: file, count, bytes and sha256 of each shard.
        again: what to do about damaged files, for error messages.

    A shard is compared with its checksum when it is first read.

    Raises:
        ValueError: for missing, truncated or damaged shards.
    """

    def __init__(self, path: Path, records: list[dict], again: str):
        self.path, self.records, self.again = path, records, again
        self.files = [inside(path, record["file"]) for record in records]
        self._rows = records[0]["count"]  # in every shard but the last
        self._open = [None] * len(records)
        self._locks = [threading.Lock() for _ in records]
        for file, record in zip(self.files, records, strict=True):
            expected = record["bytes"]
            found = file.stat().st_size if file.is_file() else 0
            if found != expected:
                raise ValueError(
                    f"{file} is truncated or missing: it should have {expected:,} bytes. Received "
                    f"{found:,}. {again}"
                )

    def row(self, index: int) -> np.ndarray:
        """One item, memory-mapped."""
        shard, row = divmod(index, self._rows)
        return self._array(shard)[row]

    def verify(self, others: dict[str, str] | None = None) -> None:
        """Read every file, and `others` (SHA-256 by name), and compare checksums.

        Raises:
            ValueError: naming the first file that has changed.
        """
        files = {record["file"]: record["sha256"] for record in self.records} | (others or {})
        for name, expected in files.items():
            self.check(name, expected)

    def check(self, name: str, expected: str) -> Path:
        """The path of a file of the folder, whose SHA-256 must be the expected one."""
        path = inside(self.path, name)
        found = sha256_of(path)
        if found != expected:
            raise ValueError(
                f"{path} is damaged: its SHA-256 should be {expected}. Received {found}. "
                f"{self.again}"
            )
        return path

    def array(self, name: str, expected: str | None, count: int) -> np.ndarray | None:
        """The array in a small file of the folder, compared with its checksum; None without one."""
        return read_array(self.check(name, expected), count) if expected else None

    def _array(self, shard):
        with self._locks[shard]:
            if self._open[shard] is None:
                record = self.records[shard]
                path = self.check(record["file"], record["sha256"])
                self._open[shard] = _mapped(path, record["count"])
        return self._open[shard]


def _mapped(file, count):
    """The array of a shard, of `count` items, which stays on disk."""
    with reading(file):
        array = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        if array.shape[:1] != (count,):
            raise ValueError(f"It must hold {count} items. Received an array {array.shape}.")
        return array


def read_array(path: Path, count: int) -> np.ndarray:
    """The small array in a store's file, with one number for each of `count` items.

    Raises:
        ValueError: for a damaged file, or another number of items.
    """
    with reading(path):
        array = np.load(path, allow_pickle=False)
        if array.shape != (count,) or array.dtype.kind not in "if":
            raise ValueError(f"It must hold {count} numbers. Received {array.dtype} {array.shape}.")
        return array


def read_index(
    path: Path,
    index_file: str,
    plan_file: str,
    format: str,
    *,
    fields: dict[str, type],
    holds: str,
    make: str,
) -> dict[str, Any]:
    """The index of a folder.

    Args:
        path: the folder.
        index_file, plan_file: file names of the index and of the plan.
        format: the format's name.
        fields: the entries of an index of this format, beside its shards, and their types.
        holds, make: what the folder holds, and how to make it, for error messages.

    Raises:
        ValueError: for a folder that is not a finished store, has another format, or whose index is
            damaged: it carries a checksum of its entries.
    """
    if not (path / index_file).is_file():
        reason = f"holds no {holds}"
        if (path / plan_file).is_file():
            plan = read_json(path / plan_file)
            check_fields(path / plan_file, plan, {"count": int, "shard_size": int})
            done, total = len(list(path.glob("shard-*.json"))), planned_shards(plan)
            reason = f"is not finished ({done} of {total} shards)"
        raise ValueError(f"{path} {reason}. {make}")
    index = read_json(path / index_file)
    if index.get("format") != format:
        raise ValueError(
            f"{path / index_file} must be of the format {format!r}. "
            f"Received {index.get('format')!r}."
        )
    _check_index(path / index_file, index, fields)
    return index


def _check_index(path, index, fields):
    """Raise a ValueError for a damaged index; one without a checksum is of version 0.1.0."""
    recorded = index.pop(CHECKSUM, None)
    if recorded not in (None, _checksum(index)):
        raise ValueError(
            f"{path} is damaged: the checksum of its entries is another one. If you changed it on "
            f"purpose, delete its entry {CHECKSUM!r}."
        )
    check_fields(path, index, {**fields, "shards": list})
    for shard in index["shards"] or [None]:
        known = shard if isinstance(shard, dict) else {}
        check_fields(path, known, {"file": str, "count": int, "bytes": int, "sha256": str})
    counts = [shard["count"] for shard in index["shards"]]
    if sum(counts) != index["count"] or min(counts) < 1 or len(set(counts[:-1])) > 1:
        raise ValueError(f"{path} is damaged: its shards do not hold {index['count']} items.")


def _checksum(index):
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def planned_shards(plan: dict[str, Any]) -> int:
    """The number of shards of a plan."""
    return -(-plan["count"] // plan["shard_size"])


def shard_size_for(count: int) -> int:
    """4096 items in a shard, or more to make at most 512 shards."""
    return max(SHARD_SIZE, -(-count // MOST_SHARDS))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, completely or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an `.npy` file, completely or not at all."""

    def write(temporary):
        with open(temporary, "wb") as file:
            np.save(file, array, allow_pickle=False)

    write_atomically(path, write)
