"""Makes `data_centre_crop.npz`: the centre crops of openai/guided-diffusion on seeded images.

Run by hand with that repository's commit 22e0df8 (Pillow 13.0):
    python tests/golden/data_centre_crop.py .../guided_diffusion/image_datasets.py
"""

import ast
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 16
SIZES = ((100, 75), (37, 90), (16, 16), (33, 31), (11, 13))  # width, height
HERE = Path(__file__).parent


def images():
    """Smooth seeded colour images of the sizes above."""
    rng = np.random.Generator(np.random.Philox(key=7))
    coarse = [Image.fromarray(rng.integers(0, 256, (5, 6, 3), "uint8")) for _ in SIZES]
    bicubic = Image.Resampling.BICUBIC
    return [image.resize(size, bicubic) for image, size in zip(coarse, SIZES, strict=True)]


def reference(path):
    """Their `center_crop_arr`, without the imports of its module (MPI, blobfile)."""
    tree = ast.parse(Path(path).read_text())
    tree.body = [n for n in tree.body if getattr(n, "name", None) == "center_crop_arr"]
    scope = {"np": np, "Image": Image}
    exec(compile(tree, path, "exec"), scope)
    return scope["center_crop_arr"]


def main():
    crop = reference(sys.argv[1])
    crops = np.stack([crop(image, SIDE) for image in images()])
    np.savez_compressed(HERE / "data_centre_crop.npz", crops=crops)


if __name__ == "__main__":
    main()
