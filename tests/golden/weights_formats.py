"""Writes `weights_FORMAT.npz`: what each format's own code computes with random weights.

Run by hand beside a checkout of that code, with the libraries it needs, one format at a time:

    PYTHONPATH=CHECKOUT:tests python tests/golden/weights_formats.py FORMAT

| format | checkout | needs |
|---|---|---|
| dit | facebookresearch/DiT ed81ce2 | torch, timm 1.0.15 |
| sit | willisma/SiT 947f95b | torch, timm |
| dmf | kyungmnlee/dmf a6db0f6 | torch, timm |
| zhuyu | zhuyu-cs/MeanFlow 04d183c | torch, timm |
| haoyi | HaoyiZhu/MeanFlow-PyTorch cf7cd11 | torch, timm |
| diffusers | none | torch, diffusers 0.34.0 |
| meanflow | Gsunshine/meanflow d70cb55 | jax, flax |
| imf | Lyy-iiis/imeanflow bf60cd7 | jax, flax |
| imf-torch | Lyy-iiis/imeanflow 0468798, branch torch | torch |
| rae, mf-rae | sony/mf-rae fffc544, its src | torch, einops |
| ncsnpp | liduojia1/MeanFlowSE 16da845, its folder MeanFLowSE | torch |
| song | Gsunshine/py-meanflow 1f6d72d, its folder meanflow | torch |

ncsnpp and song also say how many parameters the published size has.

Weights and inputs come from Philox seeds, so a file holds the tensors' names and shapes, the
tensors that are not random (position tables), and the output in this package's conventions:
channels last, t = 1 is noise, u = e - x.
"""

import sys
import types
from pathlib import Path

import numpy as np

FORMATS = "dit sit dmf zhuyu haoyi diffusers meanflow imf imf-torch ncsnpp song rae mf-rae".split()
SIZE = {"image": 8, "channels": 3, "patch": 2, "width": 24, "depth": 2, "heads": 3, "classes": 5}
IN_CONTEXT = {**SIZE, "depth": 3, "head_depth": 2}
SPLIT_DEPTH = 1
BODY_AND_HEAD = {"width": (24, 32), "depth": (2, 1), "heads": (3, 2)}
UNET = {"width": 16, "multipliers": (1, 2, 2), "blocks": 1, "attention_sizes": (4,)}
REPEATED = "class_embedder", "timestep_embedder"  # diffusers has them in each block, equal


def golden_path(format):
    return Path(__file__).with_name(f"weights_{format}.npz")


def random_state(names, shapes, fixed):
    """Random tensors by name: a function of the sorted names and their shapes alone."""
    rng, state = np.random.Generator(np.random.Philox(key=21)), {}
    for name, shape in sorted(zip(names, map(tuple, shapes), strict=True)):
        numbers = (0.2 * rng.standard_normal(shape)).astype("float32")
        first = name.replace("transformer_blocks.1.", "transformer_blocks.0.")
        if any(part in name for part in REPEATED) and first in state:
            numbers = state[first]
        state[name] = fixed.get(name, numbers)
    return state


def inputs():
    """z, r, t, labels (one of them null), and guidance."""
    rng = np.random.Generator(np.random.Philox(key=22))
    rows = 5
    z = rng.standard_normal((rows, SIZE["image"], SIZE["image"], SIZE["channels"]))
    t = rng.uniform(size=rows).astype("float32")
    r = (t * rng.uniform(size=rows)).astype("float32")
    r[1], t[2], r[2] = t[1], 1.0, 0.0
    labels = np.array([0, 4, SIZE["classes"], 2, 1], "int32")
    guidance = {
        "omega": rng.uniform(1, 8, rows).astype("float32"),
        "t_min": rng.uniform(0, 0.5, rows).astype("float32"),
        "t_max": rng.uniform(0.5, 1, rows).astype("float32"),
    }
    return z.astype("float32"), r, t, labels, guidance


def unet_inputs(format):
    """z, r, t, a velocity v, and the condition: a noisy spectrogram, or what augmentation did."""
    z, r, t, _, _ = inputs()
    rng = np.random.Generator(np.random.Philox(key=23))
    if format == "song":
        how = {"augmentation": rng.standard_normal((len(t), 6)).astype("float32")}
        return z, r, t, rng.standard_normal(z.shape).astype("float32"), how
    z, v, noisy = rng.standard_normal((3, len(t), 8, 16, 2)).astype("float32")
    return z, r, t, v, noisy


def torch_sizes(size=SIZE):
    """The arguments of torch models."""
    names = {"input_size": "image", "in_channels": "channels", "patch_size": "patch"}
    names |= {"hidden_size": "width", "depth": "depth", "num_heads": "heads"}
    names["num_classes"] = "classes"
    return {theirs: size[ours] for theirs, ours in names.items()}


