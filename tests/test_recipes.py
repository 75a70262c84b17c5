"""Recipes: found, shown, turned by their knobs; each of ours takes two real steps."""

import pytest

from keras_meanflow.recipe import Found, find, recipe, recipes, recipes_in, resolve

OWN = '''
from keras_meanflow.recipe import recipe

def helper(*, steps=3):
    """No recipe."""

@recipe
def mine(*, steps: int = 10, data: str | None = None):
    """Mine.

    More words.
    """
    return steps, data
'''


@recipe
def knobs(
    *,
    steps: int = 100,
    rate: float = 0.1,
    flip: bool = False,
    data: str | None = None,
    every: int | None = 5,
    averages: tuple[float, ...] = (0.9,),
    jit: bool | str = "auto",
    untyped=3,
):
    """All kinds of knobs."""


@pytest.mark.parametrize(
    "setting, value",
    [
        ("steps=7", 7),
        ("steps=1e5", 100_000),
        ("steps=1_000", 1000),
        ("rate=1", 1.0),
        ("rate=3e-4", 3e-4),
        ("flip=true", True),
        ("flip=0", False),
        ("data=none", None),
        ("data=a=b.npz", "a=b.npz"),
        ("every=none", None),
        ("every=9", 9),
        ("averages=0.99,0.9999", (0.99, 0.9999)),
        ("averages=", ()),
        ("jit=true", True),
        ("jit=auto", "auto"),
        ("untyped=4", 4),
    ],
)
def test_a_setting_is_read_as_the_type_of_its_knob(setting, value):
    resolved = resolve(knobs, [setting])
    name = setting.partition("=")[0]
    assert resolved[name] == value and type(resolved[name]) is type(value)
    others = {k: v for k, v in resolve(knobs, []).items() if k != name}
    assert {k: v for k, v in resolved.items() if k != name} == others


@pytest.mark.parametrize(
    "setting, rule",
    [
        ("step=7", "knobs has no knob 'step'. Did you mean steps"),
        ("zzz=7", "There are: steps, rate, flip"),
        ("steps", "Settings are key=value. Received: 'steps'"),
        ("steps=many", "steps must be of type int. Received: 'many'"),
        ("steps=1.5", "steps must be of type int"),
        ("flip=perhaps", "flip must be of type bool"),
        ("every=x", "every must be of type int or None"),
        ("averages=0.9,x", "averages must be of type"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(setting, rule):
    with pytest.raises(ValueError, match=rule):
        resolve(knobs, [setting])


def test_an_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="There is no recipe 'digit'. Did you mean digits"):
        find("digit")
    with pytest.raises(ValueError, match="There are: .*gaussian"):
        find("qqqq")


def test_a_users_own_file_is_a_recipe_too(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    for name in (str(file), f"{file}:mine"):
        found = find(name)
        assert (found.name, found.summary) == ("mine", "Mine.")
        assert found.defaults == {"steps": "10", "data": "None"}
        assert found.load()(steps=4) == (4, None)


@pytest.mark.parametrize(
    "text, function, rule",
    [
        (OWN, ":mime", "has no recipe 'mime'. Did you mean mine"),
        (OWN + OWN.replace("mine", "other"), "", "holds several recipes. Name one: .*:other"),
        ("x = 1", "", "must hold a function marked with @recipe"),
        (None, "", "There is no file"),
    ],
)
def test_a_file_without_the_recipe_is_refused(text, function, rule, tmp_path):
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=rule):
        find(f"{file}{function}")


def test_the_source_says_what_the_function_does():
    """What is listed without importing a recipe is what importing it gives."""
    for found in recipes().values():
        function = found.load()
        assert isinstance(found, Found) and found.summary.endswith(".")
        assert f"Command: keras-meanflow train {found.name}" in found.doc
        assert {k: eval(v) for k, v in found.defaults.items()} == resolve(function, [])
        assert found in recipes_in(found.file)
