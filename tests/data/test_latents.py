"""The latent store: it returns what was stored, resumed or not; broken ones are refused."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import commands
import numpy as np
import pytest
from PIL import Image

from keras_meanflow import open_model
from keras_meanflow.codecs import IMF, SDVAE, Identity, Normalisation
from keras_meanflow.data import ArraySource, Batches, ImageFolder, LatentStore, open_source
from keras_meanflow.data import encoding as encoding_module
from keras_meanflow.data.encoding import encode
from keras_meanflow.data.moments import BLOCK, MomentSource, widen
from keras_meanflow.data.published_latents import TorchLatents, ZipLatents
from keras_meanflow.data.resized import Resized

ROOT = Path(__file__).resolve().parents[2]
N, SHARD = 23, 5


class Moments(MomentSource):
    """Raw latents in memory."""

    def __init__(self, raw, labels, **settings):
        super().__init__(settings.pop("normalisation", Normalisation()), **settings)
        self.values, self.labels, self.count = raw, labels, len(raw)
        self.moments, self.shape = raw.shape[1], raw.shape[2:]

    def read(self, index, copy):
        return self.values[index], self.labels[index]


def images(count=N, side=4):
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), "uint8")
    return ArraySource(pixels, np.arange(count) % 3)


def moments(count=N, shape=(3, 2, 4)):
    rng = np.random.default_rng(1)
    mean, std = rng.normal(2, 3, (count, *shape)), rng.uniform(0.1, 0.5, (count, *shape))
    return Moments(np.stack([mean, std], axis=1).astype("float16"), np.arange(count) % 5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "latents"
    return encode(images(), folder, Identity(), flips=True, shard_size=SHARD)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled") / "latents"
    return encode(moments(), folder, measured=True, shard_size=SHARD)


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


# ------------------------------------------------------------------------------ what it holds


def test_the_store_returns_every_latent_and_label_in_half_precision(store):
    x, y = images().take(np.arange(N))
    z, labels = store.take(np.arange(N))
    np.testing.assert_array_equal(z, x.astype("float16").astype("float32"))
    np.testing.assert_array_equal(labels, y)
    assert (len(store), store.shape, store.num_classes, z.dtype) == (N, (4, 4, 3), 3, np.float32)


def test_every_finite_half_is_widened_exactly():
    halves = np.arange(2**16, dtype="uint16").view("float16")
    halves = halves[np.isfinite(halves)]
    np.testing.assert_array_equal(widen(halves), halves.astype("float32"))


def test_half_of_the_draws_are_of_the_stored_mirror_images(store):
    x = store.take(np.zeros(1000, int))[0]
    z, _ = store.draw(np.zeros(1000, int), np.random.default_rng(0))
    plain, mirrored = (z == x).all(axis=(1, 2, 3)), (z == x[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (plain ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.06  # 4 sigma


def test_draws_have_the_stored_mean_and_standard_deviation(sampled):
    raw, _ = sampled.raw([7])
    z, _ = sampled.draw(np.full(4000, 7), np.random.default_rng(0))
    drawn = sampled.normalisation.inverse(z)
    np.testing.assert_allclose(drawn.mean(axis=0), raw[0, 0], atol=4.5 * 0.5 / np.sqrt(4000))
    np.testing.assert_allclose(drawn.std(axis=0), raw[0, 1], rtol=4.5 / np.sqrt(2 * 4000))


def test_the_recorded_statistics_describe_the_sampled_latents(sampled):
    raw = moments().values.astype("float64")
    mean = raw[:, 0].mean(axis=(0, 1, 2))
    std = np.sqrt((raw[:, 0] ** 2 + raw[:, 1] ** 2).mean(axis=(0, 1, 2)) - mean**2)
    np.testing.assert_allclose(sampled.index["statistics"]["mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(sampled.index["statistics"]["std"], std, rtol=1e-12)
    assert sampled.normalisation == Normalisation(mean=mean, std=std)


def test_draws_depend_on_the_generator_and_not_on_the_threads(sampled):
    indices = np.arange(3 * BLOCK + 7) % N
    one = LatentStore(sampled.path, threads=1).draw(indices, np.random.default_rng(3))[0]
    four = LatentStore(sampled.path, threads=4).draw(indices, np.random.default_rng(3))[0]
    other = sampled.draw(indices, np.random.default_rng(4))[0]
    some = sampled.draw(indices, np.random.default_rng(3), slice(50, 70))[0]
    np.testing.assert_array_equal(some, one[50:70])
    np.testing.assert_array_equal(one, four)
    assert not np.isclose(one, other).any(axis=(1, 2, 3)).all()


def test_batches_of_latents_are_a_pure_function_of_seed_and_step(sampled):
    whole, resumed = Batches(sampled, 8, 5), Batches(sampled, 8, 5, first_step=4)
    for step in (6, 4, 5):
        for a, b in zip(whole[step], resumed[step - 4], strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(whole[4][0], Batches(sampled, 8, 6)[4][0])
    shards = {int(i) // SHARD for i in whole.indices(0)}
    assert len(shards) >= 3  # a batch of 8 from 5 shards


def test_the_store_decodes_with_the_codec_that_made_it(store):
    z, _ = store.take([3])
    np.testing.assert_allclose(store.codec.decode(z), images().take([3])[0], atol=1e-3)


def test_images_without_labels_make_a_store_without_labels(tmp_path):
    source = ArraySource(np.zeros((3, 4, 4, 3), "uint8"))
    made = encode(source, tmp_path / "out", Identity(), shard_size=2)
    assert made.take([0])[1] is None and made.num_classes is None
    assert len(Batches(made, 2, 0)[0]) == 1


def test_a_folder_records_its_class_names(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "white").save(tmp_path / "pets" / name / "1.png")
    made = encode(ImageFolder(tmp_path / "pets", 4), tmp_path / "out", Identity())
    assert made.class_names == ("cat", "dog") and made.take([1])[1].tolist() == [1]


def test_resized_images_keep_a_linear_ramp():
    ramp = np.linspace(-1, 1, 8, dtype="float32")[None, None, :, None]
    source = Resized(ArraySource(np.broadcast_to(ramp, (1, 8, 8, 1))), 16)
    inner = source.take([0])[0][0, 8, 3:13, 0]
    np.testing.assert_allclose(np.diff(inner), 1 / 7, atol=1e-5)  # half the step of 2/7


# ------------------------------------------------------------------------------ being stopped


class Killed(BaseException):
    """What stops an encoding at a chosen write."""


def kill_at(monkeypatch, number):
    """Stops the process at its `number`-th write, after the bytes and before the renaming."""
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == number:
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


def test_stopped_at_any_write_it_continues_to_the_same_bytes(tmp_path, monkeypatch, sampled):
    """The writes are: the plan, five shards with their records, labels, index."""
    expected, encoded = files(sampled.path), []
    real = encoding_module._encode_shard
    monkeypatch.setattr(
        encoding_module, "_encode_shard", lambda *a: encoded.append(a[1]) or real(*a)
    )
    for number in range(1, 14):
        out, encoded[:] = tmp_path / str(number), []
        with monkeypatch.context() as patch:
            kill_at(patch, number)
            with pytest.raises(Killed):
                encode(moments(), out, measured=True, shard_size=SHARD)
        assert "store.json" not in files(out)
        encode(moments(), out, measured=True, shard_size=SHARD)
        assert files(out) == expected
        assert len(encoded) <= 5 + 1  # five shards, at most one of them twice


SLOW = """
import sys, time
import numpy as np
from keras_meanflow.data import ArraySource, encoding

