"""The studies: what each case trains on, that they go on, and what the commands write."""

import csv
import dataclasses
import importlib
import json
import types

import commands
import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from keras_meanflow import FlowMap, MeanFlow, open_model
from keras_meanflow.data import ArraySource
from keras_meanflow.evaluation.samples import Evaluation
from keras_meanflow.networks import MLP, Network
from keras_meanflow.objectives import NoisyVelocity
from keras_meanflow.parts import Uniform
from keras_meanflow.samplers import Euler, Jump
from keras_meanflow.studies import studies as study
from keras_meanflow.studies.quality import EnergyDistance, FrechetDistance
from keras_meanflow.studies.tables import series_by, write_table
from keras_meanflow.studies.training import Subject, train_cases
from keras_meanflow.training import Training
from keras_meanflow.training import run as runs

cli_study = importlib.import_module("keras_meanflow.cli.study")
POINTS = np.random.default_rng(0).standard_normal((40, 2)).astype("float32")

RUN = "k-0.1_seed-0"  # the run that the commands are tried on
OWN = """
import keras
import numpy as np
from keras_meanflow import FlowMap, MeanFlow
from keras_meanflow.networks import MLP
from keras_meanflow.parts import Uniform
from keras_meanflow.data import ArraySource
from keras_meanflow.recipe import task
from keras_meanflow.training import Training

@task
def mine(*, steps: int = 4, seed: int = 0):
    keras.utils.set_random_seed(seed)
    flow_map = FlowMap(MLP(data_size=2, width=8, depth=1), MeanFlow(times=Uniform()),
                       averages=(0.9,), horizon=steps, seed=seed)
    eagerly = keras.config.backend() == "tensorflow"
    flow_map.compile(keras.optimizers.Adam(1e-2), run_eagerly=eagerly)
    x = np.random.default_rng(0).standard_normal((40, 2)).astype("float32")
    return Training(flow_map=flow_map, data=ArraySource(x), batch_size=8, steps=steps,
                    sample_labels=4, sample_every=None, log_every=100)
"""


def recipe(*, steps=10, seed=0, horizon=True):
    keras.utils.set_random_seed(seed)
    flow_map = FlowMap(
        MLP(data_size=2, width=8, depth=1),
        MeanFlow(times=Uniform()),
        averages=(0.9,),
        horizon=steps if horizon else None,
    )
    flow_map.compile()
    data = ArraySource(POINTS)
    return Training(flow_map=flow_map, data=data, batch_size=8, steps=steps, sample_labels=4)


PLAN = types.SimpleNamespace(
    task=types.SimpleNamespace(address="own"), method=None, training=lambda knobs: recipe(**knobs)
)


@pytest.fixture
def untrained(monkeypatch):
    """Makes `runs.train` do all but train; the list of what it was asked for."""
    asked = []

    def train(training, run_dir, settings, verbose):
        runs.check_same(run_dir, settings)
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / runs.SETTINGS).write_text(json.dumps(settings))
        asked.append((run_dir.name, training))
        training.flow_map.step.assign(max(training.steps, int(training.flow_map.step.value)))

    monkeypatch.setattr("keras_meanflow.studies.training.runs.train", train)
    return asked


class Counting:
    """Stands for a quality: counts its calls."""

    name, samplers = "counting", {"jump1": None}

    def __init__(self):
        self.calls = 0

    def __call__(self, flow_map):
        self.calls += 1
        return {"jump1": float(flow_map.step.value)}


# What the cases train on


@pytest.mark.parametrize(
    "cost, share, u_step_cost, expected",
    [(80, 0.25, 1.0, (20, 60)), (80, 0.0, 1.0, (0, 80)), (80, 1.0, 2.0, (80, 0)),
     (80, 0.25, 5 / 3, (20, 36)), (1000, 0.1875, 2.0, (188, 406))],
)  # fmt: skip
def test_both_stages_cost_the_same_in_all(cost, share, u_step_cost, expected):
    v_steps, u_steps = study.stage_steps(cost, share, u_step_cost)
    assert (v_steps, u_steps) == expected
    assert abs(v_steps + u_step_cost * u_steps - cost) <= u_step_cost


