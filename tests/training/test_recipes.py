"""Tasks and methods: found, shown, turned by their knobs; each suits the others."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import ops
from lock import describe_training
from small_data import ARRAYS, write_arrays, write_images
from small_runs import PAIRS, small

from keras_meanflow import Guidance, LogitNormal, cli, open_model
from keras_meanflow.backend import BACKEND
from keras_meanflow.networks.dit import SIZES
from keras_meanflow.networks.in_context import IN_CONTEXT_SIZES
from keras_meanflow.objectives import GuidanceInput
from keras_meanflow.parts import (
    DiagonalLogitNormal,
    MaskedThenClamped,
    Sigmoid,
    TwoLogitNormals,
)
from keras_meanflow.recipe import find, found_in, methods, tasks
from keras_meanflow.training.old_names import of_old_name
from keras_meanflow.training.plan import Plan
from keras_meanflow.training.run import train

OWN = '''
from keras_meanflow.recipe import method, task

def helper(*, steps=3):
    """Neither."""

@task(has=("noise",), every=dict(power=0.5))
def mine(
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
    """Mine.

    More words.
    """
    return steps, data

@method(needs=("noise",))
def ours(task, *, power: float = 1.0):
    """Ours."""
'''


@pytest.fixture
def own(tmp_path):
    """A plan of a user's own file, with a task and a method."""
    (tmp_path / "own.py").write_text(OWN)
    return Plan.of(str(tmp_path / "own.py"))


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
        ("power=2", 2.0),
    ],
)
def test_a_setting_is_read_as_the_type_of_its_knob(setting, value, own):
    resolved = own.resolve([setting])
    name = setting.partition("=")[0]
    assert resolved[name] == value and type(resolved[name]) is type(value)
    others = {k: v for k, v in own.resolve().items() if k != name}
    assert {k: v for k, v in resolved.items() if k != name} == others
    assert own.resolve()["power"] == 0.5  # the task's row, in the place of the method's default


