"""Waveforms to compressed complex spectrograms, as real pairs, and back."""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_meanflow.backend import BACKEND, compiled
from keras_meanflow.parts.part import register

_LEAST_MODULUS = 1e-12  # below it the compression is linear, for a finite gradient at 0
_LEAST_ENVELOPE = 1e-11  # torch.istft's own bound


@register
class STFT(keras.Model):
    """`c(Z) = factor |Z|^exponent exp(i arg Z)` of the short-time Fourier transform Z, and back.

    Spectrograms, the data of a flow map, are `(n, bins, frames, 2)`: real and imaginary parts last.
    Frames are centred on multiples of the hop, with mirrored ends and a periodic Hann window. The
    inverse divides by the sum of squared windows, as `torch.istft` does; it is exact for any hop
    that leaves no gap. `(frames - 1) * hop` samples make `frames` frames.

    Args:
        sample_rate: of the waveforms, in Hz; the transform does not depend on it.
        fft_length: samples in a window, for `fft_length // 2 + 1` bins.
        hop: samples between two frames.
        exponent: exponent of the modulus.
        factor: factor of the compressed modulus.

    Raises:
        ValueError: for an odd window, a hop above half of it, or an exponent or a factor that is
            not positive.

    Example:
        >>> codec = STFT(sample_rate=16_000)
        >>> z = codec.encode(waveforms)  # (n, 32640) to (n, 256, 256, 2)
        >>> codec.decode(z).shape
        (n, 32640)

    References:
        MeanFlowSE (arXiv 2509.14858); liduojia1/MeanFlowSE `data_module.py`.
    """

    def __init__(
        self,
        sample_rate: int = 16_000,
        *,
        fft_length: int = 510,
        hop: int = 128,
        exponent: float = 0.5,
        factor: float = 0.15,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if fft_length % 2 or not 1 <= hop <= fft_length // 2:
            raise ValueError(
                "fft_length is even, and hop is at least 1 and at most half of it. "
                f"Received: hop={hop}, fft_length={fft_length}."
            )
        if not (exponent > 0.0 and factor > 0.0):
            raise ValueError(
                f"exponent and factor must exceed 0. Received: {exponent} and {factor}."
            )
        self.sample_rate, self.fft_length, self.hop = int(sample_rate), int(fft_length), int(hop)
        self.exponent, self.factor = float(exponent), float(factor)
        turns = np.arange(self.fft_length) / self.fft_length
        self.window = (0.5 - 0.5 * np.cos(2.0 * np.pi * turns)).astype("float32")
        # Outside jit, JAX compiles every operation for every shape.
        self._encode = compiled(self.spectrogram, (), BACKEND == "jax")
        self._decodes = {}
        self.built = True

    @property
    def bins(self) -> int:
        """Number of frequencies in a frame."""
        return self.fft_length // 2 + 1

    def frames(self, length: int) -> int:
        """Number of frames of a waveform of `length` samples."""
        return 1 + length // self.hop

    def length(self, frames: int) -> int:
        """Number of samples of `frames` frames: `(frames - 1) * hop`."""
        return (frames - 1) * self.hop

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Spectrograms (n, bins, frames, 2) of waveforms (n, length), NumPy, float32.

        Raises:
            ValueError: for waveforms of another rank, or of at most half a window.
        """
        x = np.asarray(x, "float32")
        if x.ndim != 2 or x.shape[1] <= self.fft_length // 2:
            raise ValueError(
                f"Waveforms are (n, length) with more than {self.fft_length // 2} samples each. "
                f"Received: {x.shape}."
            )
        return ops.convert_to_numpy(self._encode((), ops.convert_to_tensor(x)))

    def decode(self, z: np.ndarray, length: int | None = None) -> np.ndarray:
        """Waveforms (n, length) of spectrograms, NumPy, float32; by default `length(frames)`.

        Raises:
            ValueError: for arrays that are not spectrograms of this codec.
        """
        z = np.asarray(z, "float32")
        self.check_latents(z.shape[1:])
        if length not in self._decodes:
            decode = functools.partial(self.waveform, length=length)
            self._decodes[length] = compiled(decode, (), BACKEND == "jax")
        return ops.convert_to_numpy(self._decodes[length]((), ops.convert_to_tensor(z)))

    def call(self, x: Any) -> Any:
        """Waveforms through both transforms."""
        return self.waveform(self.spectrogram(x), x.shape[1])

    def spectrogram(self, x: Any) -> Any:
        """`encode` on tensors."""
        arguments = (self.fft_length, self.hop, self.fft_length)
        parts = ops.stft(x, *arguments, window=self.window, center=True)
        z = ops.transpose(ops.stack(parts, axis=-1), (0, 2, 1, 3))
        return self.factor * _raise_modulus(z, self.exponent)

    def waveform(self, z: Any, length: int | None = None) -> Any:
        """`decode` on tensors.

        Frames are added up here, because `keras.ops.istft` of Keras 3.15.1 is off by half a window
        on TensorFlow.
        """
        frames = z.shape[2]
        length = self.length(frames) if length is None else length
        z = ops.transpose(_raise_modulus(z / self.factor, 1.0 / self.exponent), (0, 2, 1, 3))
        pieces = ops.irfft((z[..., 0], z[..., 1]), fft_length=self.fft_length)
        total = self._overlap_add(pieces * ops.convert_to_tensor(self.window))
        half = self.fft_length // 2
        stop = min(half + length, self.length(frames) + self.fft_length)
        x = total[:, half:stop] / ops.convert_to_tensor(self._envelope(frames)[half:stop])
        return ops.pad(x, ((0, 0), (0, length - (stop - half))))

    def _overlap_add(self, pieces):
        """Pieces (n, frames, fft_length), placed `hop` samples apart and summed."""
        n, frames = pieces.shape[:2]
        chunks = -(-self.fft_length // self.hop)
        pieces = ops.pad(pieces, ((0, 0), (0, 0), (0, chunks * self.hop - self.fft_length)))
        pieces = ops.reshape(pieces, (-1, frames, chunks, self.hop))
        out = sum(
            ops.pad(pieces[:, :, i], ((0, 0), (i, chunks - 1 - i), (0, 0))) for i in range(chunks)
        )
        return ops.reshape(out, (-1, (frames + chunks - 1) * self.hop))

    def _envelope(self, frames):
        """The sum of the squared windows, 1 where there is no window."""
        squared = np.zeros(self.length(frames) + self.fft_length, "float64")
        for i in range(frames):
            start = i * self.hop
            squared[start : start + self.fft_length] += self.window.astype("float64") ** 2
        return np.where(squared > _LEAST_ENVELOPE, squared, 1.0).astype("float32")

    def picture(self, z: np.ndarray) -> np.ndarray:
        """Grey pictures (n, bins, frames, 1) in [-1, 1]: decibels, 80 below the loudest is black.

        Low frequencies are at the bottom.
        """
        modulus = (np.sqrt(np.sum(np.square(z), axis=-1)) / self.factor) ** (1.0 / self.exponent)
        loudest = np.maximum(modulus.max(axis=(1, 2), keepdims=True), _LEAST_MODULUS)
        decibels = 20.0 * np.log10(np.maximum(modulus / loudest, 1e-4))
        return (1.0 + decibels / 40.0)[:, ::-1, :, None].astype("float32")

    def check_latents(self, shape: tuple[int, ...]) -> None:
        """Raise a ValueError unless spectrograms can have this shape, without the batch."""
        if len(shape) != 3 or shape[0] != self.bins or shape[2] != 2:
            raise ValueError(
                f"This STFT has spectrograms (n, {self.bins}, frames, 2). Received: (n, "
                f"{', '.join(map(str, shape))})."
            )

    def describe(self) -> dict[str, Any]:
        """The settings that identify this codec, for JSON."""
        names = ("sample_rate", "fft_length", "hop", "exponent", "factor")
        return {"class": type(self).__name__, **{name: getattr(self, name) for name in names}}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        settings = {name: value for name, value in self.describe().items() if name != "class"}
        return {"name": self.name, **settings}


def pad_frames(z: np.ndarray, multiple: int = 64) -> np.ndarray:
    """Spectrograms with frames of zeros added at the end, up to a multiple of `multiple`.

    A U-Net that halves the frames k times needs a multiple of 2^k.

    Example:
        >>> pad_frames(np.zeros((1, 256, 130, 2))).shape
        (1, 256, 192, 2)
    """
    return np.pad(z, ((0, 0), (0, 0), (0, -z.shape[2] % multiple), (0, 0)))


def _raise_modulus(z, exponent):
    """`|Z|^exponent exp(i arg Z)` of real pairs."""
    if exponent == 1.0:
        return z
    squared = ops.sum(ops.square(z), axis=-1, keepdims=True)
    return z * ops.maximum(squared, _LEAST_MODULUS**2) ** ((exponent - 1.0) / 2.0)
