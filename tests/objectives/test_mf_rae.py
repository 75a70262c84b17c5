"""MF-RAE's stages: against the authors' code, on the Gaussian, and by NumPy's own trajectories."""

import dataclasses

import keras
import numpy as np
import pytest
from golden import mf_rae as golden
from golden import weights_formats as formats
from keras import ops
from oracles import Gaussian, relative_error

from keras_meanflow import FlowMap, Heun, MeanFlow
from keras_meanflow.backend import gradient
from keras_meanflow.backend.random import Keys
from keras_meanflow.formats.conversion import FORMATS
from keras_meanflow.formats.fine_tuning import add_interval
from keras_meanflow.networks import MLP, DiTDH, Network
from keras_meanflow.objectives import Draws, EvenlyLabelled, TrajectoryRegression
from keras_meanflow.objectives.guidance import TeacherGuidance
from keras_meanflow.objectives.trajectory_regression import TrajectoryDraws
from keras_meanflow.parts import CentralDifference, ForwardMode
from keras_meanflow.parts.losses import AdaptiveLoss, AdaptiveQuartic, SquaredError
from keras_meanflow.parts.time_laws import ShiftedUniform, Uniform, dimension_shift, shifted
from keras_meanflow.samplers import Euler, shifted_times

ROWS = 64


class Teacher(Network):
    """The exact average velocity of the Gaussian as a network."""

    def __init__(self):
        super().__init__(data_shape=(3, 2))
        self.built = True

    def call(self, z, r, t, condition=None):
        return Gaussian()(z, r, t)


def _taught(share=1.0, **settings):
    """MFD by the exact teacher."""
    return MeanFlow(guidance=TeacherGuidance(teacher=Teacher(), share=share), **settings)


def _numpy(tree):
    return keras.tree.map_structure(ops.convert_to_numpy, tree)


def _data():
    rng = np.random.default_rng(0)
    return ops.convert_to_tensor((0.7 + 0.5 * rng.standard_normal((ROWS, 3, 2))).astype("float32"))


# ------------------------------------------------------------------------------ the authors' code


def _published(name):
    format = FORMATS[name]
    state = golden.random_weights(name)
    network = format.network(state, heads=formats.BODY_AND_HEAD["heads"])
    format.read_into(network, state)
    return network


def _losses_and_gradients(network, problem, loss):
    inputs, target = problem.inputs, problem.target

    def rows():
        u = network(inputs["z"], inputs["r"], inputs["t"], inputs["condition"])
        return loss.call(target, u)

    values = [v.value for v in network.trainable_variables]
    grads = gradient(lambda: ops.mean(rows()), network.trainable_variables)(values)
    by_id = {id(v): g for v, g in zip(network.trainable_variables, _numpy(grads), strict=True)}
    from keras_meanflow.formats.names import named_weights

    ours, theirs = named_weights(network), {}
    for row in FORMATS["mf-rae"].rows(network):
        if id(ours[row.ours]) in by_id:
            arrays = row.turn.theirs(by_id[id(ours[row.ours])], network)
            theirs |= dict(zip(row.theirs, arrays, strict=True))
    return _numpy(rows()), golden.summary(theirs)


def _agrees(found, key):
    losses, gradients = found
    with np.load(golden.PATH) as stored:
        np.testing.assert_allclose(losses, stored[f"{key}/loss"], rtol=1e-4)
        expected = stored[f"{key}/gradient"]
    np.testing.assert_allclose(gradients[:, 0], expected[:, 0], rtol=1e-3, atol=1e-6)
    assert relative_error(gradients[:, 1], expected[:, 1]) < 1e-4


@pytest.mark.parametrize("stage", ["mfd", pytest.param("mft", marks=pytest.mark.long)])
def test_loss_and_gradients_of_both_stages_are_the_authors(stage):
    student, teacher = _published("mf-rae"), _published("rae")
    settings = {
        "times": ShiftedUniform(fraction_r_equals_t=0.0),
        "derivative": CentralDifference(step=5e-3),
        "loss": AdaptiveQuartic(),
        "label_dropout": 0.0,
    }
    x, r, t, labels, _ = formats.inputs()
    draws = Draws(*map(ops.convert_to_tensor, (r, t, golden.noise(), np.zeros(len(t), "bool"))))
    objective = {
        "mfd": MeanFlow(guidance=TeacherGuidance(teacher=teacher), **settings),
        "mft": MeanFlow(**settings),
    }[stage]
    problem = objective(student, ops.convert_to_tensor(x), ops.convert_to_tensor(labels), draws)
    _agrees(_losses_and_gradients(student, problem, objective.loss), stage)


