"""Objectives on the Gaussian, where the truth is known, and their guided targets row by row."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from oracles import Gaussian, relative_error

from keras_meanflow.backend.random import Keys
from keras_meanflow.couplings import StoredPairs
from keras_meanflow.guidance import Guidance
from keras_meanflow.objectives import DecoupledMeanFlow, FlowConsist, FlowMatching, MeanFlow
from keras_meanflow.objectives.decoupled_mean_flow import BranchDraws
from keras_meanflow.paths import Linear
from keras_meanflow.times import LogitNormal, MaskedThenClamped, Uniform
from keras_meanflow.weightings import AdaptiveLoss, ReleasedLogMSE, SquaredError

EXACT = [
    MeanFlow(),
    MeanFlow(times=Uniform(fraction_r_equals_t=0.0)),
    MeanFlow(times=MaskedThenClamped()),
    FlowMatching(),
    DecoupledMeanFlow(),
]
ALONG_THE_MARGINAL = [FlowConsist(companion=Gaussian())]
ROWS = 64


class MarginalPath:
    """The linear path with the marginal velocity E[v | z_t] for v."""

    def __call__(self, x, e, t):
        z, _ = Linear()(x, e, t)
        return z, Gaussian()(z, t, t)


def _data():
    rng = np.random.default_rng(0)
    return ops.convert_to_tensor((0.7 + 0.5 * rng.standard_normal((ROWS, 3, 2))).astype("float32"))


def _data_and_noise(x, draws):
    """Of each row of the problem."""
    if isinstance(draws, BranchDraws):
        return ops.tile(x, (2, 1, 1)), ops.concatenate([draws.flow.e, draws.mean_flow.e])
    return x, draws.e


def _numpy(tree):
    return keras.tree.map_structure(ops.convert_to_numpy, tree)


@pytest.mark.parametrize("objective", EXACT + ALONG_THE_MARGINAL, ids=lambda o: type(o).__name__)
def test_on_the_exact_u_with_the_marginal_velocity_every_row_has_zero_error(objective):
    x = _data()
    draws = objective.draw(Keys(seed=0, step=0), x)
    problem = dataclasses.replace(objective, path=MarginalPath())(Gaussian(), x, None, draws)
    u = Gaussian().numpy(*_numpy([problem.inputs[k] for k in "zrt"]))
    share = 0.0 if problem.self_share is None else _numpy(problem.self_share)[:, None, None]
    assert np.max(np.abs((1.0 - share) * u - ops.convert_to_numpy(problem.target))) < 1e-5


@pytest.mark.parametrize("objective", EXACT, ids=lambda o: type(o).__name__)
def test_with_the_conditional_velocity_the_error_is_the_known_one_per_row(objective):
    x = _data()
    draws = objective.draw(Keys(seed=0, step=1), x)
    problem = objective(Gaussian(), x, None, draws)
    z, r, t, x, e = _numpy([*(problem.inputs[k] for k in "zrt"), *_data_and_noise(x, draws)])
    gaussian = Gaussian()
    error = gaussian.numpy(z, r, t) - ops.convert_to_numpy(problem.target)
    slope = gaussian.slope(r.astype("float64"), t.astype("float64"), np.sqrt)
    factor = (1.0 - (t - r) * slope)[:, None, None]
    np.testing.assert_allclose(error, -factor * ((e - x) - gaussian.numpy(z, t, t)), atol=1e-5)


def test_on_the_diagonal_every_objective_is_flow_matching():
    x = _data()
    times = LogitNormal(fraction_r_equals_t=1.0)
    reference = FlowMatching(times=times)
    draws = reference.draw(Keys(seed=0, step=0), x)
    expected = reference(Gaussian(), x, None, draws)
    for objective in (MeanFlow(times=times), MeanFlow(times=times, label_dropout=0.0)):
        problem = objective(Gaussian(), x, None, objective.draw(Keys(seed=0, step=0), x))
        np.testing.assert_array_equal(*_numpy((problem.target, expected.target)))
        np.testing.assert_array_equal(*_numpy((problem.inputs["z"], expected.inputs["z"])))
    both = DecoupledMeanFlow(times=times, flow_times=times)(
        Gaussian(), x, None, BranchDraws(draws, draws)
    )
    np.testing.assert_array_equal(*_numpy((both.target, ops.tile(expected.target, (2, 1, 1)))))


class Field:
    """A smooth labelled velocity that counts the rows it is evaluated on; label 9 is null."""

    def __init__(self):
        self.rows = []

    def __call__(self, z, r, t, labels):
        self.rows.append(z.shape[0])
        shift = ops.reshape(ops.cast(labels, "float32") * (1.0 + t) - r, (-1, 1, 1))
        return ops.sin(z) + shift

    def drop(self, labels, drop):
        return ops.where(drop, 9, labels)


@pytest.mark.parametrize(
    ("guidance", "forwards"),
    [  # rows evaluated over the batch: null, conditional on r < t rows, the jvp (once in eager)
        (Guidance(omega=1.0, kappa=0.5), 1 + 0.25 + 0.25),
        (Guidance(omega=2.0, kappa=0.0), 1 + 0.25),
        (Guidance(omega=0.5, kappa=0.5), 0.25 + 0.25),
        (Guidance(omega=0.2, kappa=0.92, start=0.3, end=0.8), 1 + 0.25 + 0.25),
    ],
)
def test_the_guided_target_is_equation_21_at_the_fewest_forward_passes(guidance, forwards):
    x, labels = _data(), ops.convert_to_tensor(np.arange(ROWS, dtype="int32") % 5)
    objective, u = MeanFlow(guidance=guidance, label_dropout=0.3), Field()
    draws = objective.draw(Keys(seed=0, step=2), x, labels)
    problem = objective(u, x, labels, draws)
    assert sum(u.rows) == ROWS * forwards

    z, r, t, e, drop = _numpy((problem.inputs["z"], draws.r, draws.t, draws.e, draws.drop))
    assert 5 < drop.sum() < 35 and drop[r < t].any() and drop[r == t].any()
    x, labels = _numpy((x, labels))
    kept = np.where(drop, 9, labels)
    np.testing.assert_array_equal(ops.convert_to_numpy(problem.inputs["condition"]), kept)

    def velocity(z, r, t, labels):
        return np.sin(z) + (labels * (1.0 + t) - r)[:, None, None]

    active = (t >= guidance.start) & (t <= guidance.end) & ~drop
    omega = np.where(active, guidance.omega, 1.0)[:, None, None]
    kappa = np.where(active, guidance.kappa, 0.0)[:, None, None]
    v_cond, v_null = velocity(z, t, t, kept), velocity(z, t, t, np.full_like(labels, 9))
    v = omega * (e - x) + kappa * v_cond + (1.0 - omega - kappa) * v_null  # Eq. 21
    du_dt = np.cos(z) * v + kept[:, None, None]
    expected = v - (t - r)[:, None, None] * du_dt
    target = ops.convert_to_numpy(problem.target)
    if problem.self_share is not None:
        share = ops.convert_to_numpy(problem.self_share)
        np.testing.assert_array_equal(share[r < t], 0.0)
        target = target + share[:, None, None] * velocity(z, r, t, kept)
    assert relative_error(target, expected) < 1e-6


def test_without_a_condition_no_row_is_dropped_and_guidance_is_an_error():
    x = _data()
    draws = MeanFlow().draw(Keys(seed=0, step=0), x)
    assert not ops.convert_to_numpy(draws.drop).any()
    with pytest.raises(ValueError, match="Guidance needs a condition"):
        MeanFlow(guidance=Guidance())(Gaussian(), x, None, draws)


def test_stored_pairs_use_their_own_noise():
    x = _data()
    pairs = {"x": x, "e": -2.0 * x}
    objective = MeanFlow(coupling=StoredPairs())
    draws = objective.draw(Keys(seed=0, step=0), pairs)
    problem = objective(Gaussian(), pairs, None, draws)
    z, t, x = _numpy((problem.inputs["z"], draws.t, x))
    np.testing.assert_allclose(z, (1.0 - 3.0 * t)[:, None, None] * x, atol=1e-6)
    with pytest.raises(ValueError, match=r"needs coupling=StoredPairs\(\)"):
        MeanFlow().draw(Keys(seed=0, step=0), pairs)
    with pytest.raises(ValueError, match="needs data of the form"):
        objective.draw(Keys(seed=0, step=0), x)


def test_a_batch_too_small_for_the_share_says_how_many_rows_it_takes():
    MeanFlow().check_batch(2)
    with pytest.raises(ValueError, match="at least 2 rows. Received: 1"):
        MeanFlow().check_batch(1)
    MeanFlow(times=LogitNormal(fraction_r_equals_t=1.0)).check_batch(1)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (SquaredError(), [12.0, 48.0]),
        (AdaptiveLoss(), [12 / 12.01, 48 / 48.01]),
        (AdaptiveLoss(p=0.75, c=1e-3), [12 / 12.001**0.75, 48 / 48.001**0.75]),
        (AdaptiveLoss(p=0.0), [12.0, 48.0]),
    ],
)
def test_losses_sum_over_the_sample_then_weigh(loss, expected):
    target = np.zeros((2, 2, 2, 3), "float32")
    prediction = np.stack([np.ones((2, 2, 3)), 2.0 * np.ones((2, 2, 3))]).astype("float32")
    np.testing.assert_allclose(ops.convert_to_numpy(loss.call(target, prediction)), expected, 1e-6)
    weighted = loss(target, prediction, sample_weight=np.array([1.0, 3.0], "float32"))
    assert float(weighted) == pytest.approx((expected[0] + 3.0 * expected[1]) / 2.0, rel=1e-6)


@pytest.mark.parametrize(
    "part",
    [
        MeanFlow(guidance=Guidance(omega=0.2, kappa=0.92, end=0.75), loss=AdaptiveLoss(p=0.75)),
        MeanFlow(times=MaskedThenClamped(), coupling=StoredPairs(), label_dropout=0.2),
        FlowMatching(times=Uniform(fraction_r_equals_t=1.0)),
        DecoupledMeanFlow(guidance=Guidance(omega=1.0, kappa=0.6, end=0.7), loss=ReleasedLogMSE()),
    ],
    ids=lambda p: type(p).__name__,
)
def test_an_objective_survives_its_config(part):
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(part))
    assert restored.get_config() == part.get_config()
    assert type(restored) is type(part)