def test_the_first_stage_has_rows_of_v_alone_and_the_second_of_u_alone():
    training = recipe(steps=10)
    flow_map = training.flow_map
    for v_steps in (0, 1, 7, 10):
        study.first_velocity(training, steps=v_steps)
        for step in range(10):
            flow_map.step.assign(step)
            r, t = flow_map.objective.times.draw(flow_map.keys(8), 8)
            diagonal = ops.convert_to_numpy(r == t)
            assert diagonal.all() if step < v_steps else not diagonal.any()


def test_two_stages_without_a_horizon_are_refused():
    with pytest.raises(ValueError, match="Received: horizon=None"):
        study.first_velocity(recipe(horizon=False), steps=3)


def test_one_bin_starts_from_the_chosen_weights_of_the_other_model():
    training, other = recipe(), recipe(seed=1).flow_map
    for weight in other.weights_of(0.9):
        weight.assign(weight + 1.0)
    study.start_from(training.flow_map, other)
    for average in (None, 0.9):
        pairs = zip(training.flow_map.weights_of(average), other.chosen_weights, strict=True)
        for ours, theirs in pairs:
            np.testing.assert_array_equal(*(ops.convert_to_numpy(w) for w in (ours, theirs)))
    study.restrict_gap(training, low=0.3, high=0.5)
    r, t = training.flow_map.objective.times.draw(training.flow_map.keys(50), 50)
    gap = ops.convert_to_numpy(t - r)
    assert 0.299 < gap.min() and gap.max() < 0.501


def test_noise_is_put_around_the_recipes_own_objective():
    training = recipe()
    before = training.flow_map.objective
    study.add_noise(training, k=0.1)
    assert training.flow_map.objective == NoisyVelocity(objective=before, k=0.1)


# Many cases, measured as they go


