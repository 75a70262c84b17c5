"""Folders of images, read with Pillow when a batch asks for them."""

import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from keras.utils import Progbar
from numpy.typing import ArrayLike
from PIL import Image, ImageOps

from keras_meanflow.data.arrays import scale_pixels

SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split())
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
DEEP_MODES = ("I", "F")  # more than 8 bits a channel, which Pillow would clip
SPLITS = frozenset("dev test train training val valid validation".split())
BACKGROUND = "white"  # behind transparent pixels
READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class ImageFolder:
    """A data source over a folder of images: a sub-folder for each class, or one flat folder.

    Classes are the sub-folders in natural order: 2 before 10. A flat folder has no labels. Each
    file is opened once at the start, to find broken images; pixels are read batch by batch.
    Images are turned as their EXIF data says. Transparent pixels are put on white, except with 4
    channels. Hidden folders, linked folders inside a class and files of other kinds are left out;
    a warning counts and names them.

    Args:
        path: the folder.
        image_size: side of the square that is cut out of each image, in pixels.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); images are converted.
        on_error: `"raise"`, or `"skip"` to leave out unreadable images with a warning. With
            `"skip"`, an image whose pixels fail later is replaced by the next readable one.
        threads: number of images read in parallel; default: one for each core, at most 16.

    Raises:
        ValueError: for a folder without images, with images beside the sub-folders, with an
            empty sub-folder, or with sub-folders such as train and val, which are no classes; and
            for an unreadable image, which the message names.

    Example:

    >>> Path("pets/cat").mkdir(parents=True)
    >>> Image.new("RGB", (40, 30), "white").save("pets/cat/1.png")
    >>> source = ImageFolder("pets", 16)
    >>> x, y = source.take([0])
    >>> x.shape, source.class_names
    ((1, 16, 16, 3), ('cat',))

    References:
        The crop is from the released code of Dhariwal, Nichol (2021), arXiv:2105.05233.
    """

    def __init__(
        self,
        path: str | Path,
        image_size: int,
        *,
        channels: int = 3,
        on_error: str = "raise",
        threads: int | None = None,
    ):
        _check_choices(image_size, channels, on_error)
        self.path = Path(path)
        self.shape = (image_size, image_size, channels)
        self.on_error = on_error
        self.threads = threads or min(16, os.cpu_count() or 1)
        self.class_names, files = _scan(self.path)
        self._broken = set()
        self.files = self._readable(files)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def num_classes(self) -> int | None:
        """The number of sub-folders; None for a flat folder."""
        return len(self.class_names) if self.class_names else None

    @property
    def skipped(self) -> int:
        """The number of broken files found so far, with `on_error="skip"`."""
        return len(self._broken)

    def take(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the images at `indices`, float32 in [-1, 1], and their labels or None."""
        with ThreadPoolExecutor(self.threads) as pool:
            pixels, labels = zip(*pool.map(self._read, indices), strict=True)
        y = np.array(labels, "int32") if self.class_names else None
        return scale_pixels(np.stack(pixels)), y

    def _read(self, index):
        """The pixels and the label at `index`, or of the next readable image."""
        for near in range(len(self)):
            file, label = self.files[(index + near) % len(self)]
            try:
                return read_image(file, self.shape[0], self.shape[2]), label
            except READ_ERRORS as error:
                self._refuse([(file, error)])
        raise ValueError(f"{self.path} must hold images. Received none whose pixels can be read.")

    def _readable(self, files):
        """The files that open as images; the others are refused together, or left out."""
        bar = Progbar(len(files), interval=1, verbose=int(len(files) > 10_000))
        good, bad = [], []
        for file, label in files:
            try:
                _check_opens(file)
                good.append((file, label))
            except READ_ERRORS as error:
                bad.append((file, error))
            bar.add(1)
        if bad:
            self._refuse(bad)
        if not good:
            raise ValueError(f"{self.path} must hold images. Received none that can be read.")
        return good

    def _refuse(self, bad):
        """Raises, or warns and counts, for `(file, error)` pairs."""
        file, error = bad[0]
        reason = f"Received {len(bad)} that cannot be read, the first {file} ({error})"
        if self.on_error == "raise":
            raise ValueError(
                f"{self.path} must hold readable images. {reason}: remove the broken files, "
                "or pass on_error='skip'."
            ) from error
        if not self._broken.issuperset(file for file, _ in bad):
            self._broken.update(file for file, _ in bad)
            warnings.warn(f"Images are skipped. {reason}.", stacklevel=3)


def read_image(file: str | Path, image_size: int, channels: int = 3) -> np.ndarray:
    """Returns the centre of an image as uint8 `(image_size, image_size, channels)`."""
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        pixels = np.asarray(centre_crop(_converted(upright, MODES[channels]), image_size))
    return pixels.reshape(image_size, image_size, channels)


def _converted(image, mode):
    """The image in this mode; transparent pixels are put on the background first."""
    if mode != "RGBA" and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    return image.convert(mode)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Returns the middle square of `image`, after its shorter side is resized to `size` pixels.

    The image is halved with a box filter while it stays large enough, then resized bicubic.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _check_choices(image_size, channels, on_error):
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel. Received {image_size}.")
    if channels not in MODES:
        raise ValueError(f"channels must be 1, 3 or 4. Received {channels}.")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip'. Received {on_error!r}.")


def _scan(path):
    """The class names, `()` for a flat folder, and `(file, label)` for every image file."""
    if not path.is_dir():
        raise ValueError(f"path must be an existing folder of images. There is none at {path}.")
    folders = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    folders.sort(key=lambda folder: _natural(folder.name))
    left_out = []
    flat = _image_files((p for p in path.iterdir() if not p.is_dir()), left_out)
    _check_layout(path, folders, flat)
    files = [(file, None) for file in flat]
    for label, folder in enumerate(folders):
        files += [(file, label) for file in _class_files(folder, left_out)]
    _warn_of(path, left_out)
    return tuple(folder.name for folder in folders), files


def _check_layout(path, folders, flat):
    if folders and flat:
        raise ValueError(
            f"{path} must hold either images or one sub-folder for each class. Received both: "
            f"{flat[0].name} beside {folders[0].name}/."
        )
    if not (folders or flat):
        raise ValueError(
            f"{path} must hold images, or a sub-folder of them for each class. It holds neither."
        )
    names = [folder.name for folder in folders]
    if folders and {name.lower() for name in names} <= SPLITS:
        raise ValueError(
            f"{path} must hold a sub-folder for each class. Received the splits "
            f"{', '.join(names)}: name one of them, as in {folders[0]}."
        )


def _natural(name):
    """A key that sorts numbers inside names by value: 2 before 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), part) if i % 2 else (0, part) for i, part in enumerate(parts)]


