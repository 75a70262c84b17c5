"""Speech: data, scores and enhancement, on tones, on real files and by the command line."""

import json
import math
import re
import struct
import types

import numpy as np
import pytest
from click.testing import CliRunner
from keras import ops

from keras_meanflow.backend import BACKEND
from keras_meanflow.cli import main
from keras_meanflow.data import Batches
from keras_meanflow.objectives import ReleasedMeanFlowSE
from keras_meanflow.speech.audio import read_all, read_audio
from keras_meanflow.speech.enhancer import Enhancer, enhance_file, enhance_folder
from keras_meanflow.speech.pairs import MixedSpeech, SpeechPairs, mix
from keras_meanflow.speech.scores import estoi, pesq, si_sdr, speech_scores
from keras_meanflow.speech.spoken_digits import load_utterances
from keras_meanflow.speech.stft import STFT
from keras_meanflow.training import Plan

soundfile = pytest.importorskip("soundfile", reason="reads and writes audio files")
pytest.importorskip("soxr", reason="resamples audio")

CODEC = STFT(8_000, fft_length=62, hop=31, factor=0.2)  # 32 bins
RATE = 8_000


def _speech(seconds=2.0, seed=0, rate=RATE):
    """Syllables of harmonics, with pauses."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    pitch = 120.0 + 20.0 * np.sin(2 * np.pi * 0.7 * t + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(k * phase + rng.uniform(0, 6)) / k for k in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 2.3 * t), 0.0, None) ** 0.5
    return (0.2 * envelope * voice).astype("float32")


def _noise(seconds=2.0, seed=1):
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(
        "float32"
    )


def _write(path, x, rate=RATE, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, rate, **settings)
    return path


# Data


def test_noise_is_mixed_at_the_given_ratio():
    clean, noise = _speech(), _noise()
    for snr in (-5.0, 0.0, 12.0):
        added = mix(clean, noise, snr) - clean
        found = 10.0 * np.log10(np.mean(clean**2) / np.mean(added**2))
        assert found == pytest.approx(snr, abs=1e-3)


def test_crops_are_equal_parts_of_both_divided_by_the_loudest_noisy_sample():
    clean = _speech() + 0.1 * _noise()
    source = SpeechPairs([(clean, 2.0 * clean)], CODEC, frames=20)
    x, y = source.draw([0, 0, 0], np.random.default_rng(0))
    assert x.shape == y.shape == (3, 32, 20, 2) == (3, *source.shape)
    heard, said = CODEC.decode(y), CODEC.decode(x)
    np.testing.assert_allclose(heard, 2.0 * said, atol=1e-4)
    np.testing.assert_allclose(np.abs(heard).max(axis=1), 1.0, atol=1e-4)
    assert np.abs(x[0] - x[1]).max() > 1e-3
    middle = source.take([0])[0]
    start = (len(clean) - source.length) // 2
    part = clean[start : start + source.length]
    np.testing.assert_allclose(CODEC.decode(middle)[0], part / np.abs(2 * part).max(), atol=1e-4)


def test_short_speech_gets_zeros_on_both_sides():
    source = SpeechPairs([(np.ones(101), np.ones(101))], CODEC, frames=11)
    spare = source.length - 101
    wave = CODEC.decode(source.take([0])[0])[0]
    expected = np.pad(np.ones(101), (-(-spare // 2), spare // 2))
    assert np.abs(wave - expected).max() < 1e-4


def test_mixtures_are_a_pure_function_of_seed_and_step():
    source = MixedSpeech([_speech(), _speech(seed=3)], [_noise(), _noise(0.1)], CODEC, 16)
    first, again, other = (Batches(source, 4, seed) for seed in (0, 0, 1))
    for a, b, c in zip(first[5], again[5], other[5], strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 1e-3


def test_pairs_are_made_quieter_by_at_most_the_given_decibels():
    source = MixedSpeech([_speech()], [_noise()], CODEC, 16, snr=(3.0, 3.0), quieter=12.0)
    _, y = source.draw([0] * 20, np.random.default_rng(0))
    loudest = 20.0 * np.log10(np.abs(CODEC.decode(y)).max(axis=1))
    assert loudest.max() < 1e-3 and loudest.min() > -12.01 and np.ptp(loudest) > 6.0


def test_speech_is_drawn_at_other_speeds_and_so_with_another_pitch():
    tone = np.sin(2.0 * np.pi * 400.0 * np.arange(2 * RATE) / RATE).astype("float32")
    silence = [np.full(RATE, 1e-6, "float32")]
    source = MixedSpeech([tone], silence, CODEC, 64, snr=(60.0, 60.0), speeds=(0.8, 1.25))
    x, _ = source.draw([0] * 12, np.random.default_rng(0))
    waves = CODEC.decode(x) * np.hanning(CODEC.length(64))
    spectra = np.abs(np.fft.rfft(waves, 1 << 14))
    pitch = spectra.argmax(axis=1) * RATE / (1 << 14)
    assert 315.0 < pitch.min() < 360.0 and 440.0 < pitch.max() < 505.0
    middles, _ = source.take([0])  # evaluation is at the true speed
    middle = np.abs(np.fft.rfft(CODEC.decode(middles)[0], 1 << 14)).argmax() * RATE / (1 << 14)
    assert abs(middle - 400.0) < 3.0
    with pytest.raises(ValueError, match=r"speeds are \(slowest, fastest\)"):
        MixedSpeech([tone], silence, CODEC, 64, speeds=(1.2, 1.0))


def test_an_equaliser_draws_gains_of_the_given_spread_at_its_frequencies():
    t = np.arange(2 * RATE) / RATE
    tones = [np.sin(2.0 * np.pi * f * t) for f in (800.0, 2400.0)]  # a fifth, three of 4 kHz
    silence = [np.full(RATE, 1e-6, "float32")]
    speech = [sum(tones).astype("float32")]
    source = MixedSpeech(speech, silence, CODEC, 64, snr=(60.0, 60.0), equaliser=2.0)
    x, _ = source.draw([0] * 80, np.random.default_rng(0))
    waves = CODEC.decode(x)[:, 100:1700]  # whole periods
    heard = [np.abs(waves @ np.exp(-2j * np.pi * f * t[:1600])) for f in (800.0, 2400.0)]
    decibels = 20.0 * np.log10(heard[0] / heard[1])
    assert np.std(decibels) == pytest.approx(2.0 * math.sqrt(2.0), rel=0.25)
    assert abs(np.mean(decibels)) < 1.0


def test_files_of_any_rate_are_resampled_and_unusable_ones_are_named_and_counted(tmp_path):
    for name in ("clean", "noisy"):
        folder = tmp_path / name
        _write(folder / "a.wav", _speech(rate=16_000), 16_000)
        _write(folder / "b.flac", _speech(), RATE)
        _write(folder / "silent.wav", np.zeros(4000))
        (folder / "broken.wav").write_bytes(b"RIFF no audio")
        _write(folder / "length.wav", _speech(1.0 if name == "clean" else 1.5))
    with pytest.warns(UserWarning, match="3 of 5 are left out: broken.wav, length.wav, silent.wav"):
        source = SpeechPairs.from_folder(tmp_path, CODEC, frames=16)
    assert len(source) == 2 and len(source.skipped) == 3
    assert [len(clean) for clean, _ in source.pairs] == [16_000, 16_000]
    same = np.corrcoef(source.pairs[0][0], source.pairs[1][0])[0, 1]
    assert same > 0.99
    mixed = MixedSpeech.from_folders(tmp_path / "clean", tmp_path / "clean", CODEC, 16)
    assert len(mixed) == 3
    (tmp_path / "noisy" / "a.wav").unlink()
    with pytest.raises(ValueError, match="1 without a partner, the first a"):
        SpeechPairs.from_folder(tmp_path, CODEC, 16)


def test_utterances_are_joined_from_one_speakers_digits(shared_data):
    path = shared_data / "spoken_digits_8k.npz"
    utterances = load_utterances(path, (0, 5), count=6, seconds=(4.0, 8.0))
    lengths = np.array([len(u) for u in utterances]) / RATE
    assert lengths.min() >= 4.0 and lengths.max() <= 8.0
    again = load_utterances(path, (0, 5), count=6, seconds=(4.0, 8.0))
    np.testing.assert_array_equal(utterances[3], again[3])
    with pytest.raises(
        ValueError, match=r"has the speakers \[0, 1, 2, 3, 4, 5\]. Received: \(7,\)"
    ):
        load_utterances(path, (7,), count=1)


def test_the_real_pairs_are_read_at_another_rate(shared_data):
    source = SpeechPairs.from_folder(shared_data / "voicebank_demand_6", CODEC, frames=32)
    assert len(source) == 6 and not source.skipped
    x, y = source.take(range(6))
    assert np.isfinite(x).all() and np.abs(x - y).max() > 0.01


# Scores


def test_si_sdr_has_its_closed_form_and_ignores_scale():
    rng = np.random.default_rng(0)
    clean = rng.standard_normal(4000)
    noise = rng.standard_normal(4000)
    noise -= (noise @ clean) / (clean @ clean) * clean
    noise *= 0.1 * np.linalg.norm(clean) / np.linalg.norm(noise)
    assert si_sdr(clean, clean + noise) == pytest.approx(20.0, abs=1e-6)
    assert si_sdr(clean, -3.0 * (clean + noise)) == pytest.approx(20.0, abs=1e-6)


def test_pesq_and_estoi_rank_speech(shared_data):
    pytest.importorskip("pystoi", reason="scores intelligibility")
    folder = shared_data / "voicebank_demand_6"
    clean, noisy = (
        read_audio(folder / name / "p287_003.wav", 16_000) for name in ("clean", "noisy")
    )
    assert estoi(clean, clean, 16_000) == pytest.approx(1.0, abs=1e-6)
    assert 0.2 < estoi(clean, noisy, 16_000) < 0.99
    pytest.importorskip("pesq", reason="compiled when installed, where there is a C compiler")
    assert pesq(clean, clean, 16_000, "nb") == pytest.approx(4.549, abs=1e-2)
    assert pesq(clean, clean, 16_000, "wb") == pytest.approx(4.644, abs=1e-2)
    scores = speech_scores(clean, noisy, 16_000)
    assert set(scores) == {"si_sdr", "estoi", "pesq_nb", "pesq_wb"}
    assert 1.0 < scores["pesq_wb"] < scores["pesq_nb"] < 4.5
    assert math.isnan(pesq(np.zeros(8000), np.zeros(8000), 8_000, "nb"))
    with pytest.raises(ValueError, match="equally long"):
        speech_scores(clean, noisy[1:], 16_000)


# Enhancement


class Echo:
    """A model that returns the noisy speech."""

    network = types.SimpleNamespace(data_shape=(32, 40, 2))

    def generate(self, noisy, *, first, **settings):
        assert len(noisy) == settings["batch_size"]
        return noisy


@pytest.mark.parametrize("samples", [1, 100, 1209, 1210, 5000, 16_001])
def test_pieces_fade_into_one_another_without_a_seam_for_any_blocks(samples):
    noisy = _speech(2.1)[:samples] + 0.01
    enhancer = Enhancer(Echo(), CODEC, batch_size=3)
    np.testing.assert_allclose(enhancer(noisy), noisy, atol=2e-5)
    blocks = np.array_split(noisy, 7)
    parts = np.concatenate(list(enhancer.stream(blocks, np.abs(noisy).max())))
    np.testing.assert_allclose(parts, enhancer(noisy), atol=1e-6)


class Silence(Echo):
    """A model that removes everything as noise."""

    def generate(self, noisy, **settings):
        return 0.0 * noisy


def test_nothing_is_attenuated_by_more_than_the_limit():
    noisy = _speech(1.3) + 0.01
    assert np.abs(Enhancer(Silence(), CODEC)(noisy)).max() == 0.0
    limited = Enhancer(Silence(), CODEC, attenuation_limit=20.0)
    np.testing.assert_allclose(limited(noisy), 0.1 * noisy, atol=1e-6)
    echo = Enhancer(Echo(), CODEC, attenuation_limit=20.0)
    np.testing.assert_allclose(echo(noisy), noisy, atol=2e-5)


def test_memory_does_not_grow_with_the_length():
    taken = []

    def blocks():
        for number in range(1000):
            taken.append(number)
            yield np.ones(1000, "float32")

    enhancer = Enhancer(Echo(), CODEC, batch_size=2)
    next(enhancer.stream(blocks(), 1.0))
    assert len(taken) <= 4


@pytest.mark.parametrize(("rate", "suffix"), [(8_000, "wav"), (16_000, "flac"), (44_100, "wav")])
def test_a_file_keeps_its_rate_and_length(rate, suffix, tmp_path):
    x = _speech(1.0, rate=rate)
    source = _write(tmp_path / f"in.{suffix}", x, rate)
    target = tmp_path / f"out.{suffix}"
    seen = []
    enhancer = Enhancer(Echo(), CODEC)
    seconds, took = enhance_file(enhancer, source, target, lambda *at: seen.append(at))
    y, found = soundfile.read(target)
    assert (found, len(y), seconds) == (rate, len(x), 1.0) and took > 0.0
    assert seen[-1] == (1.0, 1.0)
    assert np.corrcoef(x, y)[0, 1] > 0.98


SUBTYPES = [
    ("in.wav", "FLOAT", "out.wav", "FLOAT"),
    ("in.wav", "PCM_24", "out.wav", "PCM_24"),
    ("in.wav", "PCM_U8", "out.wav", "PCM_U8"),
    ("in.flac", "PCM_24", "out.wav", "PCM_24"),
    ("in.wav", "FLOAT", "out.flac", "PCM_24"),
]


@pytest.mark.parametrize(("source", "subtype", "target", "expected"), SUBTYPES)
def test_a_file_keeps_its_sample_format(source, subtype, target, expected, tmp_path):
    source = _write(tmp_path / source, 0.5 * _speech(0.5), subtype=subtype)
    enhance_file(Enhancer(Echo(), CODEC), source, tmp_path / target)
    assert soundfile.info(tmp_path / target).subtype == expected


def test_peaks_above_one_are_kept_in_floats_and_clipped_with_a_warning_in_integers(tmp_path):
    x = 3.0 * _speech(0.5) / np.abs(_speech(0.5)).max()
    source = _write(tmp_path / "in.wav", x, subtype="FLOAT")
    enhance_file(Enhancer(Echo(), CODEC), source, tmp_path / "out.wav")
    np.testing.assert_allclose(soundfile.read(tmp_path / "out.wav")[0], x, atol=1e-3)
    with pytest.warns(UserWarning, match=r"out.flac: \d+ samples above 1 are clipped"):
        enhance_file(Enhancer(Echo(), CODEC), source, tmp_path / "out.flac")


def test_sub_folders_are_enhanced_and_recordings_are_never_written_over(tmp_path):
    names = ["a.wav", "deep/b.wav"]
    for name in (*names, ".hidden/c.wav"):
        _write(tmp_path / "in" / name, _speech(0.3))
    before = {name: (tmp_path / "in" / name).read_bytes() for name in names}

    def enhance(source, target):
        return enhance_folder(Enhancer(Silence(), CODEC), source, target, lambda *_: None)

    assert enhance(tmp_path / "in", tmp_path / "out") == {}
    found = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.wav"))
    assert [p.as_posix() for p in found] == names
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.wav").hardlink_to(tmp_path / "in" / "a.wav")
    for target in ("in", "in/out", "link", "mixed"):
        with pytest.raises(ValueError, match="The recordings stay as they are"):
            enhance(tmp_path / "in", tmp_path / target)
    with pytest.raises(ValueError, match="The recordings stay as they are"):
        enhance_file(Enhancer(Silence(), CODEC), tmp_path / "in/a.wav", tmp_path / "link/a.wav")
    assert before == {name: (tmp_path / "in" / name).read_bytes() for name in names}


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_a_recording_of_unknown_length_from_a_pipe_is_read(length, tmp_path):
    path = _write(tmp_path / "pipe.wav", _speech(0.5))
    expected = read_audio(path, RATE)
    data = bytearray(path.read_bytes())
    start = data.index(b"data") + 4
    data[start : start + 4] = data[4:8] = struct.pack("<I", length)
    path.write_bytes(data)
    np.testing.assert_array_equal(read_audio(path, RATE), expected)
    enhance_file(Enhancer(Echo(), CODEC), path, tmp_path / "out.wav")
    assert soundfile.info(tmp_path / "out.wav").frames == len(expected)


def test_no_files_to_read_are_refused():
    with pytest.raises(ValueError, match="Received none"):
        read_all([], RATE)


# The tasks


def _recipe_data(folder):
    """Clips of digits, and pairs whose differences are noise."""
    clips = [_speech(0.3, seed=i) for i in range(12)]
    audio = np.concatenate([np.round(20_000 * clip).astype("int16") for clip in clips])
    offsets = np.cumsum([0, *map(len, clips)])
    np.savez(folder / "digits.npz", audio=audio, offsets=offsets, speaker=np.arange(12) % 6)
    for name, noise in (("clean", 0.0), ("noisy", 1.0)):
        for i in range(2):
            x = _speech(2.0, seed=i, rate=16_000) + noise * _noise(4.0, seed=i)[:32_000]
            _write(folder / "pairs" / name / f"{i}.wav", x, 16_000)
    return folder


def _assert_moves(training, steps):
    """Steps of training, after which weights have changed and are finite."""
    weights = training.flow_map.network.trainable_variables
    before = [ops.convert_to_numpy(weight).copy() for weight in weights]
    training.flow_map.fit(training.batches(), steps_per_epoch=steps, shuffle=False, verbose=0)
    moved = [
        np.abs(ops.convert_to_numpy(weight) - old).max()
        for weight, old in zip(weights, before, strict=True)
    ]
    assert np.isfinite(moved).all() and max(moved) > 0.0


@pytest.mark.any_backend
@pytest.mark.parametrize("derivative", ["exact", "clipped"])
def test_spoken_digits_take_two_real_steps(derivative, tmp_path):
    folder = _recipe_data(tmp_path)
    settings = dict(
        derivative=derivative,
        data=str(folder / "digits.npz"),
        noise=str(folder / "pairs"),
        steps=2,
        batch_size=4,
        width=8,
        depth=1,
        frames=8,
        utterances=5,
        jit_compile=BACKEND == "jax",
    )
    training = Plan.of("speech_digits").training(settings)
    training.check()
    assert len(training.data.noise) == 1  # the last one is kept out
    _assert_moves(training, 2)


def _papers_training(derivative, folder):
    data = str(_recipe_data(folder) / "pairs")
    small = dict(width=4, multipliers=(1,), frames=4, batch_size=2, steps=1)
    small |= dict(data=data, derivative=derivative, jit_compile=BACKEND == "jax")
    return Plan.of("speech").training(small)


@pytest.mark.parametrize("derivative", ["exact", "clipped"])
def test_the_papers_task_builds_and_suits_its_data(derivative, tmp_path):
    training = _papers_training(derivative, tmp_path)
    training.check()
    objective = training.flow_map.objective
    released = ReleasedMeanFlowSE().derivative
    assert (objective.derivative == released) is (derivative == "clipped")
    assert training.flow_map.network.data_shape == (256, 4, 2)


@pytest.mark.any_backend
def test_the_papers_recipe_takes_a_real_step(tmp_path):
    _assert_moves(_papers_training("exact", tmp_path), 1)


RECIPE = """
import keras
import numpy as np
from keras import layers, ops

