"""FastFlow: skipped calls and their extrapolation, what the bandits learn, and what is saved."""

import importlib.util
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import ops
from oracles import Gaussian

from keras_meanflow import FlowMap, FlowMatching, cli
from keras_meanflow.networks import MLP
from keras_meanflow.parts.part import part
from keras_meanflow.samplers import (
    AdamsBashforth2,
    BanditSampler,
    BanditState,
    ConstantExploration,
    Euler,
    Extrapolation,
    FixedSkips,
    Heun,
    Jump,
    LinearExtrapolation,
    Reuse,
    ScaledExploration,
)

GAUSSIAN = Gaussian(mu=0.7, s=0.5)
GRID = tuple(float(t) for t in (1.0 - np.arange(21) / 20) ** 1.5)  # steps that shrink
GOLDEN = Path(__file__).parents[1] / "golden" / "fastflow.json"


def noise(seed=0, rows=4):
    return np.random.default_rng(seed).standard_normal((rows, 2)).astype("float32")


def sample(sampler, u, z):
    return ops.convert_to_numpy(sampler(u, z))


class Recorder:
    """A velocity that records the times at which it is called."""

    def __init__(self, u):
        self.u, self.times = u, []

    def __call__(self, z, r, t):
        assert float(r[0]) == float(t[0])
        self.times.append(float(t[0]))
        return self.u(z, r, t)

    def steps(self, grid):
        """The numbers of the steps called."""
        return tuple(int(np.argmin(np.abs(grid - t))) for t in self.times)


def linear_in_time(z, r, t):
    return (2.0 - 3.0 * t)[:, None] + 0.0 * z


def bent(z, t):
    """Constant in the first half of the walk, with growing curvature in the second."""
    return 0.0 * z + 32.0 * np.maximum(0.5 - t, 0.0)[:, None] ** 3 + 1.0


def numpy_walk(v, z, grid, evaluated, weight):
    """The algorithm as published, in float64: one Euler step at a time.

    Returns the sample, and the squared error of the prediction at each call.
    """
    z, called, errors = np.asarray(z, "float64"), [], []
    for i, (t, r) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        if len(called) > 1:
            (t_p, v_p), (t_k, v_k) = called[-2:]
            predicted = v_k + weight(t, t_k, t_p) * (v_k - v_p)
        if i in evaluated:
            now = v(z, np.full(len(z), t))
            errors.append(np.mean((now - predicted) ** 2) if len(called) > 1 else None)
            called.append((t, now))
            z = z - (t - r) * now
        else:
            z = z - (t - r) * predicted
    return z, errors


def numpy_step(v):
    """A step for `Sampler.walk` in NumPy, not compiled: it is faster here."""

    def step(z, v_k, v_p, t, weights):
        t, weights = ops.convert_to_numpy(t), ops.convert_to_numpy(weights)
        z, v_k, v_p = (np.asarray(ops.convert_to_numpy(a), "float64") for a in (z, v_k, v_p))
        now = v(z, t)
        error = np.mean((now - v_k - weights[2] * (v_k - v_p)) ** 2)
        return z - weights[0] * now - weights[1] * (now - v_k), now, error

    return step


def walk_many(sampler, v, walks, rows=4):
    """The steps called in each of several walks along a NumPy velocity."""
    schedules = []
    for seed in range(walks):
        times = []

        def noted(z, t, times=times):
            times.append(t[0])
            return v(z, t)

        sampler.walk(numpy_step(noted), noise(seed, rows))
        schedules.append(tuple(int(np.argmin(np.abs(sampler.grid - t))) for t in times))
    return schedules


def gaussian_numpy(z, t):
    return GAUSSIAN.numpy(z, t, t)


@pytest.fixture(scope="module")
def flow_map():
    """Random weights and two classes, with an objective that has label dropout."""
    keras.utils.set_random_seed(3)
    network = MLP(data_size=2, width=16, depth=1, num_classes=2)
    made = FlowMap(network, FlowMatching(label_dropout=0.1), averages=())
    for weight in network.trainable_variables:
        weight.assign(0.3 * keras.random.normal(weight.shape, seed=len(weight.shape)))
    made.compile("sgd")
    return made


# Skipped calls and their extrapolation


