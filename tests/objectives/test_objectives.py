"""Objectives on the Gaussian, where the truth is known, and their guided targets row by row."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from oracles import Gaussian, randomise, relative_error

from keras_meanflow import FlowMap
from keras_meanflow.backend.random import Keys
from keras_meanflow.networks import MLP
from keras_meanflow.objectives import (
    AlphaFlow,
    BoundaryMeanFlow,
    DecoupledMeanFlow,
    FlowConsist,
    FlowMatching,
    ImprovedMeanFlow,
    MeanFlow,
    SplitMeanFlow,
)
from keras_meanflow.objectives.decoupled_mean_flow import BranchDraws
from keras_meanflow.objectives.guidance import Guidance, GuidanceInput, TeacherGuidance
from keras_meanflow.objectives.learned_variance import ReleasedLogMSE
from keras_meanflow.parts.couplings import StoredPairs
from keras_meanflow.parts.derivatives import CentralDifference
from keras_meanflow.parts.losses import AdaptiveLoss, SquaredError
from keras_meanflow.parts.paths import Linear
from keras_meanflow.parts.rows import per_row
from keras_meanflow.parts.schedules import Line
from keras_meanflow.parts.time_laws import LogitNormal, MaskedThenClamped, Uniform

EXACT = [
    MeanFlow(),
    MeanFlow(times=Uniform(fraction_r_equals_t=0.0)),
    MeanFlow(times=MaskedThenClamped()),
    AlphaFlow(alpha=0.0),
    SplitMeanFlow(),
    SplitMeanFlow(splits=(0.5, 0.5)),
    BoundaryMeanFlow(),
    ImprovedMeanFlow(),
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


# The error at the exact u is -factor (v - E[v | z]); factor depends on t - r and d_z u.
FACTORS = {
    MeanFlow: lambda gap, slope: 1.0 - gap * slope,
    BoundaryMeanFlow: lambda gap, slope: 0.0 * gap + 1.0,  # du/dt is exact, v is not
    ImprovedMeanFlow: lambda gap, slope: 0.0 * gap + 1.0,
    SplitMeanFlow: lambda gap, slope: 1.0 * (gap == 0.0),  # rows with r < t see no data
}


def _data():
    rng = np.random.default_rng(0)
    return ops.convert_to_tensor((0.7 + 0.5 * rng.standard_normal((ROWS, 3, 2))).astype("float32"))


def _data_and_noise(x, draws):
    """The data and the noise of each row of the problem."""
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
    factor = FACTORS.get(type(objective), FACTORS[MeanFlow])(t - r, slope)[:, None, None]
    np.testing.assert_allclose(error, -factor * ((e - x) - gaussian.numpy(z, t, t)), atol=1e-5)


DIAGONAL = [
    MeanFlow(),
    MeanFlow(label_dropout=0.0),
    AlphaFlow(),
    SplitMeanFlow(),
    BoundaryMeanFlow(),
    ImprovedMeanFlow(),
]


@pytest.mark.parametrize("objective", DIAGONAL, ids=lambda o: type(o).__name__)
def test_on_the_diagonal_every_objective_is_flow_matching(objective):
    x, times = _data(), LogitNormal(fraction_r_equals_t=1.0)
    reference, objective = FlowMatching(times=times), dataclasses.replace(objective, times=times)
    expected = reference(Gaussian(), x, None, reference.draw(Keys(seed=0, step=0), x))
    problem = objective(Gaussian(), x, None, objective.draw(Keys(seed=0, step=0), x))
    np.testing.assert_array_equal(*_numpy((problem.target, expected.target)))
    np.testing.assert_array_equal(*_numpy((problem.inputs["z"], expected.inputs["z"])))
    if problem.weight is not None:
        np.testing.assert_array_equal(ops.convert_to_numpy(problem.weight), 1.0)


@pytest.mark.parametrize(
    "times",
    [MaskedThenClamped(r_mean=-1.0), LogitNormal(fraction_r_equals_t=Line(start=1.0, end=0.0))],
)
@pytest.mark.parametrize(
    "objective",
    [
        MeanFlow(guidance=Guidance(omega=1.0, kappa=0.5)),
        AlphaFlow(alpha=0.5),
        SplitMeanFlow(),
        SplitMeanFlow(guidance=Guidance(omega=1.0, kappa=0.5)),
        BoundaryMeanFlow(),
    ],
)
def test_rows_with_r_equal_to_t_learn_the_velocity_wherever_they_are(objective, times):
    """AlphaFlow and SplitMeanFlow gave such rows among those with r < t their own prediction."""
    objective = dataclasses.replace(objective, times=times)
    network = randomise(MLP(data_size=3, width=8, depth=1, num_classes=2))
    u = FlowMap(network, objective).field
    x, y = np.ones((ROWS, 3), "float32"), np.arange(ROWS, dtype="int32") % 2
    x, y = ops.convert_to_tensor(x), ops.convert_to_tensor(y)
    draws = objective.draw(Keys(seed=0, step=0, progress=0.5), x, y)

    def full_target(problem):
        share = 0.0 if problem.self_share is None else per_row(problem.self_share, x)
        return ops.convert_to_numpy(problem.target + share * u(*problem.inputs.values()))

    expected = full_target(objective.on_the_diagonal(u, x, y, draws)[0])
    below = ops.convert_to_numpy(draws.r < draws.t)
    in_block = ops.convert_to_numpy(draws.rows.mask) & ~below
    assert in_block.sum() > 3 and below.sum() > 3
    for make in (objective, objective.training_problem):
        found = full_target(make(u, x, y, draws))
        np.testing.assert_allclose(found[~below], expected[~below], atol=1e-5)
    found = full_target(objective(u, x, y, draws))
    assert np.abs(found - expected).reshape(ROWS, -1).max(1)[below].min() > 1e-5


def test_on_the_diagonal_both_branches_of_decoupled_mean_flow_are_flow_matching():
    x, times = _data(), LogitNormal(fraction_r_equals_t=1.0)
    reference = FlowMatching(times=times)
    draws = reference.draw(Keys(seed=0, step=0), x)
    expected = reference(Gaussian(), x, None, draws)
    both = DecoupledMeanFlow(times=times, flow_times=times)(
        Gaussian(), x, None, BranchDraws(draws, draws)
    )
    np.testing.assert_array_equal(*_numpy((both.target, ops.tile(expected.target, (2, 1, 1)))))


BELOW = Uniform(fraction_r_equals_t=0.0)


def _problem(objective, x, step=3, **draws):
    objective = dataclasses.replace(objective, path=MarginalPath())
    drawn = objective.draw(Keys(seed=0, step=step), x)
    return objective(Gaussian(), x, None, drawn._replace(**draws))


def _errors(problem):
    """u - target by row, float64."""
    u = Gaussian().numpy(*_numpy([problem.inputs[k] for k in "zrt"]))
    return u - ops.convert_to_numpy(problem.target)


def test_alpha_flows_error_is_first_order_in_alpha():
    """The loss uses (u - target) / alpha; z_s is an Euler step, which leaves the path."""
    x = _data()
    alphas = (0.16, 0.08, 0.04, 0.02)
    sizes = [
        np.abs(_errors(_problem(AlphaFlow(times=BELOW, alpha=alpha), x))).mean() / alpha
        for alpha in alphas
    ]
    ratios = [large / small for large, small in zip(sizes, sizes[1:], strict=False)]
    assert 2.0 < ratios[2] < ratios[1] < ratios[0] < 2.2 and ratios[2] < 2.05, ratios
    at_0 = _problem(AlphaFlow(times=BELOW, alpha=0.0), x)
    expected = _problem(MeanFlow(times=BELOW), x)
    np.testing.assert_array_equal(*_numpy((at_0.target, expected.target)))


def test_alpha_flows_gradient_over_alpha_tends_to_mean_flows():
    """At a wrong u too: (u - target) / alpha tends to u - v + (t - r) du/dt."""
    x, u = _data(), lambda z, r, t, c=None: ops.sin(z) + ops.reshape(t * t - r, (-1, 1, 1))
    draws = MeanFlow(times=BELOW).draw(Keys(seed=0, step=4), x)
    problem = MeanFlow(times=BELOW)(u, x, None, draws)
    prediction = u(*(problem.inputs[k] for k in "zrt"))
    limit, prediction = _numpy((prediction - problem.target, prediction))
    differences = []
    for alpha in (0.04, 0.02):
        near = AlphaFlow(times=BELOW, alpha=alpha)(u, x, None, draws)
        scaled = (prediction - ops.convert_to_numpy(near.target)) / alpha
        differences.append(relative_error(scaled, limit))
    assert differences[1] < 0.05 and 1.8 < differences[0] / differences[1] < 2.2


def test_alpha_is_clamped_at_both_ends_and_weighs_only_between_them():
    x = _data()
    for progress, alpha in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        objective = AlphaFlow()
        problem = _problem(objective, x, progress=progress)
        assert float(objective.clamped(progress)) == alpha
        r, t = _numpy((problem.inputs["r"], problem.inputs["t"]))
        expected = np.where((r < t) & (alpha > 0.0), alpha, 1.0)
        np.testing.assert_array_equal(ops.convert_to_numpy(problem.weight), expected)
    # 1 - sigmoid(25 (p - 1/2)) crosses 1 - eta and eta at 1/2 -+ log(1 / eta - 1) / 25.
    edge = np.log(1.0 / 5e-3 - 1.0) / 25.0
    inside, outside = 0.5 - edge + 1e-3, 0.5 - edge - 1e-3
    assert float(objective.clamped(outside)) == 1.0 > float(objective.clamped(inside)) > 0.99
    inside, outside = 0.5 + edge - 1e-3, 0.5 + edge + 1e-3
    assert float(objective.clamped(outside)) == 0.0 < float(objective.clamped(inside)) < 0.01


def test_at_alpha_1_the_target_is_v_on_every_interval():
    x = _data()
    problem = _problem(AlphaFlow(times=BELOW, alpha=1.0), x)
    z, t = problem.inputs["z"], problem.inputs["t"]
    np.testing.assert_array_equal(*_numpy((problem.target, Gaussian()(z, t, t))))


def test_alpha_flow_clips_targets_between_the_ends_only():
    x = _data()
    for alpha, clipped in ((0.5, True), (0.0, False), (1.0, False)):
        problem = _problem(AlphaFlow(times=BELOW, alpha=alpha, clip=0.25), x)
        largest = np.abs(ops.convert_to_numpy(problem.target)).max()
        assert (largest <= 0.25) == clipped


def test_split_mean_flow_tends_to_mean_flow_as_lambda_tends_to_0():
    """At a wrong u: (u - target) / lambda tends to u - u(z, t, t) + (t - r) du/dt along it."""
    x, u = _data(), lambda z, r, t, c=None: ops.sin(z) + ops.reshape(t * t - r, (-1, 1, 1))

    class OwnPath:
        def __call__(self, x, e, t):
            z, _ = Linear()(x, e, t)
            return z, u(z, t, t)

    limit = MeanFlow(times=BELOW, path=OwnPath())
    draws = limit.draw(Keys(seed=0, step=4), x)
    problem = limit(u, x, None, draws)
    prediction = u(*(problem.inputs[k] for k in "zrt"))
    residual, prediction = _numpy((prediction - problem.target, prediction))
    differences = []
    for share in (0.04, 0.02):
        objective = SplitMeanFlow(times=BELOW, splits=(share, share))
        split = objective(u, x, None, objective.draw(Keys(seed=0, step=4), x))
        scaled = (prediction - ops.convert_to_numpy(split.target)) / share
        differences.append(relative_error(scaled, residual))
    assert differences[1] < 0.05 and 1.8 < differences[0] / differences[1] < 2.2


def test_splits_are_drawn_over_their_range():
    x = _data()
    for low, high in ((0.0, 1.0), (0.2, 0.3)):
        draws = SplitMeanFlow(splits=(low, high)).draw(Keys(seed=0, step=0), x)
        split = ops.convert_to_numpy(draws.extra)
        assert low < split.min() < low + 0.1 * (high - low)
        assert high > split.max() > high - 0.1 * (high - low)
    with pytest.raises(ValueError, match="rising numbers"):
        SplitMeanFlow(splits=(0.6, 0.5))


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
        (Guidance(omega=0.2, kappa=0.92, start=0.1, end=0.4), 1 + 0.25 + 0.25),
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


class FieldWithGuidance(Field):
    """The same with guidance in its condition, and a second head that has another velocity."""

    def __call__(self, z, r, t, condition):
        given = condition["omega"] - condition["t_min"] * condition["t_max"]
        shift = ops.reshape(given * t, (-1, 1, 1))
        return super().__call__(z, r, t, condition["labels"]) + shift

    def velocity(self, z, r, t, condition):
        return 2.0 * self(z, r, t, condition)


@pytest.mark.parametrize(
    ("objective", "head", "forwards"),
    [  # rows over the batch: null, own velocity on r < t rows or on all, the jvp (once in eager)
        (BoundaryMeanFlow(guidance=GuidanceInput()), 1.0, 1 + 0.5 + 0.5),
        (ImprovedMeanFlow(guidance=GuidanceInput()), 2.0, 1 + 1 + 0.5),
    ],
    ids=("boundary", "head"),
)
def test_guidance_as_an_input_has_the_papers_target_and_tangent(objective, head, forwards):
    """v_g = v + (1 - 1/w)(v_c - v_u), du/dt along v_c, w = 1 outside of [t_min, t_max]."""
    x, labels = _data(), ops.convert_to_tensor(np.arange(ROWS, dtype="int32") % 5)
    objective, u = dataclasses.replace(objective, label_dropout=0.3), FieldWithGuidance()
    draws = objective.draw(Keys(seed=0, step=2), x, labels)
    problem = objective(u, x, labels, draws)
    assert sum(u.rows) == ROWS * forwards
    z, r, t, e, drop, scale = _numpy(
        (problem.inputs["z"], draws.r, draws.t, draws.e, draws.drop, draws.scale)
    )
    x, labels = _numpy((x, labels))
    labels = np.where(drop, 9, labels)
    inside = (scale["t_min"] <= t) & (t <= scale["t_max"])
    assert 5 < (~inside).sum() < 40 and drop[r < t].any()
    w = np.where(inside, scale["omega"], 1.0)
    given = scale["omega"] - scale["t_min"] * scale["t_max"]

    def rows(a):
        return a[:, None, None]

    v_c = head * (np.sin(z) + rows(labels * (1.0 + t) - t + w * t))
    v_u = head * (np.sin(z) + rows(9 * (1.0 + t) - t + 1.0 * t))
    kappa = rows(np.where(drop, 0.0, 1.0 - 1.0 / w))
    v_g = e - x + kappa * (v_c - v_u)
    du_dt = np.cos(z) * v_c + rows(labels + given)
    target = ops.convert_to_numpy(problem.target)
    if problem.self_share is not None:
        share = rows(ops.convert_to_numpy(problem.self_share))
        target = target + share * (np.sin(z) + rows(labels * (1.0 + t) - r + given * t))
    assert relative_error(target, v_g - rows(t - r) * du_dt) < 1e-6
    if problem.second is not None:
        assert relative_error(ops.convert_to_numpy(problem.second.target), v_g) < 1e-6
    expected = {"labels": labels, **scale}
    assert set(problem.inputs["condition"]) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(
            ops.convert_to_numpy(problem.inputs["condition"][name]), value
        )


@pytest.mark.parametrize("beta", [1.0, 2.0, 0.5])
def test_guidance_scales_follow_their_power_law(beta):
    """The share below w of p(w) ~ w^-beta on [1, 8], by its integral."""
    guidance, rows = GuidanceInput(beta=beta), 4096
    t = ops.linspace(0.0, 1.0, rows)
    drawn = _numpy(guidance.draw(Keys(seed=0, step=0), ops.where(t < 0.5, t, 0.0), t))
    omega = np.sort(drawn["omega"].astype("float64"))
    power = 1.0 - beta
    share = np.log(omega) / np.log(8.0)
    if power:
        share = (omega**power - 1.0) / (8.0**power - 1.0)
    np.testing.assert_allclose(share, (np.arange(rows) + 0.5) / rows, atol=0.03)
    below = np.arange(rows) >= rows // 2
    assert (drawn["t_min"][~below] == 0.0).all() and (drawn["t_max"][~below] == 1.0).all()
    assert 0.0 < drawn["t_min"][below].min() < 0.01 and 0.49 < drawn["t_min"].max() < 0.5
    assert 0.5 < drawn["t_max"][below].min() < 0.51 and drawn["t_max"][below].max() > 0.99


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_teachers_velocity_replaces_that_of_the_data(scale):
    teacher = randomise(MLP(data_size=6, width=8, depth=1, num_classes=5), seed=1)
    x = ops.reshape(_data(), (ROWS, 6))
    labels = ops.convert_to_tensor(np.arange(ROWS, dtype="int32") % 5)
    guidance = TeacherGuidance(teacher=teacher, scale=scale, start=0.2, end=0.7)
    objective = MeanFlow(guidance=guidance, label_dropout=0.3)
    u = FlowMap(MLP(data_size=6, width=8, depth=1, num_classes=5), objective)
    problem = u.build_problem((x, labels), training=True)
    z, r, t = (problem.inputs[name] for name in "zrt")
    kept = problem.inputs["condition"]
    assert ops.convert_to_numpy(kept == 5).any()
    null = ops.full_like(kept, 5)
    v_c, v_u, t_ = _numpy((teacher(z, t, t, kept), teacher(z, t, t, null), t))
    s = np.where((t_ >= 0.2) & (t_ <= 0.7), scale, 1.0)[:, None]
    on = ops.convert_to_numpy(r == t)
    expected = (v_u + s * (v_c - v_u))[on]
    assert relative_error(ops.convert_to_numpy(problem.target)[on], expected) < 1e-6


def test_an_objective_refuses_a_network_without_its_inputs_or_its_head():
    network = MLP(data_size=6, width=8, depth=1, num_classes=5)
    with pytest.raises(ValueError, match="needs a network that takes the scale"):
        FlowMap(network, BoundaryMeanFlow(guidance=GuidanceInput()))
    with pytest.raises(ValueError, match="needs a network with a second head"):
        FlowMap(network, ImprovedMeanFlow())
    with pytest.raises(ValueError, match="unconditional teacher needs scale=1"):
        TeacherGuidance(teacher=MLP(data_size=6, width=8, depth=1), scale=2.0)


def test_without_a_condition_no_row_is_dropped_and_guidance_is_an_error():
    x = _data()
    draws = MeanFlow().draw(Keys(seed=0, step=0), x)
    assert not ops.convert_to_numpy(draws.drop).any()
    with pytest.raises(ValueError, match="Guidance needs a condition"):
        MeanFlow(guidance=Guidance())(Gaussian(), x, None, draws)


def test_stored_pairs_use_the_stored_noise():
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
        AlphaFlow(clip=4.0, guidance=Guidance(omega=0.2, kappa=0.92)),
        SplitMeanFlow(splits=(0.5, 0.5)),
        ImprovedMeanFlow(guidance=GuidanceInput(beta=2.0, largest=4.0)),
        BoundaryMeanFlow(derivative=CentralDifference()),
    ],
    ids=lambda p: type(p).__name__,
)
def test_an_objective_survives_its_config(part):
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(part))
    assert restored.get_config() == part.get_config()
    assert type(restored) is type(part)
