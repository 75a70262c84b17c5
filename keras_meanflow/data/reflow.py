"""Makes a pair store: a teacher's samples and the noise that they start from."""

import hashlib
from pathlib import Path

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_meanflow.backend.random import philox_noise
from keras_meanflow.codecs.base import Codec
from keras_meanflow.data.pairs import (
    DISTANCES,
    FORMAT,
    INDEX,
    PLAN,
    PairStore,
    checksums_of,
    distances_of,
)
from keras_meanflow.data.shards import LABELS, ShardedFolder, shard_size_for, write_array
from keras_meanflow.samplers import Heun, Sampler

SOLVER = Heun(steps=32)
SEED = 1_000_000  # differs from the seeds of samples and evaluations


def reflow(
    flow_map: keras.Model,
    out: str | Path,
    labels: ArrayLike | int,
    *,
    sampler: Sampler = SOLVER,
    seed: int = SEED,
    guidance_scale: float | None = None,
    codec: Codec | None = None,
    shard_size: int | None = None,
    batch_size: int = 256,
    worker: tuple[int, int] = (0, 1),
    verbose: int = 0,
) -> PairStore | None:
    """Makes pairs of noise and a teacher's samples, or continues where an earlier call stopped.

    Pair i is image i of `flow_map.generate` with `seed`. It depends on nothing else, so its noise
    is not stored. Each shard is written completely or not at all.

    Args:
        flow_map: the teacher, with its chosen average; trained by flow matching, or by any method
            with a good velocity u(z, t, t).
        out: the folder; made if absent.
        labels: one for each pair, or the number of pairs for an unconditional teacher.
        sampler: solves the teacher's ODE without added noise. The default, Heun's method in 32
            steps, is in the paper's code.
        seed: of the noise.
        guidance_scale: s of `v(null) + s (v(c) - v(null))`, or None.
        codec: decodes the samples to pixels, and is stored beside them; None if they are pixels.
        shard_size: pairs in a shard; default 4096, or more to make at most 512 shards.
        batch_size: samples that are made at once.
        worker: (k, n): process k of n makes every n-th shard from shard k.
        verbose: 1 for a progress bar.

    Returns:
        The store; None if other workers still have shards to make.

    Raises:
        ValueError: for a folder with other content or other pairs, a sampler that adds noise or
            that learns, or samples that are not finite in half precision.

    Example:

    >>> teacher = open_model("runs/digits_flow_matching").flow_map
    >>> reflow(teacher, "pairs", np.arange(10_000) % 10)

    References:
        Re-MeanFlow (arXiv 2511.23342), Alg. 1; Xinxi-Zhang/Re-MeanFlow `reflow.py`, which stores
        the noise too, in two files per pair.
    """
    if sampler.noises > 1 or sampler.freeze() is not sampler:
        raise ValueError(
            "Pairs need a sampler that adds no noise and learns nothing, such as "
            f"Heun(steps=32). Received: {type(sampler).__name__}."
        )
    count = labels if isinstance(labels, int | np.integer) else len(labels)
    labels = None if isinstance(labels, int | np.integer) else np.asarray(labels, "int32")
    plan = {
        "format": FORMAT,
        "teacher": _identity(flow_map),
        "count": int(count),
        "labels": labels if labels is None else _checksum(labels),
        "sampler": keras.saving.serialize_keras_object(sampler),
        "seed": seed,
        "guidance_scale": guidance_scale,
        "shard_size": shard_size or shard_size_for(count),
    }
    folder = ShardedFolder(Path(out), plan, PLAN, INDEX, "reflow", worker)
    folder.claim(codec)
    if not folder.finished:
        settings = dict(sampler=sampler, guidance_scale=guidance_scale, batch_size=batch_size)
        remaining = folder.remaining()
        bar = keras.utils.Progbar(len(remaining), unit_name="shard", verbose=verbose)
        for shard in remaining:
            _write_shard(folder, shard, flow_map, labels, settings)
            bar.add(1)
        records = folder.records()
        if records is None:
            return None
        _finish(folder, records, flow_map, labels)
    store = PairStore(out)
    store.verify()
    return store


def _write_shard(folder, shard, flow_map, labels, settings):
    indices, seed = folder.indices(shard), folder.plan["seed"]
    x = flow_map.generate(
        len(indices) if labels is None else labels[indices],
        seed=seed,
        first=int(indices[0]),
        verbose=0,
        **settings,
    )
    with np.errstate(over="ignore"):  # refused below
        half = x.astype("float16")
    if not np.isfinite(half).all():
        raise ValueError(
            f"Samples must be finite in half precision (up to 65,504). Shard {shard} is not: look "
            "at the teacher's samples."
        )
    e = philox_noise(seed, indices, x.shape[1:])
    folder.write(shard, half, distances=distances_of(half, e).tolist())


def _finish(folder, records, flow_map, labels):
    """Write the distances, the labels, then the index, which makes a finished store."""
    write_array(folder.path / DISTANCES, np.concatenate([r["distances"] for r in records]))
    if labels is not None:
        write_array(folder.path / LABELS, labels)
    network = flow_map.network
    kept = ("format", "teacher", "count", "sampler", "seed", "guidance_scale")
    folder.finish(
        records,
        **{name: folder.plan[name] for name in kept},
        shape=list(network.data_shape),
        num_classes=network.num_classes,
        **checksums_of(folder.path, labels),
    )


def _identity(flow_map):
    """A checksum of the weights that generate."""
    digest = hashlib.sha256()
    for weight in flow_map.chosen_weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight.value)))
    return digest.hexdigest()[:16]


def _checksum(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()[:16]
