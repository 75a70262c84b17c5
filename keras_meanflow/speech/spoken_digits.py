"""Utterances of some seconds, joined from single spoken digits."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_meanflow.files.reading import open_npz

CLIP = "audio int16 (samples,), offsets (n + 1,), speaker (n,)"


def load_utterances(
    path: str | Path,
    speakers: Sequence[int],
    *,
    count: int,
    seconds: tuple[float, float] = (4.0, 8.0),
    rate: int = 8_000,
    seed: int = 0,
) -> list[np.ndarray]:
    """`count` utterances, each of one speaker's digits in random order, float32 waveforms.

    Args:
        path: an `.npz` file with `audio` int16 (samples,), `offsets` (n + 1,) of its n clips and
            `speaker` (n,).
        speakers: numbers of the speakers, who take turns.
        count: number of utterances.
        seconds: shortest and longest length; 50 to 200 ms of silence separate the clips.
        rate: sample rate of the file, in Hz.
        seed: of the order, lengths and pauses.

    Raises:
        ValueError: for a file without these arrays, or without one of the speakers.

    Example:
        >>> train = load_utterances("spoken_digits_8k.npz", (0, 1, 2), count=300)
    """
    with open_npz(path) as stored:
        missing = {"audio", "offsets", "speaker"} - set(stored.files)
        if missing:
            raise ValueError(f"{path} must hold {CLIP}. It lacks {', '.join(sorted(missing))}.")
        audio, offsets, speaker = (stored[name] for name in ("audio", "offsets", "speaker"))
    unknown = sorted(set(speakers) - set(speaker.tolist()))
    if unknown or not speakers:
        raise ValueError(
            f"{path} has the speakers {sorted(set(speaker.tolist()))}. Received: {tuple(speakers)}."
        )
    audio = audio.astype("float32") / 32768.0
    generator = np.random.default_rng(seed)
    clips = {
        s: [audio[offsets[i] : offsets[i + 1]] for i in np.flatnonzero(speaker == s)]
        for s in speakers
    }
    return [
        _utterance(clips[speakers[i % len(speakers)]], seconds, rate, generator)
        for i in range(count)
    ]


def _utterance(clips, seconds, rate, generator):
    length = int(generator.uniform(*seconds) * rate)
    parts, total = [], 0
    while total < length:
        clip = clips[generator.integers(len(clips))]
        level = max(float(np.abs(clip).max()), 1e-4)
        pause = np.zeros(generator.integers(rate // 20, rate // 5), "float32")
        parts += [0.5 * clip / level, pause]
        total += len(clip) + len(pause)
    return np.concatenate(parts)[:length]
