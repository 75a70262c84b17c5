"""Clean and noisy speech for training: stored pairs, or speech mixed with new noise each step."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_meanflow.speech.audio import audio_files, read_all, resampled
from keras_meanflow.speech.stft import STFT

QUIET = 1e-8  # a power below it is silence
_GAINS = 6


def mix(clean: np.ndarray, noise: np.ndarray, snr: float, power: float | None = None) -> np.ndarray:
    """`clean + gain noise` with the gain that makes the ratio of powers `snr` decibels.

    Args:
        clean, noise: (n,) waveforms.
        snr: in decibels.
        power: of the speech; default: of `clean`. For a part, pass the whole utterance's power.

    Example:
        >>> noisy = mix(clean, noise, snr=0.0)
    """
    power = np.mean(np.square(clean)) if power is None else power
    loudness = max(float(np.mean(np.square(noise))), QUIET)
    return (clean + np.sqrt(power / loudness) * 10.0 ** (-snr / 20.0) * noise).astype("float32")


class _Crops:
    """The base of both sources: turns waveforms into pairs of spectrograms of one length.

    `take` returns the middle of each utterance, `draw` a random part. Each pair is divided by its
    largest noisy sample; short utterances get zeros on both sides.
    """

    num_classes = None

    def __init__(self, codec, frames):
        if frames < 2:
            raise ValueError(f"frames is at least 2. Received: {frames}.")
        self.codec, self.frames = codec, frames
        self.length = codec.length(frames)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one spectrogram."""
        return (self.codec.bins, self.frames, 2)

    def _encoded(self, pairs, quieter=0.0):
        """Spectrograms of pairs whose largest noisy sample is 1, or `quieter` decibels below."""
        clean, noisy = (np.stack(waveforms) for waveforms in zip(*pairs, strict=True))
        loudest = np.maximum(np.abs(noisy).max(axis=1, keepdims=True), QUIET)
        loudest = (loudest * 10.0 ** (np.reshape(quieter, (-1, 1)) / 20.0)).astype("float32")
        spectrograms = self.codec.encode(np.concatenate([clean / loudest, noisy / loudest]))
        return spectrograms[: len(clean)], spectrograms[len(clean) :]

    def _start(self, total, generator, length=None):
        """Where a crop begins: at random, or for the middle part without a generator."""
        spare = total - (self.length if length is None else length)
        if spare <= 0:
            return spare // 2
        return spare // 2 if generator is None else int(generator.integers(spare + 1))

    def _crop(self, x, start, length=None):
        length = self.length if length is None else length
        part = x[max(start, 0) : start + length]
        before = max(-start, 0)
        return np.pad(part, (before, length - len(part) - before))


class SpeechPairs(_Crops):
    """Recorded pairs: x is the clean spectrogram, y the noisy one, of the same part.

    Args:
        pairs: (clean, noisy) waveforms at the codec's rate, equally long in each pair.
        codec: an `STFT`.
        frames: number of frames in a spectrogram.

    Raises:
        ValueError: without pairs, or for a pair of two lengths.

    Example:
        >>> source = SpeechPairs.from_folder("vbdmd/train", STFT(16_000), frames=256)
        >>> clean, noisy = source.take([0, 1])  # (2, 256, 256, 2) each
    """

    def __init__(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]], codec: STFT, frames: int):
        super().__init__(codec, frames)
        self.pairs, self.skipped = list(pairs), {}
        if not self.pairs or any(len(clean) != len(noisy) for clean, noisy in self.pairs):
            raise ValueError("pairs must be one or more tuples (clean, noisy) of equal lengths.")

    @classmethod
    def from_folder(cls, folder: str | Path, codec: STFT, frames: int) -> "SpeechPairs":
        """Reads pairs of files with the same name from `folder/clean` and `folder/noisy`.

        Files of any rate are resampled to the codec's. Unusable pairs (damaged, silent, of two
        lengths) are left out; a warning and `skipped` name them.

        Raises:
            ValueError: for missing folders, files without a partner, or no usable pair.
        """
        pairs, skipped = read_all(paired_files(folder), codec.sample_rate)
        source = cls(pairs, codec, frames)
        source.skipped = skipped
        return source

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, indices: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """The middle part of each pair at `indices`, as spectrograms."""
        return self.draw(indices, None)

    def draw(
        self,
        indices: Iterable[int],
        generator: np.random.Generator | None,
        rows: slice = slice(None),
    ) -> tuple[np.ndarray, np.ndarray]:
        """A random part of each pair at `indices`; only the `rows` are encoded and returned."""
        parts = []
        for index in indices:
            start = self._start(len(self.pairs[index][0]), generator)
            parts.append([self._crop(x, start) for x in self.pairs[index]])
        return self._encoded(parts[rows])


