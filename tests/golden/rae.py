"""Writes `rae.npz`: latents and pixels of the RAE code itself, with a small encoder and decoder.

Run by hand beside a checkout of sony/mf-rae fffc544 (its stage1 is bytetriper/RAE's), with torch
and transformers 5:

    PYTHONPATH=CHECKOUT/src:tests python tests/golden/rae.py

The encoder is one convolution and a layer norm, in the place of DINOv2; `RAE.encode` and
`RAE.decode` run as they are. Weights come from their names and shapes.
"""

import types
from pathlib import Path

import numpy as np
from golden.codec_autoencoders import seeded_weights

PATH = Path(__file__).with_suffix(".npz")
IMAGE, INPUT, PATCH, CHANNELS, GRID = 16, 12, 3, 8, 4
WIDTH, DEPTH, HEADS, HIDDEN = 24, 2, 2, 32
ENCODER = {"weight": (CHANNELS, 3, PATCH, PATCH), "bias": (CHANNELS,)}


def pixels():
    """Images in [-1, 1], channels last."""
    rng = np.random.Generator(np.random.Philox(key=41))
    return rng.uniform(-1, 1, (2, IMAGE, IMAGE, 3)).astype("float32")


def statistics():
    """Mean and variance as `stat.pt` has them, (channels, h, w)."""
    rng = np.random.Generator(np.random.Philox(key=42))
    mean, log = rng.standard_normal((2, CHANNELS, GRID, GRID)).astype("float32")
    return {"mean": mean, "var": np.exp(log)}


def decoder_weights():
    """The decoder's random tensors by name, in the shapes of the file."""
    with np.load(PATH) as stored:
        names = str(stored["names"]).split("\n")
        shapes = [tuple(map(int, line.split())) for line in str(stored["shapes"]).split("\n")]
    return seeded_weights(dict(zip(names, shapes, strict=True)))


def main():
    import torch
    from stage1.decoders.decoder import GeneralDecoder
    from stage1.decoders.utils import ViTMAEConfig
    from stage1.rae import RAE

    config = ViTMAEConfig(
        hidden_size=CHANNELS,
        decoder_hidden_size=WIDTH,
        decoder_num_hidden_layers=DEPTH,
        decoder_num_attention_heads=HEADS,
        decoder_intermediate_size=HIDDEN,
        patch_size=IMAGE // GRID,
        image_size=IMAGE,
    )
    config.chunk_size_feed_forward = 0  # which transformers 5 has no longer
    decoder = GeneralDecoder(config, num_patches=GRID**2)
    shapes = {k: tuple(v.shape) for k, v in decoder.state_dict().items()}
    weights = {k: torch.from_numpy(v) for k, v in seeded_weights(shapes).items()}
    weights["decoder_pos_embed"] = decoder.decoder_pos_embed.data
    decoder.load_state_dict(weights)
    kernel = {k: torch.from_numpy(v) for k, v in seeded_weights(ENCODER).items()}

    def encoder(x):
        tokens = torch.nn.functional.conv2d(x, **kernel, stride=PATCH).flatten(2).transpose(1, 2)
        return torch.nn.functional.layer_norm(tokens, (CHANNELS,), eps=1e-6)

    stats = {k: torch.from_numpy(v) for k, v in statistics().items()}
    self = types.SimpleNamespace(
        encoder=encoder,
        decoder=decoder.eval(),
        encoder_input_size=INPUT,
        encoder_mean=torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1),
        encoder_std=torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1),
        training=False,
        noise_tau=0.0,
        reshape_to_2d=True,
        do_normalization=True,
        latent_mean=stats["mean"],
        latent_var=stats["var"],
        eps=1e-5,
    )
    x = torch.from_numpy(np.moveaxis(pixels(), -1, 1).copy())
    with torch.no_grad():
        z = RAE.encode(self, 0.5 * (x + 1.0))
        decoded = RAE.decode(self, z)
    np.savez_compressed(
        PATH,
        names="\n".join(shapes),
        shapes="\n".join(" ".join(map(str, shape)) for shape in shapes.values()),
        latents=np.moveaxis(z.numpy(), 1, -1),
        decoded=2.0 * np.moveaxis(decoded.numpy(), 1, -1) - 1.0,
    )


if __name__ == "__main__":
    main()
