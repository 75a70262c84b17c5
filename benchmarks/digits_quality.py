"""Quality of a digits run's samples, beside the same figures for real digits.

    KERAS_BACKEND=jax python benchmarks/digits_quality.py [RUN] [--steps 1] [--heun]
    KERAS_BACKEND=jax python benchmarks/digits_quality.py --codec digits-rae.keras

RUN is a directory of `keras-meanflow train digits` or `train digits_rae`, by any method (default
runs/digits). Its model has trained on every other digit. Samples are drawn in `--steps` jumps; with
`--heun`, for a flow model, in as many steps of Heun's method. With `--codec` the samples are the
training digits as the codec reconstructs them: no model of its latents does better. All figures
except the last compare with digits that were not trained on:

- label accuracy of 1,000 samples, 100 a class, by a classifier that has seen the training half;
- coverage: the share of unseen digits with a sample nearer than their fifth unseen neighbour;
- Frechet distance to the unseen half, in pixels scaled to [-1, 1];
- mean distance to the nearest training digit, divided by the same distance of the unseen digits:
  a value far below 1 would mean copies.
"""

import argparse
import json
import os
import platform

import keras
import numpy as np

from keras_meanflow import Heun, open_model
from keras_meanflow.data import load_digits
from keras_meanflow.metrics import density_coverage, frechet_distance
from keras_meanflow.samplers import Jump

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


def judged(flow_map, codec=None, sampler=None):
    """The four figures of a model's samples: decoded by the codec, of one jump or a sampler."""
    labels = np.repeat(np.arange(10), SAMPLES_A_CLASS)
    sampling = {"sampler": sampler, "seed": 1, "batch_size": len(labels), "verbose": 0}
    samples = flow_map.generate(labels, **sampling)
    samples = samples if codec is None else codec.decode(samples)
    samples = samples.reshape(len(labels), -1).astype("float64")
    return figures(samples, labels, *flat("train"), flat("test")[0])


def reconstructed(codec):
    """The figures of the training half, encoded and decoded."""
    x, labels = load_digits("train")
    decoded = codec.decode(codec.encode_pixels(x)[:, 0]).reshape(len(x), -1).astype("float64")
    return figures(decoded, labels, *flat("train"), flat("test")[0])


def real_figures():
    """The same of the training half as samples, its classifier judged by the unseen half."""
    (train, labels), (unseen, unseen_labels) = flat("train"), flat("test")
    real = figures(train, labels, train, labels, unseen)
    real["accuracy"] = np.mean(KernelClassifier(train, labels)(unseen) == unseen_labels)
    return {**real, "nearest": 1.0}


def main():
    """Print the figures of a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="runs/digits")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--heun", action="store_true")
    parser.add_argument("--codec", help="a .keras file")
    arguments = parser.parse_args()
    if arguments.codec:
        show(reconstructed(keras.saving.load_model(arguments.codec, compile=False)))
        return
    sampler = (Heun if arguments.heun else Jump)(steps=arguments.steps)
    opened = open_model(arguments.run)
    found = judged(opened.flow_map, opened.codec, sampler)
    show(found)
    report = {name: float(value) for name, value in found.items()}
    with open(os.path.join(arguments.run, "quality.json"), "w", encoding="utf-8") as file:
        json.dump({"backend": keras.config.backend(), **report}, file)


def show(found):
    """Print figures beside those of the real digits."""
    real = real_figures()
    print(f"{keras.config.backend()}, keras {keras.__version__}, {platform.machine()}")
    print(f"{'':10} {'samples':>8} {'real':>8}")
    for name in found:
        print(f"{name:10} {found[name]:8.3f} {real[name]:8.3f}")


if __name__ == "__main__":
    main()
