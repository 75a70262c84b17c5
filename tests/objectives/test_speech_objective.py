"""MeanFlowSE against the authors' own training step, and conditions of every kind in a FlowMap.

`golden/mean_flow_se.py` wrote what the objective is compared with.
"""

import dataclasses
import math
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from oracles import Gaussian, randomise, relative_error

from keras_meanflow import FlowMap, MeanFlow
from keras_meanflow.backend import BACKEND
from keras_meanflow.backend.random import Keys
from keras_meanflow.data import ArraySource, Batches
from keras_meanflow.networks import MLP, TCN, ComplexMask, ConditionResidual, Network
from keras_meanflow.objectives import Draws, FlowMatching, MeanFlowSE, ReleasedMeanFlowSE
from keras_meanflow.parts import Line
from keras_meanflow.parts.couplings import FromCondition
from keras_meanflow.parts.derivatives import ClippedDerivative, ForwardMode
from keras_meanflow.parts.gap_laws import PowerGap
from keras_meanflow.parts.part import register
from keras_meanflow.parts.paths import Linear, NoisyToClean
from keras_meanflow.parts.rows import mask_r_below_t
from keras_meanflow.samplers import Euler

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "mean_flow_se.npz"))
CASES = [
    ("released, skipped", ReleasedMeanFlowSE(), 0.05),
    ("released, early", ReleasedMeanFlowSE(), 0.2),
    ("released, late", ReleasedMeanFlowSE(), 0.9),
    ("exact", MeanFlowSE(), 0.6),
]
BY_CASE = pytest.mark.parametrize(
    ("name", "objective", "progress"), CASES, ids=lambda c: str(c)[:9]
)


def _pairs(name):
    """A golden complex array (rows, 1, bins, frames) as real pairs (rows, bins, frames, 2)."""
    array = GOLDEN[name][:, 0]
    return ops.convert_to_tensor(np.stack([array.real, array.imag], axis=-1).astype("float32"))


def _field(z, r, t, y):
    """The function in the place of the network, that the golden script has too."""
    t, d = (ops.reshape(a, (-1, 1, 1)) for a in (t, t - r))
    a, b = z[..., 0], z[..., 1]
    real = ops.sin(2.0 * a) * ops.cos(t) + 0.3 * y[..., 1] + d * b
    imag = ops.tanh(b + d * a) + t * y[..., 0] * a
    return ops.stack([real, imag], axis=-1)


class SameKeys:
    """Keys that give the golden draws."""

    rows, stage = 4, 0

    def __init__(self, progress):
        self.progress = progress

    def uniform(self, name, shape):
        if name != "times":
            return ops.ones(shape)
        first, gap, _ = GOLDEN["draws"]
        return ops.convert_to_tensor(np.stack([1.0 - first, gap], axis=1))


def _draws(objective, progress):
    keys = SameKeys(progress)
    below = ops.convert_to_tensor(GOLDEN["draws"][2] >= 0.1)
    r, t = objective.times.pair(keys, 4, below)
    e = {"y": _pairs("noisy"), "n": _pairs("noise")}
    return Draws(r, t, e, ops.zeros((4,), "bool"), progress)


class EveryRow(PowerGap):
    """`PowerGap` with a derivative on every row, as the authors compute it."""

    def count_derived(self, rows):
        return rows


@BY_CASE
def test_the_loss_is_the_authors_on_the_same_draws(name, objective, progress):
    times = EveryRow(exponent=objective.times.exponent)
    objective = dataclasses.replace(objective, times=times)
    draws = _draws(objective, progress)
    problem = objective(_field, _pairs("clean"), _pairs("noisy"), draws)
    inputs = problem.inputs
    u = _field(inputs["z"], inputs["r"], inputs["t"], inputs["condition"])
    loss = objective.loss(problem.target, u, sample_weight=problem.weight)
    assert float(loss) == pytest.approx(float(GOLDEN[f"{name}: loss"]), rel=2e-6)
    if f"{name}: r" not in GOLDEN:
        np.testing.assert_array_equal(ops.convert_to_numpy(problem.weight)[4:], 0.0)
        return
    r, t = (ops.convert_to_numpy(a) for a in (draws.r, draws.t))
    np.testing.assert_allclose(r, GOLDEN[f"{name}: r"], atol=1e-6)
    assert r[1] == t[1]
    jvp = GOLDEN[f"{name}: jvp"][:, 0]
    correction = np.stack([jvp.real, jvp.imag], axis=-1) * (t - r)[:, None, None, None]
    coefficient = 0.5 if "released" in name else 1.0
    target = ops.convert_to_numpy(problem.target)
    np.testing.assert_allclose(target[:4] - target[4:], coefficient * correction, atol=2e-3)


