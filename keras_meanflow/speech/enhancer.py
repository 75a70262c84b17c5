"""Enhances speech of any length with a trained FlowMap, piece by piece."""

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_meanflow.files.atomic import write_atomically
from keras_meanflow.speech.audio import audio_files, open_audio, read_block, speech_library
from keras_meanflow.speech.scores import mean_scores, speech_scores
from keras_meanflow.speech.stft import STFT

BLOCK = 1 << 16  # samples read at once
Progress = Callable[[float, float], None]
_QUIET = 1e-8
_FLOATS = ("FLOAT", "DOUBLE")
_NEAREST = {
    **dict.fromkeys((*_FLOATS, "PCM_32"), ("PCM_24",)),
    **dict(PCM_U8=("PCM_S8",), PCM_S8=("PCM_U8",)),
}


class Enhancer:
    """Turns noisy waveforms into clean ones, in overlapping pieces of the model's length.

    Memory does not grow with the length. As in training, a recording is divided by its largest
    sample; the result is multiplied by it.

    Args:
        flow_map: a model whose condition is a noisy spectrogram.
        codec: the `STFT` that the model was trained with.
        steps: number of jumps.
        overlap: share of a piece that fades into the next one. At 1/2, each sample is a mean of
            two pieces, weighted towards the middle of each. For half-second pieces this is better
            than 1/4 (dev/LOG.md), with 1.5 times as many pieces.
        batch_size: pieces that are enhanced at once.
        seed: of the noise; piece i of a recording has noise i.
        temperature: factor of the noise at the start, see `generate`.
        attenuation_limit: largest attenuation in decibels; None: no limit. The result is
            `a noisy + (1 - a) clean` with `a = 10^(-limit / 20)`, so the noisy recording stays
            in it, `limit` decibels lower. This hides distortions of the remaining noise: at 20,
            PESQ is clearly better and SI-SDR almost the same (docs/guide/speech.md).

    Raises:
        ValueError: for an overlap outside (0, 1/2], a negative limit, or a codec with spectrograms
            of another shape.

    Example:
        >>> opened = open_model("runs/speech_digits")
        >>> enhancer = Enhancer(opened.flow_map, opened.codec)
        >>> clean = enhancer(noisy)  # (n,) at enhancer.codec.sample_rate
    """

    def __init__(
        self,
        flow_map: keras.Model,
        codec: STFT,
        *,
        steps: int = 1,
        overlap: float = 0.5,
        batch_size: int = 8,
        seed: int = 0,
        temperature: float = 1.0,
        attenuation_limit: float | None = None,
    ):
        if not 0.0 < overlap <= 0.5:
            raise ValueError(f"overlap must be in (0, 1/2]. Received: {overlap}.")
        if attenuation_limit is not None and not attenuation_limit >= 0.0:
            raise ValueError(
                f"attenuation_limit is at least 0 decibels. Received: {attenuation_limit}."
            )
        codec.check_latents(flow_map.network.data_shape)
        self.flow_map, self.codec, self.steps = flow_map, codec, steps
        self.batch_size, self.seed, self.temperature = batch_size, seed, temperature
        self.attenuation_limit = attenuation_limit
        self.length = codec.length(flow_map.network.data_shape[1])
        self.fade = round(overlap * self.length)
        turns = (np.arange(self.fade) + 0.5) / self.fade
        self.rise = (np.sin(0.5 * np.pi * turns) ** 2).astype("float32")

    def __call__(self, noisy: np.ndarray) -> np.ndarray:
        """The clean waveform (n,) of a noisy one (n,), both at the codec's sample rate."""
        noisy = np.asarray(noisy, "float32")
        return np.concatenate(list(self.stream([noisy], np.abs(noisy).max(initial=0.0))))

    def stream(self, blocks: Iterable[np.ndarray], loudest: float) -> Iterator[np.ndarray]:
        """Yields the clean waveform part by part.

        Args:
            blocks: the parts of a noisy waveform, of any lengths.
            loudest: largest absolute sample of the whole waveform.
        """
        loudest, step, tail, number = max(float(loudest), _QUIET), self.length - self.fade, None, 0
        for pieces, ends in self._batches(blocks):
            enhanced = self._enhance(pieces / loudest, number) * loudest
            number += len(pieces)
            for piece, end in zip(enhanced, ends, strict=True):
                if tail is not None:
                    piece[: self.fade] = tail + self.rise * piece[: self.fade]
                yield piece[: step if end is None else end]
                tail = (1.0 - self.rise) * piece[step:]

    def _batches(self, blocks):
        """Pieces (k, length), and for each None, or for the last one its number of samples."""
        pieces, ends = [], []
        for piece, end in self._pieces(blocks):
            pieces.append(piece)
            ends.append(end)
            if len(pieces) == self.batch_size or end is not None:
                yield np.stack(pieces), ends
                pieces, ends = [], []

    def _pieces(self, blocks):
        waiting, step = np.zeros(0, "float32"), self.length - self.fade
        for block in blocks:
            waiting = np.concatenate([waiting, block])
            while len(waiting) > self.length:  # the last piece is never empty
                yield waiting[: self.length], None
                waiting = waiting[step:]
        if len(waiting):
            yield np.pad(waiting, (0, self.length - len(waiting))), len(waiting)

    def _enhance(self, pieces, number):
        """Clean pieces; the batch is filled up, so that only one shape is compiled."""
        filled = np.pad(pieces, ((0, self.batch_size - len(pieces)), (0, 0)))
        spectrograms = self.flow_map.generate(
            self.codec.encode(filled),
            steps=self.steps,
            seed=self.seed,
            first=number,
            batch_size=self.batch_size,
            temperature=self.temperature,
            verbose=0,
        )
        clean = self.codec.decode(spectrograms)[: len(pieces)]
        return limited(clean, pieces, self.attenuation_limit)


