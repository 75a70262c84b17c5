"""Audio files as mono waveforms of one rate. Needs `pip install 'keras_meanflow[speech]'`."""

import importlib
import struct
import warnings
from pathlib import Path

import numpy as np
from keras.utils import Progbar

SUFFIXES = (".wav", ".flac")
SILENT = 1e-5  # the loudest sample, full scale being 1: below one step of 16 bits


def speech_library(name, extra="speech"):
    """An optional library by name, which an extra of the package installs.

    Raises:
        ImportError: if it is not installed, with what installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Speech needs {name}: pip install 'keras_meanflow[{extra}]'. Received: {error}"
        ) from error


def open_audio(path):
    """An open `soundfile.SoundFile` of one channel and some length.

    Raises:
        ValueError: for what is no audio, is empty, cut off, or has several channels.
    """
    soundfile = speech_library("soundfile")
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        file = soundfile.SoundFile(str(path))
    except (soundfile.SoundFileError, RuntimeError) as error:
        size = Path(path).stat().st_size
        what = "it is empty" if not size else f"it holds no audio that can be read ({error})"
        raise ValueError(f"{path} must be a .wav or .flac file: {what}.") from error
    problem = None
    if file.channels != 1:
        problem = f"must have one channel. Received {file.channels}: mix or choose first"
    elif _is_cut_off(path):
        problem = "is cut off: its header promises more samples than it holds"
    elif file.frames < 1:
        problem = "must hold samples. It has none"
    if problem:
        file.close()
        raise ValueError(f"{path} {problem}.")
    return file


def _is_cut_off(path):
    """Whether a RIFF file ends before its data does, of which libsndfile says nothing."""
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return False
        size = Path(path).stat().st_size
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, length = head[:4], struct.unpack("<I", head[4:])[0]
            if name == b"data":
                # Streams that were never finished have no length, or the largest.
                return length < 2**32 - 1 and file.tell() + length > size
            file.seek(length + length % 2, 1)
    return False


def read_audio(path, sample_rate):
    """The samples of a file, float32 (n,) in [-1, 1], resampled by soxr.

    Raises:
        ValueError: for what is no audio of one channel, or is cut off, silent or not finite.

    Example:
        >>> x = read_audio("clean/p287_001.wav", 8_000)
    """
    with open_audio(path) as file:
        rate, expected = file.samplerate, file.frames
        x = read_block(file, path, expected)
    if len(x) < expected:
        raise ValueError(f"{path} is cut off: {len(x)} samples of {expected}.")
    if np.abs(x).max() < SILENT:
        raise ValueError(f"{path} is silent.")
    return resampled(x, rate, sample_rate)


def read_block(file, path, frames):
    """Up to `frames` more samples of an open file, float32.

    Raises:
        ValueError: where it cannot be decoded, or a sample is not finite.
    """
    try:
        x = file.read(frames, dtype="float32")
    except (speech_library("soundfile").SoundFileError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not np.isfinite(x).all():
        raise ValueError(f"{path} must be finite. Received NaN or infinity.")
    return x


def resampled(x, rate, sample_rate):
    """`x` at another rate, by soxr; as it is at the same."""
    if rate == sample_rate:
        return x
    return speech_library("soxr").resample(x, rate, sample_rate).astype("float32")


def audio_files(folder):
    """The `.wav` and `.flac` files of a folder, sorted by name.

    Raises:
        ValueError: for no such folder, or one without them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise ValueError(f"{folder} must hold .wav or .flac files. It holds none.")
    return files


def read_all(groups, sample_rate):
    """The waveforms of groups of files that belong together, and why others are left out.

    A group with a file that cannot be used is left out; a warning counts and names them.

    Args:
        groups: tuples of paths, of one length each where there are several.
        sample_rate: of the waveforms.

    Returns:
        List of tuples of waveforms, and a dict from a path to what is wrong with it.

    Raises:
        ValueError: if none can be used.
    """
    bar = Progbar(len(groups), unit_name="file", verbose=int(len(groups) > 2_000))
    good, skipped = [], {}
    for paths in groups:
        try:
            good.append(_read_group(paths, sample_rate))
        except ValueError as error:
            skipped[str(paths[0])] = str(error)
        bar.add(1)
    if skipped:
        first = next(iter(skipped.values()))
        warnings.warn(
            f"{len(skipped)} of {len(groups)} are left out: {', '.join(map(_name, skipped))}. "
            f"The first: {first}",
            stacklevel=3,
        )
    if not good:
        raise ValueError(f"None of {len(groups)} files can be used. The first: {first}")
    return good, skipped


def _name(path):
    return Path(path).name


def _read_group(paths, sample_rate):
    waveforms = tuple(read_audio(path, sample_rate) for path in paths)
    lengths = [len(x) for x in waveforms]
    if len(set(lengths)) > 1:
        raise ValueError(f"{paths[0]} and {paths[1]} must be equally long. Received: {lengths}.")
    return waveforms
