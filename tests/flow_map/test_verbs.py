"""Keras' verbs on a FlowMap: the right result, or one line that says what to do."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from oracles import randomise

from keras_meanflow import FlowMap, FlowMatching, Guidance, LogitNormal, MeanFlow
from keras_meanflow.backend import BACKEND
from keras_meanflow.networks import MLP, Network
from keras_meanflow.objectives import RandomGuidance, TeacherGuidance
from keras_meanflow.parts import Line
from keras_meanflow.parts.part import register

RNG = np.random.default_rng(0)
X = RNG.standard_normal((16, 3)).astype("float32")
Y = (np.arange(16) % 3).astype("int32")
W = (np.arange(16) % 4).astype("float32")


def _model(objective=None, num_classes=None):
    network = randomise(MLP(data_size=3, width=8, depth=1, num_classes=num_classes))
    flow_map = FlowMap(network, objective or MeanFlow(), averages=())
    flow_map.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    return flow_map


# Sample weights


def _loss(weights, way, y=None):
    """The loss of one batch, which training and evaluating reach in several ways."""
    flow_map = _model(num_classes=None if y is None else 3)
    if way == "fit":
        keys = dict(batch_size=16, shuffle=False, verbose=0, sample_weight=weights)
        return flow_map.fit(X, y, **keys).history["loss"][0]
    if way == "validation":
        keys = dict(batch_size=16, shuffle=False, verbose=0)
        flow_map.optimizer.learning_rate = 0.0
        return flow_map.fit(X, y, validation_data=(X, y, weights), **keys).history["val_loss"][0]
    if way == "batch":
        return float(flow_map.train_on_batch(X, y, sample_weight=weights, return_dict=True)["loss"])
    keys = dict(batch_size=16, verbose=0, return_dict=True)
    return flow_map.evaluate(X, y, sample_weight=weights, **keys)["loss"]


@pytest.mark.parametrize("y", [None, Y], ids=["unconditional", "labels"])
@pytest.mark.parametrize("way", ["fit", "validation", "batch", "evaluate"])
def test_sample_weights_count_without_labels_too_and_as_a_column(way, y):
    """Keras drops the weights of data without y, silently."""
    one = _loss(None, way, y)
    doubled = _loss(2.0 * np.ones(16, "float32"), way, y)
    assert doubled == pytest.approx(2.0 * one, rel=1e-5)
    weighted, column = _loss(W, way, y), _loss(W[:, None], way, y)
    assert weighted == pytest.approx(column, rel=1e-5)
    assert abs(weighted / one - W.mean()) > 1e-4  # the rows differ


def test_sample_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(n,\). Received: shape \(16, 3\)"):
        _model().fit(X, sample_weight=np.ones((16, 3), "float32"), batch_size=16, verbose=0)
    for weights in (W[:8], W.reshape(4, 4), np.ones(())):
        with pytest.raises(ValueError, match="sample_weight has one number for each sample"):
            _model().evaluate(X, sample_weight=weights, verbose=0)
    with pytest.raises(ValueError, match="finite and at least 0"):
        _model().fit(X, sample_weight=np.where(np.arange(16) == 3, np.nan, W), verbose=0)
    with pytest.raises(ValueError, match=r"Received: shape \(16, 3\)"):
        _model().train_on_batch(X, sample_weight=np.ones((16, 3), "float32"))


def test_sample_weights_count_beside_a_condition_of_several_arrays():
    """Keras gives each array of y the same weights."""
    flow_map = FlowMap(Paired(), FlowMatching(label_dropout=0.0), averages=())
    flow_map.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    y, keys = {"a": X, "b": X}, dict(verbose=0, batch_size=16, return_dict=True)
    one = flow_map.evaluate(X, y, **keys)["loss"]
    doubled = flow_map.evaluate(X, y, sample_weight=2.0 * np.ones((16, 1), "float32"), **keys)
    assert doubled["loss"] == pytest.approx(2.0 * one, rel=1e-5)


@register
class Paired(Network):
    """A network that sees two arrays by name."""

    def __init__(self, **kwargs):
        shapes = {"a": (3,), "b": (3,)}
        super().__init__(data_shape=(3,), condition_shape=shapes, **kwargs)
        self.out = layers.Dense(3)

    def call(self, z, r, t, condition=None):
        """See `Network.call`."""
        return self.out(ops.concatenate([z, condition["a"], condition["b"]], axis=1))


# Schedules over several calls of fit


def test_a_fit_that_starts_at_a_later_epoch_goes_on_with_the_schedules():
    """`initial_epoch=2` of four epochs began at progress 0 again and ended the first at 0.25."""
    moving = MeanFlow(times=LogitNormal(mean=Line(start=0.0, end=1.0)))
    keys = dict(batch_size=8, verbose=0, shuffle=False)
    whole, halves = _model(moving), _model(moving)
    whole.fit(X, epochs=4, **keys)
    halves.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    first = halves.fit(X, epochs=2, **keys).history
    assert first["progress"] == pytest.approx([0.5, 1.0])
    later = halves.fit(X, epochs=4, initial_epoch=2, **keys).history
    assert later["progress"] == pytest.approx([0.75, 1.0])
    fresh = _model(moving)
    assert fresh.fit(X, epochs=4, initial_epoch=2, **keys).history["progress"][0] == 0.75


# Dropout and batch statistics in a network


@register
class Noisy(Network):
    """A network of Keras' layers, some of which act differently in training."""

    def __init__(self, **kwargs):
        super().__init__(data_shape=(3,), **kwargs)
        self.hidden = layers.Dense(64, "tanh")
        self.dropout = layers.Dropout(0.5)
        self.norm = layers.BatchNormalization(momentum=0.9)
        self.out = layers.Dense(3)

    def call(self, z, r, t, condition=None):
        """See `Network.call`."""
        times = ops.stack([r, t], axis=1)
        return self.out(self.dropout(self.norm(self.hidden(ops.concatenate([z, times], axis=1)))))