def _class_files(folder, left_out):
    files = []
    for root, folders, names in os.walk(folder):
        root = Path(root)
        shut = [f for f in folders if f.startswith(".") or (root / f).is_symlink()]
        left_out += [root / f for f in shut]
        folders[:] = [f for f in folders if f not in shut]
        files += _image_files((root / name for name in names), left_out)
    if not files:
        raise ValueError(
            f"Each sub-folder is a class and must hold images. Received {folder} without any: "
            "remove or fill it."
        )
    return sorted(files)


def _image_files(paths, left_out):
    """The sorted files with the suffix of an image; others that are not hidden are left out."""
    shown = [p for p in paths if not p.name.startswith(".")]
    good = [p for p in shown if p.suffix.lower() in SUFFIXES and p.is_file()]
    known = set(good)
    left_out += [p for p in shown if p not in known]
    return sorted(good)


def _warn_of(path, left_out):
    if left_out:
        named = ", ".join(str(p.relative_to(path)) for p in sorted(left_out)[:5])
        warnings.warn(
            f"{len(left_out)} entries of {path} are left out, as they are no images, hidden "
            f"folders or linked folders: {named}{', ...' if len(left_out) > 5 else ''}.",
            stacklevel=4,
        )


def _check_opens(file):
    with Image.open(file) as image:
        if image.mode.startswith(DEEP_MODES):
            raise ValueError(f"more than 8 bits a channel: mode {image.mode}")
        image.verify()