@pytest.mark.parametrize(
    "setting, rule",
    [
        ("step=7", "mine by ours has no knob 'step'. Did you mean steps"),
        ("zzz=7", "There are: steps, rate, flip"),
        ("steps", "Settings are key=value. Received: 'steps'"),
        ("steps=many", "steps must be of type int. Received: 'many'"),
        ("steps=1.5", "steps must be of type int"),
        ("flip=perhaps", "flip must be of type bool"),
        ("every=x", "every must be of type int or None"),
        ("averages=0.9,x", "averages must be of type"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(setting, rule, own):
    with pytest.raises(ValueError, match=rule):
        own.resolve([setting])


def test_a_knob_of_another_method_is_refused():
    with pytest.raises(ValueError, match="digits by flow_matching has no knob 'power'"):
        Plan.of("digits", "flow_matching").resolve(["power=0.3"])


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="There is no task 'digit'. Did you mean digits"):
        Plan.of("digit")
    with pytest.raises(ValueError, match="There is no method 'alphaflow'. Did you mean alpha_flow"):
        Plan.of("digits", "alphaflow")
    with pytest.raises(ValueError, match="There are: .*gaussian"):
        Plan.of("qqqq")
    with pytest.raises(ValueError, match="There is no size 'xl'. Did you mean xl2"):
        Plan.of("imagenet256").resolve(["size=xl"])


def test_a_method_that_needs_what_a_task_has_not_is_refused():
    rule = "decoupled_mean_flow needs a task with DiT, which gaussian does not have. Its methods"
    with pytest.raises(ValueError, match=rule):
        Plan.of("gaussian", "decoupled_mean_flow")


def test_a_users_own_file_is_found_like_a_shipped_one(own, tmp_path):
    file = tmp_path / "own.py"
    assert (own.task.name, own.task.summary, own.method.name) == ("mine", "Mine.", "ours")
    assert own.task.address == f"{file}:mine" and own.method.address == f"{file}:ours"
    assert own.task.defaults["steps"] == "100" and own.method.mark == {"needs": ("noise",)}
    assert find(f"{file}:mine", "task") == own.task
    assert Plan.of(str(file), "mean_flow").method == methods()["mean_flow"]
    assert Plan.of("digits", str(file)).method == own.method


@pytest.mark.parametrize(
    "text, function, rule",
    [
        (OWN, ":mime", "has no task 'mime'. Did you mean mine"),
        (OWN + OWN.replace("mine", "other"), "", "holds several tasks. Name one: .*:other"),
        ("x = 1", "", "must hold a function marked with @task"),
        (None, "", "There is no file"),
    ],
)
def test_a_file_without_the_task_is_refused(text, function, rule, tmp_path):
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=rule):
        Plan.of(f"{file}{function}")


def test_the_source_says_what_the_function_does():
    """What is listed without importing a file is what importing it gives."""
    for found in (*tasks().values(), *methods().values()):
        function = found.load()
        assert (function.recipe_kind, function.recipe_mark) == (found.kind, found.mark)
        assert found.summary.endswith(".") and "Command: keras-meanflow train " in found.doc
        knobs = function.__kwdefaults__
        assert {k: eval(v) for k, v in found.defaults.items()} == knobs
        assert found in found_in(found.file, found.kind)


def test_tasks_and_methods_share_no_knob_and_tables_name_real_ones():
    for task, method in PAIRS:
        assert not set(tasks()[task].defaults) & set(methods()[method].defaults), (task, method)
    for task in tasks().values():
        for row, settings in task.mark.get("methods", {}).items():
            method, _, size = row.partition(" ")
            known = {*task.defaults, *methods()[method].defaults}
            assert set(settings) <= known, (task.name, row)
            assert not size or size in task.mark["sizes"]
        rows = [str(row) for row in task.mark.get("sizes", {}).values()]
        assert len(set(rows)) == len(rows)
        every = set(task.mark.get("every", {}))
        assert every <= {knob for one in methods().values() for knob in one.defaults}


# Every task by every method


# A method on the digits, or on the first task that suits it; each task by its first method.
def _order(pair):
    """Small tasks first."""
    return pair[0] != "digits", pair[0] != "speech_digits"


_FIRST = {(task, Plan.of(task).method.name) for task in tasks()}
_ONE_TASK = {
    next(pair for pair in sorted(PAIRS, key=_order) if pair[1] == method) for method in methods()
}


def _mark(pair):
    """Each method runs on all backends, each task by its first method on one."""
    if pair in _ONE_TASK:
        return ()
    return pytest.mark.any_backend if pair in _FIRST else pytest.mark.long


WALK = [pytest.param(*pair, marks=_mark(pair), id="-".join(pair)) for pair in PAIRS]


@pytest.mark.parametrize("task, method", WALK)
def test_a_task_by_a_method_trains_saves_loads_and_samples(task, method, tmp_path):
    training = Plan.of(task, method).training(small(task, method, tmp_path))
    weights = training.flow_map.network.trainable_variables
    before = [ops.convert_to_numpy(weight).copy() for weight in weights]
    assert train(training, tmp_path / "run", verbose=0) == 2
    moved = [
        np.abs(ops.convert_to_numpy(weight) - old).max()
        for old, weight in zip(before, weights, strict=True)
    ]
    assert max(moved) > 0.0 and np.isfinite(moved).all()
    assert (tmp_path / "run" / "samples.png").exists()
    loaded = open_model(tmp_path / "run").flow_map
    assert loaded.batches_done == 2
    for old, new in zip(training.flow_map.chosen_weights, loaded.chosen_weights, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (old, new)))


# Values that differ from the small ones, for knobs that are no numbers or whose range is narrow.
OTHER = {
    "optimizer": "splus", "derivative": "clipped", "times": "masked_then_clamped", "size": "b2",
    "averages": (0.5,), "jit_compile": False, "sample_every": 3, "stages": 4, "largest": 3.0,
    "multipliers": (1, 2), "snr": (-3.0, 3.0), "speeds": (0.9, 1.1), "patch_size": 8,
    "heads": 1, "width": 32, "head_width": 16, "split_depth": 0, "head_depth": 2, "gamma": 4.0,
    "min_snr": "noise", "easy": "interval", "middle": 0.5, "exponent": 2.0, "clip": 3.0,
    "global_clipnorm": 1.0, "image_size": 24, "channels": 1,
    "frames": 12, "depth": 2, "until": 0.75, "begin": 0.25, "percentile": 50.0, "dropout": 0.25,
}  # fmt: skip
_NOT_HERE = {
    # Paths of files, which other tests give.
    "data", "noise", "teacher", "start", "flow", "pair_store",
    # These have an effect beside another knob only.
    "patience", "easy", "teacher_scale", "beta", "guidance_end", "first_mixing", "last_mixing",
    # The images here are of one colour; the row of a size is below the settings here.
    "augmentation", "size",
}  # fmt: skip
_BESIDE = {
    "patience": {"stages": 4}, "easy": {"stages": 4}, "beta": {"largest": 4.0},
    "head_depth": {"depth": 2}, "guidance_end": {"kappa": 0.5},
    "first_mixing": {"scale": 2.0}, "last_mixing": {"scale": 2.0},
}  # fmt: skip
KNOBS = [
    pytest.param(task, method, kind, id=f"{task}-{method}-{kind}")
    for pairs, kind in ((_FIRST, "task"), (_ONE_TASK, "method"))
    for task, method in sorted(pairs)
]


