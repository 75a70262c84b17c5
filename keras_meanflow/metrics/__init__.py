"""Metrics on features, in float64 NumPy; `features` holds the networks, `protocols` the rules."""

import importlib

from keras_meanflow.metrics.estimate import Estimate
from keras_meanflow.metrics.frechet import (
    frechet_distance,
    frechet_infinity,
    frechet_with_interval,
)
from keras_meanflow.metrics.inception_score import InceptionScore, inception_score
from keras_meanflow.metrics.kid import kid, kid_with_interval
from keras_meanflow.metrics.neighbours import density_coverage, precision_recall
from keras_meanflow.metrics.reference import Reference, npz_images
from keras_meanflow.metrics.statistics import Statistics

_WITH_KERAS = {
    "FeatureExtractor": "features",
    "Protocol": "protocols",
    "evaluate_images": "evaluation",
    "fetch_weights": "published",
    "make_reference": "evaluation",
    "self_check": "evaluation",
}

__all__ = [
    "Estimate",
    "FeatureExtractor",
    "InceptionScore",
    "Protocol",
    "Reference",
    "Statistics",
    "density_coverage",
    "evaluate_images",
    "fetch_weights",
    "frechet_distance",
    "frechet_infinity",
    "frechet_with_interval",
    "inception_score",
    "kid",
    "kid_with_interval",
    "make_reference",
    "npz_images",
    "precision_recall",
    "self_check",
]


def __getattr__(name):
    if name not in _WITH_KERAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WITH_KERAS[name]}"), name)