def _seen(flow_map):
    """For each call of the dropout layer: the share of zeros in its output."""
    seen, call = [], flow_map.network.dropout.call

    def spy(inputs, training=None):
        out = call(inputs, training=training)
        seen.append(ops.mean(ops.cast(ops.equal(out, 0.0), "float32")))
        return out

    flow_map.network.dropout.call = spy
    return seen


@pytest.mark.parametrize("share", [0.75, 0.25], ids=["two passes", "one pass"])
def test_dropout_and_batch_statistics_are_on_in_the_gradient_pass_alone(share):
    """They never switched on; in one pass du/dt would be of the masked network."""
    objective = MeanFlow(times=LogitNormal(fraction_r_equals_t=share))
    flow_map = FlowMap(Noisy(), objective, averages=(0.9,))
    flow_map.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    before = ops.convert_to_numpy(flow_map.network.norm.moving_mean).copy()
    if BACKEND != "jax":  # JAX traces the step
        seen = _seen(flow_map)
        flow_map.train_on_batch(X)
        shares = [float(s) for s in seen]
        assert shares[-1] == pytest.approx(0.5, abs=0.1)
        assert len(shares) == 2 and shares[0] == 0.0
        flow_map.evaluate(X, verbose=0)
        assert [float(s) for s in seen[2:]] == [0.0] * (len(seen) - 2)
    else:
        flow_map.train_on_batch(X)
    after = ops.convert_to_numpy(flow_map.network.norm.moving_mean).copy()
    assert np.abs(after - before).max() > 1e-3
    flow_map.evaluate(X, verbose=0)
    flow_map.generate(4, verbose=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(flow_map.network.norm.moving_mean), after)


def test_a_compiled_step_draws_new_masks_and_repeats_itself_from_a_file(tmp_path):
    """With a learning rate of 0 only the masks, draws and statistics change the loss."""
    keras.utils.set_random_seed(0)
    flow_map = FlowMap(Noisy(), FlowMatching(), averages=(0.9,))
    flow_map.compile(keras.optimizers.SGD(0.0), jit_compile=BACKEND == "jax")
    losses = []
    for _ in range(3):
        flow_map.step.assign(0)  # the same draws of times and noise
        losses.append(float(flow_map.train_on_batch(X, return_dict=True)["v_error"]))
    assert len(set(losses)) == 3
    flow_map.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.generate(4, verbose=0), flow_map.generate(4, verbose=0))


# One line where they cannot work


def test_a_network_of_plain_layers_is_built_and_anything_else_is_refused():
    assert not Noisy().out.built
    assert FlowMap(Noisy()).network.out.built
    with pytest.raises(ValueError, match="trains a Network u.*Received: Sequential"):
        FlowMap(keras.Sequential([layers.Dense(3)]))

    class Forgetful(Noisy):
        """A network with a layer that its call does not use."""

        def __init__(self):
            super().__init__()
            self.unused = layers.Dense(3)

    with pytest.raises(ValueError, match="Forgetful leaves out: dense"):
        FlowMap(Forgetful())


