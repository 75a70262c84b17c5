"""Makes a latent store: encodes images with a codec and writes them to disk in shards."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from keras.utils import Progbar

from keras_meanflow.codecs.base import Codec
from keras_meanflow.codecs.normalisation import Normalisation
from keras_meanflow.data.fingerprints import fingerprint
from keras_meanflow.data.latents import DTYPE, FORMAT, INDEX, PLAN, LatentStore
from keras_meanflow.data.moments import MomentSource
from keras_meanflow.data.shards import LABELS, ShardedFolder, shard_size_for, write_array
from keras_meanflow.files.atomic import sha256_of


def encode(
    source: Any,
    out: str | Path,
    codec: Codec | None = None,
    *,
    flips: bool = False,
    measured: bool = False,
    normalisation: Normalisation | None = None,
    shard_size: int | None = None,
    batch_size: int = 16,
    worker: tuple[int, int] = (0, 1),
    verbose: int = 0,
) -> LatentStore | None:
    """Encodes a data source into a latent store, or continues where an earlier call stopped.

    Each shard is written completely or not at all, so an interruption costs at most one shard.
    Existing shards are kept if their checksum is right; the others are made again.

    Args:
        source: a source of images; or a source of moments, which are copied.
        out: the folder; made if absent.
        codec: encodes the images, and is stored beside the latents. Moments need none.
        flips: store the mirror image of each image too; training then draws one of the two.
        measured: normalise each channel by the mean and the standard deviation measured here.
        normalisation: used without `measured`; default: of the codec or of the source.
        shard_size: images in a shard; default 4096, or more to make at most 512 shards.
        batch_size: images that go through the codec at once.
        worker: (k, n): process k of n, each on a device, makes every n-th shard from shard k. The
            process that finishes last completes the store.
        verbose: 1 for a progress bar.

    Returns:
        The store; None if other workers still have shards to make.

    Raises:
        ValueError: for a folder with other content or another encoding, for images that the codec
            does not accept, or for latents that are not finite in half precision.

    Example:

    >>> encode(ImageFolder("pets", 256), "pets-latents", TAEF2.load("taef2"))
    """
    out = Path(out)
    _check(source, codec, flips, shard_size)
    normalisation = normalisation or (codec or source).normalisation
    plan = _plan(source, codec, flips, measured, normalisation, shard_size)
    folder = ShardedFolder(out, plan, PLAN, INDEX, "encoding", worker)
    folder.claim(codec)
    if not folder.finished:
        remaining = folder.remaining()
        images = sum(len(folder.indices(shard)) for shard in remaining)
        bar = Progbar(images, interval=1, verbose=verbose, unit_name="image")
        for shard in remaining:
            _encode_shard(folder, shard, source, codec, batch_size, bar)
        records = folder.records()
        if records is None:
            return None
        _finish(folder, records)
    store = LatentStore(out)
    store.verify()
    return store


def _check(source, codec, flips, shard_size):
    """Raise a ValueError for settings or a source that cannot be encoded."""
    latents = isinstance(source, MomentSource)
    if len(source) < 1:
        raise ValueError("The source must hold at least one image. Received none.")
    if not latents and codec is None:
        raise ValueError("Images need a codec to encode them. Received None.")
    if latents and flips:
        raise ValueError("Latents cannot be mirrored exactly: encode the images for flips=True.")
    if shard_size is not None and shard_size < 1:
        raise ValueError(f"shard_size must be at least 1. Received {shard_size}.")


def _plan(source, codec, flips, measured, normalisation, shard_size):
    """Everything that the contents of the store depend on."""
    description = codec.describe() if codec else None
    if description:
        del description["normalisation"]
    return {
        "format": FORMAT,
        "source": _identity(source),
        "data": fingerprint(source, every=True),
        "count": len(source),
        "class_names": list(getattr(source, "class_names", ())),
        "pixels": None if isinstance(source, MomentSource) else list(source.shape),
        "codec": description,
        "copies": 2 if flips else 1,
        "normalisation": {"mean": list(normalisation.mean), "std": list(normalisation.std)},
        "measured": measured,
        "shard_size": shard_size or shard_size_for(len(source)),
    }


def _identity(source):
    """A checksum of the file names, or of the first items: the same source has the same one."""
    digest = hashlib.sha256()
    if hasattr(source, "files"):
        names = (str(file.relative_to(source.path)) for file, _ in source.files)
        digest.update("\n".join(names).encode())
    else:
        x, y = source.take(np.arange(min(len(source), 8)))
        digest.update(np.ascontiguousarray(x))
        digest.update(b"" if y is None else np.ascontiguousarray(y))
    return digest.hexdigest()[:16]


def _encode_shard(folder, shard, source, codec, batch_size, bar):
    """Writes a shard, then its record: checksum, labels and sums for the statistics."""
    latents, labels = [], []
    indices = folder.indices(shard)
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    read = source.raw if isinstance(source, MomentSource) else source.take
    for x, y in _ahead(read, batches):
        raw = _moments(x, codec, folder.plan["copies"], batch_size)
        with np.errstate(over="ignore"):  # refused below
            latents.append(raw.astype(DTYPE))
        labels += [] if y is None else y.tolist()
        bar.add(len(x))
    latents = np.concatenate(latents)
    if not np.isfinite(latents).all():
        raise ValueError(
            f"Latents must be finite in half precision (up to 65,504). Shard {shard} is not: "
            "look at the codec's weights."
        )
    folder.write(
        shard,
        latents,
        labels=labels or None,
        shape=list(latents.shape[3:]),
        moments=latents.shape[2],
        sums=_sums(latents),
    )


def _moments(x, codec, copies, batch_size):
    """(n, copies, moments, h, w, channels) of pixels, or of raw latents as they are."""
    if x.ndim == 5:
        return x[:, None]
    views = [x, x[:, :, ::-1]][:copies]
    return np.stack([codec.encode_pixels(view, batch_size) for view in views], axis=1)


def _sums(latents):
    """For each channel: the count, the sum, and the sum of squares plus variances."""
    mean = latents[:, :, 0].astype("float64")
    axes = tuple(range(mean.ndim - 1))
    second = np.square(mean).sum(axes)
    if latents.shape[2] == 2:
        second += np.square(latents[:, :, 1].astype("float64")).sum(axes)
    return {
        "count": int(np.prod(mean.shape[:-1])),
        "first": mean.sum(axes).tolist(),
        "second": second.tolist(),
    }


def _finish(folder, records):
    """Write the labels, then the index, which makes the folder a finished store."""
    labels, path = None, folder.path / LABELS
    if records[0]["labels"] is not None:
        labels = np.array(sum((r["labels"] for r in records), []), "int32")
        write_array(path, labels)
    plan, statistics = folder.plan, _statistics([record["sums"] for record in records])
    kept = ("format", "source", "count", "class_names", "pixels", "codec", "copies")
    folder.finish(
        records,
        **{name: plan[name] for name in kept},
        shape=records[0]["shape"],
        moments=records[0]["moments"],
        statistics=statistics,
        normalisation=statistics if plan["measured"] else plan["normalisation"],
        labels_sha256=None if labels is None else sha256_of(path),
    )


def _statistics(sums):
    """The mean and the standard deviation of each channel of sampled raw latents."""
    count = sum(s["count"] for s in sums)
    first = np.sum([s["first"] for s in sums], axis=0) / count
    second = np.sum([s["second"] for s in sums], axis=0) / count
    std = np.sqrt(np.maximum(second - first**2, 0))
    return {"mean": first.tolist(), "std": std.tolist()}


def _ahead(function, items):
    """Yields function(item) for each item; a thread computes the next one meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        waiting = []
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 1:
                yield waiting.pop(0).result()
        yield from (future.result() for future in waiting)
