"""The diagnostics: against closed forms, quadrature and SciPy's solvers."""

import dataclasses

import keras
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from keras import ops
from oracles import Gaussian, central_difference

from keras_meanflow import FlowMap, LogitNormal, MeanFlow
from keras_meanflow.backend import gradient
from keras_meanflow.backend.random import Keys
from keras_meanflow.data import ArraySource
from keras_meanflow.networks import MLP, Network
from keras_meanflow.objectives import NoisyVelocity
from keras_meanflow.parts import MaskedThenClamped, ShapedGap, SquaredError, Uniform
from keras_meanflow.parts.gap_laws import GapBin
from keras_meanflow.studies.affinity import cosine, task_affinities
from keras_meanflow.studies.du_dt import du_dt_norms
from keras_meanflow.studies.fields import LearnedField, average_velocity
from keras_meanflow.studies.mixture import GaussianMixture
from keras_meanflow.studies.points import Points
from keras_meanflow.studies.quality import energy_distance
from keras_meanflow.studies.u_error import u_errors

RNG = np.random.default_rng(7)
X = RNG.standard_normal((24, 3)).astype("float32") + 0.5
PLAIN = MeanFlow(loss=SquaredError(), times=Uniform())
MIXTURE = GaussianMixture(np.array([[-1.0], [0.5], [2.0]]), 0.3, np.array([0.5, 0.2, 0.3]))


class Toy(Network):
    """`u = f(a, b, z, r, t)` with two trainable numbers a and b."""

    def __init__(self, f, a=0.0, b=0.0):
        super().__init__(data_shape=(3,))
        self.f = f
        self.a, self.b = (
            self.add_weight(shape=(), initializer=keras.initializers.Constant(value))
            for value in (a, b)
        )
        self.built = True

    def call(self, z, r, t, condition=None):
        column = ops.reshape(t - r, (-1, 1))
        a, b = ops.convert_to_tensor(self.a), ops.convert_to_tensor(self.b)
        return self.f(a, b, z, column) + 0.0 * z


def _model(network, objective=PLAIN):
    return FlowMap(network, objective, averages=())


def _points(count=24, x=X):
    return Points.of(ArraySource(x), count, seed=1)


# Gradients and their cosines


def test_a_gradient_is_that_of_the_closed_form_and_zero_where_nothing_depends():
    w, unused = (keras.Variable(np.ones((2,), "float32")) for _ in range(2))
    call = gradient(lambda c: ops.sum((w - c) ** 2), [w, unused])
    values = [ops.convert_to_tensor(np.array([3.0, -1.0], "float32")), unused.value]
    found = call(values, ops.convert_to_tensor(np.array([1.0, 1.0], "float32")))
    found = [ops.convert_to_numpy(one) for one in found]
    np.testing.assert_allclose(found, [[4.0, -4.0], [0.0, 0.0]])
    np.testing.assert_array_equal(ops.convert_to_numpy(w), 1.0)


@pytest.mark.parametrize("case", ["linear", "same", "opposite"])
def test_affinity_is_one_of_equal_losses_minus_one_of_opposite_ones_and_the_closed_form(case):
    """Constant u: both losses pull alike. u = b on the diagonal, -b off it: exactly opposite."""
    fields = {
        "linear": lambda a, b, z, gap: a * z + b,
        "same": lambda a, b, z, gap: b,
        "opposite": lambda a, b, z, gap: ops.where(gap > 0.0, -b, b),
    }
    a = 0.4 if case == "linear" else 0.0
    bins = ((0.2, 0.6),)
    points = _points()
    flow_map = _model(Toy(fields[case], a=a))
    row = task_affinities(flow_map, points, bins=bins, batch_size=12, draws=2)[0]
    if case != "linear":
        assert row["affinity"] == pytest.approx({"same": 1.0, "opposite": -1.0}[case], abs=1e-6)
        return
    u = _linear_gradient(points, a, GapBin(times=Uniform(), low=0.2, high=0.6))
    v = _linear_gradient(points, a, Uniform(fraction_r_equals_t=1.0))
    whole_u, whole_v = u.sum(0), v.sum(0)
    assert row["affinity"] == pytest.approx(_cosine(whole_u, whole_v), abs=1e-5)
    across = (_cosine(v[0], u[1]) + _cosine(v[1], u[0])) / 2
    assert row["across"] == pytest.approx(across, abs=1e-5)
    assert row["halves"] == pytest.approx(_cosine(*u), abs=1e-5)
    assert row["halves_v"] == pytest.approx(_cosine(*v), abs=1e-5)
    assert row["norm"] == pytest.approx(np.linalg.norm(whole_u), rel=1e-5)