@pytest.mark.skipif(
    BACKEND != "torch", reason="what is made is the same on all: the quickest builds"
)
@pytest.mark.parametrize("task, method, kind", KNOBS)
def test_every_knob_changes_what_is_made(task, method, kind, tmp_path):
    plan, settings = Plan.of(task, method), small(task, method, tmp_path)
    known = getattr(plan, kind).defaults
    full = plan.resolve(settings)
    described = {}

    def describe(**changes):
        key = json.dumps(changes, default=str)
        if key not in described:
            keras.utils.set_random_seed(0)
            described[key] = describe_training(plan.training({**settings, **changes}))
        return described[key]

    for knob in known:
        beside = _BESIDE.get(knob, {})
        if knob not in _NOT_HERE or beside:
            other = _other(task, knob, full)
            changed = describe(**{**beside, knob: other})
            assert changed != describe(**beside), f"{knob}={other} changes nothing"


def _other(task, knob, knobs):
    if knob == "patch_size" and task in ("mnist", "images"):
        return {"mnist": 28, "images": 4}[task]
    value = OTHER.get(knob, knobs[knob])
    if value != knobs[knob]:
        return value
    return value + 1 if isinstance(value, int) else 0.5 * value if value else 0.25


# Data

NEEDS_DATA = [task for task in tasks() if "data" in tasks()[task].defaults]


@pytest.mark.parametrize("task", NEEDS_DATA)
def test_a_task_without_its_data_says_which_file_it_needs(task):
    sizes = {"width": 8, "depth": 1, "heads": 2, "multipliers": (1,)}
    plan = Plan.of(task)
    sizes = {knob: value for knob, value in sizes.items() if knob in plan.knobs()}
    with pytest.raises(ValueError, match=r"needs --set data=PATH.* Received: None"):
        plan.training(sizes)


def test_a_flat_folder_of_images_has_no_labels_and_sub_folders_are_classes(tmp_path):
    flat, classes = write_images(tmp_path / "a", ("",)), write_images(tmp_path / "b")
    sizes = dict(width=8, depth=1, heads=2, image_size=16)
    without, with_labels = (
        Plan.of("images").training({**sizes, "data": data}) for data in (flat, classes)
    )
    assert without.flow_map.network.num_classes is None and without.sample_labels == 64
    assert with_labels.flow_map.network.num_classes == 2
    np.testing.assert_array_equal(with_labels.sample_labels, np.repeat([0, 1], 8))


def test_a_flat_folder_of_images_trains(tmp_path):
    settings = small("images", "mean_flow", tmp_path)
    settings["data"] = write_images(tmp_path / "flat", ("",))
    training = Plan.of("images").training(settings)
    assert train(training, tmp_path / "run", verbose=0) == 2
    assert (tmp_path / "run" / "samples.png").exists()


@pytest.mark.parametrize("task", [task for task in NEEDS_DATA if task in ARRAYS])
def test_data_of_another_size_is_refused(task, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((6, 16, 16, 2), "uint8"), y=np.arange(6))
    with pytest.raises(ValueError, match="Images must be .* Received"):
        Plan.of(task).training({"data": str(tmp_path / "data.npz")})