def test_the_released_norm_is_clipped_and_the_exact_one_is_not():
    norms = np.linalg.norm(GOLDEN["released, late: jvp"].reshape(4, -1), axis=1)
    np.testing.assert_allclose(norms[:3], 5.0, rtol=1e-5)
    assert 0.0 < norms[3] < 5.0
    assert np.linalg.norm(GOLDEN["exact: jvp"]) > 30.0
    clipped = ClippedDerivative(derivative=ForwardMode(), coefficient=0.5, largest=1e9)
    z = np.random.default_rng(0).standard_normal((3, 2)).astype("float32")
    r, t = np.zeros(3, "float32"), np.ones(3, "float32")
    primals, tangents = ([ops.convert_to_tensor(a) for a in s] for s in ((z, r, t), (z, r, t)))
    half, whole = (d(Gaussian(), primals, tangents) for d in (clipped, ForwardMode()))
    assert relative_error(*(ops.convert_to_numpy(a) for a in (2.0 * half, whole))) < 1e-6
    with pytest.raises(ValueError, match="must exceed 0. Received: 0.5 and 0.0"):
        ClippedDerivative(largest=0.0)


def test_the_path_goes_from_clean_to_noisy_with_noise_of_sigma_and_its_velocity():
    path = NoisyToClean(sigma_min=0.1, sigma_max=0.487)
    rng = np.random.default_rng(0)
    x, y, n = (rng.standard_normal((3, 4, 2)) for _ in range(3))
    t = np.array([0.0, 0.3, 1.0])
    tensors = [ops.convert_to_tensor(a.astype("float32")) for a in (x, y, n, t)]
    z, v = path(tensors[0], {"y": tensors[1], "n": tensors[2]}, tensors[3])
    wide = t[:, None, None]
    sigma = 0.1 + 0.387 * wide
    expected = (1 - wide) * x + wide * y + sigma * n
    np.testing.assert_allclose(ops.convert_to_numpy(z), expected, atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(v), y - x + 0.387 * n, atol=1e-6)
    start = path.start({"y": tensors[1], "n": tensors[2]})
    np.testing.assert_allclose(ops.convert_to_numpy(start), y + 0.487 * n, atol=1e-6)
    straight, velocity = Linear()(tensors[0], tensors[1] + 0.487 * tensors[2], tensors[3])
    z, v = NoisyToClean()(tensors[0], {"y": tensors[1], "n": tensors[2]}, tensors[3])
    np.testing.assert_allclose(*(ops.convert_to_numpy(a) for a in (z, straight)), atol=1e-6)
    np.testing.assert_allclose(*(ops.convert_to_numpy(a) for a in (v, velocity)), atol=1e-6)
    with pytest.raises(ValueError, match="at least 0"):
        NoisyToClean(sigma_max=-1.0)


def test_gaps_have_the_law_of_a_power_of_a_uniform():
    exponent = Line(start=8.0, end=1.0, until=0.7)
    sampler = PowerGap(exponent=exponent, fraction_r_equals_t=0.25)
    for progress, power in ((0.0, 8.0), (0.35, 4.5), (1.0, 1.0)):
        keys = Keys(seed=0, step=1, progress=progress)
        r, t = (ops.convert_to_numpy(a) for a in sampler.draw(keys, 4000))
        below = ops.convert_to_numpy(mask_r_below_t(4000, 3000))
        np.testing.assert_array_equal(r[~below], t[~below])
        assert t.min() >= 0.03 and t.max() <= 1.0 and r.min() >= 0.03 - 1e-6
        share = (t - r)[below] / (t[below] - 0.03)
        assert np.mean(share) == pytest.approx(1.0 / (1.0 + power), abs=0.02)
    with pytest.raises(ValueError, match="least is a time"):
        PowerGap(least=1.0)
    with pytest.raises(ValueError, match="exponent must exceed 0"):
        PowerGap(exponent=0.0)
    late = PowerGap(lateness=3.0, fraction_r_equals_t=1.0)
    _, t = late.draw(Keys(seed=0, step=0), 4000)
    early = (1.0 - ops.convert_to_numpy(t)) / 0.97  # U^3
    assert np.mean(early) == pytest.approx(0.25, abs=0.02)
    assert np.mean(early < 0.125) == pytest.approx(0.5, abs=0.03)
    with pytest.raises(ValueError, match="lateness must exceed 0"):
        PowerGap(lateness=0.0)