def test_with_arm_0_alone_it_is_euler_bit_for_bit():
    for settings in ({"steps": 7}, {"times": GRID}, {"steps": 1}, {"steps": 2}):
        ours = BanditSampler(arms=(0,), **settings)
        for seed in range(3):
            expected = sample(Euler(**settings), GAUSSIAN, noise(seed))
            np.testing.assert_array_equal(sample(ours, GAUSSIAN, noise(seed)), expected)


def test_compiled_and_guided_it_is_euler_bit_for_bit_with_arm_0_and_near_it_with_more(flow_map):
    def generate(sampler):
        return flow_map.generate([0, 1, 1, 0, 1], sampler=sampler, guidance_scale=2.5)

    euler, more = generate(Euler(steps=6)), BanditSampler(steps=6, arms=(0, 1))
    np.testing.assert_array_equal(generate(BanditSampler(steps=6, arms=(0,))), euler)
    np.testing.assert_array_equal(generate(more), euler)  # the first walk calls at every step
    distance = np.abs(generate(more) - euler).max()
    assert more.state.calls == [6, 4] and 0.0 < distance < 0.1 < np.abs(euler).max()


def test_a_velocity_linear_in_time_is_extrapolated_exactly():
    sampler, euler = BanditSampler(times=GRID), Euler(times=GRID)
    expected = sample(euler, linear_in_time, noise())
    for _ in range(12):
        np.testing.assert_allclose(sample(sampler, linear_in_time, noise()), expected, atol=3e-6)
    assert sampler.state.counts.all(axis=1).any() and sampler.state.errors.max() < 1e-11


def test_reusing_the_velocity_is_exact_only_for_a_constant_one():
    settings = {"steps": 12, "evaluated": (0, 1, 6, 11), "extrapolation": Reuse()}
    euler = sample(Euler(steps=12), linear_in_time, noise())
    assert np.abs(sample(FixedSkips(**settings), linear_in_time, noise()) - euler).max() > 0.05
    constant = sample(FixedSkips(**settings), lambda z, r, t: 0.0 * z + 2.0, noise())
    np.testing.assert_allclose(constant, noise() - 2.0, atol=1e-6)


@pytest.mark.parametrize(
    ("extrapolation", "weight"),
    [
        (LinearExtrapolation(), lambda t, t_k, t_p: (t - t_k) / (t_k - t_p)),
        (Reuse(), lambda t, t_k, t_p: 0.0),
    ],
)
def test_one_update_for_all_skipped_steps_is_as_many_euler_steps(extrapolation, weight):
    evaluated = (0, 1, 2, 5, 10, 11, 18, 19)
    sampler = FixedSkips(times=GRID, evaluated=evaluated, extrapolation=extrapolation)
    expected, _ = numpy_walk(gaussian_numpy, noise(), sampler.grid, evaluated, weight)
    np.testing.assert_allclose(sample(sampler, GAUSSIAN, noise()), expected, atol=3e-6)


def test_a_constant_velocity_is_called_as_rarely_as_the_arms_allow():
    called = walk_many(BanditSampler(steps=50), lambda z, t: 0.0 * z + 1.0, walks=40)[-1]
    # Ties go to the longest skip: 1, then every 7th; but the last step is always called.
    assert called == (0, 1, 8, 15, 22, 29, 36, 43, 48, 49)


def test_the_first_two_steps_and_the_last_are_always_called_and_the_gaps_are_arms():
    sampler = BanditSampler(times=GRID, arms=(0, 3, 5))
    schedules = walk_many(sampler, gaussian_numpy, walks=30)
    assert schedules[0] == tuple(range(20)) and len(set(schedules)) > 5
    assert sampler.state.calls == [len(called) for called in schedules]
    assert sampler.calls == len(schedules[-1])
    for called in schedules:
        assert called[:2] == (0, 1) and called[-1] == 19 and set(np.diff(called) - 1) <= {0, 3, 5}


# What the bandits learn