def torch_outputs(model, call, fixed=("pos_embed",)):
    """A torch model's tensors' names, shapes, fixed tensors, and its outputs with random ones."""
    import torch

    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    kept = {name: state[name] for name in state if name.endswith(fixed)}
    shapes = [array.shape for array in state.values()]
    numbers = random_state(list(state), shapes, kept)
    model.load_state_dict({name: torch.from_numpy(a) for name, a in numbers.items()})
    model.eval()
    z, r, t, labels, guidance = inputs()
    tensors = [torch.from_numpy(a) for a in (np.moveaxis(z, -1, 1).copy(), r, t)]
    with torch.no_grad():
        outputs = call(
            model,
            *tensors,
            torch.from_numpy(labels).long(),
            {k: torch.from_numpy(v) for k, v in guidance.items()},
        )
    outputs = {name: np.moveaxis(out.numpy(), 1, -1) for name, out in outputs.items()}
    return list(state), shapes, kept, outputs


def flax_outputs(model, call, *arguments):
    """As `torch_outputs`, of a flax model that is initialised with the arguments."""
    import jax
    from flax import traverse_util

    tree = jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]
    shapes = {n: v.shape for n, v in traverse_util.flatten_dict(tree, sep="/").items()}
    numbers = random_state(list(shapes), shapes.values(), {})
    params = {"params": traverse_util.unflatten_dict(numbers, sep="/")}
    outputs = call(lambda *a: model.apply(params, *a))
    return list(shapes), list(shapes.values()), {}, {k: np.asarray(v) for k, v in outputs.items()}


def dit():
    from models import DiT

    channels = SIZE["channels"]
    return torch_outputs(
        DiT(**torch_sizes()), lambda m, z, r, t, y, _: {"u": m(z, 1000.0 * t, y)[:, :channels]}
    )


def sit():
    from models import SiT

    return torch_outputs(SiT(**torch_sizes()), lambda m, z, r, t, y, _: {"u": -m(z, 1.0 - t, y)})


def dmf():
    for kernels in ("flash_attention_2_jvp", "flash_attention_3_jvp"):  # they need a GPU
        stub = types.ModuleType(f"models.{kernels}")
        stub.flash_attn_func = None
        sys.modules[stub.__name__] = stub
    from models.dmft import DMFT

    model = DMFT(
        **torch_sizes(), dmf_depth=SPLIT_DEPTH, use_logvar=True, qk_norm=True, attn_func="base"
    )
    return torch_outputs(model, lambda m, z, r, t, y, _: {"u": m(z, t, r, y)})


def zhuyu():
    from sit import SiT

    model = SiT(**torch_sizes(), decoder_hidden_size=SIZE["width"], qk_norm=False)
    return torch_outputs(model, lambda m, z, r, t, y, _: {"u": m(z, r, t, y)})


def haoyi():
    from models.sit_meanflow import SiT

    small = {"encoder_depth": 1, "projector_dim": 4, "z_dims": [3]}
    model = SiT(**torch_sizes(), decoder_hidden_size=SIZE["width"], qk_norm=False, **small)
    return torch_outputs(model, lambda m, z, r, t, y, _: {"u": m(z, t, t - r, y)[0]})


def diffusers():
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=SIZE["heads"],
        attention_head_dim=SIZE["width"] // SIZE["heads"],
        in_channels=SIZE["channels"],
        out_channels=2 * SIZE["channels"],
        num_layers=SIZE["depth"],
        sample_size=SIZE["image"],
        patch_size=SIZE["patch"],
        num_embeds_ada_norm=SIZE["classes"],
    )

    def call(model, z, r, t, y, _):
        return {"u": model(z, 1000.0 * t, y).sample[:, : SIZE["channels"]]}

    return torch_outputs(model, call)


def meanflow():
    from models.models_dit import DiT

    z, r, t, labels, _ = inputs()
    arguments = z, t, t - r, labels
    return flax_outputs(DiT(**torch_sizes()), lambda m: {"u": m(*arguments)}, *arguments)


def imf():
    from models.imfDiT import imfDiT

    model = imfDiT(**torch_sizes(IN_CONTEXT), aux_head_depth=IN_CONTEXT["head_depth"])
    z, r, t, labels, guidance = inputs()
    arguments = z, t, t - r, *guidance.values(), labels
    return flax_outputs(model, lambda m: dict(zip("uv", m(*arguments), strict=True)), *arguments)


def imf_torch():
    from models.imfDiT import imfDiT

    model = imfDiT(**torch_sizes(IN_CONTEXT), aux_head_depth=IN_CONTEXT["head_depth"])

    def call(model, z, r, t, y, guidance):
        return dict(zip("uv", model(z, t, t - r, *guidance.values(), y), strict=True))

    return torch_outputs(model, call)