def test_cases_are_measured_at_their_shares_once_and_go_on_where_they_stopped(untrained, tmp_path):
    subject, measure = Subject(plan=PLAN, knobs={"steps": 8}), Counting()
    cases = [subject.case({"seed": seed}, seed=seed) for seed in (0, 1)]
    rows = train_cases(cases[:1], tmp_path, measure, at=(1.0, 0.5))
    assert [(row["step"], row["jump1"]) for row in rows] == [(4, 4.0), (8, 8.0)]
    rows = train_cases(cases, tmp_path, measure, at=(0.5, 1.0))
    assert measure.calls == 4 and [name for name, _ in untrained] == ["seed-0"] * 2 + ["seed-1"] * 2
    with open(tmp_path / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    columns = ("seed", "at", "step", "jump1")
    assert (
        [tuple(float(row[c]) for c in columns) for row in table]
        == [tuple(row[c] for c in columns) for row in rows]
        == [(0, 0.5, 4, 4), (0, 1, 8, 8), (1, 0.5, 4, 4), (1, 1, 8, 8)]
    )


def test_a_step_that_has_passed_unmeasured_is_refused(untrained, tmp_path):
    def further(training):
        training.flow_map.step.assign(6)  # as after a resumed run

    case = Subject(plan=PLAN).case({}, further)
    with pytest.raises(ValueError, match="at an earlier step. Received: step 5 .* at step 6"):
        train_cases([case], tmp_path, Counting(), at=(0.5,))


def test_other_knobs_in_the_same_folder_are_refused(untrained, tmp_path):
    for steps in (8, 8):
        subject = Subject(plan=PLAN, knobs={"steps": steps})
        train_cases([subject.case({"seed": 0})], tmp_path, Counting())
    run_dir = next(tmp_path.rglob(runs.SETTINGS)).parent
    (run_dir / "checkpoints").mkdir()
    (run_dir / "checkpoints" / "step-00000008.keras").touch()  # a run without one is begun anew
    subject = Subject(plan=PLAN, knobs={"steps": 9})
    with pytest.raises(ValueError, match="steps was 8, now 9"):
        train_cases([subject.case({"seed": 0})], tmp_path, Counting())


def test_the_studies_train_each_value_with_each_seed_at_one_cost(untrained, tmp_path):
    subject = Subject(plan=PLAN, knobs={"steps": 9})
    rows = study.two_stages(
        subject, tmp_path / "a", Counting(), shares=(0.0, 0.5), seeds=(0, 1), u_step_cost=2.0
    )
    assert [(row["v_share"], row["seed"], row["step"]) for row in rows] == [
        (0.0, 0, 4), (0.0, 1, 4), (0.5, 0, 6), (0.5, 1, 6),
    ]  # fmt: skip
    rows = study.noisy_velocity(subject, tmp_path / "b", Counting(), noises=(0.0, 0.1))
    assert [(row["k"], row["step"]) for row in rows] == [(0.0, 9), (0.1, 9)]
    assert [training.flow_map.objective.k for _, training in untrained[4:]] == [0.0, 0.1]
    for name in "ab":
        Image.open(tmp_path / name / "results.png").verify()


def test_one_bin_trains_each_bin_from_each_start_after_the_run_of_v(
    untrained, tmp_path, monkeypatch
):
    started, other = [], recipe(seed=9).flow_map
    opened = types.SimpleNamespace(flow_map=other)
    monkeypatch.setattr(study, "open_model", lambda name: started.append(name.name) or opened)
    subject, bins = Subject(plan=PLAN, knobs={"steps": 3}), ((0.1, 0.3), (0.3, 0.5))
    rows = study.one_gap(subject, tmp_path, Counting(), bins=bins)
    assert [(row["bin"], row.get("start")) for row in rows] == [
        ("v-alone", None), ("0.1-0.3", "random"), ("0.3-0.5", "random"),
        ("0.1-0.3", "velocity"), ("0.3-0.5", "velocity"),
    ]  # fmt: skip
    assert started == ["bin-v-alone_seed-0"] * 2
    times = [training.flow_map.objective.times for _, training in untrained]
    assert times[0].fraction_r_equals_t == 1.0
    assert [(one.low, one.high) for one in times[1:]] == [*bins, *bins]
    Image.open(tmp_path / "results.png").verify()


def test_the_energy_distance_is_measured_for_each_sampler():
    samplers = {"jump1": Jump(steps=1), "euler4": Euler(steps=4)}
    quality, flow_map = EnergyDistance(ArraySource(POINTS), 1000, samplers), recipe().flow_map
    assert quality.name == "energy-40-jump1-euler4"
    noise = flow_map.generate(40)  # the last layer begins at zero: samples are their noise
    found = quality(flow_map)
    assert found["jump1"] == pytest.approx(found["euler4"], abs=1e-6)
    assert 0.0 < found["jump1"] < 1.0
    assert np.abs(noise).max() > 1.0


class Shrink(Network):
    """`u = z / 2` for images of 8 x 8, by class."""

    def __init__(self):
        super().__init__(data_shape=(8, 8, 1), num_classes=10)
        self.built = True

    def call(self, z, r, t, condition=None):
        return 0.5 * z


def test_the_frechet_distance_in_one_step_is_the_evaluations_own(shared_data):
    evaluation = Evaluation.open("digits-lenet", weights=shared_data / "lenet_mnist_fid.pth")
    protocol = dataclasses.replace(evaluation.protocol, samples=120)
    evaluation = dataclasses.replace(evaluation, protocol=protocol, batch_size=50)
    flow_map = FlowMap(Shrink(), averages=())
    quality = FrechetDistance(evaluation, {"jump1": Jump(steps=1), "euler2": Euler(steps=2)})
    assert quality.name == "digits-lenet-120-jump1-euler2"
    found = quality(flow_map)
    assert found["jump1"] == pytest.approx(evaluation.measure(flow_map, 1)["fid"]["value"])
    assert abs(found["euler2"] - found["jump1"]) > 1.0


# Tables


def test_a_line_is_the_mean_over_seeds_with_its_ends(tmp_path):
    rows = [{"k": k, "seed": s, "fid": k + s, "run": "a"} for k in (2.0, 1.0) for s in (0, 1, 5)]
    rows.append({"k": 1.0, "run": "b"})
    lines = series_by(rows, "k", "fid", by="run")
    assert list(lines) == ["a", "b"] and len(lines["b"].points()) == 0
    np.testing.assert_allclose(lines["a"].points(), [[1, 3, 1, 6], [2, 4, 2, 7]])
    write_table(tmp_path / "new" / "t.csv", rows)
    with open(tmp_path / "new" / "t.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert last == {"k": "1.0", "seed": "", "fid": "", "run": "b"}


# The commands


def call(*arguments):
    return commands.call("study", *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished study of noise in v, of one case."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "own.py").write_text(OWN)
    options = ["--noises", "0.1", "--samplers", "euler2", "--at", "0.5,1", "-q"]
    output, code = call("noisy-velocity", folder / "own.py", *options, "--out", folder / "out")
    assert code == 0, output
    return folder


def _table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.any_backend
def test_a_study_leaves_runs_that_load_a_table_and_a_figure(folder):
    rows = _table(folder / "out" / "results.csv")
    assert [(row["k"], row["seed"], row["at"], row["step"]) for row in rows] == [
        ("0.1", "0", "0.5", "2"), ("0.1", "0", "1.0", "4"),
    ]  # fmt: skip
    assert all(float(row["euler2"]) > 0.0 for row in rows)
    Image.open(folder / "out" / "results.png").verify()
    flow_map = open_model(folder / "out" / RUN).flow_map
    assert flow_map.objective.k == 0.1 and int(flow_map.step.value) == 4
    untrained = cli_study._untrained(flow_map)
    assert untrained.average is None and int(untrained.step.value) == 0
    fresh = recipe(seed=0).flow_map
    for ours, theirs in zip(untrained.chosen_weights, fresh.chosen_weights, strict=True):
        np.testing.assert_array_equal(*(ops.convert_to_numpy(w) for w in (ours, theirs)))


@pytest.mark.any_backend
def test_the_measurements_of_runs_write_their_tables_and_figures(folder):
    run_dir = folder / "out" / RUN
    commands = {
        "affinity": [run_dir, "--bins", "0.2-0.6", "--batch-size", 20],
        "u-error": [run_dir, "--gaps", "0.5,1", "--ode-steps", 2],
        "du-dt": [run_dir, "--cells", 2],
    }
    rows = {}
    for name, arguments in commands.items():
        options = ["--images", 40, "--out", folder / "measured", "--recipe", folder / "own.py"]
        output, code = call(name, *arguments, *options)
        assert code == 0, output
        Image.open(folder / "measured" / f"{name}.png").verify()
        rows[name] = _table(folder / "measured" / f"{name}.csv")
    assert [row["run"] for row in rows["affinity"]] == [RUN]
    assert all(-1.0 <= float(row["affinity"]) <= 1.0 for row in rows["affinity"])
    assert [float(row["gap"]) for row in rows["u-error"]] == [0.5, 1.0]
    assert [(row["r"], row["t"]) for row in rows["du-dt"]] == [
        ("0.25", "0.25"), ("0.25", "0.75"), ("0.75", "0.75"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments, rule",
    [
        (
            ["two-stages", "gaussian", "--shares", "a"],
            "--shares are numbers from 0 to 1, as in 0,0.5,1",
        ),
        (["noisy-velocity", "gaussian", "--at", "0,1"], "shares of the steps in (0, 1]"),
        (["noisy-velocity", "gaussian", "--samplers", "jump"], "as in jump1,jump4,euler32"),
        (
            ["one-gap", "gaussian", "--bins", "0.1"],
            "--bins are pairs that rise in [0, 1], as in 0.1-0.3,0.3-0.5",
        ),
        (["one-gap", "gaussian", "--starts", "warm"], "--starts are random, velocity"),
        (["two-stages", "gausian"], "Did you mean gaussian"),
        (["affinity", "absent"], "There is no model 'absent'"),
        (["u-error-training", "gaussian", "--gaps", ""], "--gaps are numbers"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(arguments, rule, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output, code = call(*arguments)
    assert code == 1 and rule in output.splitlines()[-1], output
    assert list(tmp_path.iterdir()) == []
