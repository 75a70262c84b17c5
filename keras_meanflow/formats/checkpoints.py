"""Published checkpoints: their address, authors, licence and quality."""

from __future__ import annotations

import dataclasses

from keras_meanflow.formats.autoencoders import AUTOENCODERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One published file of weights, as its authors describe it; none was downloaded to check.

    Args:
        title: model and data.
        paper: arXiv number.
        address: of the file, `hf://OWNER/REPOSITORY/FILE` or https, or of its download page.
        format: a name of `FORMATS`.
        settings: arguments of the network that cannot be read from the file.
        licence: of the weights' repository.
        quality: published FID-50K on ImageNet, and how it was sampled.
        autoencoder: a name of `AUTOENCODERS`: the codec that decodes its latents.
        sha256: checksum of the file, where it is known.
        by_hand: whether it must be downloaded with a browser.
        predicts: "average velocity", "velocity" (a flow model) or "noise" (a diffusion model, which
            `NoisePrediction` makes a flow model).
    """

    title: str
    paper: str
    address: str
    format: str
    settings: dict
    licence: str
    quality: str
    autoencoder: str
    sha256: str | None = None
    by_hand: bool = False
    predicts: str = "average velocity"

    def card(self, name: str) -> str:
        """The text of a model card, in Markdown."""
        codec = AUTOENCODERS[self.autoencoder]
        fetch = f'FlowMap.from_preset("{name}"{", path=FILE" if self.by_hand else ""})'
        return "\n".join(
            [
                f"# {self.title}",
                "",
                f"Weights of arXiv {self.paper}, from {self.address}, in the format "
                f"`{self.format}`. They predict the {self.predicts}.",
                "",
                f"- Load: `{fetch}`",
                f"- Published quality: {self.quality}. Not measured again by this package.",
                f"- Data: ImageNet-1k, latents of {codec.address}, normalised by "
                f"{codec.normalisation}; `keras-meanflow sample {name}` decodes them.",
                f"- Licence: {self.licence}.",
                f"- SHA-256: {self.sha256 or 'not known: the file is not checked'}.",
                f"- Network arguments that cannot be read from the file: {self.settings}.",
                "",
            ]
        )


_IMF = {
    "b": ("B", "3.39 (repository: 3.32)", {"omega": 8.0, "t_min": 0.4, "t_max": 0.65}),
    "m": ("M", "2.27 (repository: 2.26)", {"omega": 10.5, "t_min": 0.4, "t_max": 0.6}),
    "l": ("L", "1.86 (repository: 1.83)", {"omega": 10.5, "t_min": 0.4, "t_max": 0.6}),
    "xl": ("XL", "1.72 (repository: 1.72)", {"omega": 8.0, "t_min": 0.42, "t_max": 0.62}),
}


def _improved(size, fid, guidance):
    return Checkpoint(
        title=f"improved MeanFlow {size}/2, ImageNet 256x256",
        paper="2512.02012",
        address=f"hf://Lyy0725/iMF/iMF-{size}-2.pth",
        format="imf-torch",
        settings={"image_size": 32, "guidance": guidance},
        licence="MIT",
        quality=f"FID {fid} in one step, classes balanced, with this guidance",
        autoencoder="sd-vae-ft-mse-imf",
    )


def _dit(side, fid):
    return Checkpoint(
        title=f"DiT-XL/2, ImageNet {side}x{side}",
        paper="2212.09748",
        address=f"https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-{side}x{side}.pt",
        format="dit",
        settings={},
        licence="CC-BY-NC-4.0",
        quality=f"FID {fid} in 250 steps of DDPM with guidance 1.5",
        autoencoder="sd-vae-ft-ema",
        predicts="noise",
    )


CHECKPOINTS = {
    **{f"imf-{key}-2": _improved(*entry) for key, entry in _IMF.items()},
    "meanflow-b-4": Checkpoint(
        title="MeanFlow B/4, ImageNet 256x256, the official JAX weights",
        paper="2505.13447",
        address="https://drive.google.com/file/d/19MR1WLycyqc627gsOJF4yzR4ZkU8fvOu/view",
        format="meanflow",
        settings={"image_size": 32},
        licence="MIT",
        quality="FID 11.4 in one step",
        autoencoder="sd-vae-ft-mse",
        by_hand=True,
    ),
    "meanflow-b-4-torch": Checkpoint(
        title="MeanFlow B/4, ImageNet 256x256, the official weights as HaoyiZhu converted them",
        paper="2505.13447",
        address="https://drive.google.com/file/d/1jcsM02gvPWe0IkXkZhDmLk6bIucsJG-b/view",
        format="haoyi",
        settings={},
        licence="MIT",
        quality="FID 11.4 in one step in JAX, 13.39 reported with this file",
        autoencoder="sd-vae-ft-mse",
        by_hand=True,
    ),
    "dmf-xl-2": Checkpoint(
        title="Decoupled MeanFlow XL/2+, ImageNet 256x256",
        paper="2510.24474",
        address="hf://kyungmnlee/DMF/dmf_xl_2_256.pt",
        format="dmf",
        settings={"split_depth": 20},
        licence="none stated: ask the authors before use",
        quality="FID 2.16 in one step, 1.64 in two, 1.51 in four",
        autoencoder="sd-vae-ft-mse",
    ),
    "sit-xl-2": Checkpoint(
        title="SiT-XL/2, ImageNet 256x256",
        paper="2401.08740",
        address="https://www.dl.dropboxusercontent.com/scl/fi/as9oeomcbub47de5g4be0/"
        "SiT-XL-2-256.pt?rlkey=uxzxmpicu46coq3msb17b9ofa&dl=0",
        format="sit",
        settings={},
        licence="MIT",
        quality="FID 2.06 in 250 steps of an SDE with guidance 1.5",
        autoencoder="sd-vae-ft-ema",
        predicts="velocity",
    ),
    "dit-xl-2": _dit(256, 2.27),
    "dit-xl-2-512": _dit(512, 3.04),
}