def ncsnpp():
    import torch
    from torch.utils import cpp_extension

    cpp_extension.load = lambda *arguments, **more: None  # a CUDA kernel; the CPU has its own path
    sys.modules["flowmse.backbones.dcunet"] = types.ModuleType("dcunet")
    sys.modules["flowmse.backbones.dcunet"].DCUNet = None
    from flowmse.backbones.ncsnpp import NCSNpp
    from flowmse.backbones.ncsnpp_utils import up_or_down_sampling as sampling

    made = sampling._setup_kernel  # in single precision, which its sixteenths do not need
    sampling._setup_kernel = lambda k: made(k).astype("float64")
    torch.manual_seed(0)
    print("parameters:", sum(p.numel() for p in NCSNpp().parameters()))
    model = NCSNpp(
        image_size=8,
        nf=UNET["width"],
        ch_mult=UNET["multipliers"],
        num_res_blocks=UNET["blocks"],
        attn_resolutions=UNET["attention_sizes"],
    )

    def forward(model, z, r, t, noisy):
        x, y = (torch.view_as_complex(a.contiguous())[:, None] for a in (z, noisy))
        return torch.view_as_real(-model(torch.cat([x, y], dim=1), t, t - r)[:, 0])

    return torch_outputs(
        model,
        lambda model, *_: unet_outputs("ncsnpp", model, forward),
        ("all_modules.0.W", "delta_gfproj.W"),  # with their own standard deviation, 16
    )


def unet_outputs(format, model, forward):
    """u, and its derivative along (v, 0, 1) for (z, r, t), in float64."""
    import torch

    z, r, t, v, condition = unet_inputs(format)
    z, r, t, v = (torch.from_numpy(a).double() for a in (z, r, t, v))
    array = condition if format == "ncsnpp" else condition["augmentation"]
    told = torch.from_numpy(array).double()
    model = model.double()
    u, du_dt = torch.func.jvp(
        lambda *a: forward(model, *a, told),
        (z, r, t),
        (v, torch.zeros_like(r), torch.ones_like(t)),
    )
    return {"u": u.moveaxis(-1, 1), "du_dt": du_dt.moveaxis(-1, 1)}


def song():
    from models.model_configs import MODEL_CONFIGS
    from models.unet import SongUNet

    full = {**MODEL_CONFIGS["unet"], "augment_dim": 6}
    print("parameters:", sum(p.numel() for p in SongUNet(**full).parameters()))
    small = {
        "img_resolution": 8,
        "model_channels": UNET["width"],
        "channel_mult": UNET["multipliers"],
        "num_blocks": UNET["blocks"],
        "attn_resolutions": UNET["attention_sizes"],
    }

    def forward(model, z, r, t, how):
        return model(z.moveaxis(-1, 1), (t, t - r), how).moveaxis(1, -1)

    return torch_outputs(
        SongUNet(**{**full, **small}),
        lambda model, *_: unet_outputs("song", model, forward),
        ("resample_filter",),
    )


def stub_timm_and_transformers():
    """What DDT.py imports of them: `PatchEmbed` is used, a convolution over patches."""
    import torch

    class PatchEmbed(torch.nn.Module):
        def __init__(self, size, patch, channels, width, bias=True):
            super().__init__()
            self.num_patches, self.patch_size = (size // patch) ** 2, (patch, patch)
            self.proj = torch.nn.Conv2d(channels, width, patch, patch, bias=bias)

        def forward(self, x):
            return self.proj(x).flatten(2).transpose(1, 2)

    names = {"PatchEmbed": PatchEmbed, "Mlp": None, "Attention": None, "SwinModel": None}
    for module in ("timm", "timm.models", "timm.models.vision_transformer", "transformers"):
        sys.modules[module] = types.ModuleType(module)
        vars(sys.modules[module]).update(names)


def dit_dh_model(cls):
    """A small DiT^DH of the authors'."""
    return cls(
        input_size=SIZE["image"],
        in_channels=SIZE["channels"],
        hidden_size=list(BODY_AND_HEAD["width"]),
        depth=list(BODY_AND_HEAD["depth"]),
        num_heads=list(BODY_AND_HEAD["heads"]),
        num_classes=SIZE["classes"],
    )


def _dit_dh(cls, call):
    tables = [
        f"{part}_feat_rope.freqs_{kind}" for part in ("enc", "dec") for kind in ("cos", "sin")
    ]
    return torch_outputs(dit_dh_model(cls), call, fixed=("pos_embed", *tables))


def rae():
    stub_timm_and_transformers()
    from stage2.models.DDT import DiTwDDTHead

    return _dit_dh(DiTwDDTHead, lambda m, z, r, t, y, _: {"u": m(z, t, y)})


def mf_rae():
    stub_timm_and_transformers()
    from stage2.models.DDT import DiTwDDTHead_MF

    return _dit_dh(DiTwDDTHead_MF, lambda m, z, r, t, y, _: {"u": m(z, r, t, y)})


def main(format):
    names, shapes, fixed, outputs = globals()[format.replace("-", "_")]()
    np.savez_compressed(
        golden_path(format),
        names=np.array("\n".join(names)),
        shapes=np.array("\n".join(" ".join(map(str, shape)) for shape in shapes)),
        **{f"fixed/{name}": array for name, array in fixed.items()},
        **{f"out/{name}": array.astype("float32") for name, array in outputs.items()},
    )


if __name__ == "__main__":
    main(sys.argv[1])
