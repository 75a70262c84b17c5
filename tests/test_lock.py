"""Each recipe of version 0.1.0 still makes what it made: configuration, data, first weights."""

import json

import keras
import pytest
from lock import describe_training, read_lock
from locked import VARIANTS, small_settings

from keras_meanflow.backend import BACKEND
from keras_meanflow.recipe import find, recipes

LOCK = read_lock()
CASES = [*((name, {}) for name in recipes()), *VARIANTS]


def key_of(name, changes):
    return " ".join([name, *(f"{k}={v}" for k, v in changes.items())])


def test_the_lock_holds_every_case():
    assert {key_of(*case) for case in CASES} == set(LOCK)


@pytest.mark.parametrize("name, changes", CASES, ids=[key_of(*case) for case in CASES])
def test_a_recipe_makes_what_it_made_in_version_0_1_0(name, changes, tmp_path):
    settings = small_settings(name, find(name).defaults, tmp_path)
    keras.utils.set_random_seed(7)
    made = describe_training(find(name).load()(**{**settings, **changes}))
    made, golden = json.loads(json.dumps(made)), dict(LOCK[key_of(name, changes)])
    here, golden_here = made.pop("on_this_backend"), golden.pop("on_this_backend")[BACKEND]
    assert made == golden
    assert here["jit_compile"] == golden_here["jit_compile"]
    networks = [here["network"], *here["others"]]
    for network, old in zip(
        networks, [golden_here["network"], *golden_here["others"]], strict=True
    ):
        assert network["shapes"] == old["shapes"]
        assert network["sum"] == pytest.approx(old["sum"], rel=1e-4, abs=1e-4)
