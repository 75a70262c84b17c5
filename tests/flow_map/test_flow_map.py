"""FlowMap: the laws of training, averaging, evaluating, generating, saving."""

import json
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from oracles import randomise

from keras_meanflow import DiT, FlowMap, FlowMatching, Guidance, Heun, LogitNormal, MeanFlow
from keras_meanflow.backend import BACKEND
from keras_meanflow.backend.random import philox_noise
from keras_meanflow.networks import MLP
from keras_meanflow.parts import Line
from keras_meanflow.samplers import Jump, Restart

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3)).astype("float32")
Y = (np.arange(40) % 3).astype("int32")
GUIDED = MeanFlow(guidance=Guidance(omega=1.0, kappa=0.5))


def _model(objective=None, *, averages=(0.99, 0.3), accumulation=None, seed=0, jit=False, **kwargs):
    keras.utils.set_random_seed(1)
    network = MLP(data_size=3, width=8, depth=1, num_classes=3, **kwargs)
    flow_map = FlowMap(network, objective or GUIDED, averages=averages, seed=seed)
    optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=accumulation)
    flow_map.compile(optimizer, jit_compile="auto" if jit else False)
    return flow_map


def _fit(flow_map, epochs=1, **kwargs):
    return flow_map.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=False, **kwargs)


def _state(flow_map):
    """Raw and averaged weights, counters, and the optimizer's state."""
    variables = flow_map.trainable_variables + flow_map.non_trainable_variables
    variables = [v for v in variables if v is not flow_map.start and v is not flow_map.horizon]
    variables += flow_map.optimizer.variables
    return [ops.convert_to_numpy(v.value) for v in variables]


def _assert_same(state, other):
    for a, b in zip(state, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_fits_of_two_epochs_are_one_of_four_bit_for_bit():
    once, twice = _model(jit=True), _model(jit=True)
    _fit(once, 4)
    _fit(twice, 2)
    _fit(twice, 2)
    _assert_same(_state(once), _state(twice))
    assert int(once.step.value) == 20


def test_evaluate_repeats_itself_and_leaves_training_alone():
    flow_map = _model()
    _fit(flow_map)
    before = _state(flow_map)
    first = flow_map.evaluate(X, Y, batch_size=8, verbose=0, return_dict=True)
    second = flow_map.evaluate(X, Y, batch_size=8, verbose=0, return_dict=True)
    assert first == second
    assert set(first) == {"loss", "u_error", "v_error", "du_dt_norm", "v_weight", "u_weight"}
    after = _state(flow_map)
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if np.any(a != b)]
    variables = flow_map.trainable_variables + flow_map.non_trainable_variables
    variables = [v for v in variables if v is not flow_map.start and v is not flow_map.horizon]
    assert [variables[i].name for i in changed] == ["evaluation_step"]
    validated = _model()
    _fit(validated, 2, validation_data=(X, Y))
    plain = _model()
    _fit(plain, 2)
    _assert_same(
        [w for w in map(ops.convert_to_numpy, validated.network.weights)],
        [w for w in map(ops.convert_to_numpy, plain.network.weights)],
    )


def test_evaluate_uses_the_chosen_average():
    flow_map = _model(jit=True)
    _fit(flow_map, 2)
    losses = []
    for average in (0.99, 0.3, None):
        flow_map.average = average
        losses.append(flow_map.evaluate(X, Y, verbose=0, return_dict=True)["v_error"])
    assert len(set(losses)) == 3
    weights = [ops.convert_to_numpy(v) for v in flow_map.weights_of(0.3)]
    for target, value in zip(flow_map.network.trainable_variables, weights, strict=True):
        target.assign(value)
    raw = flow_map.evaluate(X, Y, verbose=0, return_dict=True)["v_error"]
    assert raw == pytest.approx(losses[1], rel=1e-6)