def _linear_gradient(points, a, times):
    """Of u = a z: du/dt = a v, so the error is `a z - v + (t - r) a v`; two draws of each batch."""
    halves = np.zeros((2, 2))
    for number in range(4):
        half = number % 2
        rows = slice(12 * half, 12 * half + 12)
        keys = Keys(0xAFF1, number)
        r, t = (ops.convert_to_numpy(one) for one in times.draw(keys, 12))
        e, t, r = ops.convert_to_numpy(keys.normal("e", (12, 3))), t[:, None], r[:, None]
        x = points.x[rows]
        z, v = (1.0 - t) * x + t * e, e - x
        error = a * z - v + (t - r) * a * v
        halves[half] += np.array([(2.0 * error * z).sum(), (2.0 * error).sum()]) / 48
    return halves


def _cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_the_cosine_of_nothing_is_not_a_number():
    assert np.isnan(cosine(np.zeros(3), np.ones(3)))
    assert cosine(np.array([3.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(2.0**-0.5)


def test_affinity_leaves_the_model_as_it_was_and_refuses_too_small_a_subset():
    flow_map = _model(Toy(lambda a, b, z, gap: b), NoisyVelocity(objective=PLAIN))
    with pytest.raises(ValueError, match="at least two batches. Received: 24 items in batches of"):
        task_affinities(flow_map, _points(), bins=(), batch_size=13)
    before = flow_map.objective
    assert task_affinities(flow_map, _points(), bins=(), batch_size=12) == []
    assert flow_map.objective is before


# One bin of gaps


@pytest.mark.parametrize(
    "times", [LogitNormal(), Uniform(), MaskedThenClamped(), ShapedGap(times=Uniform())]
)
def test_every_gap_lies_in_the_bin_and_every_row_has_one(times):
    r, t = GapBin(times=times, low=0.3, high=0.5).draw(Keys(seed=0, step=0), 500)
    gap = ops.convert_to_numpy(t) - ops.convert_to_numpy(r)
    assert gap.min() >= 0.3 and gap.max() <= 0.5 and np.ptp(gap) > 0.15


def test_within_the_bin_the_law_is_the_other_samplers():
    """Against rejection with NumPy's own draws: means of r, t and t^2 to 4 standard errors."""
    rng, n = np.random.default_rng(0), 20_000
    pair = np.sort(1.0 / (1.0 + np.exp(0.4 - rng.standard_normal((400_000, 2)))), axis=1)
    gap = pair[:, 1] - pair[:, 0]
    theirs = pair[(gap >= 0.1) & (gap <= 0.3)]
    ours = GapBin(low=0.1, high=0.3).draw(Keys(seed=0, step=3), n)
    r, t = (ops.convert_to_numpy(one) for one in ours)
    for a, b in ((r, theirs[:, 0]), (t, theirs[:, 1]), (t**2, theirs[:, 1] ** 2)):
        assert abs(a.mean() - b.mean()) < 4.0 * b.std() / n**0.5


@pytest.mark.parametrize(
    "arguments, rule",
    [
        (dict(low=0.5, high=0.3), "low below high. Received: 0.5 to 0.3"),
        (dict(low=0.5, high=1.1), "lies in"),
        (dict(low=0.9999, high=1.0), "must draw gaps of the bin"),
        (dict(fraction_r_equals_t=1.5), "share of rows"),
    ],
)
def test_a_bin_without_gaps_is_refused(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        GapBin(**arguments)


@pytest.mark.parametrize("part", [GapBin(low=0.2, high=0.4), NoisyVelocity(k=0.2)])
def test_the_parts_of_studies_are_saved_and_loaded(part):
    config = keras.saving.serialize_keras_object(part)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(part) and keras.saving.serialize_keras_object(again) == config


# Noise in the target of v


def test_noise_has_the_standard_deviation_k_times_the_norm_of_v_on_the_rows_of_v_alone():
    k, objective = 0.3, MeanFlow(times=Uniform(fraction_r_equals_t=0.5))
    noisy = NoisyVelocity(objective=objective, k=k)
    x = np.repeat(RNG.standard_normal((8, 1)), 4000, axis=1).astype("float32")
    x = ops.convert_to_tensor(x)
    u = dataclasses.make_dataclass("U", [])
    u.__call__ = lambda self, z, r, t, condition=None: 0.5 * z
    draws = noisy.draw(Keys(seed=0, step=0), x)
    problem, plain = noisy(u(), x, None, draws), objective(u(), x, None, draws)
    noise = ops.convert_to_numpy(problem.target - plain.target)
    norms = np.linalg.norm(ops.convert_to_numpy(draws.e - x), axis=1)
    diagonal = ops.convert_to_numpy(draws.r == draws.t)
    assert diagonal.sum() == 4 and (noise[~diagonal] == 0.0).all()
    np.testing.assert_allclose(noise[diagonal].std(axis=1), k * norms[diagonal], rtol=0.05)
    assert (np.abs(noise[diagonal].mean(axis=1)) < 4 * k * norms[diagonal] / 4000**0.5).all()
    np.testing.assert_array_equal(
        *(ops.convert_to_numpy(one.inputs["z"]) for one in (problem, plain))
    )
    _, later = noisy.draw(Keys(seed=0, step=1), x).extra
    assert np.abs(ops.convert_to_numpy(later - draws.extra[1])).mean() > 1.0  # 2 / sqrt(pi)


def test_negative_noise_is_refused():
    with pytest.raises(ValueError, match="at least 0. Received: -1"):
        NoisyVelocity(k=-1)


# The truth


def test_one_gaussian_is_the_closed_form_of_v_and_u():
    oracle, one = Gaussian(), GaussianMixture(np.full((1, 3), 0.7), 0.5)
    z, t = RNG.standard_normal((40, 3)), RNG.uniform(0.3, 1.0, 40)
    r = t * RNG.uniform(0.0, 0.9, 40)
    np.testing.assert_allclose(one.velocity(z, t), oracle.numpy(z, t, t), atol=1e-13)
    u = average_velocity(one.velocity, z, r, t, steps=64)
    np.testing.assert_allclose(u, oracle.numpy(z, r, t), atol=1e-7)


def test_the_velocity_of_a_mixture_is_the_mean_over_its_posterior():
    """By quadrature over x: E[(z - x) / t | z], from e - x = (z - x) / t."""
    x = np.linspace(-4.0, 5.0, 40_001)
    density = sum(
        share * scipy.stats.norm.pdf(x, centre[0], MIXTURE.s)
        for share, centre in zip(MIXTURE.shares, MIXTURE.centres, strict=True)
    )
    for z, t in [(-0.8, 0.2), (0.1, 0.5), (1.7, 0.9), (0.4, 1.0)]:
        posterior = density * scipy.stats.norm.pdf(z - (1.0 - t) * x, 0.0, t)
        expected = (posterior * (z - x) / t).sum() / posterior.sum()
        found = MIXTURE.velocity(np.array([[z]]), np.array([t]))
        assert found[0, 0] == pytest.approx(expected, abs=1e-9)


def test_the_average_velocity_of_a_mixture_is_that_of_a_fine_adaptive_solver():
    z, r, t = np.array([[-0.6], [0.3], [1.1]]), np.array([0.0, 0.1, 0.4]), np.array([1.0, 0.8, 0.9])
    found = average_velocity(MIXTURE.velocity, z, r, t, steps=200)
    for i in range(3):
        end = scipy.integrate.solve_ivp(
            lambda time, y: MIXTURE.velocity(y[None], np.array([time]))[0],
            (t[i], r[i]),
            z[i],
            method="DOP853",
            rtol=1e-11,
            atol=1e-12,
        ).y[:, -1]
        np.testing.assert_allclose(found[i], (z[i] - end) / (t[i] - r[i]), atol=1e-7)
    with pytest.raises(ValueError, match="r must lie below t"):
        average_velocity(MIXTURE.velocity, z, t, t)


def test_the_ring_is_the_distribution_of_the_gaussian_task():
    from keras_meanflow.recipe import find

    points = find("gaussian", "task").load().__globals__["ring"](20_000, 0)
    ring = GaussianMixture.ring()
    distance = np.linalg.norm(points[:, None] - ring.centres, axis=-1)
    assert np.bincount(distance.argmin(1), minlength=8) == pytest.approx(2500, rel=0.1)
    # Squares of Rayleigh distances have the mean 2 s^2; neighbours are 1.53 = 7.7 s apart.
    assert (distance.min(1) ** 2).mean() == pytest.approx(2 * ring.s**2, rel=0.03)


# Fields and what is measured on them


def test_a_field_is_the_network_whatever_the_batch():
    flow_map = FlowMap(MLP(data_size=3, width=8, depth=1, num_classes=4), averages=(0.5,))
    for variable in flow_map.variables:
        if variable.dtype == "float32":
            variable.assign(0.3 * RNG.standard_normal(variable.shape))
    flow_map.step.assign(1)  # an untrained model's average is its weights
    labels = np.arange(7, dtype="int32") % 4
    z, t = X[:7], np.linspace(0.2, 1.0, 7).astype("float32")
    r = 0.5 * t
    found = LearnedField(flow_map, batch_size=3)(z, r, t, labels)
    raw = ops.convert_to_numpy(flow_map.network(z, r, t, labels))
    assert np.abs(found - raw).max() > 1e-2  # the average's weights, not the raw ones
    flow_map.average = None
    found = LearnedField(flow_map, batch_size=3)(z, r, t, labels)
    np.testing.assert_allclose(found, raw, atol=1e-5)


def test_the_norm_of_du_dt_is_that_of_the_gaussian_oracle():
    oracle = Gaussian()
    field = LearnedField(_model(OracleNetwork()), batch_size=10)
    points = _points()
    rows = du_dt_norms(field.derivative, points, cells=3)
    sixths = [(round(6 * row["r"], 9), round(6 * row["t"], 9)) for row in rows]
    assert sixths == [(1, 1), (1, 3), (3, 3), (1, 5), (3, 5), (5, 5)]
    v = (points.e - points.x).astype("float64")
    for row in rows:
        t, r = np.full(24, row["t"]), np.full(24, row["r"])
        tangents = (v, np.zeros(24), np.ones(24))
        du_dt = central_difference(oracle.numpy, (points.at(t), r, t), tangents)
        norms = np.linalg.norm(du_dt, axis=1)
        assert row["du_dt_norm"] == pytest.approx(norms.mean(), rel=1e-4)
        moved = (row["t"] - row["r"]) * norms / np.linalg.norm(v, axis=1)
        assert row["correction"] == pytest.approx(moved.mean(), rel=1e-4, abs=1e-9)


class OracleNetwork(Network):
    """The exact average velocity of a Gaussian as a network without weights."""

    def __init__(self):
        super().__init__(data_shape=(3,))
        self.built = True

    def call(self, z, r, t, condition=None):
        return Gaussian()(z, r, t)


def test_the_error_of_the_exact_u_is_nothing_and_of_a_shifted_one_the_shift():
    field = LearnedField(_model(OracleNetwork()))
    truth = GaussianMixture(np.full((1, 3), 0.7), 0.5)
    gaps = (0.0, 0.2, 1.0)
    for velocity in (truth.velocity, field.velocity):
        rows = u_errors(field, velocity, _points(), gaps=gaps, ode_steps=16)
        assert [row["gap"] for row in rows] == list(gaps)
        assert max(row["rmse"] for row in rows) < 2e-4
    rows = u_errors(
        lambda *arguments: field(*arguments) + 0.25, truth.velocity, _points(), gaps=gaps
    )
    assert [row["rmse"] for row in rows] == pytest.approx([0.25] * 3, abs=1e-3)
    u = field(*_of_gap(0.2))
    expected = 0.25 / np.sqrt(np.mean(np.square(u)))
    assert rows[1]["relative"] == pytest.approx(expected, rel=1e-3)


def _of_gap(gap):
    t = (gap + (1.0 - gap) * (np.arange(24) + 0.5) / 24).astype("float32")
    return _points().at(t), t - np.float32(gap), t


def test_a_subset_is_fixed_and_its_size_checked():
    first, again = _points(5), _points(5)
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.e, again.e)
    assert len({tuple(row) for row in first.x} & {tuple(row) for row in X}) == 5
    with pytest.raises(ValueError, match="1 to 24 items, as many as the data. Received: 25"):
        _points(25)


def test_the_energy_distance_of_numbers_is_scipys():
    x, y = RNG.standard_normal(60), RNG.standard_normal(50) + 0.5
    expected = scipy.stats.energy_distance(x, y)
    assert energy_distance(x[:, None], y[:, None]) == pytest.approx(expected, rel=1e-10)
    assert energy_distance(X, X) == pytest.approx(0.0, abs=1e-6)
