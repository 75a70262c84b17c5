"""Makes `metrics_features.json`: torch-fidelity's and prdc's numbers on two seeded feature sets.

Run by hand beside torch 2.13, torch-fidelity 0.4.0 and prdc 0.2 (scikit-learn):
    python tests/golden/metrics_features.py
"""

import json
from pathlib import Path

import numpy as np

SUBSETS, SUBSET_SIZE = 10, 200
HERE = Path(__file__).parent


def feature_sets():
    """Real (700, 64) and generated (600, 64) features that overlap, and logits (600, 10)."""
    rng = np.random.Generator(np.random.Philox(key=2024))
    mix = rng.normal(size=(64, 64)) / 8
    real = rng.normal(size=(700, 64)) @ mix
    fake = 0.9 * rng.normal(size=(600, 64)) @ mix + 0.1
    return real, fake, 3 * rng.normal(size=(600, 10))


def main():
    import metrics_torchvision_stub

    metrics_torchvision_stub.install()
    import torch
    from prdc import compute_prdc
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    real, fake, logits = feature_sets()
    first, second = torch.from_numpy(fake), torch.from_numpy(real)
    statistics = [metric_fid.fid_features_to_statistics(x) for x in (first, second)]
    kid = {"kid_subsets": SUBSETS, "kid_subset_size": SUBSET_SIZE, "verbose": False}
    numbers = {
        **metric_fid.fid_statistics_to_metric(*statistics, verbose=False),
        **metric_kid.kid_features_to_metric(first, second, **kid),
        **metric_isc.isc_features_to_metric(torch.from_numpy(logits)),
        **metric_prc.prc_features_to_metric(first, second, verbose=False),
    }
    prdc = compute_prdc(real, fake, nearest_k=5)
    numbers |= {"density": float(prdc["density"]), "coverage": float(prdc["coverage"])}
    (HERE / "metrics_features.json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