def test_complex_noise_has_unit_power_and_begins_where_training_ends():
    coupling = FromCondition(std=math.sqrt(0.5))
    x = y = ops.ones((500, 4, 2))
    _, e = coupling(Keys(seed=0, step=0), x, y)
    n = ops.convert_to_numpy(e["n"])
    assert np.mean(np.sum(n**2, axis=-1)) == pytest.approx(1.0, abs=0.05)
    objective = MeanFlowSE()
    noise = ops.ones((2, 4, 2))
    start = ops.convert_to_numpy(objective.start(noise, y[:2]))
    np.testing.assert_allclose(start, 1.0 + 0.487 * math.sqrt(0.5), rtol=1e-6)


@register
class Conditioned(Network):
    """A small network of data (4, 3, 2) whose condition is an array, or a dict."""

    def __init__(self, *, condition_shape, num_classes=None, **kwargs):
        super().__init__(
            data_shape=(4, 3, 2), condition_shape=condition_shape, num_classes=num_classes, **kwargs
        )
        self.inner = MLP(data_size=24, width=8, depth=1)
        self.mix = keras.layers.Dense(24)
        self.mix.build((None, 24))
        self.built = True

    def call(self, z, r, t, condition=None):
        known = condition if isinstance(condition, dict) else {"": condition}
        flat = sum(
            ops.reshape(ops.cast(a, "float32"), (-1, 24 if len(a.shape) > 1 else 1)) * 0.5
            for a in known.values()
        )
        z = ops.reshape(z, (-1, 24))
        u = self.inner(z, r, t) + ops.tanh(self.mix(z + flat))
        return ops.reshape(u, (-1, 4, 3, 2))

    def get_config(self):
        shape, classes = self.condition_shape, self.num_classes
        return {**super().get_config(), "condition_shape": shape, "num_classes": classes}


SHAPE = (4, 3, 2)
KINDS = {
    "array": (dict(condition_shape=SHAPE), None),
    "dict": (dict(condition_shape={"noisy": SHAPE, "mask": SHAPE}), "noisy"),
    "dict with labels": (dict(condition_shape={"noisy": SHAPE}, num_classes=3), "noisy"),
}
BY_KIND = pytest.mark.parametrize("kind", KINDS)


def _data(kind, rows=8):
    rng = np.random.default_rng(3)
    x, noisy, mask = rng.standard_normal((3, rows, *SHAPE)).astype("float32")
    labels = np.arange(rows, dtype="int32") % 3
    conditions = {
        "array": noisy,
        "dict": {"noisy": noisy, "mask": mask},
        "dict with labels": {"noisy": noisy, "labels": labels},
    }
    return x, conditions[kind]


def _flow_map(kind, objective):
    settings, name = KINDS[kind]
    coupling = FromCondition(name=name, std=math.sqrt(0.5))
    objective = dataclasses.replace(objective, coupling=coupling)
    flow_map = FlowMap(randomise(Conditioned(**settings)), objective, averages=(0.9,), horizon=4)
    flow_map.compile(keras.optimizers.SGD(1e-3), jit_compile=BACKEND == "jax")
    return flow_map