class _Weights(keras.callbacks.Callback):
    """The raw weights after every batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        if BACKEND == "jax":
            self.model.jax_state_sync()
        weights = self.model.network.trainable_variables
        self.seen.append([np.array(ops.convert_to_numpy(w.value)) for w in weights])


@pytest.mark.parametrize("accumulation", [None, 2])
def test_averages_follow_their_recursion_with_warm_up(accumulation):
    flow_map = _model(accumulation=accumulation)
    expected = [ops.convert_to_numpy(w.value) for w in flow_map.network.trainable_variables]
    expected = {decay: expected for decay in flow_map.averages}
    history = _Weights()
    _fit(flow_map, 6, callbacks=[history])
    updates = history.seen[(accumulation or 1) - 1 :: accumulation or 1]
    assert len(updates) == 30 // (accumulation or 1)
    for n, weights in enumerate(updates):
        for decay, averaged in expected.items():
            d = min(decay, (1 + n) / (10 + n))
            expected[decay] = [d * a + (1 - d) * w for a, w in zip(averaged, weights, strict=True)]
    for decay in flow_map.averages:
        for variable, value in zip(flow_map.weights_of(decay), expected[decay], strict=True):
            np.testing.assert_allclose(ops.convert_to_numpy(variable.value), value, atol=1e-6)


def test_times_differ_between_steps_and_micro_batches(monkeypatch):
    flow_map = _model(accumulation=2)
    drawn = []
    for step in range(4):
        flow_map.step.assign(step)
        draws = flow_map.objective.draw(flow_map.keys(8), ops.convert_to_tensor(X[:8]), Y[:8])
        drawn.append(ops.convert_to_numpy(draws.t))
    for i in range(4):
        for j in range(i):
            assert not np.any(drawn[i] == drawn[j])


def test_a_step_depends_on_the_seed():
    one, other = _model(), _model(seed=1)
    _fit(one)
    _fit(other)
    a, b = (ops.convert_to_numpy(m.network.trainable_variables[0].value) for m in (one, other))
    assert not np.array_equal(a, b)


def test_scheduled_values_move_exactly_and_never_retrace():
    moving = MeanFlow(times=LogitNormal(mean=Line(start=-3.0, end=1.0)))
    flow_map = _model(moving)
    _fit(flow_map, 2)
    assert int(flow_map.horizon.value) == 10
    for step, progress in ((0, 0.0), (5, 0.5), (10, 1.0), (50, 1.0)):
        flow_map.step.assign(step)
        assert float(flow_map.progress) == pytest.approx(progress)
        keys = flow_map.keys(8)
        r, t = moving.times.draw(keys, 8)
        fixed = LogitNormal(mean=-3.0 + 4.0 * progress).draw(keys, 8)
        np.testing.assert_allclose(ops.convert_to_numpy(t), ops.convert_to_numpy(fixed[1]), 1e-6)
        assert float(flow_map.keys(8, training=False).progress) == 1.0


def test_a_partial_last_batch_trains():
    flow_map = _model()
    flow_map.fit(X[:29], Y[:29], batch_size=28, epochs=2, verbose=0)
    assert int(flow_map.step.value) == 4


def _source(kind):
    """The first 16 rows as batches of 8, as a data source of the backend."""
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in (0, 8)]
    if kind == "generator":
        return (batch for batch in batches)
    if BACKEND == "torch":
        import torch

        rows = torch.utils.data.TensorDataset(torch.from_numpy(X[:16]), torch.from_numpy(Y[:16]))
        return torch.utils.data.DataLoader(rows, batch_size=8)
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X[:16], Y[:16])).batch(8)


def test_every_data_source_of_keras_gives_the_same_weights():
    weights = []
    for source in (None, "generator", "loader"):
        flow_map = _model()
        if source is None:
            flow_map.fit(X[:16], Y[:16], batch_size=8, shuffle=False, verbose=0)
        else:
            flow_map.fit(_source(source), steps_per_epoch=2, shuffle=False, verbose=0)
        weights.append([ops.convert_to_numpy(w) for w in flow_map.network.trainable_variables])
    for other in weights[1:]:
        for a, b in zip(weights[0], other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_sample_weights_multiply_the_loss():
    flow_map = _model(averages=())
    weight = np.full(40, 2.0, "float32")
    single = flow_map.evaluate(X, Y, verbose=0, return_dict=True)
    double = flow_map.evaluate(X, Y, sample_weight=weight, verbose=0, return_dict=True)
    assert double["loss"] == pytest.approx(2.0 * single["loss"], rel=1e-6)
    assert double["v_error"] == pytest.approx(single["v_error"], rel=1e-6)


def test_a_half_precision_model_sees_times_unrounded(monkeypatch):
    flow_map = _model(FlowMatching(), dtype="mixed_bfloat16")
    sampler, seen = LogitNormal(fraction_r_equals_t=1.0), []
    time = np.float32(0.9987)
    monkeypatch.setattr(
        type(sampler), "pair", lambda self, keys, rows, below: (time * ops.ones(rows),) * 2
    )
    embedding = flow_map.network.times[0]
    call = embedding.call

    def spy(t):
        seen.append(ops.cast(t, "float32") - time)
        return call(t) + 0.0 * ops.reshape(ops.cast(t, "float32") - time, (-1, 1))

    embedding.call = spy
    flow_map.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    _fit(flow_map)
    flow_map.evaluate(X, Y, batch_size=8, verbose=0)
    count = len(seen)
    assert count >= 10
    assert all(float(ops.max(ops.abs(d))) == 0.0 for d in seen)
    seen.clear()
    step = Jump(times=(1.0, 0.9987, 0.0)).step(
        lambda z, r, t: flow_map.network(z, r, t, np.zeros(2, "int32")),
        ops.convert_to_tensor(X[:2]),
        ops.zeros(2),
        ops.full((2,), time),
    )
    assert np.isfinite(ops.convert_to_numpy(step)).all()
    assert float(ops.max(ops.abs(seen[0]))) == 0.0


# Generating


def _trained():
    flow_map = _model()
    randomise(flow_map.network)
    for copy, weight in zip(
        flow_map.weights_of(0.99), flow_map.network.trainable_variables, strict=True
    ):
        copy.assign(0.5 * weight)
    flow_map.step.assign(1)  # an average of a model without updates is the raw weights
    return flow_map


def test_an_image_depends_on_its_seed_and_number_only():
    flow_map, labels = _trained(), np.arange(7) % 3
    whole = flow_map.generate(labels, seed=5, verbose=0)
    np.testing.assert_allclose(whole, flow_map.generate(labels, seed=5, batch_size=2), atol=1e-6)
    later = flow_map.generate(labels[3:], seed=5, first=3, verbose=0)
    np.testing.assert_allclose(whole[3:], later, atol=1e-6)
    assert np.abs(whole - flow_map.generate(labels, seed=6, verbose=0)).min() > 1e-6
    noise = philox_noise(5, [3, 0], (3,))
    expected = np.random.Generator(np.random.Philox(key=[5, 3])).standard_normal(3, "float32")
    np.testing.assert_array_equal(noise[0], expected)


def test_noise_added_between_steps_belongs_to_the_image_too():
    flow_map, labels = _trained(), np.arange(7) % 3
    restart = {"sampler": Restart(steps=3), "seed": 5, "verbose": 0}
    whole = flow_map.generate(labels, **restart)
    for batch_size in (3, 2):
        parts = flow_map.generate(labels, batch_size=batch_size, **restart)
        np.testing.assert_allclose(parts, whole, atol=1e-6)
    noises = [philox_noise(5, range(7), (3,), draw=k) for k in range(3)]
    model = flow_map.sampling_model(Restart(steps=3))
    exported = ops.convert_to_numpy(model([*noises, labels]))
    np.testing.assert_allclose(exported, whole, atol=1e-6)
    correlations = np.corrcoef([noise.ravel() for noise in noises])[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 0.7 and len(np.unique(noises)) == 63


def test_one_step_is_noise_minus_the_averaged_networks_u():
    flow_map, labels = _trained(), np.arange(3)
    noise, one = philox_noise(0, range(3), (3,)), np.ones(3, "float32")
    halved = MLP.from_config(flow_map.network.get_config())
    halved.set_weights([0.5 * w for w in flow_map.network.get_weights()])
    expected = noise - ops.convert_to_numpy(halved(noise, 0.0 * one, one, labels))
    np.testing.assert_allclose(flow_map.generate(labels, verbose=0), expected, atol=1e-6)
    flow_map.average = None
    raw = noise - ops.convert_to_numpy(flow_map.network(noise, 0.0 * one, one, labels))
    np.testing.assert_allclose(flow_map.generate(labels, verbose=0), raw, atol=1e-6)


def test_a_sampler_replaces_the_steps():
    flow_map, labels = _trained(), np.arange(3)
    two = flow_map.generate(labels, steps=2, verbose=0)
    np.testing.assert_array_equal(two, flow_map.generate(labels, sampler=Jump(steps=2)))
    assert np.abs(two - flow_map.generate(labels, sampler=Heun(steps=2))).max() > 1e-4


def test_guidance_when_sampling_extrapolates_from_the_null_label():
    flow_map, labels = _model(MeanFlow()), np.arange(3)
    randomise(flow_map.network)
    flow_map.average = None
    noise, one = philox_noise(0, range(3), (3,)), np.ones(3, "float32")
    u, null = (
        ops.convert_to_numpy(flow_map.network(noise, 0.0 * one, one, y))
        for y in (labels, np.full(3, 3))
    )
    guided = flow_map.generate(labels, guidance_scale=2.5, verbose=0)
    np.testing.assert_allclose(guided, noise - (null + 2.5 * (u - null)), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(labels=[0], steps=0), "steps must be an integer >= 1"),
        (dict(labels=[0, 5]), "Labels must lie in 0..2"),
        (dict(labels=4), "This network is conditional"),
        (dict(labels=[0], guidance_scale=2.0), "guidance baked into its training target"),
        (dict(labels=[0], steps=2, sampler=Heun()), "steps or a sampler, not both"),
    ],
)
def test_generate_refuses_what_it_cannot_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        _model().generate(**arguments)


def test_guidance_needs_a_null_label_that_was_trained():
    flow_map = FlowMap(MLP(data_size=3, width=8), FlowMatching())
    flow_map.compile()
    assert flow_map.generate(5, verbose=0).shape == (5, 3)
    with pytest.raises(ValueError, match="null label that was trained"):
        flow_map.generate(5, guidance_scale=2.0)
    with pytest.raises(ValueError, match="number of samples is at least 1"):
        flow_map.generate(0)


# Saving


def test_keras_and_h5_files_keep_everything(tmp_path):
    flow_map = _model()
    _fit(flow_map, 3)
    flow_map.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    _assert_same(_state(flow_map), _state(loaded))
    assert loaded.get_config() == flow_map.get_config()
    flow_map.save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5") as file:
        assert "layers" in file  # Keras takes the first attribute by name: no property before it
    fresh = _model()
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.load_weights(tmp_path / "m.weights.h5")
    _assert_same(_state(flow_map), _state(fresh))
    for model in (flow_map, loaded, fresh):
        _fit(model)
    _assert_same(_state(flow_map), _state(loaded))
    _assert_same(_state(flow_map), _state(fresh))


_LOAD = """
import sys, numpy as np, keras, keras_meanflow.flow_map
flow_map = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[2], flow_map.generate(np.arange(3), steps=2, verbose=0))
"""


def test_a_saved_model_gives_the_same_samples_on_another_backend(tmp_path):
    keras.utils.set_random_seed(1)
    network = DiT(image_size=4, channels=2, patch_size=2, width=16, depth=1, heads=2, num_classes=3)
    flow_map = FlowMap(randomise(network), GUIDED)
    flow_map.compile()
    flow_map.save(tmp_path / "m.keras")
    other = {"jax": "tensorflow", "tensorflow": "torch", "torch": "jax"}[BACKEND]
    command = [sys.executable, "-c", _LOAD, tmp_path / "m.keras", tmp_path / "x.npy"]
    environment = {**_environment(), "KERAS_BACKEND": other}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"needs {other} installed")
    assert done.returncode == 0, done.stderr
    expected = flow_map.generate(np.arange(3), steps=2, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-5)


def _environment():
    import os

    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def _run_exported(path, inputs):
    """The samples of an exported file, through the format's own library."""
    if BACKEND == "torch":
        import torch

        module = torch.export.load(path).module()
        return module([torch.from_numpy(a) for a in inputs]).detach().numpy()
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return loaded.serve([tf.constant(a) for a in inputs]).numpy()