@pytest.mark.parametrize(
    ("kind", "shift", "key"),
    [
        (TrajectoryRegression, 1.0, "cmt"),
        pytest.param(*(EvenlyLabelled, golden.SHIFT, "cmt_mislabelled"), marks=pytest.mark.long),
    ],
)
def test_loss_and_gradients_of_trajectory_regression_are_the_authors(kind, shift, key):
    student, teacher = _published("mf-rae"), _published("rae")
    x, _, _, labels, _ = formats.inputs()
    rows, pairs = len(x), golden.STEPS * (golden.STEPS + 1) // 2
    every = np.tile((np.arange(pairs) + 0.5) / pairs, (rows, 1)).astype("float32")
    objective = kind(
        teacher=teacher,
        sampler=Euler(times=tuple(golden.grid(shift).tolist())),
        pairs=pairs,
        label_dropout=0.0,
    )
    draws = TrajectoryDraws(
        *map(ops.convert_to_tensor, (golden.noise(), np.zeros(rows, "bool"), every))
    )
    problem = objective(student, ops.convert_to_tensor(x), ops.convert_to_tensor(labels), draws)
    losses, gradients = _losses_and_gradients(student, problem, objective.loss)
    # The authors' mean over a sample; their order is by pair, from data to noise, then by row.
    numbers = np.prod(x.shape[1:])
    states = [
        (golden.STEPS - i, golden.STEPS - j) for i in range(1, golden.STEPS + 1) for j in range(i)
    ]
    ours = list(zip(*np.triu_indices(golden.STEPS + 1, k=1), strict=True))
    order = [ours.index(pair) for pair in states]
    _agrees((losses.reshape(rows, pairs).T[order].ravel() / numbers, gradients / numbers), key)


# ------------------------------------------------------------------------------ the Gaussian


def test_along_the_teachers_exact_velocity_every_row_has_zero_error():
    objective = _taught(times=Uniform(fraction_r_equals_t=0.25))
    x = _data()
    draws = objective.draw(Keys(seed=0, step=0), x)
    for derivative, tolerance in ((ForwardMode(), 1e-5), (CentralDifference(step=1e-3), 2e-3)):
        changed = dataclasses.replace(objective, derivative=derivative)
        problem = changed(Teacher(), x, None, draws)
        u = Gaussian().numpy(*_numpy([problem.inputs[k] for k in "zrt"]))
        assert np.max(np.abs(u - _numpy(problem.target))) < tolerance


def test_without_the_teachers_share_it_is_mean_flow_and_in_between_the_targets_mix():
    """The target is affine in v, and so in eta."""
    x, times = _data(), Uniform(fraction_r_equals_t=0.5)
    taught = {eta: _taught(share=eta, times=times) for eta in (0, 0.3, 1)}
    draws = taught[1].draw(Keys(seed=0, step=1), x)
    targets = {eta: _numpy(o(Teacher(), x, None, draws).target) for eta, o in taught.items()}
    plain = _numpy(MeanFlow(times=times)(Teacher(), x, None, draws).target)
    np.testing.assert_allclose(targets[0], plain, atol=1e-6)
    np.testing.assert_allclose(targets[0.3], 0.7 * targets[0] + 0.3 * targets[1], atol=1e-4)
    with pytest.raises(ValueError, match=r"share lies in \[0, 1\]. Received: 1.5"):
        _taught(share=1.5)


@pytest.mark.parametrize("sampler", [Euler(steps=4), Euler(times=shifted_times(4, 3.0))])
def test_targets_are_the_slopes_between_the_solvers_states_at_its_own_times(sampler):
    objective = TrajectoryRegression(teacher=Teacher(), sampler=sampler, pairs=5)
    x = _data()
    draws = objective.draw(Keys(seed=0, step=2), x)
    problem = objective(None, x, None, draws)
    z, r, t, target = _numpy([*(problem.inputs[k] for k in "zrt"), problem.target])
    assert len(z) == 5 * ROWS and (r < t).all()
    grid = np.asarray(sampler.grid, "float64")
    walk = [_numpy(draws.e).astype("float64")]
    for now, then in zip(grid[:-1], grid[1:], strict=True):
        at = np.full(ROWS, now)
        walk.append(walk[-1] - (now - then) * Gaussian().numpy(walk[-1], at, at))
    for i in range(0, len(z), 7):
        p, q = (int(np.argmin(np.abs(grid - time[i]))) for time in (t, r))
        start, end = walk[p][i // 5], walk[q][i // 5]
        np.testing.assert_allclose(z[i], start, atol=1e-5)
        np.testing.assert_allclose(target[i], (start - end) / (grid[p] - grid[q]), atol=1e-4)
    drawn = {(float(a), float(b)) for a, b in zip(t, r, strict=True)}
    assert len(drawn) == 10  # every pair of five states


def test_with_many_steps_the_targets_are_the_average_velocity():
    errors = []
    for steps in (8, 16):
        objective = TrajectoryRegression(teacher=Teacher(), sampler=Euler(steps=steps), pairs=8)
        draws = objective.draw(Keys(seed=0, step=3), _data())
        problem = objective(None, _data(), None, draws)
        u = Gaussian().numpy(*_numpy([problem.inputs[k] for k in "zrt"]))
        errors.append(np.abs(_numpy(problem.target) - u).mean())
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.25)  # Euler: first order
    objective = TrajectoryRegression(teacher=Teacher(), sampler=Heun(steps=16), pairs=8)
    draws = objective.draw(Keys(seed=0, step=3), _data())
    problem = objective(None, _data(), None, draws)
    u = Gaussian().numpy(*_numpy([problem.inputs[k] for k in "zrt"]))
    assert np.abs(_numpy(problem.target) - u).mean() < 0.1 * errors[1]


