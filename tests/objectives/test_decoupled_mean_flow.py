"""Decoupled MeanFlow: its two branches, and the authors' code on the same weights and draws.

`golden/decoupled_meanflow.py` wrote what it compares with.
"""

import keras
import numpy as np
import pytest
from golden import decoupled_meanflow as golden
from keras import ops
from oracles import randomise, relative_error

from keras_meanflow import DiT, FlowMap, FlowMatching, Guidance, MeanFlow
from keras_meanflow.backend import BACKEND, compiled
from keras_meanflow.backend.random import Keys
from keras_meanflow.formats.conversion import FORMATS
from keras_meanflow.networks import MLP
from keras_meanflow.objectives import Cauchy, DecoupledMeanFlow, Draws, ReleasedLogMSE
from keras_meanflow.objectives.decoupled_mean_flow import BranchDraws
from keras_meanflow.parts import LogMSE, SquaredError

STORED = np.load(golden.PATH)
SHAPES = {
    name: tuple(map(int, shape))
    for name, *shape in (line.split() for line in str(STORED["shapes"]).splitlines())
}
HEAD = "logvar_linear."


class SameDraws(DecoupledMeanFlow):
    """Decoupled MeanFlow whose draws are the stored ones."""

    def draw(self, keys, x, condition=None):
        drawn = {
            k: ops.convert_to_tensor(v) for k, v in golden.draws().items() if hasattr(v, "shape")
        }
        mean_flow = Draws(*(drawn[name] for name in ("r", "t", "e", "drop")))
        flow = Draws(*(drawn[name] for name in ("t_flow", "t_flow", "e_flow", "drop")))
        return BranchDraws(mean_flow, flow)


def _flow_map(name):
    """Our model with the stored weights."""
    omega, end, _ = golden.GUIDANCES[name]
    size = golden.SIZE
    network = DiT(
        image_size=size["image"],
        channels=size["channels"],
        patch_size=size["patch"],
        width=size["width"],
        depth=size["depth"],
        heads=size["heads"],
        num_classes=golden.CLASSES,
        time_inputs=("t",),
        split_depth=size["split"],
    )
    state = golden.state(SHAPES)
    theirs = FORMATS["dmf"]
    theirs.read_into(network, {**theirs.constants(network), **state})
    guidance = Guidance(omega=1.0, kappa=omega, end=end)
    flow_map = FlowMap(network, SameDraws(guidance=guidance, loss=ReleasedLogMSE()), averages=())
    flow_map.log_variance.out.kernel.assign(state[f"{HEAD}weight"].T)
    flow_map.log_variance.out.bias.assign(state[f"{HEAD}bias"])
    return flow_map


def _their_names(flow_map):
    """The weights by the authors' names."""
    out = flow_map.log_variance.out
    head = {"weight": ops.convert_to_numpy(out.kernel).T, "bias": ops.convert_to_numpy(out.bias)}
    state = FORMATS["dmf"].state_of(flow_map.network)
    return {**state, **{HEAD + name: array for name, array in head.items()}}


@pytest.mark.parametrize("name", golden.GUIDANCES)
def test_targets_loss_and_every_gradient_are_the_authors(name):
    flow_map, drawn = _flow_map(name), golden.draws()
    x, y = ops.convert_to_tensor(drawn["x"]), ops.convert_to_tensor(drawn["labels"])

    def full_target(x, y):
        inputs, target, _ = flow_map.build_problem((x, y), training=True).as_data()
        share = ops.reshape(target["self_share"], (-1, 1, 1, 1))
        return target["target"] + share * flow_map(inputs)

    # On JAX single operations would be compiled one by one.
    found = ops.convert_to_numpy(compiled(full_target, [], jit=BACKEND == "jax")([], x, y))
    shown = found.reshape(2, golden.ROWS, *found.shape[1:])[:, : golden.SHOWN]
    assert relative_error(shown, STORED[f"{name}/targets"]) < 1e-5

    before = _their_names(flow_map)
    flow_map.compile(keras.optimizers.SGD(1.0), jit_compile=BACKEND == "jax")
    fit = dict(batch_size=golden.ROWS, shuffle=False, verbose=0)
    history = flow_map.fit(drawn["x"], drawn["labels"], **fit).history
    assert history["loss"][0] == pytest.approx(float(STORED[f"{name}/loss"]), rel=1e-5)
    after = _their_names(flow_map)
    expected = dict(zip(sorted(SHAPES), STORED[f"{name}/gradients"], strict=True))
    largest = max(row[0] for row in expected.values())
    for weight, directions in golden.directions(SHAPES).items():
        gradient = before[weight].astype("float64") - after[weight]
        norm, *products = expected[weight]
        slack = 1e-7 * np.linalg.norm(before[weight]) + 1e-7 * largest
        assert np.linalg.norm(gradient) == pytest.approx(norm, rel=5e-5, abs=slack)
        lengths = np.linalg.norm(directions.reshape(4, -1), axis=1)
        along = np.tensordot(directions, gradient, gradient.ndim) / lengths
        np.testing.assert_allclose(along, products / lengths, rtol=0, atol=5e-5 * norm + slack)