def test_the_bandit_that_decided_gets_the_error_seen_at_the_next_call():
    sampler = BanditSampler(times=GRID, arms=(0, 2, 4))
    counts, sums = np.zeros((20, 3)), np.zeros((20, 3))
    for seed in range(6):
        recorder = Recorder(GAUSSIAN)
        sampler(recorder, noise(seed))
        called = recorder.steps(sampler.grid)
        weight = LinearExtrapolation().weight
        _, errors = numpy_walk(gaussian_numpy, noise(seed), sampler.grid, called, weight)
        for j in range(2, len(called)):
            at = called[j - 1], (0, 2, 4).index(called[j] - called[j - 1] - 1)
            counts[at] += 1
            sums[at] += errors[j]
    np.testing.assert_array_equal(sampler.state.counts, counts)
    means = sums / np.maximum(counts, 1)
    np.testing.assert_allclose(sampler.state.errors, means, rtol=2e-3, atol=1e-10)
    assert (counts > 0).sum() > 30
    assert sampler.weight == pytest.approx(means.max() / 20, rel=2e-3)


def test_the_arm_taken_has_the_highest_upper_confidence_bound():
    counts, errors = np.ones((10, 3), int), np.zeros((10, 3))
    counts[4], errors[4] = (9, 4, 2), (0.01, 0.05, 0.30)

    def bounds(gamma, weight):
        return [
            weight * a - e + gamma * math.sqrt(math.log(16) / n)
            for a, e, n in zip((0, 2, 4), (0.01, 0.05, 0.30), (9, 4, 2), strict=True)
        ]

    def chosen(exploration, weight):
        state = BanditState(
            np.linspace(1, 0, 11, dtype="float32"), (0, 2, 4), "LinearExtrapolation"
        )
        state.counts, state.errors = counts, errors
        sampler = BanditSampler(
            steps=10, arms=(0, 2, 4), exploration=exploration, skip_weight=weight, state=state
        )
        return sampler.choose(4)

    # Mean rewards at weight 0.03: -0.01, 0.01, -0.18, of range 0.19; at 0.001 nearly the errors.
    assert np.argmax(bounds(2.0, 0.03)) == 2 and chosen(ConstantExploration(), 0.03) == 4
    assert np.argmax(bounds(0.1 * 0.19, 0.03)) == 1 and chosen(ScaledExploration(), 0.03) == 2
    scaled = ScaledExploration(gamma=4.0)
    assert np.argmax(bounds(4.0 * 0.19, 0.03)) == 2 and chosen(scaled, 0.03) == 4
    assert np.argmax(bounds(0.0, 0.001)) == 0 and chosen(ConstantExploration(gamma=0), 0.001) == 0


def test_the_choices_are_those_of_the_released_bandit():
    golden = json.loads(GOLDEN.read_text())["choices"]
    errors = _golden_script().squared_errors()
    for c, expected in golden.items():
        exploration = ConstantExploration(gamma=float(c))
        sampler = BanditSampler(steps=20, exploration=exploration, skip_weight=0.005)
        taken = []
        for row in errors:
            taken.append(sampler.choose(5))
            sampler.state.credit(5, taken[-1], row[sampler.arms.index(taken[-1])])
        assert taken == expected


def test_walks_arrive_where_the_released_ones_do_when_the_same_steps_are_called():
    @part
    class Damped(Extrapolation):
        """The release: each skipped step adds 0.005 of the last difference, skipped or not."""

        def weight(self, t, t_k, t_p):
            return sum(0.005**j for j in range(1, round(50 * (t_k - t)) + 1))

    def v(z, r, t):
        return ops.sin(2.0 * z) * t[:, None] + ops.cos(3.0 * t)[:, None]

    walks = json.loads(GOLDEN.read_text())["walks"]
    assert len(walks) == 6
    for walk in walks:
        sampler = FixedSkips(steps=50, evaluated=walk["called"], extrapolation=Damped())
        last = sample(sampler, v, _golden_script().noise(walk["walk"]))
        np.testing.assert_allclose(last, walk["last"], atol=2e-5)


def test_calls_go_where_the_velocity_cannot_be_extrapolated():
    sampler = BanditSampler(steps=40, arms=(0, 1, 3), skip_weight=1e-3)
    walk_many(sampler, bent, walks=40, rows=1)
    called = np.array(sampler.freeze().evaluated)
    assert (called < 20).sum() < 9 and (called >= 20).sum() > 14
    assert np.mean(sampler.state.calls[-10:]) < 26


def test_the_papers_constant_explores_where_the_scaled_one_has_settled():
    def schedules(exploration):
        """How many different ones the last 20 of 40 walks take."""
        sampler = BanditSampler(steps=20, arms=(0, 2, 4), exploration=exploration)
        return len(set(walk_many(sampler, gaussian_numpy, walks=40, rows=64)[20:]))

    assert schedules(ConstantExploration()) > 2 * schedules(ScaledExploration(gamma=0.01))


