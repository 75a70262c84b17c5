"""Re-MeanFlow: stored pairs, their truncation, the U-shaped times, and the authors' loss."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from golden import re_meanflow as golden
from keras import ops
from scipy import stats

from keras_meanflow import FlowMap, FlowMatching, Heun, MeanFlow, cli
from keras_meanflow.backend import BACKEND
from keras_meanflow.backend.random import Keys, philox_noise
from keras_meanflow.data import Batches, PairStore, open_source
from keras_meanflow.data.pairs import INDEX
from keras_meanflow.data.reflow import reflow
from keras_meanflow.networks import MLP, Network
from keras_meanflow.objectives import Draws, RandomGuidance
from keras_meanflow.parts import MeanAdaptiveLoss, Steps, StoredPairs, UShaped
from keras_meanflow.samplers import Restart
from keras_meanflow.studies.curvature import curvatures, draw_curvatures
from keras_meanflow.studies.mixture import GaussianMixture
from keras_meanflow.studies.points import Points

# Against the authors' code

STORED = np.load(golden.PATH)


class Small(Network):
    """The golden script's network."""

    def __init__(self):
        super().__init__(data_shape=(golden.SIZE,), num_classes=golden.CLASSES)
        for name, value in golden.weights().items():
            init = keras.initializers.Constant(value)
            setattr(self, name, self.add_weight(shape=value.shape, initializer=init, name=name))
        self.built = True

    def call(self, z, r, t, condition=None):
        label = ops.one_hot(condition, golden.CLASSES + 1, dtype="float32")[:, : golden.CLASSES]
        times = [ops.expand_dims(time, 1) for time in (t, r)]
        a, b, c = (ops.convert_to_tensor(w) for w in (self.a, self.b, self.c))
        return ops.tanh(ops.concatenate([z, *times, label], axis=1) @ a + b) @ c


class SameDraws(MeanFlow):
    """MeanFlow whose draws are the stored ones, at a fixed scale of guidance."""

    def draw(self, keys, x, condition=None):
        drawn = {k: ops.convert_to_tensor(v) for k, v in golden.draws().items()}
        scale = self.guidance and self.guidance.largest * ops.ones_like(drawn["t"])
        return Draws(*(drawn[k] for k in ("r", "t", "e", "drop")), scale=scale)


@pytest.mark.parametrize("name", golden.SCALES)
def test_loss_and_every_gradient_are_the_authors(name):
    scale, drawn = golden.SCALES[name], golden.draws()
    objective = SameDraws(
        coupling=StoredPairs(),
        loss=MeanAdaptiveLoss(p=golden.P, c=golden.C),
        guidance=RandomGuidance(largest=scale) if scale > 1.0 else None,
    )
    flow_map = FlowMap(Small(), objective, averages=())
    flow_map.compile(keras.optimizers.SGD(1.0), jit_compile=BACKEND == "jax")
    pairs = {name: drawn[name] for name in ("x", "e")}
    fit = dict(batch_size=golden.ROWS, shuffle=False, verbose=0)
    history = flow_map.fit(pairs, drawn["labels"], **fit).history
    assert history["loss"][0] == pytest.approx(float(STORED[f"{name}/loss"]), rel=1e-5)
    for weight, before in golden.weights().items():
        gradient = before - ops.convert_to_numpy(getattr(flow_map.network, weight))
        expected = STORED[f"{name}/{weight}"]
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_the_scale_of_guidance_is_uniform_scheduled_and_the_same_on_every_device():
    guidance = RandomGuidance(largest=2.5)
    numpy, t = ops.convert_to_numpy, ops.ones((2,))

    def scale(keys, guidance=guidance):
        rows = numpy(guidance.draw(keys, t, t))
        assert rows.shape == (2,) and rows[0] == rows[1]
        return float(rows[0])

    drawn = [scale(Keys(0, step)) for step in range(300)]
    assert stats.kstest(drawn, stats.uniform(1.0, 1.5).cdf).pvalue > 1e-3
    assert scale(Keys(0, 7, first_row=32)) == drawn[7]
    late = RandomGuidance(largest=Steps(values=(1.0, 3.0), at=(0.5,)))
    assert scale(Keys(0, 7, progress=0.2), late) == 1.0
    assert scale(Keys(0, 7, progress=0.9), late) > 1.0
    one = ops.ones((2,))
    weights = guidance.weights(Draws(one, one, None, None, scale=2.4 * one))
    np.testing.assert_allclose(
        [numpy(w)[0] for w in weights], [1.4, 1 - 1.4 / 2.4, 1.4 / 2.4 - 1.4], 1e-6
    )
    with pytest.raises(ValueError, match="largest must be at least 1. Received: 0.5"):
        RandomGuidance(largest=0.5)