# The branches


X = np.random.default_rng(0).standard_normal((6, 3)).astype("float32")
Y = np.arange(6, dtype="int32") % 2


def _toy(objective, **kwargs):
    keras.utils.set_random_seed(0)
    return FlowMap(MLP(data_size=3, width=8, depth=1, num_classes=2), objective, **kwargs)


def test_the_problem_is_that_of_flow_matching_and_that_of_mean_flow():
    guidance = Guidance(omega=1.0, kappa=0.6, end=0.7)
    objective = DecoupledMeanFlow(guidance=guidance, label_dropout=0.3)
    flow_map, x, y = _toy(objective), ops.convert_to_tensor(X), ops.convert_to_tensor(Y)
    keys = Keys(seed=0, step=0)
    draws = BranchDraws(*(d._replace(rows=None) for d in objective.draw(keys, x, y)))
    flow, mean_flow = draws.flow, draws.mean_flow
    numbers = [ops.convert_to_numpy(a) for a in (flow.t, flow.r, mean_flow.r, mean_flow.t)]
    np.testing.assert_array_equal(numbers[0], numbers[1])
    assert (numbers[2] < numbers[3]).all() and (numbers[0] != numbers[3]).all()
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (flow.drop, mean_flow.drop)))
    assert abs(np.corrcoef(*(ops.convert_to_numpy(d.e).ravel() for d in draws))[0, 1]) < 0.6

    field = lambda z, r, t, c: flow_map.network(z, r, t, c)  # noqa: E731
    field.drop = flow_map.network.drop_condition

    def rows_of_both_and_of_each(x, y, draws):
        both = objective(field, x, y, draws)
        one = dict(guidance=guidance, label_dropout=0.3)
        flow_alone = MeanFlow(times=objective.flow_times, **one)(field, x, y, draws.flow)
        mean_flow_alone = MeanFlow(times=objective.times, **one)(field, x, y, draws.mean_flow)
        unguided = FlowMatching()(field, x, y, draws.flow).target
        plain = DecoupledMeanFlow()(field, x, y, draws).target[:6]
        pairs = [(plain, unguided)]
        for place, alone in ((slice(0, 6), flow_alone), (slice(6, 12), mean_flow_alone)):
            for name in ("target", "self_share"):
                pairs.append((getattr(both, name)[place], getattr(alone, name)))
            for name in ("z", "r", "t", "condition"):
                pairs.append((both.inputs[name][place], alone.inputs[name]))
        return pairs

    pairs = compiled(rows_of_both_and_of_each, [], jit=BACKEND == "jax")([], x, y, draws)
    for found, expected in pairs:
        np.testing.assert_allclose(*map(ops.convert_to_numpy, (found, expected)), atol=1e-6)
    assert objective(field, x, y, draws).copies == 2


def test_on_an_interval_each_row_of_the_flow_branch_is_guided_by_its_own_time_and_label():
    """Guidance chose its rows by the other branch's times once: 10 % of them were wrong."""
    rows, guidance = 256, Guidance(omega=1.0, kappa=0.6, end=0.7)
    objective = DecoupledMeanFlow(guidance=guidance, label_dropout=0.3)
    flow_map = _toy(objective)
    randomise(flow_map.network)
    x = np.random.default_rng(1).standard_normal((rows, 3)).astype("float32")
    x, y = ops.convert_to_tensor(x), ops.convert_to_tensor(np.arange(rows, dtype="int32") % 2)
    draws = objective.draw(Keys(seed=0, step=0), x, y)
    problem = objective(flow_map.field, x, y, draws)
    z, t, labels, target, share = (
        ops.convert_to_numpy(a)[:rows]
        for a in (
            *(problem.inputs[name] for name in ("z", "t", "condition")),
            problem.target,
            problem.self_share,
        )
    )
    u, null = (
        ops.convert_to_numpy(flow_map.network(z, t, t, c))
        for c in (labels, np.full_like(labels, 2))
    )
    v, drop = ops.convert_to_numpy(draws.flow.e - x), ops.convert_to_numpy(draws.flow.drop)
    active = ((t <= 0.7) & ~drop)[:, None]
    assert 60 < active.sum() < 200
    guided = np.where(active, v + 0.6 * u - 0.6 * null, v)  # MeanFlow, Eq. 21
    np.testing.assert_allclose(target + share[:, None] * u, guided, atol=1e-5)


