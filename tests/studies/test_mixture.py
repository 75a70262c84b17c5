"""The mixture of Gaussians: its closed forms, and objectives and samplers against it."""

import dataclasses

import numpy as np
import pytest
from keras import ops
from oracles import Mixture, relative_error
from scipy import stats

from keras_meanflow import Guidance, Heun, MeanFlow
from keras_meanflow.backend.random import Keys, philox_noise
from keras_meanflow.data import Batches, FreshSamples
from keras_meanflow.objectives import SplitMeanFlow
from keras_meanflow.parts import Linear, LogitNormal, part
from keras_meanflow.pictures.samples import draw_samples
from keras_meanflow.samplers import Jump
from keras_meanflow.studies.mixture import GaussianMixture

LAW = GaussianMixture.like_images(5, centres=6, classes=3, seed=2)
LAW = dataclasses.replace(LAW, shares=np.array([0.1, 0.2, 0.3, 0.1, 0.1, 0.2]))
EVEN = GaussianMixture.like_images(5, centres=6, classes=3, seed=2)
E = philox_noise(3, range(64), (5,))


def _covariance(law):
    return law.axes @ np.diag(law.s**2) @ law.axes.T


def _posterior_velocity(law, z, t, label):
    """E[e - x | z] from the joint normal of (x, e, z) of each Gaussian, by solving."""
    sigma, out, total = _covariance(law), 0.0, 0.0
    of_z = (1 - t) ** 2 * sigma + t**2 * np.eye(len(z))
    for centre, share, own in zip(law.centres, law.shares, law.labels, strict=True):
        if label is not None and own != label:
            continue
        apart = z - (1 - t) * centre
        w = share * stats.multivariate_normal.pdf(apart, cov=of_z)
        solved = np.linalg.solve(of_z, apart)
        out = out + w * (t * solved - centre - (1 - t) * sigma @ solved)
        total += w
    return out / total


@pytest.mark.parametrize("label", [None, 0, 2])
def test_the_velocity_is_the_posterior_mean_of_noise_minus_data(label):
    t = np.linspace(0.02, 1.0, len(E))
    labels = None if label is None else np.full(len(E), label)
    got = LAW.velocity(E, t, labels)
    expected = [_posterior_velocity(LAW, z, s, label) for z, s in zip(E, t, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)
    null = LAW.velocity(E, t, np.full(len(E), LAW.num_classes))
    np.testing.assert_array_equal(null, LAW.velocity(E, t))


@pytest.mark.parametrize("label", [None, 1])
def test_the_moments_are_those_of_the_samples(label):
    x, labels = LAW.sample(200_000, np.random.default_rng(0))
    x = x if label is None else x[labels == label]
    mean, covariance = LAW.moments(label)
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.01)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.012)
    assert np.bincount(labels) / len(labels) == pytest.approx([0.2, 0.3, 0.5], abs=0.01)


def test_the_spectrum_falls_as_stated_along_random_axes():
    law = GaussianMixture.like_images(64)
    within = np.square(law.s)
    np.testing.assert_allclose(within, 0.8 * np.arange(1.0, 65.0) ** -1.2)
    np.testing.assert_allclose(law.axes.T @ law.axes, np.eye(64), atol=1e-12)
    assert np.abs(law.axes).max() < 0.6  # no axis is a coordinate


def test_the_one_step_map_carries_noise_to_data_and_is_the_flow():
    labels = np.arange(len(E)) % 3
    whole = LAW.one_step(E, labels)
    np.testing.assert_allclose(LAW.one_step(E, labels, steps=128), whole, atol=2e-5)
    ones = np.ones(len(E))
    half = E - 0.5 * LAW.average_velocity(E, 0.5 * ones, ones, labels)
    x = half - 0.5 * LAW.average_velocity(half, 0.0 * ones, 0.5 * ones, labels)
    np.testing.assert_allclose(x, whole, atol=2e-5)
    many = LAW.one_step(np.random.default_rng(1).standard_normal((20_000, 5)), steps=16)
    mean, covariance = LAW.moments()
    np.testing.assert_allclose(many.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(many.T), covariance, atol=0.04)