@pytest.mark.parametrize("rows", [1, 4])
def test_an_exported_sampler_gives_what_generate_gives(tmp_path, rows):
    flow_map = _trained()
    path = tmp_path / ("sampler.pt2" if BACKEND == "torch" else "sampler")
    flow_map.export(path, steps=2, verbose=False)
    labels = (np.arange(rows) % 3).astype("int32")
    noise = philox_noise(0, range(rows), (3,))
    samples = _run_exported(path, (noise, labels))
    np.testing.assert_allclose(samples, flow_map.generate(labels, steps=2, verbose=0), atol=1e-5)


def test_an_unconditional_sampler_is_exported_from_noise_alone(tmp_path):
    flow_map = FlowMap(randomise(MLP(data_size=3, width=8)), averages=())
    flow_map.compile()
    path = tmp_path / ("sampler.pt2" if BACKEND == "torch" else "sampler")
    flow_map.export(path, verbose=False)
    samples = _run_exported(path, (philox_noise(0, range(3), (3,)),))
    np.testing.assert_allclose(samples, flow_map.generate(3, verbose=0), atol=1e-5)


# Bad input


@pytest.mark.parametrize("argument", ["loss", "metrics"])
def test_compile_takes_no_loss_and_no_metrics(argument):
    with pytest.raises(ValueError, match=f"compile\\({argument}=...\\) has no meaning"):
        _model().compile(**{argument: "mse"})