@pytest.mark.parametrize(
    "method, knob",
    [
        ("trajectory_regression", "teacher"),
        ("mean_flow_distillation", "teacher"),
        ("mean_flow_tuning", "start"),
        ("re_mean_flow", "pair_store"),
    ],
)
def test_a_method_says_which_run_it_needs(method, knob, tmp_path):
    settings = {"width": 16, "heads": 2, "data": write_arrays("rae", tmp_path)}
    with pytest.raises(ValueError, match=f"needs --set {knob}=PATH.*Received: None"):
        Plan.of("digits_rae", method).training(settings)


# Published settings


def made(task, method=None, **settings):
    """Objective, optimizer and knobs at the published settings, with a small network."""
    plan = Plan.of(task, method)
    small = dict(width=8, depth=1, heads=2, split_depth=1, head_depth=1, multipliers=(1,))
    changes = {k: v for k, v in {**small, **settings}.items() if k in plan.knobs()}
    flow_map = plan.training(changes).flow_map
    return flow_map.objective, flow_map.optimizer, plan.resolve(settings)


@pytest.fixture
def latents(tmp_path):
    return write_arrays("imagenet256", tmp_path)


PUBLISHED = {  # table 4: size, epochs, omega' = omega / (1 - kappa), omega, interval
    "b4": ("B/4", 80, 2.0, 1.0, (0.0, 1.0)),
    "b2": ("B/2", 240, 2.0, 1.0, (0.0, 1.0)),
    "l2": ("L/2", 240, 2.5, 0.2, (0.0, 0.8)),
    "xl2": ("XL/2", 240, 2.5, 0.2, (0.0, 0.75)),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_imagenet_has_the_settings_of_table_4(size, latents):
    published, epochs, scale, omega, interval = PUBLISHED[size]
    objective, optimizer, knobs = made("imagenet256", size=size, data=latents)
    name_of_size, _, patch = published.partition("/")
    assert (knobs["depth"], knobs["width"], knobs["heads"]) == SIZES[name_of_size]
    assert (knobs["patch_size"], knobs["batch_size"]) == (int(patch), 256)
    assert (knobs["learning_rate"], knobs["averages"]) == (1e-4, (0.9999,))
    assert abs(knobs["steps"] * 256 / 1_281_167 - epochs) < 0.5
    guidance = objective.guidance
    assert isinstance(guidance, Guidance) and guidance.omega == omega
    assert guidance.omega / (1 - guidance.kappa) == pytest.approx(scale)
    assert (guidance.start, guidance.end) == interval
    assert optimizer.beta_2 == 0.95


@pytest.mark.parametrize("size", ["b2", "xl2"])
def test_alpha_flow_on_imagenet_has_the_settings_of_table_3(size, latents):
    share, begin, until = {"b2": (0.25, 0.0, 1.0), "xl2": (0.5, 0.5, 0.8333)}[size]
    objective, optimizer, knobs = made("imagenet256", "alpha_flow", size=size, data=latents)
    assert objective.alpha == Sigmoid(start=1.0, end=0.0, steepness=25.0, begin=begin, until=until)
    assert knobs["steps"] == 1_200_000
    assert (objective.clip, objective.eta) == (4.0, 5e-3)
    assert objective.times.fraction_r_equals_t == share
    assert (objective.loss.p, objective.loss.c) == (1.0, 4096 * 1e-3)
    assert (optimizer.global_clipnorm, optimizer.beta_2) == (16.0, 0.95)
    expected = Guidance(omega=0.2, kappa=0.92, end=0.75)
    assert objective.guidance == {"b2": Guidance(omega=1.0, kappa=0.5), "xl2": expected}[size]


def test_improved_mean_flow_on_imagenet_has_the_settings_of_the_appendix(latents):
    settings = dict(size="b2", data=latents)
    objective, optimizer, knobs = made("imagenet256", "improved_mean_flow", **settings)
    assert abs(knobs["steps"] * knobs["batch_size"] / 1_281_167 - 640) < 0.01
    assert abs(knobs["warmup_steps"] * knobs["batch_size"] / 1_281_167 - 10) < 0.01
    assert tuple(knobs[name] for name in ("depth", "width", "heads")) == IN_CONTEXT_SIZES["B"]
    assert (knobs["head_depth"], knobs["patch_size"]) == (8, 2)
    assert objective.guidance == GuidanceInput(beta=1.0, largest=8.0)
    assert objective.times == LogitNormal(mean=-0.4, std=1.0, fraction_r_equals_t=0.5)
    steps = (0, knobs["warmup_steps"], 100_000)
    rates = [float(ops.convert_to_numpy(optimizer._learning_rate(step))) for step in steps]
    np.testing.assert_allclose(rates, [0.0, 1e-4, 1e-4], rtol=1e-6)


def test_decoupled_mean_flow_on_imagenet_has_the_settings_of_the_authors_script(latents):
    settings = dict(size="xl2", data=latents)
    objective, optimizer, knobs = made("imagenet256", "decoupled_mean_flow", **settings)
    assert (knobs["steps"], knobs["split_depth"], knobs["batch_size"]) == (400_000, 20, 256)
    assert objective.guidance == Guidance(omega=1.0, kappa=0.6, start=0.0, end=0.7)
    assert objective.times == TwoLogitNormals(t_mean=0.4, r_mean=-1.2)
    assert objective.flow_times == DiagonalLogitNormal(mean=0.0)
    assert (optimizer.global_clipnorm, optimizer.beta_2) == (1.0, 0.95)


def test_cifar10_has_the_settings_of_the_paper_and_of_the_authors_scripts(tmp_path):
    data = write_arrays("cifar10", tmp_path)
    objective, optimizer, knobs = made("cifar10", data=data)
    later, _, _ = made("cifar10", data=data, times="masked_then_clamped")
    assert (knobs["width"], knobs["multipliers"], knobs["depth"]) == (128, (2, 2, 2), 4)
    assert (knobs["batch_size"], knobs["steps"], knobs["warmup_steps"]) == (1024, 800_000, 10_000)
    assert (knobs["dropout"], knobs["augmentation"]) == (0.2, 0.12)
    assert objective.times == LogitNormal(mean=-2.0, std=2.0, fraction_r_equals_t=0.25)
    assert later.times == MaskedThenClamped()
    assert later.loss.p == 0.75 and knobs["averages"][0] == 0.99995
    rates = [float(optimizer._learning_rate(s)) for s in (0, 5_000, 10_000, 400_000, 800_000)]
    assert rates == pytest.approx([0.0, 3e-4, 6e-4, 6e-4, 6e-4])


# Starts and old names


@pytest.mark.any_backend
def test_a_student_starts_from_its_teacher_and_keeps_it_apart(tmp_path):
    tiny = dict(small("digits", "flow_matching", tmp_path), label_dropout=0.1)
    train(Plan.of("digits", "flow_matching").training(tiny), tmp_path / "flow", verbose=0)
    settings = dict(tiny, teacher=str(tmp_path / "flow"), teacher_scale=2.0, label_dropout=0.0)
    training = Plan.of("digits", "split_mean_flow").training(settings)
    student, (teacher,) = training.flow_map.network, training.flow_map.teachers
    before = [ops.convert_to_numpy(weight.value) for weight in teacher.weights]
    for mine, weight in zip(student.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(mine.value), weight)
    train(training, tmp_path / "student", verbose=0)
    for mine, weight in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(mine.value), weight)


def test_an_old_name_answers_with_a_warning(tmp_path):
    arguments = ["train", "imagenet256_dit_l2_improved", "--dry-run", "--set", "data=none.npz"]
    done = CliRunner().invoke(cli.main, arguments)
    assert "imagenet256_dit_l2_improved is now: keras-meanflow train imagenet256" in done.output
    assert "--method progressive_mean_flow" in done.output and "--set size=l2" in done.output
    assert of_old_name("digits_reflow", {"data": "p", "largest_scale": 2.5})[0].method.name == (
        "re_mean_flow_guided"
    )
    assert of_old_name("nothing") is None


def test_what_a_task_and_a_method_have_is_shown():
    shown = CliRunner().invoke(cli.main, ["tasks", "show", "imagenet256"]).output
    assert "--size xl2: patch_size=2 depth=28" in shown and "split_depth=20" in shown
    shown = CliRunner().invoke(cli.main, ["methods", "show", "alpha_flow"]).output
    assert "begin=0.0" in shown and "digits: power=0.5 fraction_r_equals_t=0.5" in shown
    assert "xl2: fraction_r_equals_t=0.5 begin=0.5" in shown
    listed = CliRunner().invoke(cli.main, ["methods"]).output
    assert all(name in listed for name in methods())