class Slow(ArraySource):
    def take(self, indices):
        time.sleep(0.01)
        return super().take(indices)

pixels = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 3), "uint8")
from keras_meanflow.codecs import Identity
encoding.encode(Slow(pixels), sys.argv[1], Identity(), shard_size=10, batch_size=2)
"""


def test_killed_it_loses_at_most_one_shard(tmp_path):
    """A real SIGKILL; shards that were complete before it are not written again."""
    out, environment = tmp_path / "out", {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SLOW, str(out)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(out.glob("shard-*.json"))) < 4 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.json")}
    assert 4 <= len(done) < 40
    pixels = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 3), "uint8")
    store = encode(ArraySource(pixels), out, Identity(), shard_size=10)
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    np.testing.assert_allclose(store.take([399])[0], ArraySource(pixels).take([399])[0], atol=1e-3)


def test_workers_share_the_shards_and_the_last_one_finishes(tmp_path, store):
    settings = {"flips": True, "shard_size": SHARD}
    assert encode(images(), tmp_path / "out", Identity(), worker=(1, 2), **settings) is None
    assert sorted(p.name for p in (tmp_path / "out").glob("*.npy")) == [
        "shard-00001.npy",
        "shard-00003.npy",
    ]
    made = encode(images(), tmp_path / "out", Identity(), worker=(0, 2), **settings)
    assert made.index == store.index


def test_a_damaged_shard_is_found_and_only_it_is_made_again(tmp_path):
    out = tmp_path / "out"
    made = encode(moments(), out, shard_size=SHARD)
    shard = out / "shard-00002.npy"
    good, times = shard.read_bytes(), {p: p.stat().st_mtime_ns for p in out.glob("*.npy")}
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ValueError, match="shard-00002.npy is damaged.*SHA-256"):
        made.verify()
    (out / "store.json").unlink()
    encode(moments(), out, shard_size=SHARD)
    assert shard.read_bytes() == good
    again = {p.name for p, at in times.items() if p.stat().st_mtime_ns != at}
    assert again == {"shard-00002.npy", "labels.npy"}


# ------------------------------------------------------------------------------ other formats


def published(tmp_path):
    """The latents of `moments()` as (2 channels, h, w): means, then standard deviations."""
    raw = moments().values.astype("float32").transpose(0, 1, 4, 2, 3)
    return raw.reshape(N, -1, *raw.shape[3:])


def write_zip(path, latents, labels):
    with zipfile.ZipFile(path, "w") as archive:
        pairs = []
        for i, item in enumerate(latents):
            name = f"{i // 10:05d}/img-mean-std-{i:08d}.npy"
            with archive.open(name, "w") as file:
                np.save(file, item)
            pairs.append([name, int(labels[i])])
        archive.writestr("dataset.json", json.dumps({"labels": pairs}))


def test_a_zip_of_latents_is_read_and_copied_into_a_store(tmp_path):
    write_zip(tmp_path / "vae-sd.zip", published(tmp_path), moments().labels)
    source = open_source(tmp_path / "vae-sd.zip", channels=4)
    raw, labels = source.raw(range(N))
    np.testing.assert_array_equal(raw, moments().values)
    np.testing.assert_array_equal(labels, moments().labels)
    np.testing.assert_allclose(source.take([2])[0], 0.18215 * raw[2:3, 0], atol=1e-6)
    made = encode(source, tmp_path / "out", normalisation=IMF)
    np.testing.assert_allclose(made.take([2])[0], IMF(raw[2:3, 0]), atol=1e-5)


def test_the_official_latents_are_read_without_torch(tmp_path):
    """`codec_latents.pt` was written by torch.save as prepare_dataset.py does."""
    golden = Path(__file__).parents[1] / "golden" / "codec_latents.pt"
    (tmp_path / "train").mkdir()
    for i in range(2):
        (tmp_path / "train" / f"{i:08d}.pt").write_bytes(golden.read_bytes())
    source = open_source(tmp_path / "train")
    raw, labels = source.raw([1])
    expected = np.arange(2 * 4 * 3 * 2, dtype="float32").reshape(2, 4, 3, 2)
    np.testing.assert_array_equal(raw[0], expected.transpose(0, 2, 3, 1))
    assert labels.tolist() == [417]


# ------------------------------------------------------------------------------ bad input


def test_an_unfinished_or_missing_store_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, 6)
        with pytest.raises(Killed):
            encode(moments(), tmp_path / "out", shard_size=SHARD)
    with pytest.raises(ValueError, match=r"not finished \(2 of 5 shards\)"):
        open_source(tmp_path / "out")
    with pytest.raises(ValueError, match="holds no latents"):
        LatentStore(tmp_path)


def test_a_truncated_shard_is_refused_with_both_sizes(tmp_path):
    encode(moments(), tmp_path / "out", shard_size=SHARD)
    shard = tmp_path / "out" / "shard-00001.npy"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"truncated.*{size}.*{size - 10}"):
        open_source(tmp_path / "out")


def test_another_codec_or_normalisation_is_refused(store):
    store.check_codec(Identity())
    with pytest.raises(ValueError, match="another codec: its class is Identity. Received SDVAE"):
        store.check_codec(SDVAE((4,), blocks=1, groups=2, normalisation=Normalisation()))
    with pytest.raises(ValueError, match="normalisation|Normalisation"):
        store.check_codec(Identity(normalisation=Normalisation(std=(2.0,))))


def test_another_encoding_in_the_same_folder_is_refused_by_what_changed(store):
    with pytest.raises(ValueError, match="copies was 2, now 1"):
        encode(images(), store.path, Identity(), shard_size=SHARD)
    with pytest.raises(ValueError, match="count was 23, now 3"):
        encode(images(3), store.path, Identity(), flips=True, shard_size=SHARD)


def test_what_cannot_be_encoded_is_refused(tmp_path):
    (tmp_path / "photo.txt").write_text("mine")
    with pytest.raises(ValueError, match="It holds photo.txt"):
        encode(images(), tmp_path, Identity())
    with pytest.raises(ValueError, match="half precision"):
        huge = np.full((2, 1, 2, 2, 4), 1e5)
        encode(Moments(huge, [0, 0]), tmp_path / "huge")
    with pytest.raises(ValueError, match="mirrored"):
        encode(moments(), tmp_path / "flips", flips=True)
    with pytest.raises(ValueError, match="codec"):
        encode(images(), tmp_path / "none")


def test_latents_of_another_size_are_refused(store):
    with pytest.raises(ValueError, match="32 pixels square. Received 4 x 4"):
        open_source(store.path, image_size=32, channels=4)


def test_latents_are_not_mirrored_themselves(store):
    with pytest.raises(ValueError, match="encode with --flips"):
        Batches(store, 4, 0, flip=True)


def test_broken_files_of_other_formats_are_refused_by_name(tmp_path):
    (tmp_path / "00000000.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'echo'\ntR.")
    with pytest.raises(ValueError, match="os.system"):
        TorchLatents(tmp_path)
    write_zip(tmp_path / "odd.zip", np.zeros((2, 7, 4, 4), "float32"), [0, 1])
    with pytest.raises(ValueError, match="2 channels, h, w.*7, 4, 4"):
        ZipLatents(tmp_path / "odd.zip")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "odd.zip").read_bytes()[:100])
    with pytest.raises(ValueError, match="cut.zip must be a zip"):
        ZipLatents(tmp_path / "cut.zip")


# ------------------------------------------------------------------------------ the command


OWN = """
import keras
from keras_meanflow import FlowMap
from keras_meanflow.networks import Network
from keras_meanflow.recipe import task
from keras_meanflow.training import Training

