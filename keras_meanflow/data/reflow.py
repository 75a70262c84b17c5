"""Makes a pair store: a teacher's samples and the noise that they started from."""

import hashlib
from pathlib import Path

import keras
import numpy as np

from keras_meanflow.backend.random import philox_noise
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
SEED = 1_000_000  # apart from the seeds that samples are drawn and judged by


def reflow(
    flow_map,
    out: str | Path,
    labels,
    *,
    sampler: Sampler = SOLVER,
    seed: int = SEED,
    guidance_scale: float | None = None,
    codec=None,
    shard_size: int | None = None,
    batch_size: int = 256,
    worker: tuple[int, int] = (0, 1),
    verbose: int = 0,
) -> PairStore | None:
    """Makes pairs of noise and the samples of a teacher, or goes on where that stopped.

    Pair i is image i of `seed`, as `flow_map.generate` has it: it depends on nothing else, and
    its noise need not be stored. Each shard appears complete or not at all.

    Args:
        flow_map: the teacher, with its chosen average; trained by flow matching, or any whose
            velocity u(z, t, t) is good.
        out: the folder; made if absent.
        labels: one for each pair, or their number for an unconditional teacher.
        sampler: solves the teacher's ODE; it must add no noise on the way. Heun's method in 32
            steps in the paper's code.
        seed: of the noise.
        guidance_scale: s of `v(null) + s (v(c) - v(null))`, or None.
        codec: makes pixels of the samples, and is stored beside them; None if they are pixels.
        shard_size: pairs in a shard; default 4096, or so many that there are at most 512 shards.
        batch_size: samples that are made at once.
        worker: (k, n): do every n-th shard from the k-th, as one of n processes.
        verbose: 1 for a progress bar.

    Returns:
        The store; None while other workers have shards to do.

    Raises:
        ValueError: for a folder of anything else or of other pairs, a sampler that adds noise or
            that learns, samples that are not finite in half precision.

    Example:

    >>> teacher = open_model("runs/digits_flow_matching").flow_map
    >>> reflow(teacher, "pairs", np.arange(10_000) % 10)

    References:
        Re-MeanFlow (arXiv 2511.23342), Alg. 1; Xinxi-Zhang/Re-MeanFlow `reflow.py`, which stores
        the noise too, in two files a pair.
    """
    if sampler.noises > 1 or sampler.freeze() is not sampler:
        raise ValueError(
            "Pairs need a sampler that adds no noise and learns nothing on its way, such as "
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
    """Write the labels, the distances and the index, last: with it the store exists."""
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
