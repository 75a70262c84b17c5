"""Recipes: found, shown, turned by their knobs; each of ours takes two real steps."""

import keras
import numpy as np
import pytest
from keras import ops
from oracles import randomise
from PIL import Image

from keras_meanflow import DiT, FlowMap, FlowMatching, Guidance, Heun, LogitNormal
from keras_meanflow.data.reflow import reflow
from keras_meanflow.formats.conversion import save_network
from keras_meanflow.networks import DiTDH
from keras_meanflow.networks.dit import SIZES
from keras_meanflow.networks.in_context import IN_CONTEXT_SIZES
from keras_meanflow.objectives import GuidanceInput
from keras_meanflow.parts import DiagonalLogitNormal, MaskedThenClamped, Sigmoid, TwoLogitNormals
from keras_meanflow.pictures.samples import draw_samples
from keras_meanflow.recipe import Found, find, recipe, recipes, recipes_in, resolve
from keras_meanflow.samplers import Euler
from keras_meanflow.training.run import train

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


# XLA is slow to compile: on TensorFlow graphs are faster to make, on JAX single operations are not.
JIT = keras.config.backend() == "jax"
SMALL = dict(steps=2, batch_size=4, width=8, jit_compile=JIT, depth=0)
DATA = {  # the data that a recipe asks for, small
    "mnist": dict(x_train=np.zeros((6, 28, 28), "uint8"), y_train=np.arange(6)),
    "cifar10": dict(x_train=np.zeros((6, 32, 32, 3), "uint8"), y_train=np.arange(6)),
    "eurosat": dict(x_train=np.zeros((6, 32, 32, 3), "uint8"), y_train=np.arange(6)),
    "imagenet256": dict(
        x=np.random.default_rng(0).standard_normal((6, 32, 32, 4)).astype("float32"),
        y=np.arange(6) * 199,
    ),
}


def data_for(name):
    return DATA.get(name.partition("_")[0])


def small_training(name, folder, **changes):
    found, knobs = find(name), {**SMALL, **changes}
    small = {"heads": 2, "split_depth": 0, "head_depth": 0, "multipliers": (1, 1)}
    knobs |= {name: value for name, value in small.items() if name in found.defaults}
    if "_rae" in name:
        knobs |= dict(width=16, head_width=8) | small_tokens(name, found, folder)
    elif "_reflow" in name:
        knobs |= dict(data=str(small_pairs(name, folder / "pairs")))
    elif data_for(name):
        np.savez(folder / "data.npz", **data_for(name))
        knobs |= dict(data=str(folder / "data.npz"))
    return found.load()(**knobs)


def small_tokens(name, found, folder):
    """Tokens, and the files of networks that a stage of MF-RAE starts from."""
    x = np.random.default_rng(0).standard_normal((6, 2, 2, 8)).astype("float32")
    np.savez(folder / "data.npz", x=x, y=np.arange(6))
    knobs = dict(data=str(folder / "data.npz"))
    classes = 1000 if name.startswith("imagenet") else 10
    sizes = dict(width=(16, 8), depth=(0, 1), heads=(2, 2), num_classes=classes)
    for knob, time_inputs in (("teacher", ("t",)), ("start", ("t", "t-r"))):
        if knob in found.defaults:
            network = DiTDH(image_size=2, channels=8, time_inputs=time_inputs, **sizes)
            save_network(randomise(network), folder / f"{knob}.safetensors")
            knobs[knob] = str(folder / f"{knob}.safetensors")
    return knobs


def small_pairs(name, folder):
    """Pairs by an untrained teacher of the recipe's data."""
    x = data_for(name).get("x", data_for(name).get("x_train")) if data_for(name) else None
    shape = (8, 8, 1) if x is None else (*x.shape[1:], 1)[:3]
    classes = 1000 if name.startswith("imagenet") else 10
    sizes = dict(patch_size=4, width=8, depth=0, heads=2, num_classes=classes)
    teacher = FlowMap(DiT(image_size=shape[0], channels=shape[2], **sizes), averages=())
    teacher.compile(jit_compile=False)
    return reflow(teacher, folder, np.arange(6), sampler=Euler(steps=1)).path


def assert_moves(flow_map, train_it):
    """Two steps of training, after which weights have changed and are finite."""
    weights = flow_map.network.trainable_variables
    before = [ops.convert_to_numpy(weight).copy() for weight in weights]
    train_it()
    assert int(flow_map.step.value) == 2
    pairs = zip(before, weights, strict=True)
    moved = [np.abs(ops.convert_to_numpy(weight) - old).max() for old, weight in pairs]
    assert max(moved) > 0.0 and np.isfinite(moved).all()


# The Gaussian is trained by tests/test_runs.py, speech by tests/test_speech.py.
ELSEWHERE = ("gaussian", "speech")
# Other data or times than a recipe's that is trained here anyway.
ALIKE = [name for name in recipes() if name.startswith("mnist_")] + ["cifar10_unet_v1"]
STEPPED = [
    pytest.param(name, marks=pytest.mark.long if name in ALIKE else ())
    for name in recipes()
    if not name.startswith(ELSEWHERE)
]