@part
class OfClass(Linear):
    """The straight path whose velocity is the exact one of a class, not that of a pair (x, e)."""

    label: int

    def __call__(self, x, e, t):
        s = ops.reshape(t, (-1, 1))
        z = (1.0 - s) * x + s * e
        return z, Mixture(EVEN).of_class(z, t, self.label)


GUIDANCES = [None, Guidance(omega=2.0, kappa=0.0), Guidance(omega=0.8, kappa=0.6)]


@pytest.mark.parametrize("guidance", GUIDANCES, ids=["none", "omega", "kappa"])
def test_on_a_mixture_the_exact_guided_average_velocity_solves_mean_flow(guidance):
    """Beyond the Gaussian: many modes, classes, and the null class of guidance."""
    weights = (1.0, 0.0) if guidance is None else (guidance.omega, guidance.kappa)
    u, label = Mixture(EVEN, *weights), 1
    objective = MeanFlow(
        times=LogitNormal(fraction_r_equals_t=0.5),
        guidance=guidance,
        label_dropout=0.0,
        path=OfClass(label=label),
    )
    x = ops.convert_to_tensor(EVEN.sample(16, np.random.default_rng(5))[0])
    labels = ops.full((16,), label, dtype="int32")
    draws = objective.draw(Keys(seed=1, step=0), x, labels)
    problem = objective(u, x, labels, draws)
    prediction = u(problem.inputs["z"], draws.r, draws.t, labels)
    _, target = problem.compare(prediction)
    assert relative_error(*map(ops.convert_to_numpy, (target, prediction))) < 1e-4
    # It is no solution of the wrong guidance, nor with the wrong class.
    for wrong in (Mixture(EVEN, 1.3 * weights[0] + 0.2, weights[1]),):
        other = wrong(problem.inputs["z"], draws.r, draws.t, labels)
        _, target = objective(wrong, x, labels, draws).compare(other)
        assert relative_error(*map(ops.convert_to_numpy, (target, other))) > 0.02


def test_split_mean_flow_holds_on_a_mixture_too():
    u, label = Mixture(EVEN), 0
    objective = SplitMeanFlow(path=OfClass(label=label), label_dropout=0.0)
    x = ops.convert_to_tensor(EVEN.sample(16, np.random.default_rng(5))[0])
    labels = ops.full((16,), label, dtype="int32")
    draws = objective.draw(Keys(seed=1, step=0), x, labels)
    problem = objective(u, x, labels, draws)
    inputs = problem.inputs
    prediction = u(inputs["z"], inputs["r"], inputs["t"], inputs["condition"])
    _, target = problem.compare(prediction)
    assert relative_error(*map(ops.convert_to_numpy, (target, prediction))) < 1e-4


@pytest.mark.parametrize("sampler, tolerance", [
    (Jump(steps=1), 1e-3), (Jump(steps=4), 1e-3), (Heun(steps=64), 5e-3),
])  # fmt: skip
def test_samplers_end_at_the_one_step_map_of_their_label(sampler, tolerance):
    u = Mixture(EVEN, steps=24)
    labels = np.arange(len(E)) % 3
    condition = ops.convert_to_tensor(labels.astype("int32"))

    def of_labels(z, r, t):
        return u(z, r, t, condition)

    x = sampler(of_labels, ops.convert_to_tensor(E))
    assert relative_error(ops.convert_to_numpy(x), EVEN.one_step(E, labels)) < tolerance


def test_fresh_samples_are_new_at_each_step_and_a_function_of_seed_and_step():
    source = FreshSamples(LAW.sample, count=3000)
    first, again = (Batches(source, 16, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first[5][0], again[5][0])
    assert not np.isin(first[5][0], np.concatenate([first[4][0], first[190][0]])).any()
    assert not np.isin(first[5][0], Batches(source, 16, seed=2)[5][0]).any()
    halves = [Batches(source, 16, seed=1, part=(p, 2))[5][0] for p in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), first[5][0])
    x, y = source.take(np.array([2999, 7, 1024]))
    np.testing.assert_array_equal(source.take(np.array([7]))[0][0], x[1])
    assert x.shape == (3, 5) and y.shape == (3,) and len(source) == 3000


def test_vectors_are_drawn_by_their_first_two_numbers():
    x = LAW.sample(50, np.random.default_rng(0))[0]
    drawn, points = draw_samples(x, x), draw_samples(x[:, :2], x[:, :2])
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(points))