def limited(clean: np.ndarray, noisy: np.ndarray, attenuation_limit: float | None) -> np.ndarray:
    """`a noisy + (1 - a) clean`, see `Enhancer`; a new array."""
    kept = 0.0 if attenuation_limit is None else 10.0 ** (-attenuation_limit / 20.0)
    return (kept * noisy + (1.0 - kept) * clean).astype("float32")


def enhance_file(
    enhancer: Enhancer,
    source: str | Path,
    target: str | Path,
    progress: Progress | None = None,
) -> tuple[float, float]:
    """Enhance a file of any rate; the new file has the same rate, length and sample format.

    Samples above 1 are clipped where the sample format holds integers; a warning counts them.

    Args:
        enhancer: an `Enhancer`.
        source: `.wav` or `.flac`, one channel.
        target: `.wav` or `.flac`; it appears when it is complete. A format that cannot hold the
            samples of the source gets its nearest: 24 bits for floats in `.flac`.
        progress: called with the seconds done and the total seconds.

    Returns:
        Seconds of audio, and seconds of computing.

    Raises:
        ValueError: for a file that is damaged, has no samples or has several channels, or a target
            that is the source.
    """
    began = time.perf_counter()
    _check_targets([target], [source])
    with open_audio(source) as file:
        rate, samples, subtype = file.samplerate, file.frames, file.subtype
    total, loudest = 0, 0.0
    for block in _blocks(source):
        total, loudest = total + len(block), max(loudest, float(np.abs(block).max()))
    if total < samples:
        raise ValueError(f"{source} is cut off: {total} samples of {samples}.")
    inwards = _resampled(_blocks(source), rate, _rate(enhancer))
    parts = _resampled(enhancer.stream(inwards, loudest), _rate(enhancer), rate)
    settings = _settings(target, rate, subtype)
    write_atomically(
        Path(target), lambda path: _write(path, target, parts, settings, total, progress)
    )
    return total / rate, time.perf_counter() - began


def enhance_folder(
    enhancer: Enhancer,
    source: str | Path,
    target: str | Path,
    report: Callable[[Path, float, float], None],
    progress: Progress | None = None,
) -> dict[Path, str]:
    """Enhance the `.wav` and `.flac` files of a folder and its sub-folders.

    Args:
        enhancer: an `Enhancer`.
        source: a folder.
        target: another folder, made if absent, which gets the same sub-folders.
        report: called with each file's path, seconds of audio and seconds of computing.
        progress: as in `enhance_file`.

    Returns:
        A dict from the path of a file that failed to its error.

    Raises:
        ValueError: for a target inside the source, or whose files would replace the recordings.
    """
    skipped = {}
    source, target = Path(source), Path(target)
    files = audio_files(source, deep=True)
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(
            f"The recordings stay as they are: write to a folder outside {source}. "
            f"Received: {target}."
        )
    targets = {file: target / file.relative_to(source) for file in files}
    _check_targets(targets.values(), files)
    for file, new in targets.items():
        new.parent.mkdir(parents=True, exist_ok=True)
        try:
            report(file, *enhance_file(enhancer, file, new, progress))
        except ValueError as error:
            skipped[file] = str(error)
    return skipped


