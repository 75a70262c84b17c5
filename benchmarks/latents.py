"""Latents a second from a store: moments read at random, sampled, normalised, in shuffled batches.

    python benchmarks/latents.py [--count 20000] [--batch-size 256] [--folder DIR]

Writes a store of random 32x32x4 moments (16 kB an image) into DIR or a temporary folder and reads
it once. Then it times seven times 40 batches, by the clock and by CPU time. On a busy machine only
the CPU time is meaningful (20,000 a second on 2 cores are 100 us of computing a latent). The disk
is not measured, because the system keeps in memory what was read. A store larger than memory is as
fast as the disk reads 16 kB blocks at random.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np

from keras_meanflow.codecs import SD_SCALE
from keras_meanflow.data import Batches, LatentStore
from keras_meanflow.data.encoding import encode
from keras_meanflow.data.moments import MomentSource

REPEATS, STEPS = 7, 40


class RandomMoments(MomentSource):
    """Means and standard deviations like those of the SD autoencoder, each made from its index."""

    moments, shape = 2, (32, 32, 4)

    def __init__(self, count):
        super().__init__(SD_SCALE)
        self.count = count

    def read(self, index, copy):
        rng = np.random.Generator(np.random.SFC64(index))
        raw = rng.standard_normal((2, *self.shape), "float32")
        return np.stack([5 * raw[0], 0.1 * np.abs(raw[1])]), index % 1000


def measure(folder, count, batch_size):
    """Latents a second, and microseconds of CPU time a latent; one number of each a repeat."""
    encode(RandomMoments(count), folder / "store", shard_size=4096)
    store = LatentStore(folder / "store")
    store.verify()  # also brings it into memory
    batches, rates, computing = Batches(store, batch_size, seed=0), [], []
    for repeat in range(REPEATS):
        start, computed = time.perf_counter(), time.process_time()
        for step in range(STEPS):
            batches[repeat * STEPS + step]
        rates.append(STEPS * batch_size / (time.perf_counter() - start))
        computing.append(1e6 * (time.process_time() - computed) / (STEPS * batch_size))
    return rates, computing


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rates, computing = measure(Path(folder), options.count, options.batch_size)
    print(f"latents a second: median {np.median(rates):,.0f}, {min(rates):,.0f}", end=" ")
    print(f"to {max(rates):,.0f} over {REPEATS} repeats")
    print(f"on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"computing: median {np.median(computing):.0f} us a latent")


if __name__ == "__main__":
    main()
