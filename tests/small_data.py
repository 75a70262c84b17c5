"""Small files of the kinds that tasks read: images, latents, tokens, pairs, speech."""

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

_RNG = np.random.default_rng(0)
ARRAYS = {
    "mnist": dict(x_train=np.zeros((6, 28, 28), "uint8"), y_train=np.arange(6)),
    "cifar10": dict(x_train=np.zeros((6, 32, 32, 3), "uint8"), y_train=np.arange(6)),
    "eurosat": dict(x_train=np.zeros((6, 32, 32, 3), "uint8"), y_train=np.arange(6)),
    "imagenet256": dict(
        x=_RNG.standard_normal((6, 32, 32, 4)).astype("float32"), y=np.arange(6) * 199
    ),
    "rae": dict(x=_RNG.standard_normal((6, 2, 2, 8)).astype("float32"), y=np.arange(6)),
}


def write_arrays(kind: str, folder: Path) -> str:
    """The path of an `.npz` file with the arrays of this kind."""
    path = folder / f"{kind}.npz"
    np.savez(path, **ARRAYS[kind])
    return str(path)


def write_images(folder: Path, classes: tuple[str, ...] = ("cat", "dog")) -> str:
    """The path of a folder of 24x20 images; `classes=("",)` for one flat folder."""
    for i, name in enumerate(classes * 3):
        path = folder / "images" / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_RNG.integers(0, 256, (20, 24, 3), "uint8")).save(path)
    return str(folder / "images")


def speech(seconds: float = 2.0, seed: int = 0, rate: int = 8_000) -> np.ndarray:
    """Syllables of harmonics, with pauses."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    pitch = 120.0 + 20.0 * np.sin(2 * np.pi * 0.7 * t + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(k * phase + rng.uniform(0, 6)) / k for k in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 2.3 * t), 0.0, None) ** 0.5
    return (0.2 * envelope * voice).astype("float32")


def noise(seconds: float = 2.0, seed: int = 1, rate: int = 8_000) -> np.ndarray:
    """White noise."""
    draws = np.random.default_rng(seed).standard_normal(int(seconds * rate))
    return (0.1 * draws).astype("float32")


def write_clips(folder: Path) -> str:
    """The path of an `.npz` file of short clips by six speakers."""
    clips = [speech(0.3, seed=i) for i in range(12)]
    audio = np.concatenate([np.round(20_000 * clip).astype("int16") for clip in clips])
    offsets = np.cumsum([0, *map(len, clips)])
    path = folder / "digits.npz"
    np.savez(path, audio=audio, offsets=offsets, speaker=np.arange(12) % 6)
    return str(path)


def write_pairs(folder: Path) -> str:
    """The path of a folder of two clean and two noisy recordings at 16 kHz."""
    for name, amount in (("clean", 0.0), ("noisy", 1.0)):
        for i in range(2):
            x = speech(2.0, seed=i, rate=16_000) + amount * noise(4.0, seed=i)[:32_000]
            path = folder / "pairs" / name / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, x, 16_000)
    return str(folder / "pairs")