@pytest.mark.any_backend
@BY_KIND
def test_a_condition_of_any_kind_trains_generates_evaluates_saves_and_exports(kind, tmp_path):
    x, y = _data(kind)
    flow_map = _flow_map(kind, MeanFlowSE(least_weight=0.0))
    arrays = flow_map.fit(x, y, batch_size=4, epochs=1, verbose=0, shuffle=False).history
    assert np.isfinite(arrays["loss"]).all() and arrays["du_dt_norm"][0] > 0.0
    batches = Batches(ArraySource(x, y), 4, seed=0)
    flow_map.fit(batches, steps_per_epoch=2, epochs=1, verbose=0)
    assert flow_map.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)["u_error"] > 0.0

    samples = flow_map.generate(y, steps=2, seed=1)
    assert samples.shape == x.shape
    flow_map.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.generate(y, steps=2, seed=1), samples, atol=1e-6)

    model = flow_map.sampling_model(Euler(steps=2))
    noise = np.random.default_rng(0).standard_normal(x.shape).astype("float32")
    exported = ops.convert_to_numpy(model([noise, *keras.tree.flatten(y)]))
    noisy = y["noisy"] if isinstance(y, dict) else y
    z = noisy + 0.487 * math.sqrt(0.5) * noise
    network = flow_map.copied_network(flow_map.average)
    for t in (1.0, 0.5):
        times = np.full(len(x), t, "float32")
        z = z - 0.5 * ops.convert_to_numpy(network(z, times, times, y))
    np.testing.assert_allclose(exported, z, atol=1e-5)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="one format is enough: JAX writes the same")
def test_a_dict_condition_is_exported_to_a_file(tmp_path):
    flow_map = _flow_map("dict", FlowMatching(path=NoisyToClean(), label_dropout=0.0))
    path = tmp_path / ("sampler.pt2" if BACKEND == "torch" else "sampler")
    flow_map.export(path, verbose=False)
    assert path.exists()


@pytest.mark.parametrize("kind", ["array", "dict with labels"])
def test_the_users_weights_count_for_both_branches(kind):
    x, y = _data(kind)
    objective = MeanFlowSE(weight=0.25)
    weights = np.arange(8.0, dtype="float32")
    flow_map = _flow_map(kind, objective)
    problem = flow_map.build_problem((x, y, weights), training=True)
    expected = np.concatenate([0.75 * weights, 0.25 * weights])
    np.testing.assert_allclose(ops.convert_to_numpy(problem.weight), expected, rtol=1e-6)


@BY_KIND
def test_dropped_rows_have_null_labels_and_zeros(kind):
    x, y = _data(kind)
    network = Conditioned(**KINDS[kind][0])
    drop = ops.convert_to_tensor(np.arange(8) % 2 == 0)
    dropped = network.drop_condition(keras.tree.map_structure(ops.convert_to_tensor, y), drop)
    for before, after in zip(keras.tree.flatten(y), keras.tree.flatten(dropped), strict=True):
        after = ops.convert_to_numpy(after)
        null = 3 if before.dtype.kind == "i" else 0.0
        np.testing.assert_array_equal(after[::2], np.full_like(before[::2], null))
        np.testing.assert_array_equal(after[1::2], before[1::2])
    flow_map = _flow_map(kind, MeanFlow(path=NoisyToClean(), label_dropout=0.5))
    flow_map.fit(x, y, batch_size=8, verbose=0)
    assert flow_map.generate(y, guidance_scale=2.0).shape == x.shape


@pytest.mark.parametrize(
    ("kind", "condition", "message"),
    [
        ("array", None, r"is an array \(n, 4, 3, 2\)"),
        ("array", np.zeros((8, 4, 3), "float32"), r"floats of shape \(n, 4, 3, 2\)"),
        ("array", np.full((8, 4, 3, 2), np.nan, "float32"), "must be finite"),
        ("dict", np.zeros((8, 4, 3, 2), "float32"), "a dict of noisy, mask"),
        ("dict", {"noisy": np.zeros((8, 4, 3, 2))}, r"Received: \['noisy'\]"),
        (
            "dict with labels",
            {"noisy": np.zeros((8, 4, 3, 2)), "labels": np.full(8, 7)},
            r"Labels must lie in 0..2",
        ),
    ],
)
def test_a_condition_that_the_network_does_not_know_is_refused_with_the_rule(
    kind, condition, message
):
    x, _ = _data(kind)
    flow_map = _flow_map(kind, MeanFlowSE())
    with pytest.raises(ValueError, match=message):
        flow_map.fit(x, condition, batch_size=8, verbose=0)
    with pytest.raises(ValueError, match=message):
        flow_map.generate(condition)


def test_labels_beside_an_array_need_its_name():
    with pytest.raises(ValueError, match="shapes of arrays have names"):
        Conditioned(condition_shape=SHAPE, num_classes=3)