def _with_nan():
    x = X.copy()
    x[5, 1] = np.nan
    return x


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (_with_nan(), Y, "1 rows of x hold NaN or infinity, the first at index 5"),
        (X[:, :2], Y, r"must have the network's shape \(batch, \*\(3,\)\)"),
        ((X * 255).astype("uint8"), Y, r"images scaled to \[-1, 1\]. Received: x of uint8"),
        (X, Y + 2, r"Labels must lie in 0..2"),
        (X, None, "needs labels"),
        ({"x": X, "e": X}, Y, r"needs coupling=StoredPairs\(\)"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        _model().fit(x, y, batch_size=8, verbose=0)


def test_a_batch_without_rows_r_below_t_is_refused():
    with pytest.raises(ValueError, match="at least 2 rows. Received: 1"):
        _model().fit(X, Y, batch_size=1, verbose=0)


def test_schedules_need_a_known_length_or_a_horizon():
    def endless():
        while True:
            yield X[:8], Y[:8]

    scheduled = MeanFlow(times=LogitNormal(mean=Line(start=-2.0, end=-0.4)))
    with pytest.raises(ValueError, match="Scheduled values need the length of training"):
        _model(scheduled).fit(endless(), verbose=0)
    network = MLP(data_size=3, width=8, num_classes=3)
    flow_map = FlowMap(network, scheduled, horizon=7)
    flow_map.compile()
    flow_map.fit(endless(), steps_per_epoch=2, verbose=0)
    assert int(flow_map.horizon.value) == 7


def test_an_unknown_average_names_the_known_ones():
    with pytest.raises(ValueError, match=r"one of \(0.99, 0.3\) or None"):
        _model().average = 0.5


def test_the_config_is_json():
    assert json.loads(json.dumps(_model().get_config()))


def test_an_optimizer_that_keeps_an_average_itself_is_refused():
    flow_map = FlowMap(MLP(data_size=3, width=8, num_classes=3))
    with pytest.raises(ValueError, match=r"FlowMap\(averages=...\): give the optimizer use_ema"):
        flow_map.compile(keras.optimizers.Adam(use_ema=True))
