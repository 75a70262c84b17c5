"""The spectrogram codec against torch.stft and torch.istft, and the round trip."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_meanflow.backend import BACKEND
from keras_meanflow.speech.stft import STFT, pad_frames

SETTINGS = {
    "paper": dict(fft_length=510, hop=128),
    "no divisor": dict(fft_length=100, hop=30),
    "linear": dict(fft_length=64, hop=16, exponent=1.0, factor=1.0),
}
BY_SETTING = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def _waveforms(length=4000):
    """Speech-like: quiet and loud parts of noise, within [-1, 1]."""
    rng = np.random.default_rng(0)
    loudness = 0.5 + 0.5 * np.sin(np.arange(length) / 300.0) ** 2
    return (0.2 * loudness * rng.standard_normal((2, length))).astype("float32")


def _torch_arguments(torch, codec):
    window = torch.hann_window(codec.fft_length, periodic=True)
    return dict(n_fft=codec.fft_length, hop_length=codec.hop, window=window, center=True)


def _complex(z):
    return z[..., 0] + 1j * z[..., 1]


@BY_SETTING
def test_the_spectrogram_is_torchs_compressed(settings):
    torch = pytest.importorskip("torch", reason="the reference is torch.stft")
    codec, x = STFT(**settings), _waveforms()
    expected = torch.stft(torch.tensor(x), return_complex=True, **_torch_arguments(torch, codec))
    expected = expected.abs() ** codec.exponent * torch.exp(1j * expected.angle()) * codec.factor
    z = codec.encode(x)
    assert z.shape == (2, codec.bins, codec.frames(4000), 2)
    np.testing.assert_allclose(_complex(z), expected.numpy(), atol=1e-5)


@BY_SETTING
@pytest.mark.parametrize("length", [None, 4100])
def test_the_waveform_is_torchs_of_a_spectrogram_of_no_signal(settings, length):
    torch = pytest.importorskip("torch", reason="the reference is torch.istft")
    codec = STFT(**settings)
    rng = np.random.default_rng(1)
    z = 0.3 * rng.standard_normal((2, codec.bins, 4000 // codec.hop + 1, 2)).astype("float32")
    spectrum = torch.tensor(_complex(z)) / codec.factor
    spectrum = spectrum.abs() ** (1 / codec.exponent) * torch.exp(1j * spectrum.angle())
    arguments = _torch_arguments(torch, codec)
    samples = codec.length(z.shape[2]) if length is None else length
    kept = min(samples, codec.length(z.shape[2]))
    expected = torch.istft(spectrum, length=samples, **arguments).numpy()[:, :kept]
    found = codec.decode(z, length)
    assert found.shape == (2, samples)
    # Beyond the last frame's centre a window is all but 0, and torch divides by its square.
    np.testing.assert_allclose(found[:, :kept], expected, atol=1e-5 * np.abs(expected).max())


@BY_SETTING
def test_there_and_back_is_the_waveform(settings):
    codec, x = STFT(**settings), _waveforms()
    np.testing.assert_allclose(
        codec.decode(codec.encode(x), 4000)[:, :3900], x[:, :3900], atol=1e-5
    )
    whole = _waveforms(codec.length(20))
    np.testing.assert_allclose(codec.decode(codec.encode(whole)), whole, atol=1e-5)
    silent = codec.decode(codec.encode(0.0 * whole))
    np.testing.assert_array_equal(silent, 0.0)


def test_frames_and_samples_count_each_other():
    codec = STFT()
    assert (codec.bins, codec.length(256), codec.frames(32_640)) == (256, 32_640, 256)
    assert codec.frames(codec.length(256) - 1) == 255


def test_frames_are_padded_with_zeros_at_the_end_up_to_a_multiple():
    z = np.ones((1, 4, 65, 2))
    padded = pad_frames(z)
    assert padded.shape == (1, 4, 128, 2) and padded.sum() == z.sum()
    assert pad_frames(padded).shape == padded.shape
    np.testing.assert_array_equal(padded[:, :, :65], z)


def test_the_transforms_run_compiled():
    codec, x = STFT(fft_length=64, hop=16), _waveforms(16 * 20)
    model = keras.Sequential([keras.Input((16 * 20,)), keras.layers.Lambda(codec.call)])
    model.compile(jit_compile=BACKEND == "jax")
    np.testing.assert_allclose(model.predict(x, verbose=0), x, atol=1e-5)


def test_the_gradient_at_silence_is_finite():
    from keras_meanflow.backend import jvp

    codec = STFT(fft_length=64, hop=16)
    x = ops.zeros((1, 320))
    _, tangent = jvp(codec.spectrogram, (x,), (ops.ones_like(x),))
    assert np.isfinite(ops.convert_to_numpy(tangent)).all()


def test_it_is_saved_with_a_run(tmp_path):
    codec = STFT(8_000, fft_length=64, hop=16, factor=0.3)
    codec.save(tmp_path / "codec.keras")
    again = keras.saving.load_model(tmp_path / "codec.keras")
    assert again.describe() == codec.describe()
    x = _waveforms(320)
    np.testing.assert_array_equal(again.encode(x), codec.encode(x))


def test_a_picture_has_the_loudest_in_white_and_low_tones_at_the_bottom():
    codec = STFT(8_000, fft_length=254, hop=64)
    tone = np.sin(2 * np.pi * 500.0 * np.arange(64 * 31) / 8000.0)[None]
    picture = codec.picture(codec.encode(tone))
    assert picture.shape == (1, 128, 32, 1) and picture.min() >= -1.0
    assert picture.max() == pytest.approx(1.0)
    row = np.argmax(picture[0, :, 16, 0])
    assert row == 127 - round(500.0 / (8000.0 / 254))


def test_wrong_settings_and_arrays_are_refused_with_the_rule():
    with pytest.raises(ValueError, match="fft_length is even"):
        STFT(fft_length=64, hop=33)
    with pytest.raises(ValueError, match="must exceed 0"):
        STFT(exponent=0.0)
    with pytest.raises(ValueError, match="more than 255 samples each"):
        STFT().encode(np.zeros((1, 255)))
    with pytest.raises(ValueError, match=r"\(n, 256, frames, 2\)"):
        STFT().decode(np.zeros((1, 128, 4, 2)))