@keras.saving.register_keras_serializable("test_latents")
class Tiny(Network):
    def __init__(self, **kwargs):
        super().__init__(data_shape=(4, 4, 3), num_classes=3, **kwargs)
        self.dense = keras.layers.Dense(3)
        self.dense.build((None, 4, 4, 3))
        self.built = True

    def call(self, z, r, t, condition=None):
        return self.dense(z)

@task
def small(*, data: str, steps: int = 1):
    keras.utils.set_random_seed(0)
    flow_map = FlowMap(Tiny(), averages=(0.9,), horizon=steps)
    flow_map.compile(keras.optimizers.Adam(1e-3))
    return Training(flow_map=flow_map, data=data, batch_size=4, steps=steps, sample_labels=[0, 1])
"""


def call(*arguments):
    """The last line of a command, and its exit code."""
    output, code = commands.call(*arguments)
    return output.splitlines()[-1], code


def test_the_command_encodes_resizes_and_checks(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((6, 4, 4, 3), "uint8"), y=np.arange(6))
    command = ["encode", tmp_path / "x.npz", tmp_path / "out", "--codec", "identity", "-q"]
    for _ in range(2):
        line, code = call(*command, "--image-size", 8, "--flips")
        assert code == 0 and "6 latents of 8x8x3 and their mirror images" in line
    assert LatentStore(tmp_path / "out").index["pixels"] == [8, 8, 3]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--codec", "taef2"], "needs --weights"),
        (["--codec", "taef2", "--weights", "nowhere"], "none at nowhere"),
        (["--codec", "identity", "--worker", "2/2"], "worker is"),
        ([], "codec"),
    ],
)
def test_a_wrong_command_gives_one_line(tmp_path, arguments, message):
    np.savez(tmp_path / "x.npz", x=np.zeros((6, 4, 4, 3), "uint8"))
    line, code = call("encode", tmp_path / "x.npz", tmp_path / "out", *arguments)
    assert code == 1 and line.startswith("Error: ") and message in line
    assert not (tmp_path / "out").exists()


def test_a_run_on_a_store_decodes_its_samples_and_keeps_its_normalisation(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    for name, std in (("a", 0.25), ("b", 0.5)):
        normalisation = Normalisation(mean=(0.1,), std=(std,))
        encode(images(), tmp_path / name, Identity(normalisation=normalisation))
    train = ["train", tmp_path / "own.py", "--run", tmp_path / "run", "-q", "--set"]
    assert call(*train, f"data={tmp_path / 'a'}")[1] == 0
    assert call("sample", tmp_path / "run", "-n", 3, "--npz", "-q")[1] == 0

    latents = open_model(tmp_path / "run").flow_map.generate(np.arange(3))
    with np.load(tmp_path / "run" / "generated.npz") as written:
        np.testing.assert_allclose(written["x"], 0.25 * latents + 0.1, atol=1e-5)
    assert call("convert", tmp_path / "run", tmp_path / "preset")[1] == 0
    out = tmp_path / "preset.png"
    assert call("sample", tmp_path / "preset", "-n", 3, "--npz", "-q", "--out", out)[1] == 0
    with np.load(out.with_suffix(".npz")) as written:
        np.testing.assert_allclose(written["x"], 0.25 * latents + 0.1, atol=1e-5)
    (tmp_path / "b").rename(tmp_path / "c")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "c").rename(tmp_path / "a")
    line, code = call(*train, f"data={tmp_path / 'a'}")
    assert code == 1 and "'std': [0.25]" in line and "'std': [0.5]" in line
