"""Writes `augmentation.npz`: EDM's augmentation as py-meanflow's own code does it.

Run by hand beside a checkout of Gsunshine/py-meanflow (1f6d72d):

    PYTHONPATH=CHECKOUT/meanflow python tests/golden/augmentation.py

Its draws are recorded, so that ours can do the same to the same images: 8 of 8 x 12 pixels.
"""

from pathlib import Path

import numpy as np


def images():
    """(8, 8, 12, 3) smooth images and noise, float32 in [-1, 1]."""
    rng = np.random.Generator(np.random.Philox(key=31))
    noise = rng.uniform(-1, 1, (8, 8, 12, 3))
    y, x = np.meshgrid(np.arange(8), np.arange(12), indexing="ij")
    waves = np.cos(0.4 * x + 0.7 * y)[None, :, :, None] * np.ones((1, 1, 1, 3))
    return (0.5 * noise + 0.5 * waves).astype("float32")


def main():
    import torch
    from models.augment import AugmentPipe

    torch.manual_seed(0)
    pipe = AugmentPipe(p=0.7, xflip=1e8, yflip=0, scale=1, rotate_frac=0, aniso=1, translate_frac=1)
    drawn = []
    where = torch.where

    def record(condition, one, other):
        chosen = where(condition, one, other)
        if one.ndim < 4 or one.shape[1] == 1:  # a parameter, masked; not an image
            drawn.append(chosen.numpy().reshape(-1, 8).squeeze())
        return chosen

    torch.where = record
    x = torch.from_numpy(images()).moveaxis(3, 1)
    out, labels = pipe(x)
    mirror, scale, stretch, angle, shift = drawn
    np.savez_compressed(
        Path(__file__).with_suffix(".npz"),
        mirror=mirror.astype(bool),
        scale=scale * pipe.scale_std,
        stretch=stretch * pipe.aniso_std,
        angle=angle,
        shift=shift.T * pipe.translate_frac_std,
        labels=labels.numpy(),
        out=out.moveaxis(1, 3).numpy(),
    )


if __name__ == "__main__":
    main()
