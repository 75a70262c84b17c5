"""Times and memory of reducing features to statistics and a Frechet distance, in one pass.

    python benchmarks/metrics.py [--samples 50000] [--width 2048] [--interval]

If torch-fidelity is installed, the same run also measures its reduction of the same features,
which holds all features at once. On a busy machine set OPENBLAS_NUM_THREADS=1 and compare CPU
seconds.
"""

import argparse
import importlib.util
import resource
import sys
import time
from pathlib import Path

import numpy as np

from keras_meanflow.metrics import Reference, Statistics, frechet_distance, frechet_with_interval
from keras_meanflow.metrics.frechet import frechet_infinity

BATCH = 500


def batches(samples, width):
    """Yields float32 features (500, width), the same ones in every run."""
    mix = 0.5 + np.random.Generator(np.random.Philox(key=0)).random(width, dtype=np.float32)
    for start in range(0, samples, BATCH):
        rng = np.random.Generator(np.random.Philox(key=1 + start))
        rows = min(BATCH, samples - start)
        yield np.abs(rng.standard_normal((rows, width), np.float32)) * mix


def made_reference(width):
    """Statistics with a full covariance."""
    x = np.random.Generator(np.random.Philox(key=10**6)).normal(size=(2 * width, width))
    return Reference(np.full(width, 0.8), x.T @ x / len(x), 2 * width)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(function, *args):
    """The result, and the seconds it took: by the clock, and of CPU time in this process."""
    start = np.array([time.perf_counter(), time.process_time()])
    result = function(*args)
    return result, np.array([time.perf_counter(), time.process_time()]) - start


def show(name, work, seconds, more=""):
    print(f"{name:15} {work:28} {seconds[0]:6.1f} s   {seconds[1]:6.1f} CPU s   {more}", flush=True)


def ours(samples, width, reference, interval):
    before, seconds, statistics = peak_mb(), np.zeros(2), Statistics()
    for batch in batches(samples, width):
        seconds += timed(statistics.update, batch)[1]
    total, closing = timed(statistics.total)
    args = (total.mean, total.covariance, reference.mean, reference.covariance)
    fid, distance = timed(frechet_distance, *args)
    memory = f"peak memory +{peak_mb() - before:.0f} MB"
    show("keras_meanflow", "statistics in one pass", seconds + closing)
    show("", "distance", distance, f"FID {fid:.6f}")
    show("", "both", seconds + closing + distance, memory)
    if interval:
        del total, args
        estimate, work = timed(frechet_with_interval, statistics, reference)
        show("", "jackknife over 20 blocks", work, f"+-{1.96 * estimate.standard_error:.6f}")
        limit, work = timed(frechet_infinity, statistics, reference)
        memory = f"peak memory +{peak_mb() - before:.0f} MB"
        show("", "limit of infinite samples", work, f"FID {limit:.6f}   {memory}")


def torch_fidelity(samples, width, reference):
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "golden"))
    import metrics_torchvision_stub

    metrics_torchvision_stub.install()
    import torch
    from torch_fidelity import metric_fid

    features = torch.from_numpy(np.concatenate(list(batches(samples, width))))
    before = peak_mb()
    statistics, seconds = timed(metric_fid.fid_features_to_statistics, features)
    statistics["mu"] = statistics["mu"].astype(np.float64)
    theirs = {"mu": reference.mean, "sigma": reference.covariance}
    fid, distance = timed(metric_fid.fid_statistics_to_metric, statistics, theirs, False)
    memory = f"peak memory +{peak_mb() - before:.0f} MB and {features.nbytes >> 20} MB of features"
    show("torch-fidelity", "statistics of all at once", seconds)
    show("", "distance", distance, f"FID {fid['frechet_inception_distance']:.6f}")
    show("", "both", seconds + distance, memory)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--interval", action="store_true", help="also the jackknife and the limit")
    args = parser.parse_args()
    reference = made_reference(args.width)
    ours(args.samples, args.width, reference, args.interval)
    if importlib.util.find_spec("torch_fidelity"):
        torch_fidelity(args.samples, args.width, reference)


if __name__ == "__main__":
    main()