# Times


def _draw(sampler):
    pairs = [sampler.draw(Keys(1, step), 4096) for step in range(8)]
    return [np.concatenate([ops.convert_to_numpy(p[i]) for p in pairs]) for i in (0, 1)]


def test_u_shaped_times_follow_the_exponential_law_and_its_mirror_image():
    r, t = _draw(UShaped(fraction_r_equals_t=0.0, snap_t=0.8))

    def law(t):
        whole = np.exp(4.0) - 1.0
        return ((np.exp(4.0 * t) - 1.0) + (np.exp(4.0) - np.exp(4.0 * (1.0 - t)))) / (2.0 * whole)

    assert stats.kstest(t, law).pvalue > 1e-3
    assert np.all((r >= 0.0) & (r < t)) and t.min() >= 1e-5 and t.max() <= 1.0 - 1e-6
    snapped = t > 0.8
    assert not np.any((r[snapped] > 0.0) & (r[snapped] < 0.4)) and np.any(r[snapped] == 0.0)
    inner = ~snapped & (t > 0.6)
    gap = (t - r)[inner & (r > 0.0)]
    # The gap is logit-normal, cut off at t; below 0.6 nothing of it is.
    gap = gap[gap < 0.6]
    z = np.log(gap / (1.0 - gap)) + 0.8
    top = stats.norm.cdf(np.log(0.6 / 0.4) + 0.8)
    assert stats.kstest(z, lambda z: stats.norm.cdf(z) / top).pvalue > 1e-3


def test_u_shaped_times_are_clipped_and_share_their_diagonal():
    r, t = _draw(UShaped(latest=80.0 / 81.0))
    assert t.max() == np.float32(80.0 / 81.0)
    assert np.mean(t == t.max()) == pytest.approx(0.025, abs=0.004)  # 2.5 % in the notes
    assert np.mean(r < t) == 0.25
    with pytest.raises(ValueError, match="a must exceed 0 and be finite"):
        UShaped(a=0.0)


# Pairs


COUNT, SHARD = 22, 5
LABELS = np.arange(COUNT) % 3


@pytest.fixture(scope="module")
def teacher():
    keras.utils.set_random_seed(3)
    network = MLP(data_size=3, width=8, depth=1, num_classes=3)
    flow_map = FlowMap(network, FlowMatching(), averages=(0.9,))
    flow_map.compile("adam", jit_compile=False)
    return flow_map


MADE = dict(sampler=Heun(steps=3), shard_size=SHARD, seed=9)


@pytest.fixture(scope="module")
def pairs(teacher, tmp_path_factory):
    return reflow(teacher, tmp_path_factory.mktemp("reflow") / "pairs", LABELS, **MADE)


def test_a_pair_is_the_noise_and_the_sample_that_the_teacher_makes_of_it(teacher, pairs):
    data, y = pairs.take(np.arange(COUNT))
    np.testing.assert_array_equal(y, LABELS)
    np.testing.assert_array_equal(data["e"], philox_noise(9, range(COUNT), (3,)))
    samples = teacher.generate(LABELS, sampler=Heun(steps=3), seed=9, verbose=0)
    np.testing.assert_allclose(data["x"], samples, rtol=1e-3, atol=1e-3)
    distances = np.linalg.norm(data["x"].astype("float64") - data["e"], axis=1)
    np.testing.assert_allclose(pairs.distances, distances)
    assert (pairs.num_classes, pairs.shape, pairs.codec) == (3, (3,), None)


