"""Makes `codec_autoencoders.npz`: diffusers' AutoencoderKL and the original TAEF2, seeded weights.

Also `codec_taef2_psnr.json`: of the trained TAEF2 on real images, one number an image. Run by hand
beside torch 2.13, diffusers 0.42.1 and madebyollin/taesd at 5cccb12, with the real files:

    PYTHONPATH=TAESD:tests/golden python tests/golden/codec_autoencoders.py ../shared/data

Weights come from their names and shapes alone, so only these and the results are stored.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SD = {"widths": (16, 32), "groups": 8}
PIXELS = (2, 24, 16, 3)


def seeded_weights(shapes):
    """Weights for torch names and shapes: matrices at unit gain, norms near 1, biases near 0."""
    return {name: _seeded(name, tuple(shape)) for name, shape in shapes.items()}


def _seeded(name, shape):
    generator = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    values = generator.standard_normal(shape)
    if len(shape) > 1:
        return (values / np.sqrt(np.prod(shape[1:]))).astype("float32")
    return (0.1 * values + name.endswith(".weight")).astype("float32")


def pixels():
    """Two images in [-1, 1]."""
    return np.random.Generator(np.random.Philox(key=1)).uniform(-1, 1, PIXELS).astype("float32")


def filled(model):
    """The model with seeded weights, and the shapes that they have."""
    import torch

    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    weights = {name: torch.from_numpy(value) for name, value in seeded_weights(shapes).items()}
    model.load_state_dict(weights)
    return model.eval(), shapes


def first(x):
    import torch

    return torch.from_numpy(x).permute(0, 3, 1, 2)


def last(x):
    return x.permute(0, 2, 3, 1).numpy()


def sd_vae():
    from diffusers import AutoencoderKL

    steps = len(SD["widths"])
    model, shapes = filled(
        AutoencoderKL(
            latent_channels=4,
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * steps,
            up_block_types=("UpDecoderBlock2D",) * steps,
            block_out_channels=SD["widths"],
            norm_num_groups=SD["groups"],
        )
    )
    found = model.encode(first(pixels())).latent_dist
    decoded = last(model.decode(found.mean).sample)
    return shapes, {"mean": last(found.mean), "std": last(found.std), "decoded": decoded}


def taef2():
    from taesd import TAESD

    model = TAESD(None, None, latent_channels=32, arch_variant="flux_2")
    encoder, shapes = filled(model.encoder)
    decoder, more = filled(model.decoder)
    latents = encoder(first(pixels() / 2 + 0.5))
    return {"encoder": shapes, "decoder": more}, {
        "latents": last(latents),
        "decoded": last(decoder(latents)) * 2 - 1,
    }


def trained_psnr(data):
    """dB of each real image, pixels in [0, 1], the reconstruction clipped."""
    import torch
    from PIL import Image
    from taesd import TAESD

    files = [data / "taef2" / f"taef2_{part}.pth" for part in ("encoder", "decoder")]
    model = TAESD(*files, latent_channels=32, arch_variant="flux_2").float().eval()
    found = {}
    for path in sorted((data / "imagenet_sample_256").glob("*.jpg")):
        x = torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), "float32") / 255)
        x = x.permute(2, 0, 1)[None]
        y = model.decoder(model.encoder(x)).clamp(0, 1)
        found[path.name] = round(float(-10 * torch.log10((x - y).square().mean())), 4)
    return found


def main():
    import torch

    with torch.no_grad():
        (sd_shapes, sd), (tae_shapes, tae) = sd_vae(), taef2()
        psnr = trained_psnr(Path(sys.argv[1]))
    shapes = json.dumps({"sd_vae": sd_shapes, "taef2": tae_shapes})
    arrays = {f"sd_vae_{name}": value for name, value in sd.items()}
    arrays |= {f"taef2_{name}": value for name, value in tae.items()}
    np.savez_compressed(HERE / "codec_autoencoders.npz", shapes=np.array(shapes), **arrays)
    (HERE / "codec_taef2_psnr.json").write_text(json.dumps(psnr, indent=1) + "\n")
    print(np.mean(list(psnr.values())), np.median(list(psnr.values())))


if __name__ == "__main__":
    main()