def test_a_coupling_without_its_array_says_what_it_needs():
    x = ops.ones((2, 4))
    keys = Keys(seed=0, step=0)
    with pytest.raises(ValueError, match=r"an array of the data's shape \(4,\). Received: None"):
        FromCondition()(keys, x, None)
    with pytest.raises(ValueError, match=r"whose 'noisy' is an array.*Received: {'mask'"):
        FromCondition(name="noisy")(keys, x, {"mask": x})
    with pytest.raises(ValueError, match="weight is a share"):
        MeanFlowSE(weight=1.5)


def test_a_residual_network_adds_what_its_condition_explains_and_is_remembered(tmp_path):
    inner = randomise(Conditioned(condition_shape=SHAPE))
    network = ConditionResidual(inner)
    z, y = _data("array", rows=3)
    r, t = np.zeros(3, "float32"), np.ones(3, "float32")
    u, rest = (ops.convert_to_numpy(f(z, r, t, y)) for f in (network, inner))
    np.testing.assert_allclose(u, z - y + rest, atol=1e-6)
    flow_map = FlowMap(network, MeanFlowSE())
    flow_map.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").network
    np.testing.assert_allclose(ops.convert_to_numpy(again(z, r, t, y)), u, atol=1e-6)
    with pytest.raises(ValueError, match="one array of the data's shape"):
        ConditionResidual(MLP(data_size=2, num_classes=3))


class Ideal(Network):
    """The mask that leaves x of y, whatever z is."""

    def __init__(self, x, y):
        super().__init__(data_shape=x.shape[1:], condition_shape=x.shape[1:])
        x, y = (a[..., 0] + 1j * a[..., 1] for a in (x, y))
        mask = 1.0 - x / y
        self.mask = np.stack([mask.real, mask.imag], axis=-1).astype("float32")
        self.built = True

    def call(self, z, r, t, condition=None):
        return ops.convert_to_tensor(self.mask)


def test_the_ideal_mask_is_exact_for_every_jump():
    rng = np.random.default_rng(0)
    x, y, n = (rng.standard_normal((4, 3, 5, 2)).astype("float32") for _ in range(3))
    r, t = np.array([0.0, 0.1, 0.3, 0.5], "float32"), np.array([1.0, 0.4, 0.3, 0.9], "float32")
    network = ComplexMask(Ideal(x, y))
    path = NoisyToClean()
    x, y, n, r, t = (ops.convert_to_tensor(a) for a in (x, y, n, r, t))
    z, v = (ops.convert_to_numpy(a) for a in path(x, {"y": y, "n": n}, t))
    u = ops.convert_to_numpy(network(z, r, t, y))
    np.testing.assert_allclose(u, v, atol=2e-5)  # straight: the average velocity is the velocity
    objective = MeanFlow(
        times=PowerGap(fraction_r_equals_t=0.0),
        label_dropout=0.0,
        path=path,
        coupling=FromCondition(),
    )
    problem = objective(network, x, y, Draws(r, t, {"y": y, "n": n}, None))
    np.testing.assert_allclose(ops.convert_to_numpy(problem.target), u, atol=1e-4)


def test_a_mask_of_zero_gives_the_condition_back_in_one_step_and_is_remembered(tmp_path):
    mask = TCN(bins=4, frames=3, width=8, depth=1)
    network = ComplexMask(mask, least=0.02)
    z, y = _data("array", rows=3)
    r, t = np.zeros(3, "float32"), np.ones(3, "float32")
    given = z - ops.convert_to_numpy(network(z, r, t, y))
    np.testing.assert_allclose(given, y, atol=1e-6)
    network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras")
    assert again.least == 0.02
    with pytest.raises(ValueError, match="least, a time to divide by, exceeds 0. Received: 0"):
        ComplexMask(mask, least=0.0)


def test_at_temperature_0_one_step_starts_at_the_condition_itself():
    network = randomise(ConditionResidual(Conditioned(condition_shape=SHAPE)))
    flow_map = FlowMap(network, MeanFlowSE(), averages=())
    flow_map.compile(jit_compile=BACKEND == "jax")
    _, y = _data("array", rows=3)
    r, t = np.zeros(3, "float32"), np.ones(3, "float32")
    expected = y - ops.convert_to_numpy(network(y, r, t, y))
    for seed in (0, 1):
        found = flow_map.generate(y, seed=seed, temperature=0.0, verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="temperature is at least 0. Received: -1"):
        flow_map.generate(y, temperature=-1.0)