from keras_meanflow import FlowMap
from keras_meanflow.networks import Network
from keras_meanflow.objectives import MeanFlowSE
from keras_meanflow.speech import STFT
from keras_meanflow.parts import register
from keras_meanflow.speech import MixedSpeech
from keras_meanflow.recipe import task
from keras_meanflow.training import Training


@register
class Tiny(Network):
    def __init__(self, **kwargs):
        kwargs.pop("condition_shape", None)
        super().__init__(**kwargs, condition_shape=kwargs["data_shape"])
        self.inner = layers.Conv2D(2, 3, padding="same")
        self.inner.build((None, None, None, 4))
        self.built = True

    def call(self, z, r, t, condition=None):
        return z - condition + 0.1 * self.inner(ops.concatenate([z, condition], axis=3))

    def get_config(self):
        return {**super().get_config(), "data_shape": self.data_shape}


@task
def tiny(*, steps: int = 2) -> Training:
    rng = np.random.default_rng(0)
    waves = [0.1 * rng.standard_normal(4000).astype("float32") for _ in range(3)]
    source = MixedSpeech(waves, waves, STFT(8_000, fft_length=62, hop=31), 16)
    flow_map = FlowMap(Tiny(data_shape=source.shape), MeanFlowSE(), averages=(0.9,), horizon=2)
    flow_map.compile("sgd", jit_compile=keras.config.backend() == "jax")
    return Training(
        flow_map=flow_map, data=source, batch_size=2, steps=steps, log_every=2,
        sample_labels=source.take([0, 1])[1],
    )
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps on spectrograms."""
    folder = tmp_path_factory.mktemp("speech")
    (folder / "tiny.py").write_text(RECIPE)
    command = ["train", str(folder / "tiny.py"), "--run", str(folder / "run"), "-q"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    return folder / "run"


def _invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.any_backend
def test_a_run_on_speech_has_pictures_of_spectrograms_and_enhances_files(run, tmp_path):
    assert (run / "samples.png").exists()
    source = _write(tmp_path / "in.wav", _speech(1.3))
    done = _invoke(
        "enhance", run, source, tmp_path / "out.wav", "--steps", 2, "--attenuation-limit", 20
    )
    assert done.exit_code == 0, done.output
    assert "1.3 s of audio" in done.output and "of real time" in done.output
    assert soundfile.info(tmp_path / "out.wav").frames == int(1.3 * RATE)


def test_a_folder_is_enhanced_and_files_that_fail_are_named_and_counted(run, tmp_path):
    _write(tmp_path / "in" / "a.wav", _speech(0.5))
    (tmp_path / "in" / "b.wav").write_bytes(b"")
    done = _invoke("enhance", run, tmp_path / "in", tmp_path / "out", "-q")
    assert done.exit_code == 1
    assert "b.wav must be a .wav or .flac file: it is empty" in done.output
    assert "1 files of" in done.output
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.wav"]


def _files(tmp_path):
    whole = _write(tmp_path / "whole.wav", _speech(0.5)).read_bytes()
    flac = _write(tmp_path / "whole.flac", _speech(2.0)).read_bytes()
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no audio at all")
    (tmp_path / "cut.wav").write_bytes(whole[:2000])
    (tmp_path / "cut.flac").write_bytes(flac[: len(flac) // 2])
    _write(tmp_path / "none.wav", np.zeros(0))
    _write(tmp_path / "surround.wav", np.zeros((100, 6)))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.wav", "There is no file"),
        ("empty.wav", "it is empty"),
        ("text.wav", "no audio that can be read"),
        ("cut.wav", "cut off"),
        ("cut.flac", "cut off|damaged"),
        ("none.wav", "must hold samples. It has none"),
        ("surround.wav", "must have one channel. Received 6: mix or choose first"),
    ],
)
def test_a_file_that_is_not_whole_or_mono_is_refused_in_one_line(run, name, message, tmp_path):
    source = _files(tmp_path) / name
    done = _invoke("enhance", run, source, tmp_path / "out.wav", "-q")
    assert done.exit_code == 1 and len(done.output.strip().splitlines()) == 1
    assert re.search(message, done.output)
    assert not (tmp_path / "out.wav").exists()


def test_a_run_on_speech_is_measured_file_by_file_beside_the_noisy_input(run, tmp_path):
    pytest.importorskip("pystoi", reason="scores intelligibility")
    for name, snr in (("a", 0.0), ("b", 10.0)):
        clean = _speech(1.5, seed=len(name))
        _write(tmp_path / "clean" / f"{name}.wav", clean)
        _write(tmp_path / "noisy" / f"{name}.wav", mix(clean, _noise(1.5), snr))
    done = _invoke("evaluate", run, "--reference", tmp_path, "--steps", "1,2", "-q")
    assert done.exit_code == 0, done.output
    report = json.loads((run / "evaluation-speech.json").read_text())["scores"]
    assert list(report) == ["noisy", "1 step", "2 steps"]
    files = report["noisy"]["files"]
    assert files["b.wav"]["si_sdr"] == pytest.approx(10.0, abs=0.5)
    mean = np.mean([scores["si_sdr"] for scores in files.values()])
    assert report["noisy"]["total"]["si_sdr"] == pytest.approx(mean)
    assert "si_sdr" in done.output and "total" in done.output
    limit = ("--attenuation-limit", 0, "--out", tmp_path / "limited.json")
    done = _invoke("evaluate", run, "--reference", tmp_path, *limit, "-q")
    assert done.exit_code == 0, done.output
    limited = json.loads((tmp_path / "limited.json").read_text())["scores"]
    assert limited["1 step"]["total"] == pytest.approx(report["noisy"]["total"], rel=1e-3)
    for samples in (-1, 0):
        done = _invoke("evaluate", run, "--reference", tmp_path, "--samples", samples, "-q")
        assert done.exit_code == 2 and "Invalid value for '--samples'" in done.output
    done = _invoke("evaluate", run, "-q")
    assert done.exit_code == 1 and "--reference FOLDER with clean/ and noisy/" in done.output


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"overlap must be in \(0, 1/2\]"):
        Enhancer(Echo(), CODEC, overlap=0.6)
    with pytest.raises(ValueError, match="attenuation_limit is at least 0 decibels"):
        Enhancer(Echo(), CODEC, attenuation_limit=-3.0)
    with pytest.raises(ValueError, match="frames is at least 2"):
        MixedSpeech([_speech()], [_noise()], CODEC, 1)
    with pytest.raises(ValueError, match="needs speech and noise"):
        MixedSpeech([_speech()], [], CODEC, 4)
    with pytest.raises(ValueError, match=r"snr is \(lowest, highest\)"):
        MixedSpeech([_speech()], [_noise()], CODEC, 4, snr=(1.0, 0.0))
    with pytest.raises(ValueError, match="quieter is at least 0 decibels"):
        MixedSpeech([_speech()], [_noise()], CODEC, 4, quieter=-1.0)
    with pytest.raises(ValueError, match="equaliser is at least 0 decibels"):
        MixedSpeech([_speech()], [_noise()], CODEC, 4, equaliser=-1.0)
    with pytest.raises(ValueError, match="one or more tuples"):
        SpeechPairs([(np.ones(4), np.ones(5))], CODEC, 4)