def test_the_percentile_drops_the_longest_lines(pairs):
    for percentile, count in ((100.0, COUNT), (50.0, 11), (90.0, 19)):
        kept = PairStore(pairs.path, percentile=percentile)
        longest = np.sort(pairs.distances)[:count]
        np.testing.assert_array_equal(np.sort(pairs.distances[kept.kept]), longest)
        data, y = kept.take(np.arange(len(kept)))
        np.testing.assert_array_equal(y, LABELS[kept.kept])
        np.testing.assert_array_equal(data["e"], philox_noise(9, kept.kept, (3,)))
    with pytest.raises(ValueError, match=r"percentile must be in \(0, 100\]. Received: 0"):
        PairStore(pairs.path, percentile=0)


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_reflow_that_stopped_goes_on_and_ends_the_same(teacher, pairs, tmp_path, monkeypatch):
    from keras_meanflow.data import reflow as module

    out, written, real = tmp_path / "pairs", [], module._write_shard

    def stopping(folder, shard, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard)
        real(folder, shard, *rest)

    monkeypatch.setattr(module, "_write_shard", stopping)
    with pytest.raises(KeyboardInterrupt):
        reflow(teacher, out, LABELS, **MADE)
    with pytest.raises(ValueError, match=r"is not finished \(2 of 5 shards\). Make it: .* reflow"):
        PairStore(out)
    (out / "shard-00001.npy").write_bytes(b"damaged")
    monkeypatch.setattr(module, "_write_shard", lambda *a: written.append(a[1]) or real(*a))
    reflow(teacher, out, LABELS, **MADE)
    assert written == [0, 1, 1, 2, 3, 4]
    assert _files(out) == _files(pairs.path)


def test_several_workers_make_the_same_pairs(teacher, pairs, tmp_path):
    out = tmp_path / "pairs"
    assert reflow(teacher, out, LABELS, worker=(1, 2), **MADE) is None
    assert len(reflow(teacher, out, LABELS, worker=(0, 2), batch_size=2, **MADE)) == COUNT
    ours, theirs = _files(out), _files(pairs.path)
    for name in ("labels.npy", "reflow.json"):
        assert ours[name] == theirs[name]
    x, y = (store.take(np.arange(COUNT))[0]["x"] for store in (PairStore(out), pairs))
    np.testing.assert_allclose(x, y, atol=2e-3)


def test_other_pairs_damage_and_samplers_with_noise_are_refused(teacher, pairs, tmp_path):
    with pytest.raises(ValueError, match="holds another reflow: seed was 9, now 10"):
        reflow(teacher, pairs.path, LABELS, **{**MADE, "seed": 10})
    with pytest.raises(ValueError, match="labels was"):
        reflow(teacher, pairs.path, LABELS[::-1], **MADE)
    with pytest.raises(ValueError, match="adds no noise .* Received: Restart"):
        reflow(teacher, tmp_path / "new", LABELS, sampler=Restart())
    with pytest.raises(ValueError, match="holds no pairs"):
        PairStore(tmp_path)
    out = tmp_path / "damaged"
    out.mkdir()
    for name, content in _files(pairs.path).items():
        (out / name).write_bytes(content)
    content = bytearray((out / "distances.npy").read_bytes())
    content[-1] ^= 1
    (out / "distances.npy").write_bytes(content)
    with pytest.raises(ValueError, match="distances.npy is damaged"):
        PairStore(out).verify()
    index = json.loads((out / INDEX).read_text())
    (out / INDEX).write_text(json.dumps({**index, "format": "other"}))
    with pytest.raises(ValueError, match="must be of the format"):
        PairStore(out)