class MixedSpeech(_Crops):
    """Clean speech, mixed with noise when it is drawn: each time another part, noise and ratio.

    The ratio is the power of the whole utterance over the power of the added noise, so that pauses
    stay noisy. Noise that is too short is repeated.

    Args:
        clean: waveforms at the codec's rate.
        noise: waveforms at the codec's rate.
        codec: an `STFT`.
        frames: number of frames in a spectrogram.
        snr: lowest and highest ratio in decibels; `take` uses the middle.
        quieter: `draw` makes pairs quieter by 0 to this many decibels. The enhancer divides a
            recording by its largest sample, so most of its parts are quieter too.
        speeds: slowest and fastest speed at which `draw` plays the speech, for voices of another
            pitch. Needs soxr.
        equaliser: standard deviation in decibels of the gains with which `draw` filters the speech,
            at 6 frequencies from 0 to half the rate, for other voices and microphones.

    Raises:
        ValueError: without speech or noise, for ratios or speeds in the wrong order, or for a
            negative number of decibels.

    Example:
        >>> source = MixedSpeech.from_folders("clean", "noise", STFT(8_000), 64, snr=(-5.0, 15.0))
    """

    def __init__(
        self,
        clean: Iterable[np.ndarray],
        noise: Iterable[np.ndarray],
        codec: STFT,
        frames: int,
        *,
        snr: Sequence[float] = (-5.0, 15.0),
        quieter: float = 0.0,
        speeds: Sequence[float] = (1.0, 1.0),
        equaliser: float = 0.0,
    ):
        super().__init__(codec, frames)
        self.clean, self.noise, self.snr = list(clean), list(noise), tuple(snr)
        self.quieter, self.speeds, self.equaliser = quieter, tuple(speeds), equaliser
        self.skipped = {}
        if not self.clean or not self.noise:
            raise ValueError(
                "Mixing needs speech and noise. "
                f"Received: {len(self.clean)} and {len(self.noise)} waveforms."
            )
        if not self.snr[0] <= self.snr[1]:
            raise ValueError(f"snr is (lowest, highest). Received: {self.snr}.")
        for name, decibels in (("quieter", quieter), ("equaliser", equaliser)):
            if not decibels >= 0.0:
                raise ValueError(f"{name} is at least 0 decibels. Received: {decibels}.")
        if not 0.0 < self.speeds[0] <= self.speeds[1]:
            raise ValueError(f"speeds are (slowest, fastest). Received: {self.speeds}.")

    @classmethod
    def from_folders(
        cls, clean: str | Path, noise: str | Path, codec: STFT, frames: int, **kwargs: Any
    ) -> "MixedSpeech":
        """Reads two folders; rates and unusable files are treated as by `SpeechPairs`."""
        read = [
            read_all([(file,) for file in audio_files(folder)], codec.sample_rate)
            for folder in (clean, noise)
        ]
        waveforms = [[x for (x,) in good] for good, _ in read]
        source = cls(*waveforms, codec, frames, **kwargs)  # type: ignore[call-arg]
        source.skipped = {**read[0][1], **read[1][1]}
        return source

    def __len__(self) -> int:
        return len(self.clean)

    def take(self, indices: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """The middle of each utterance at `indices`, with noises in turn at the middle ratio."""
        middle = sum(self.snr) / 2.0
        parts = [self._mixed(i, self._noise(i % len(self.noise), 0), middle, None) for i in indices]
        return self._encoded(parts)

    def draw(
        self, indices: Iterable[int], generator: np.random.Generator, rows: slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray]:
        """A random part of each utterance at `indices`, with random noise at a random ratio.

        Only the `rows` are encoded and returned.
        """
        parts, quieter = [], []
        for i in indices:
            number = int(generator.integers(len(self.noise)))
            noise = self._noise(number, int(generator.integers(len(self.noise[number]))))
            parts.append(self._mixed(i, noise, generator.uniform(*self.snr), generator))
            quieter.append(generator.uniform(0.0, self.quieter))
        return self._encoded(parts[rows], quieter[rows])

    def _noise(self, number, begin):
        """A part of a noise, repeated where it is too short."""
        return np.take(self.noise[number], np.arange(begin, begin + self.length), mode="wrap")

    def _mixed(self, index, noise, snr, generator):
        """(clean, noisy) of a part of an utterance."""
        speech = self.clean[index]
        clean = self._part(speech, generator)
        if generator is not None and self.equaliser > 0.0:
            clean = _filtered(clean, generator.normal(0.0, self.equaliser, _GAINS))
        return clean, mix(clean, noise, snr, np.mean(np.square(speech)))

    def _part(self, speech, generator):
        """The middle of an utterance, or a random part of it at a random speed."""
        if generator is None or self.speeds == (1.0, 1.0):
            return self._crop(speech, self._start(len(speech), generator))
        speed = generator.uniform(*self.speeds)
        length = math.ceil(speed * self.length) + 1
        part = self._crop(speech, self._start(len(speech), generator, length), length)
        return resampled(part, speed, 1.0)[: self.length]


def _filtered(x, decibels):
    """A waveform filtered with gains in decibels, at even frequencies from 0 to half the rate.

    Between these frequencies, the gains are interpolated linearly.
    """
    spectrum = np.fft.rfft(x)
    places = np.linspace(0.0, len(decibels) - 1.0, len(spectrum))
    gains = 10.0 ** (np.interp(places, np.arange(len(decibels)), decibels) / 20.0)
    return np.fft.irfft(gains * spectrum, len(x)).astype("float32")


def paired_files(folder: str | Path) -> list[tuple[Path, Path]]:
    """The (clean, noisy) files with the same name in `folder/clean` and `folder/noisy`.

    Raises:
        ValueError: for missing folders, or files without a partner.
    """
    clean, noisy = (
        {file.stem: file for file in audio_files(Path(folder) / name)}
        for name in ("clean", "noisy")
    )
    alone = sorted(set(clean) ^ set(noisy))
    if alone:
        raise ValueError(
            f"Each file in {folder}/clean needs one of the same name in {folder}/noisy. Received "
            f"{len(alone)} without a partner, the first {alone[0]}."
        )
    return [(clean[stem], noisy[stem]) for stem in clean]