# What is saved


def test_a_frozen_sampler_takes_the_best_arms_and_learns_no_more():
    sampler = BanditSampler(steps=20, arms=(0, 2, 4))
    walk_many(sampler, gaussian_numpy, walks=20)
    state, expected = sampler.state, [0, 1]
    while expected[-1] < 19:
        k = expected[-1]
        tried = [i for i, a in enumerate((0, 2, 4)) if k + 1 + a <= 19 and state.counts[k, i]]
        mu = state.errors.max() / 20
        best = max(tried, key=lambda i: mu * (0, 2, 4)[i] - state.errors[k, i])
        expected.append(k + 1 + (0, 2, 4)[best])
    frozen, before = sampler.freeze(), state.get_config()
    assert frozen.evaluated == tuple(expected)
    np.testing.assert_array_equal(
        sample(frozen, GAUSSIAN, noise()), sample(frozen, GAUSSIAN, noise())
    )
    assert state.get_config() == before and frozen.freeze() is frozen


def test_a_frozen_sampler_gives_an_image_that_no_batch_size_changes_and_can_be_exported(flow_map):
    sampler = BanditSampler(steps=9)
    walk_many(sampler, gaussian_numpy, walks=5)
    frozen, labels = sampler.freeze(), np.arange(6, dtype="int32") % 2
    assert 4 <= frozen.calls < 9
    whole = flow_map.generate(labels, sampler=frozen)
    parts = flow_map.generate(labels, sampler=frozen, batch_size=3)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    z, condition = ops.convert_to_tensor(noise(rows=2)), ops.convert_to_tensor(labels[:2])
    exported = ops.convert_to_numpy(flow_map.sampling_model(frozen)([z, condition]))
    expected = sample(frozen, lambda z, r, t: flow_map.network(z, r, t, condition), z)
    np.testing.assert_allclose(exported, expected, atol=1e-5)


def test_a_saved_state_goes_on_as_if_it_had_never_been_saved(tmp_path):
    whole = BanditSampler(times=GRID)
    walk_many(whole, gaussian_numpy, walks=8)
    whole.state.save(tmp_path / "bandits.json")
    loaded = BanditSampler(times=GRID, state=BanditState.load(tmp_path / "bandits.json"))
    assert len(loaded.state.calls) == 8
    expected = walk_many(whole, gaussian_numpy, walks=8)
    assert walk_many(loaded, gaussian_numpy, walks=8) == expected
    assert loaded.state.get_config() == whole.state.get_config()


def test_samplers_and_their_state_survive_serialisation():
    learned = BanditSampler(
        steps=12, arms=(0, 1), extrapolation=Reuse(), exploration=ConstantExploration(gamma=0.5)
    )
    learned(GAUSSIAN, noise())
    for sampler in (learned, learned.freeze()):
        text = json.dumps(keras.saving.serialize_keras_object(sampler))
        again = keras.saving.deserialize_keras_object(json.loads(text))
        assert again == sampler and hash(again) == hash(sampler)
        assert again.calls == sampler.calls
    assert again.evaluated == tuple(range(12))


# What is refused


def test_a_velocity_that_is_not_finite_teaches_nothing():
    sampler = BanditSampler(steps=10, arms=(0, 2))
    sampler(GAUSSIAN, noise())
    before = sampler.state.get_config()
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"must be finite.*at t = 0\.600; nothing was learned"):
            sampler(
                lambda z, r, t, bad=bad: 0.0 * z + ops.where(t < 0.85, bad, 1.0)[:, None], noise()
            )
    assert sampler.state.get_config() == before


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"steps": 1}, "arms must be at most steps - 3: of 1 steps"),
        ({"steps": 8}, "arms must be at most steps - 3: of 8 steps"),
        ({"arms": (2, 4)}, "arms must be integers that rise from 0"),
        ({"arms": (0, 4, 2)}, "arms must be integers that rise from 0"),
        ({"arms": (0, 1.5)}, "arms must be integers that rise from 0"),
        ({"arms": ()}, "arms must be integers that rise from 0"),
        ({"skip_weight": -1.0}, "skip_weight must be finite, >= 0"),
        ({"skip_weight": float("nan")}, "skip_weight must be finite"),
    ],
)
def test_settings_that_cannot_be_walked_are_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        BanditSampler(**settings)


