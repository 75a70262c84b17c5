"""Metrics on features, in float64 NumPy; this folder needs neither networks nor images."""

from keras_meanflow.metrics.estimate import Estimate
from keras_meanflow.metrics.frechet import frechet_distance, frechet_infinity, frechet_with_interval
from keras_meanflow.metrics.inception_score import InceptionScore, inception_score
from keras_meanflow.metrics.kid import kid, kid_with_interval
from keras_meanflow.metrics.neighbours import density_coverage, precision_recall
from keras_meanflow.metrics.reference import Reference, npz_images
from keras_meanflow.metrics.statistics import Statistics

__all__ = [
    "Estimate",
    "InceptionScore",
    "Reference",
    "Statistics",
    "density_coverage",
    "frechet_distance",
    "frechet_infinity",
    "frechet_with_interval",
    "inception_score",
    "kid",
    "kid_with_interval",
    "npz_images",
    "precision_recall",
]