def test_sample_weights_count_in_both_branches():
    weights = np.array([0.0, 1.0, 0.0, 2.0, 0.0, 0.5], "float32")
    flow_map = _toy(DecoupledMeanFlow())
    problem = flow_map.build_problem((X, Y, weights), training=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(problem.weight), [*weights, *weights])


# The losses


def test_robust_losses_are_their_formulas():
    rng = np.random.default_rng(1)
    d, phi = rng.standard_normal((4, 2, 3)), rng.standard_normal(4)
    s, m = (d**2).sum((1, 2)), (d**2).mean((1, 2))
    zero = np.zeros((4, 2, 3), "float32")
    pair = {"u": d.astype("float32"), "log_variance": phi.astype("float32")}
    for loss, prediction, expected in (
        (Cauchy(), pair, np.log(s * np.exp(-phi) + 1.0) + phi / 2.0),
        (ReleasedLogMSE(branches=4), pair, np.log(m + 0.01 * np.exp(phi))),
        (ReleasedLogMSE(branches=1), pair, np.log(m + 0.01 * np.exp(phi)[:, None]).mean(0)),
        (LogMSE(), pair["u"], np.log(m + 0.01)),
    ):
        found = ops.convert_to_numpy(loss.call(zero, prediction))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
        assert restored.get_config() == loss.get_config()


def test_the_cauchy_loss_learns_the_variance_of_the_error():
    """The loss is smallest at phi = log ||d||^2; ||d|| is 2 here and phi starts at 0."""
    flow_map = _toy(DecoupledMeanFlow(loss=Cauchy(), label_dropout=0.0), averages=(0.9,))
    flow_map.network.trainable = False
    r, t = ops.ones((3,)) * 0.2, ops.ones((3,)) * 0.7
    inputs = {"r": r, "t": t}
    optimizer = keras.optimizers.SGD(0.02)
    flow_map.compile(optimizer, jit_compile=False)
    d = ops.ones((3, 4))
    loss = lambda: flow_map.compute_loss(inputs, {"target": 0.0 * d}, d, None)  # noqa: E731
    start = float(ops.convert_to_numpy(loss()))
    assert start == pytest.approx(np.log(5.0))
    bias = flow_map.log_variance.out.bias
    values = []
    for phi in (np.log(4.0) - 0.2, np.log(4.0), np.log(4.0) + 0.2):
        bias.assign([phi])
        values.append(float(ops.convert_to_numpy(loss())))
    assert values[1] < min(values[0], values[2])


def test_the_log_variance_is_trained_saved_and_left_out_of_the_averages(tmp_path):
    flow_map = _toy(DecoupledMeanFlow(), averages=(0.9,))
    flow_map.compile(keras.optimizers.Adam(1e-2), jit_compile=BACKEND == "jax")
    flow_map.fit(X, Y, batch_size=3, epochs=2, verbose=0)
    kernel = ops.convert_to_numpy(flow_map.log_variance.out.kernel)
    assert np.abs(kernel).max() > 0.0
    assert len(flow_map.chosen_weights) == len(flow_map.network.trainable_variables)
    evaluated = flow_map.evaluate(X, Y, verbose=0, return_dict=True)
    flow_map.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(restored.log_variance.out.kernel), kernel)
    again = restored.evaluate(X, Y, verbose=0, return_dict=True)
    assert again == pytest.approx(evaluated, rel=1e-6)
    with pytest.raises(ValueError, match="DecoupledMeanFlow with Cauchy. Received: .* SquaredErr"):
        flow_map.set_objective(DecoupledMeanFlow(loss=SquaredError()))