@pytest.mark.parametrize("evaluated", [(0, 2, 9), (1, 9), (0, 1, 8), (0, 1, 5, 3, 9), ()])
def test_a_fixed_schedule_runs_from_the_first_two_steps_to_the_last(evaluated):
    with pytest.raises(ValueError, match=r"evaluated must rise from 0, 1 to the last step, 9"):
        FixedSkips(steps=10, evaluated=evaluated)


def test_a_state_of_other_settings_is_refused():
    state = BanditSampler(steps=50).state
    with pytest.raises(ValueError, match="saved for steps=50. Received: steps=25"):
        BanditSampler(steps=25, state=state)
    with pytest.raises(ValueError, match="saved for other arms"):
        BanditSampler(steps=50, arms=(0, 1), state=state)
    with pytest.raises(ValueError, match="saved for other extrapolation: LinearExtrapolation"):
        BanditSampler(steps=50, extrapolation=Reuse(), state=state)
    with pytest.raises(ValueError, match="saved for other times"):
        BanditSampler(times=tuple((1.0 - np.arange(51) / 50) ** 2), state=state)


def test_a_file_of_something_else_and_an_early_freeze_are_refused(tmp_path):
    for text in ("no json", '{"steps": 50}', "[1, 2]"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match="x.json must hold a saved BanditState"):
            BanditState.load(tmp_path / "x.json")
    with pytest.raises(ValueError, match="no walk yet"):
        BanditSampler(steps=50).freeze()


# The command line


@pytest.fixture
def run(flow_map, tmp_path):
    """A run with that model."""
    (tmp_path / "checkpoints").mkdir()
    flow_map.save(tmp_path / "checkpoints" / "step-00000001.keras")
    settings = {"task": None, "backend": keras.config.backend(), "knobs": {}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    return tmp_path


def test_the_command_line_keeps_the_state_with_the_run_and_can_freeze_it(run):
    def call(*options):
        arguments = ["sample", str(run), "-n", "4", "--sampler", "fastflow", "--steps", "10"]
        done = CliRunner().invoke(cli.main, [*arguments, *options])
        assert done.exit_code == 0, done.output
        return done.output

    saved = run / "fastflow-10.json"
    assert "10 velocity calls of 10, over 1 batches. Learned from 1 so far" in call()
    assert BanditState.load(saved).calls == [10]
    before = saved.read_bytes()
    assert "10 velocity calls of 10, frozen" in call("--frozen") and saved.read_bytes() == before


@pytest.mark.any_backend
def test_the_command_line_chooses_the_sampler_and_its_state(tmp_path):
    choose = importlib.import_module("keras_meanflow.cli.sample")._sampler

    def chosen(name, steps=None, frozen=False, guidance_scale=None):
        return choose(name, steps, None, frozen, tmp_path, guidance_scale)

    expected = {"jump": Jump(), "euler": Euler(), "heun": Heun(steps=50), "ab2": AdamsBashforth2()}
    for name, sampler in expected.items():
        assert chosen(name)[0] == sampler
    assert chosen("euler", 7)[0] == Euler(steps=7)
    with pytest.raises(ValueError, match="--frozen is for --sampler fastflow"):
        chosen("ab2", frozen=True)
    with pytest.raises(ValueError, match="no walk yet"):
        chosen("fastflow", frozen=True)
    for scale, file in ((None, "fastflow-10.json"), (1.5, "fastflow-10-guided-1.5.json")):
        for walks in (3, 5):
            sampler, finish = chosen("fastflow", 10, guidance_scale=scale)
            walk_many(sampler, gaussian_numpy, walks=walks)
            finish()
        assert len(BanditState.load(tmp_path / file).calls) == 8
        frozen, _ = chosen("fastflow", 10, frozen=True, guidance_scale=scale)
        assert frozen == sampler.freeze()
    (tmp_path / "fastflow-12.json").write_bytes((tmp_path / "fastflow-10.json").read_bytes())
    with pytest.raises(ValueError, match="saved for steps=10. Received: steps=12"):
        chosen("fastflow", 12)


def _golden_script():
    spec = importlib.util.spec_from_file_location("fastflow_golden", GOLDEN.with_suffix(".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
