"""Published autoencoders: the codecs that decode the latents of published models."""

from keras_meanflow.codecs import IMF, SD_SCALE, SDVAE, Normalisation
from keras_meanflow.files.fetching import fetch
from keras_meanflow.parts.part import Configurable, part


@part
class PublishedCodec(Configurable):
    """Where a Stable Diffusion autoencoder is published, and how its latents are normalised.

    Args:
        address: of the file in diffusers' format, `hf://OWNER/REPOSITORY/FILE` or https.
        normalisation: of the latents that a model was trained on.
        sizes: arguments of `SDVAE`, or None for the published size.
        sha256: checksum of the file, where it is known.

    Example:
        >>> codec = AUTOENCODERS["sd-vae-ft-ema"].load()  # fetched once
    """

    address: str
    normalisation: Normalisation = SD_SCALE
    sizes: dict | None = None
    sha256: str | None = None

    def load(self) -> SDVAE:
        """The codec with its weights, which are fetched if they are not in the cache.

        Raises:
            ValueError: for an address that cannot be read, or weights of another size.
        """
        path = fetch(self.address, self.sha256)
        return SDVAE.load(path, normalisation=self.normalisation, **(self.sizes or {}))


def _stability_ai(name, normalisation=SD_SCALE):
    address = f"hf://stabilityai/{name}/diffusion_pytorch_model.safetensors"
    return PublishedCodec(address=address, normalisation=normalisation)


AUTOENCODERS = {
    "sd-vae-ft-mse": _stability_ai("sd-vae-ft-mse"),
    "sd-vae-ft-ema": _stability_ai("sd-vae-ft-ema"),
    "sd-vae-ft-mse-imf": _stability_ai("sd-vae-ft-mse", IMF),
}
