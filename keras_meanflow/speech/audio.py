"""Audio files as mono waveforms at one rate. Needs `pip install 'keras_meanflow[speech]'`."""

import importlib
import io
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from keras.utils import Progbar

SUFFIXES = (".wav", ".flac")
ENDLESS = 0x7FFF0000  # a length from here on is a pipe's, that knew none
SILENT = 1e-5  # a file with a smaller largest sample is silent: less than one step of 16 bits


def speech_library(name: str, extra: str = "speech") -> ModuleType:
    """An optional library by name, which an extra of the package installs.

    Raises:
        ImportError: if it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Speech needs {name}: pip install 'keras_meanflow[{extra}]'. Received: {error}"
        ) from error


def open_audio(path: str | Path) -> Any:
    """An open `soundfile.SoundFile` with one channel and at least one sample.

    Raises:
        ValueError: for a file that is not audio, is empty or cut off, or has several channels.
    """
    soundfile = speech_library("soundfile")
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        file = soundfile.SoundFile(_readable(path))
    except (soundfile.SoundFileError, RuntimeError) as error:
        size = Path(path).stat().st_size
        what = "it is empty" if not size else f"it holds no audio that can be read ({error})"
        raise ValueError(f"{path} must be a .wav or .flac file: {what}.") from error
    problem = None
    if file.channels != 1:
        problem = f"must have one channel. Received {file.channels}: mix or choose first"
    elif _is_cut_off(*_data_of(path)):
        problem = "is cut off: its header promises more samples than it holds"
    elif file.frames < 1:
        problem = "must hold samples. It has none"
    if problem:
        file.close()
        raise ValueError(f"{path} {problem}.")
    return file


def _data_of(path):
    """Where the samples of a RIFF file begin, their length in its header, and what follows.

    The length is None for other files and without samples.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return 0, None, 0
        size = Path(path).stat().st_size
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, length = head[:4], struct.unpack("<I", head[4:])[0]
            if name == b"data":
                return file.tell(), length, size - file.tell()
            file.seek(length + length % 2, 1)
    return 0, None, 0


def _is_cut_off(start, length, rest):
    """Whether a RIFF file ends before its data does, which libsndfile does not report."""
    return length is not None and rest < length < ENDLESS


def _readable(path):
    """The path, or the file with its true length if a pipe has left 0 there.

    libsndfile finds out the other lengths that pipes leave.
    """
    start, length, rest = _data_of(path)
    if length != 0 or not rest:
        return str(path)
    with open(path, "rb") as file:
        head = file.read(start)
    if struct.unpack("<I", head[4:8])[0] + 8 == start + rest:
        return str(path)  # there are no samples: other data follow
    return _Mended(path, head[:-4] + struct.pack("<I", min(rest, ENDLESS)))


class _Mended(io.FileIO):
    """A file with another beginning, which soundfile reads."""

    def __init__(self, path, head):
        super().__init__(str(path))
        self.head = head

    def readinto(self, buffer):
        """As in `io.FileIO`."""
        at = self.tell()
        count = super().readinto(buffer)
        new = self.head[at : at + count]
        memoryview(buffer).cast("B")[: len(new)] = new
        return count


def read_audio(path: str | Path, sample_rate: int) -> np.ndarray:
    """The samples of a file, float32 (n,) in [-1, 1], resampled to `sample_rate` by soxr.

    Raises:
        ValueError: for a file that is not audio of one channel, is cut off, silent or not finite.

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


def read_block(file: Any, path: str | Path, frames: int) -> np.ndarray:
    """The next samples of an open file, at most `frames`, float32.

    Raises:
        ValueError: if they cannot be decoded, or one is not finite.
    """
    try:
        x = file.read(frames, dtype="float32")
    except (speech_library("soundfile").SoundFileError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not np.isfinite(x).all():
        raise ValueError(f"{path} must be finite. Received NaN or infinity.")
    return x


def resampled(x: np.ndarray, rate: float, sample_rate: float) -> np.ndarray:
    """`x` resampled from `rate` to `sample_rate` by soxr; unchanged if they are equal."""
    if rate == sample_rate:
        return x
    return speech_library("soxr").resample(x, rate, sample_rate).astype("float32")


def audio_files(folder: str | Path, *, deep: bool = False) -> list[Path]:
    """The `.wav` and `.flac` files of a folder, sorted by name.

    Args:
        folder: the folder.
        deep: look into its sub-folders too, except hidden ones.

    Raises:
        ValueError: if the folder does not exist, or has no such files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    found = folder.rglob("*") if deep else folder.iterdir()
    audio = (p for p in found if p.suffix.lower() in SUFFIXES and p.is_file())
    files = sorted(p for p in audio if not any(x[0] == "." for x in p.relative_to(folder).parts))
    if not files:
        raise ValueError(f"{folder} must hold .wav or .flac files. It holds none.")
    return files


def read_all(
    groups: Sequence[tuple[str | Path, ...]], sample_rate: int
) -> tuple[list[tuple[np.ndarray, ...]], dict[str, str]]:
    """Reads groups of files that belong together, such as pairs of clean and noisy speech.

    A group with an unusable file is left out; one warning counts and names these groups.

    Args:
        groups: tuples of paths; the files of a tuple must be equally long.
        sample_rate: of the waveforms, in Hz.

    Returns:
        A list of tuples of waveforms, and a dict from the first path of a group to its error.

    Raises:
        ValueError: if no group can be used, or there is none.
    """
    if not groups:
        raise ValueError("There must be one file to read, or more. Received none.")
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