def _check_targets(targets, sources):
    """Raise a ValueError if a new file would replace a recording, through a link too."""
    recordings = {_identity(file) for file in sources} - {None}
    for target in targets:
        if _identity(target) in recordings:
            raise ValueError(
                f"The recordings stay as they are: {target} is one. Name another file."
            )


def _identity(file):
    """The device and the number of a file; None if it does not exist."""
    status = os.stat(file) if os.path.exists(file) else None
    return status and (status.st_dev, status.st_ino)


def _rate(enhancer):
    return enhancer.codec.sample_rate


def _blocks(source):
    with open_audio(source) as file:
        while len(block := read_block(file, source, BLOCK)):
            yield block


def _resampled(blocks, rate, wanted):
    """Blocks at another rate, without a seam between them."""
    if rate == wanted:
        yield from blocks
        return
    stream = speech_library("soxr").ResampleStream(rate, wanted, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block))
    yield stream.resample_chunk(np.zeros(0, "float32"), last=True)


def _settings(target, rate, subtype):
    """The settings of a new file: the source's sample format, or the nearest that it can have."""
    kind = Path(target).suffix.lower().removeprefix(".").upper()
    if kind not in ("WAV", "FLAC"):
        raise ValueError(f"The new file must be .wav or .flac. Received: {target}.")
    nearest = (subtype, *_NEAREST.get(subtype, ()), "PCM_16")
    known = speech_library("soundfile").available_subtypes(kind)
    subtype = next(name for name in nearest if name in known)
    return {"samplerate": rate, "channels": 1, "subtype": subtype, "format": kind}


def _write(path, target, parts, settings, total, progress):
    """Write `total` samples: parts, then zeros, as resampling twice can lose some samples."""
    done, clipped, rate = 0, 0, settings["samplerate"]
    with speech_library("soundfile").SoundFile(str(path), "w", **settings) as file:
        for part in parts:
            part = part[: total - done]
            clipped += int(np.sum(np.abs(part) > 1.0))
            file.write(part)
            done += len(part)
            if progress is not None:
                progress(done / rate, total / rate)
        file.write(np.zeros(total - done, "float32"))
    if clipped and settings["subtype"] not in _FLOATS:
        warnings.warn(
            f"{target}: {clipped} samples above 1 are clipped. Make the recording quieter, or "
            "store it as a .wav of floats, whose enhanced file has floats too.",
            stacklevel=2,
        )


def score_pairs(
    pairs: Sequence[tuple[str, np.ndarray, np.ndarray]],
    sample_rate: int,
    methods: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    *,
    verbose: int = 0,
) -> dict[str, dict[str, Any]]:
    """Scores recorded pairs: the noisy input, and the output of each method.

    Args:
        pairs: list of (name, clean, noisy).
        sample_rate: of all pairs, in Hz.
        methods: name -> a function from a noisy waveform to an enhanced one.
        verbose: 1 for a progress bar.

    Returns:
        `{"noisy": {"files": {name: scores}, "total": means}, ...}`, with a key for each method.

    Example:
        >>> score_pairs([("a.wav", clean, noisy)], 8_000, {"one step": enhancer})
    """
    bar = keras.utils.Progbar(len(pairs), unit_name="file", verbose=verbose)
    methods = {"noisy": lambda noisy: noisy, **methods}
    report = {name: {"files": {}} for name in methods}
    for file, clean, noisy in pairs:
        for name, enhance in methods.items():
            scores = speech_scores(clean, enhance(noisy), sample_rate)
            report[name]["files"][file] = scores
        bar.add(1)
    for part in report.values():
        part["total"] = mean_scores(list(part["files"].values()))
    return report
