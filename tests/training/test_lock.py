"""Each recipe of version 0.1.0, now a task by a method, still makes what it made."""

import json

import keras
import pytest
from lock import describe_training, read_lock
from locked import CASES, key_of, small_settings

from keras_meanflow.backend import BACKEND
from keras_meanflow.training.old_names import of_old_name

LOCK = read_lock()

NO_GUIDANCE = {
    "class_name": "Guidance",
    "config": {"omega": 1.0, "kappa": 0.0, "start": 0.0, "end": 1.0},
}


def changed_on_purpose(key, old):
    """The golden description with the deliberate differences.

    - Guidance of weights that change nothing is None.
    - Power 0 of the adaptive loss is the squared error, as in `gaussian`: no difference.
    - AlphaFlow on ImageNet has the same loss as an `AdaptiveLoss`, c 4096 times as large.
    - `ReleasedMeanFlowSE` is `MeanFlowSE` with the derivative of that name.
    - A learning rate that went through float32 is now as it was given (improved MeanFlow).
    - `MeanFlow` has a share of the weight on rows with r = t, MinSNR weights can be normalised, and
      a `Sigmoid` has a middle: all as before by default.
    - First weights that depended on a network that was made and thrown away (`_imf`, `_cmt`).
    """
    objective = old["flow_map"]["objective"]
    config = objective["config"]
    if config.get("guidance") == NO_GUIDANCE:
        config["guidance"] = None
    if key.startswith("imagenet256_alpha"):
        config["loss"] = {
            "class_name": "AdaptiveLoss",
            "config": {**config["loss"]["config"], "c": 4.096},
        }
    _add_defaults(objective)
    if key == "imagenet256_imf_b2":
        old["optimizer"]["config"]["learning_rate"]["config"]["warmup_target"] = 1e-4
    if objective["class_name"] == "ReleasedMeanFlowSE":
        objective["class_name"] = "MeanFlowSE"
    return old


NEW_FIELDS = {
    "MeanFlow": {"v_share": None},
    "FlowConsist": {"v_share": None},
    "MinSNRVelocity": {"normalise": False},
    "Sigmoid": {"middle": 0.5},
}


def _add_defaults(config):
    """Add to each part the fields that are new since version 0.1.0."""
    if isinstance(config, dict):
        if config.get("class_name") in NEW_FIELDS:
            config["config"] |= NEW_FIELDS[config["class_name"]]
        for value in config.values():
            _add_defaults(value)


@pytest.mark.any_backend
@pytest.mark.parametrize("name, changes", CASES, ids=[key_of(*case) for case in CASES])
def test_a_recipe_makes_what_it_made_in_version_0_1_0(name, changes, tmp_path):
    key = key_of(name, changes)
    plan, settings = of_old_name(name, {**small_settings(name, tmp_path), **changes})
    keras.utils.set_random_seed(7)
    made = json.loads(json.dumps(describe_training(plan.training(settings))))
    golden = changed_on_purpose(key, LOCK[key])
    here, golden_here = made.pop("on_this_backend"), golden.pop("on_this_backend")[BACKEND]
    assert made == golden
    assert here["jit_compile"] == golden_here["jit_compile"]
    networks = [here["network"], *here["others"]]
    olds = [golden_here["network"], *golden_here["others"]]
    for network, old in zip(networks, olds, strict=True):
        assert network["shapes"] == old["shapes"]
        if not name.endswith(("_imf", "_imf_b2", "_cmt")):
            assert network["sum"] == pytest.approx(old["sum"], rel=1e-4, abs=1e-4)