@pytest.mark.parametrize("name", STEPPED)
def test_every_recipe_takes_two_real_steps_at_reduced_size(name, tmp_path):
    training = small_training(name, tmp_path, depth=int(name == "imagenet256_dit_b4"))
    training.check()
    fit = dict(steps_per_epoch=2, shuffle=False, verbose=0)
    assert_moves(training.flow_map, lambda: training.flow_map.fit(training.batches(), **fit))


def test_the_default_recipe_runs_to_its_pictures(tmp_path):
    training = small_training("digits", tmp_path, depth=1, warmup_steps=0)
    assert_moves(training.flow_map, lambda: train(training, tmp_path / "run", verbose=0))
    assert (tmp_path / "run" / "samples.png").exists()
    assert (tmp_path / "run" / "curve.png").exists()


def test_a_training_with_another_objective_keeps_the_rest(tmp_path):
    training = small_training("digits", tmp_path, depth=1, warmup_steps=0, averages=(0.5,))
    flow = training.with_objective(FlowMatching(), sampler=Heun(steps=2))
    assert flow.flow_map.network is training.flow_map.network
    assert flow.flow_map.get_compile_config() == training.flow_map.get_compile_config()
    assert (flow.flow_map.averages, flow.flow_map.fixed_horizon) == ((0.5,), 2)
    assert_moves(flow.flow_map, lambda: train(flow, tmp_path / "run", verbose=0))
    drawn = draw_samples(
        flow.flow_map.generate(flow.sample_labels, sampler=Heun(steps=2)), columns=10
    )
    with Image.open(tmp_path / "run" / "samples.png") as kept:
        assert kept.tobytes() == drawn.tobytes()


@pytest.mark.parametrize("name", [name for name in recipes() if data_for(name)])
def test_a_recipe_without_its_data_says_which_file_it_needs(name):
    with pytest.raises(ValueError, match=r"needs --set data=PATH.* Received: None"):
        find(name).load()()


@pytest.mark.parametrize("name", [name for name in recipes() if data_for(name)])
def test_data_of_another_size_is_refused(name, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((6, 16, 16, 2), "uint8"), y=np.arange(6))
    sizes = {"width": 8, "depth": 1, "heads": 2}
    sizes = {knob: value for knob, value in sizes.items() if knob in find(name).defaults}
    with pytest.raises(ValueError, match="Images must be .* Received"):
        find(name).load()(data=str(tmp_path / "data.npz"), **sizes)