# ------------------------------------------------------------------------------ times and losses


def test_shifts_and_grids_are_the_papers():
    assert dimension_shift((16, 16, 768)) == pytest.approx(6.928, abs=1e-3)
    assert dimension_shift((32, 32, 768)) == pytest.approx(13.856, abs=1e-3)
    published = [1, 0.990, 0.978, 0.965, 0.950, 0.933, 0.912, 0.888, 0.859, 0.822, 0.777]
    found = shifted(1.0 - np.linspace(0.0, 0.999, 16), dimension_shift((16, 16, 768)))
    np.testing.assert_allclose(found[:11], published, atol=6e-4)
    times = shifted_times(15, 6.928)
    assert times[0] == 1.0 and times[-1] == 0.0 and len(times) == 16


def test_shifted_uniform_times_have_the_law_of_the_shift():
    sampler = ShiftedUniform(shift=4.0, fraction_r_equals_t=0.75)
    r, t = _numpy(sampler.draw(Keys(seed=0, step=0), 40_000))
    assert (r < t).mean() == pytest.approx(0.25, abs=1e-4)
    assert t.max() <= shifted(0.999, 4.0) + 1e-6
    for quantile in (0.25, 0.5, 0.75):  # the larger of two draws: u^2 below u
        expected = shifted(0.999 * np.sqrt(quantile), 4.0)
        assert np.quantile(t, quantile) == pytest.approx(expected, abs=5e-3)
    with pytest.raises(ValueError, match="shift must exceed 0"):
        ShiftedUniform(shift=0.0)


def test_the_quartic_loss_has_twice_the_gradient_of_the_adaptive_one():
    y = ops.convert_to_tensor(np.array([[1.0, 2.0], [0.5, 3.0]], "float32"))
    variable = keras.Variable(np.zeros((2, 2), "float32"))
    grads = [
        _numpy(
            gradient(lambda loss=loss: ops.sum(loss.call(y, variable)), [variable])(
                [variable.value]
            )[0]
        )
        for loss in (AdaptiveQuartic(c=1e-8), AdaptiveLoss(c=1e-8))
    ]
    np.testing.assert_allclose(grads[0], 2.0 * grads[1], rtol=1e-5)


# ------------------------------------------------------------------------------ training


X = np.random.default_rng(1).standard_normal((8, 3)).astype("float32")
Y = np.arange(8, dtype="int32") % 3


def _mlp():
    return MLP(data_size=3, width=8, depth=1, num_classes=3)


@pytest.mark.parametrize(
    "objective",
    [
        lambda teacher: MeanFlow(
            guidance=TeacherGuidance(teacher=teacher),
            times=ShiftedUniform(shift=2.0),
            derivative=CentralDifference(),
        ),
        lambda teacher: TrajectoryRegression(teacher=teacher, sampler=Euler(steps=3), pairs=4),
    ],
)
def test_the_stages_train_with_weights_and_resume_with_their_teacher(objective, tmp_path):
    flow_map = FlowMap(_mlp(), objective(_mlp()), averages=(0.9,))
    flow_map.compile(keras.optimizers.Adam(1e-2))
    weights = np.ones(8, "float32")
    flow_map.fit(X, Y, sample_weight=weights, batch_size=8, epochs=2, verbose=0)
    flow_map.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras")
    assert type(loaded.objective) is type(flow_map.objective)
    for model in (flow_map, loaded):
        model.fit(X, Y, sample_weight=weights, batch_size=8, verbose=0)
    for a, b in zip(flow_map.network.weights, loaded.network.weights, strict=True):
        np.testing.assert_array_equal(*_numpy((a.value, b.value)))


def test_a_flow_model_of_dit_dh_becomes_a_student_with_the_same_output():
    teacher = _published("rae")
    student = add_interval(teacher)
    z, r, t, labels, _ = formats.inputs()
    assert isinstance(student, DiTDH) and student.time_inputs == ("t", "t-r")
    np.testing.assert_array_equal(*_numpy((student(z, r, t, labels), teacher(z, t, t, labels))))


def test_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match="pairs is at least 1. Received: 0"):
        TrajectoryRegression(teacher=Teacher(), pairs=0)
    assert isinstance(TrajectoryRegression(teacher=Teacher()).loss, SquaredError)
