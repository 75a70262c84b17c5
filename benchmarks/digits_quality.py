"""Quality of the digits recipe's one-step samples, beside the same figures for real digits.

    KERAS_BACKEND=jax python benchmarks/digits_quality.py [RUN]

RUN is a directory of `keras-meanflow train digits` (default runs/digits); it has trained on every
other digit. Each figure compares with digits that it has not seen, but for the last:

- label accuracy of 1,000 samples, 100 a class, by a classifier that has seen the training half;
- coverage: the share of unseen digits with a sample nearer than their fifth unseen neighbour;
- Frechet distance to the unseen half, in pixels scaled to [-1, 1];
- mean distance to the nearest training digit, over that of the unseen digits: far below 1, the
  samples would be copies.
"""

import json
import os
import platform
import sys

import keras
import numpy as np

from keras_meanflow import runs
from keras_meanflow.data import load_digits
from keras_meanflow.metrics import density_coverage, frechet_distance

SAMPLES_A_CLASS = 100


def squared_distances(a, b):
    """(len(a), len(b)) squared Euclidean distances."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2.0 * a @ b.T, 0.0)


class KernelClassifier:
    """Regularised least squares on the labels with a Gaussian kernel: no randomness, no tuning."""

    def __init__(self, x, y, gamma=0.02, ridge=1e-3):
        self.x, self.gamma = x, gamma
        kernel = np.exp(-gamma * squared_distances(x, x))
        self.weights = np.linalg.solve(kernel + ridge * np.eye(len(x)), np.eye(10)[y])

    def __call__(self, x):
        return (np.exp(-self.gamma * squared_distances(x, self.x)) @ self.weights).argmax(1)


def figures(samples, labels, train, train_labels, unseen):
    """The four figures of `samples`."""
    frechet = frechet_distance(*moments(unseen), *moments(samples))
    nearest = np.sqrt(squared_distances(samples, train).min(1)).mean()
    real = np.sqrt(squared_distances(unseen, train).min(1)).mean()
    return {
        "accuracy": np.mean(KernelClassifier(train, train_labels)(samples) == labels),
        "coverage": density_coverage(unseen, samples, k=5)[1],
        "frechet": frechet,
        "nearest": nearest / real,
    }


def moments(x):
    """Mean and covariance."""
    return x.mean(0), np.cov(x, rowvar=False)


def flat(split):
    """The digits of a split as float64 vectors, and their labels."""
    x, y = load_digits(split)
    return x.reshape(len(x), -1).astype("float64"), y


def main(run="runs/digits"):
    train, train_labels = flat("train")
    unseen, unseen_labels = flat("test")
    flow_map = runs.load(run)
    labels = np.repeat(np.arange(10), SAMPLES_A_CLASS)
    samples = flow_map.generate(labels, seed=1, batch_size=len(labels), verbose=0)
    samples = samples.reshape(len(labels), -1).astype("float64")
    found = figures(samples, labels, train, train_labels, unseen)
    real = figures(train, train_labels, train, train_labels, unseen)
    real["accuracy"] = np.mean(KernelClassifier(train, train_labels)(unseen) == unseen_labels)
    real["nearest"] = 1.0
    print(f"{keras.config.backend()}, keras {keras.__version__}, {platform.machine()}")
    print(f"{'':10} {'samples':>8} {'real':>8}")
    for name in found:
        print(f"{name:10} {found[name]:8.3f} {real[name]:8.3f}")
    report = {name: float(value) for name, value in found.items()}
    with open(os.path.join(run, "quality.json"), "w", encoding="utf-8") as file:
        json.dump({"backend": keras.config.backend(), **report}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