def test_predict_gives_u_and_sends_everything_else_to_generate():
    flow_map, half = _model(), np.full(16, 0.5, "float32")
    u = flow_map.predict({"z": X, "r": 0.0 * half, "t": half}, verbose=0)
    expected = ops.convert_to_numpy(flow_map.network(X, 0.0 * half, half))
    np.testing.assert_allclose(u, expected, atol=1e-6)
    for x in (X, [X], {"x": X}):
        with pytest.raises(ValueError, match=r"Samples come from generate\(labels\)"):
            flow_map.predict(x)


def _nan():
    return np.where(X == X.max(), np.nan, X).astype("float32")


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        (lambda m: m.compile(weighted_metrics=["mse"]), r"weighted_metrics=...\) has no meaning"),
        (lambda m: m.compile(loss_weights=[1.0]), r"loss_weights=...\) has no meaning"),
        (lambda m: m.fit(X[:0], Y[:0]), "No samples. Received: x of shape"),
        (lambda m: m.evaluate(X[:0], Y[:0]), "No samples"),
        (lambda m: m.evaluate(_nan(), Y), "1 rows of x hold NaN"),
        (lambda m: m.evaluate(X, Y + 2), "Labels must lie in 0..2"),
        (lambda m: m.fit(X, Y, validation_data=(_nan(), Y)), "1 rows of x hold NaN"),
        (lambda m: m.generate([]), "at least 1 sample"),
        (lambda m: m.generate({}), "at least 1 sample"),
        (lambda m: m.save("x.h5"), r"saved as a .keras file.*Received: 'x.h5'"),
    ],
)
def test_what_cannot_work_is_one_line(verb, message):
    with pytest.raises(ValueError, match=message) as error:
        verb(_model(num_classes=3))
    assert "\n" not in str(error.value)


# Guidance that does nothing


def test_a_model_without_guidance_in_its_target_can_be_guided_when_sampling():
    """`Guidance(omega=1, kappa=0)` counted as guidance."""
    labels, teacher = np.arange(3), MLP(data_size=3, width=8, depth=1, num_classes=3)
    expected = None
    for guidance in (
        None,
        Guidance(omega=1.0, kappa=0.0),
        Guidance(omega=0.5, kappa=0.5),
        RandomGuidance(largest=1.0),
        TeacherGuidance(teacher=teacher),
    ):
        flow_map = _model(MeanFlow(guidance=guidance, label_dropout=0.1), num_classes=3)
        drawn = flow_map.generate(labels, guidance_scale=2.0, verbose=0)
        expected = drawn if expected is None else expected
        np.testing.assert_allclose(drawn, expected, atol=1e-6)
    for guidance in (
        Guidance(omega=1.0, kappa=0.5),
        RandomGuidance(largest=Line(start=1.0, end=2.0)),
        TeacherGuidance(teacher=teacher, scale=2.0),
    ):
        with pytest.raises(ValueError, match="guidance baked into its training target"):
            _model(MeanFlow(guidance=guidance), num_classes=3).generate(labels, guidance_scale=2.0)
    undropped = MeanFlow(guidance=Guidance(omega=1.0, kappa=0.0), label_dropout=0.0)
    with pytest.raises(ValueError, match="null label that was trained"):
        _model(undropped, num_classes=3).generate(labels, guidance_scale=2.0)


@pytest.mark.parametrize(
    "arguments, rule",
    [
        (dict(batch_size=0), "batch_size must be a whole number of at least 1"),
        (dict(batch_size=1.5), "batch_size must be a whole number"),
        (dict(guidance_scale=float("nan")), "guidance_scale must be finite"),
    ],
)
def test_generate_refuses_numbers_that_cannot_be(arguments, rule):
    flow_map = FlowMap(MLP(data_size=2, width=4, depth=1, num_classes=3), MeanFlow())
    with pytest.raises(ValueError, match=rule):
        flow_map.generate(np.arange(3), verbose=0, **arguments)


def test_negative_sample_weights_are_refused():
    flow_map = FlowMap(MLP(data_size=2, width=4, depth=1), FlowMatching())
    flow_map.compile("sgd", jit_compile=False)
    with pytest.raises(ValueError, match="sample_weight must be finite and at least 0"):
        flow_map.fit(np.zeros((4, 2), "float32"), sample_weight=-np.ones(4), verbose=0)