PUBLISHED = {  # table 4: size, epochs, omega' = omega / (1 - kappa), omega, interval
    "imagenet256_dit_b4": ("B/4", 80, 2.0, 1.0, (0.0, 1.0)),
    "imagenet256_dit_b2": ("B/2", 240, 2.0, 1.0, (0.0, 1.0)),
    "imagenet256_dit_l2": ("L/2", 240, 2.5, 0.2, (0.0, 0.8)),
    "imagenet256_dit_xl2": ("XL/2", 240, 2.5, 0.2, (0.0, 0.75)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_imagenet_recipes_have_the_settings_of_table_4(name, tmp_path):
    size, epochs, scale, omega, interval = PUBLISHED[name]
    knobs = resolve(find(name).load(), [])
    name_of_size, _, patch = size.partition("/")
    assert (knobs["depth"], knobs["width"], knobs["heads"]) == SIZES[name_of_size]
    assert (knobs["patch_size"], knobs["batch_size"]) == (int(patch), 256)
    assert (knobs["learning_rate"], knobs["averages"]) == (1e-4, (0.9999,))
    assert abs(knobs["steps"] * 256 / 1_281_167 - epochs) < 0.5
    training = small_training(name, tmp_path)
    guidance = training.flow_map.objective.guidance
    assert isinstance(guidance, Guidance) and guidance.omega == omega
    assert guidance.omega / (1 - guidance.kappa) == pytest.approx(scale)
    assert (guidance.start, guidance.end) == interval
    assert training.flow_map.optimizer.beta_2 == 0.95


@pytest.mark.parametrize("size", ["b2", "xl2"])
def test_the_alpha_imagenet_recipes_have_the_settings_of_table_3(size, tmp_path):
    name = f"imagenet256_alpha_{size}"
    share, begin, until = {"b2": (0.25, 0.0, 1.0), "xl2": (0.5, 0.5, 0.8333)}[size]
    training = small_training(name, tmp_path)
    objective, optimizer = training.flow_map.objective, training.flow_map.optimizer
    assert objective.alpha == Sigmoid(start=1.0, end=0.0, steepness=25.0, begin=begin, until=until)
    assert resolve(find(name).load(), [])["steps"] == 1_200_000
    assert (objective.clip, objective.eta, objective.times.fraction_r_equals_t) == (
        4.0,
        5e-3,
        share,
    )
    assert (optimizer.global_clipnorm, optimizer.beta_2) == (16.0, 0.95)
    assert (
        objective.guidance
        == {
            "b2": Guidance(omega=1.0, kappa=0.5),
            "xl2": Guidance(omega=0.2, kappa=0.92, end=0.75),
        }[size]
    )


def test_the_improved_imagenet_recipe_has_the_settings_of_the_appendix(tmp_path):
    knobs = resolve(find("imagenet256_imf_b2").load(), [])
    assert abs(knobs["steps"] * knobs["batch_size"] / 1_281_167 - 640) < 0.01
    assert abs(knobs["warmup_steps"] * knobs["batch_size"] / 1_281_167 - 10) < 0.01
    assert tuple(knobs[name] for name in ("depth", "width", "heads")) == IN_CONTEXT_SIZES["B"]
    assert (knobs["head_depth"], knobs["patch_size"]) == (8, 2)
    training = small_training("imagenet256_imf_b2", tmp_path, warmup_steps=2)
    objective, optimizer = training.flow_map.objective, training.flow_map.optimizer
    assert objective.guidance == GuidanceInput(beta=1.0, largest=8.0)
    assert objective.times == LogitNormal(mean=-0.4, std=1.0, fraction_r_equals_t=0.5)
    rates = [float(ops.convert_to_numpy(optimizer._learning_rate(step))) for step in (0, 2, 5)]
    np.testing.assert_allclose(rates, [0.0, 1e-4, 1e-4], rtol=1e-6)


def test_a_student_starts_from_its_teacher_and_keeps_it_apart(tmp_path):
    flow = small_training("digits_flow", tmp_path, depth=1, warmup_steps=0, label_dropout=0.1)
    train(flow, tmp_path / "flow", verbose=0)
    knobs = dict(teacher=str(tmp_path / "flow"), teacher_scale=2.0, depth=1, warmup_steps=0)
    training = small_training("digits_split", tmp_path, **knobs)
    student, (teacher,) = training.flow_map.network, training.flow_map.teachers
    before = [ops.convert_to_numpy(weight.value) for weight in teacher.weights]
    for own, weight in zip(student.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(own.value), weight)
    assert_moves(training.flow_map, lambda: train(training, tmp_path / "student", verbose=0))
    for own, weight in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(own.value), weight)
    assert training.flow_map.objective.label_dropout == 0.0


def test_the_decoupled_imagenet_recipe_has_the_settings_of_the_authors_script(tmp_path):
    knobs = resolve(find("imagenet256_dmf_xl2").load(), [])
    assert (knobs["steps"], knobs["split_depth"], knobs["batch_size"]) == (400_000, 20, 256)
    training = small_training("imagenet256_dmf_xl2", tmp_path)
    objective, optimizer = training.flow_map.objective, training.flow_map.optimizer
    assert objective.guidance == Guidance(omega=1.0, kappa=0.6, start=0.0, end=0.7)
    assert objective.times == TwoLogitNormals(t_mean=0.4, r_mean=-1.2)
    assert objective.flow_times == DiagonalLogitNormal(mean=0.0)
    assert (optimizer.global_clipnorm, optimizer.beta_2) == (1.0, 0.95)
    assert training.flow_map.network.time_inputs == ("t",)


def test_a_stage_of_mf_rae_says_which_network_it_needs(tmp_path):
    data = small_tokens("digits_rae_mft", find("digits_rae_mft"), tmp_path)["data"]
    for name, knob in (("digits_rae_cmt", "teacher"), ("digits_rae_mft", "start")):
        with pytest.raises(ValueError, match=f"needs --set {knob}=PATH.*Received: None"):
            find(name).load()(data=data, width=16, heads=2)
    with pytest.raises(ValueError, match="--set data=PATH: a latent store"):
        find("digits_rae_teacher").load()()


def test_cifar10_recipes_have_the_settings_of_the_paper_and_of_the_authors_scripts(tmp_path):
    knobs = resolve(find("cifar10_unet").load(), [])
    assert (knobs["width"], knobs["multipliers"], knobs["depth"]) == (128, (2, 2, 2), 4)
    assert (knobs["batch_size"], knobs["steps"], knobs["warmup_steps"]) == (1024, 800_000, 10_000)
    assert (knobs["dropout"], knobs["augmentation"]) == (0.2, 0.12)
    paper, later = (small_training(f"cifar10_unet{v}", tmp_path).flow_map for v in ("", "_v1"))
    assert paper.objective.times == LogitNormal(mean=-2.0, std=2.0, fraction_r_equals_t=0.25)
    assert later.objective.times == MaskedThenClamped()
    assert later.objective.loss.p == 0.75 and paper.average == 0.99995
    rate = paper.optimizer._learning_rate
    rates = [float(rate(step)) for step in (0, 5_000, 10_000, 400_000, 800_000)]
    assert rates == pytest.approx([0.0, 3e-4, 6e-4, 6e-4, 6e-4])
