"""A run can become longer, where its schedules allow that; nothing else of it changes."""

import json
import re
import shutil

import pytest
from commands import call, refusal

from keras_meanflow.training.callbacks.log import read_log
from keras_meanflow.training.plan import Plan

SMALL = dict(log_every=4, batch_size=16, width=8, depth=1, points=40, sample_every="none")


def command(method, run, **knobs):
    settings = [f"{name}={value}" for name, value in {**SMALL, "steps": 6, **knobs}.items()]
    sets = [text for setting in settings for text in ("--set", setting)]
    return ["train", "gaussian", "--method", method, "--run", run, *sets]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished runs of 6 steps, by method."""
    folder = tmp_path_factory.mktemp("finished")
    for method in ("alpha_flow", "flow_consist"):
        output, code = call(*command(method, folder / method))
        assert code == 0 and "goes on" not in output, output
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs"


def settings_of(run):
    return json.loads((run / "settings.json").read_text())


def test_a_finished_run_goes_on_from_its_end_and_says_what_its_schedules_do(copy):
    run = copy / "alpha_flow"
    output, code = call(*command("alpha_flow", run, steps=12))
    assert code == 0 and "12 steps, 6 of them now" in output, output
    said = [line for line in output.splitlines() if "goes on" in line]
    assert len(said) == 1 and "goes on from step 6 to 12" in said[0]
    words = re.search(r"progress 1 -> 0.5, alpha (\S+) -> 0.5; learning_rate is 0.001", said[0])
    assert float(words[1]) == pytest.approx(3.727e-06, rel=0.02)  # 1 - sigmoid(12.5) in float32
    settings = settings_of(run)
    assert settings["knobs"]["steps"] == 12
    assert settings["lengthened"] == [{"step": 6, "from": 6, "to": 12}]
    rows = read_log(run / "log.csv")
    assert [row["step"] for row in rows] == [4, 6, 8, 12]
    assert [row["row_steps"] for row in rows] == [4, 2, 2, 4]
    assert [row["progress"] for row in rows] == pytest.approx([4 / 6, 1.0, 8 / 12, 1.0])
    output, code = call(*command("alpha_flow", run, steps=12))
    assert code == 0 and "Nothing was left to do" in output and "goes on" not in output


def test_a_switch_is_not_switched_back(copy):
    run = copy / "flow_consist"  # its correction began at progress 0.4
    before = settings_of(run)
    line = refusal(*command("flow_consist", run, steps=20))
    assert "progress would go back from 1 to 0.3, which the schedule of rectification" in line
    assert settings_of(run) == before
    output, code = call(*command("flow_consist", run, steps=12))
    assert code == 0 and "12 steps, 6 of them now" in output, output


@pytest.mark.parametrize(
    "change, difference",
    [
        (dict(steps=5), "other settings: steps was 6, now 5."),
        (dict(steps=12, width=16), "other settings: width was 8, now 16."),
    ],
)
def test_other_changes_are_refused_with_the_difference(change, difference, finished):
    assert difference in refusal(*command("alpha_flow", finished / "alpha_flow", **change))
    assert settings_of(finished / "alpha_flow")["knobs"]["steps"] == 6


def test_schedules_without_a_length_of_their_own_are_refused():
    training = Plan.of("gaussian", "alpha_flow").training({**SMALL, "sample_every": None})
    training.check()
    training.flow_map.fixed_horizon = None
    with pytest.raises(ValueError, match="with schedules needs FlowMap\\(horizon=steps\\)"):
        training.check()