def test_pairs_are_data_to_train_on_and_to_measure_at(pairs):
    source = open_source(pairs.path)
    x, y = Batches(source, 8, seed=0)[0]
    assert set(x) == {"x", "e"} and y.shape == (8,)
    keras.utils.set_random_seed(0)
    objective = MeanFlow(coupling=StoredPairs(), times=UShaped(), loss=MeanAdaptiveLoss())
    flow_map = FlowMap(MLP(data_size=3, width=8, depth=1, num_classes=3), objective)
    flow_map.compile("adam", jit_compile=BACKEND == "jax")
    flow_map.check_data(x, y)
    fit = dict(steps_per_epoch=2, shuffle=False, verbose=0)
    history = flow_map.fit(Batches(source, 8, seed=0), **fit).history
    assert np.isfinite(history["loss"]).all()
    points, stored = Points.of(source, 5), source.take(np.arange(COUNT))[0]
    for x, e in zip(points.x, points.e, strict=True):
        same = np.all(stored["x"] == x, axis=1)
        np.testing.assert_array_equal(stored["e"][same], [e])


# Curvature


def test_the_curvature_of_a_turning_velocity_is_half_its_turn_and_of_a_straight_one_none():
    """`v = (cos wt, sin wt)` turns by w (t - r); its average points half-way."""
    w = np.radians(80.0)
    points = Points(np.zeros((6, 2), "float32"), np.ones((6, 2), "float32"))

    def turning(z, t, condition):
        return np.stack([np.cos(w * t), np.sin(w * t)], axis=1)

    rows = curvatures(turning, points, cells=4)
    assert [(row["r"], row["t"]) for row in rows[:3]] == [(0.0, 0.25), (0.0, 0.5), (0.25, 0.5)]
    expected = [40.0 * (row["t"] - row["r"]) for row in rows]
    np.testing.assert_allclose([row["angle"] for row in rows], expected, atol=1e-3)

    def straight(z, t, condition):
        return 0.0 * z + np.array([3.0, -1.0])

    assert max(row["angle"] for row in curvatures(straight, points)) < 1e-5
    ring = GaussianMixture.ring().velocity
    wide = Points(*np.random.default_rng(0).standard_normal((2, 64, 2)).astype("float32"))
    bent = {(row["r"], row["t"]): row["angle"] for row in curvatures(ring, wide)}
    assert bent[0.0, 1.0] > 1.0 > bent[0.8, 1.0]  # the ring looks round from afar
    assert draw_curvatures(rows).size[0] > 100


OWN = '''
import keras
import numpy as np
from keras_meanflow import FlowMap, FlowMatching
from keras_meanflow.networks import MLP
from keras_meanflow.data import ArraySource
from keras_meanflow.recipe import task
from keras_meanflow.training import Training

@task
def mine(*, steps: int = 2):
    """Two classes of points."""
    network = MLP(data_size=2, width=8, depth=1, num_classes=2)
    flow_map = FlowMap(network, FlowMatching(), averages=(0.9,))
    flow_map.compile("adam", jit_compile=False)
    data = ArraySource(np.random.default_rng(0).standard_normal((8, 2)), np.arange(8) % 2)
    return Training(flow_map=flow_map, data=data, batch_size=4, steps=steps, sample_labels=[0, 1])
'''


@pytest.mark.any_backend
def test_the_command_line_makes_pairs_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)

    def call(*arguments):
        return CliRunner().invoke(cli.main, arguments, prog_name="keras-meanflow")

    assert call("train", "own.py", "--run", "run", "-q").exit_code == 0
    command = "reflow", "run", "pairs", "-n", "7", "--steps", "2", "--shard-size", "3", "-q"
    done = call(*command, "--guidance-scale", "1.5")
    assert done.exit_code == 0, done.output
    assert "pairs holds 7 pairs of 2, checksums verified" in done.output
    store = PairStore("pairs")
    assert store.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert (store.index["guidance_scale"], store.seed) == (1.5, 1_000_000)
    done = call("study", "curvature", "run", "--recipe", "own.py", "--images", "4", "--cells", "2")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "curvature.csv").read_text().startswith("r,t,angle")
    again = call(*command, "--guidance-scale", "2.5")
    assert again.exit_code == 1 and "guidance_scale was 1.5, now 2.5" in again.output
