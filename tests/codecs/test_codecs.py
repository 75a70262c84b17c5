"""Codecs compute what diffusers' and madebyollin's autoencoders do, and refuse other weights.

`golden/codec_autoencoders.py` wrote the expected numbers.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from golden.codec_autoencoders import SD, pixels, seeded_weights
from PIL import Image

from keras_meanflow.codecs import IMF, SD_SCALE, SDVAE, TAEF2, Identity, Normalisation
from keras_meanflow.files.torch_weights import load_torch

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "codec_autoencoders.npz")
SHAPES = json.loads(str(GOLDEN["shapes"]))
PSNR = json.loads((FOLDER / "codec_taef2_psnr.json").read_text())
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
SAFETENSORS = "diffusion_pytorch_model.safetensors"


def write_safetensors(path, state):
    """The file format: a length, a JSON header, the bytes."""
    header, start = {}, 0
    for name, value in state.items():
        end = start + value.nbytes
        header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    data = b"".join(value.tobytes() for value in state.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def sd_state():
    return seeded_weights(SHAPES["sd_vae"])


@pytest.fixture(scope="module")
def sd_vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd-vae")
    write_safetensors(folder / SAFETENSORS, sd_state())
    return SDVAE.load(folder, **SD)


def test_sd_vae_has_diffusers_moments_and_reconstruction(sd_vae):
    raw = sd_vae.encode_pixels(pixels())
    assert raw.shape == (2, 2, 12, 8, 4)
    np.testing.assert_allclose(raw[:, 0], GOLDEN["sd_vae_mean"], atol=1e-4)
    np.testing.assert_allclose(raw[:, 1], GOLDEN["sd_vae_std"], atol=1e-4)
    z = sd_vae.encode_latents(raw)
    np.testing.assert_allclose(z, 0.18215 * GOLDEN["sd_vae_mean"], atol=1e-4)
    np.testing.assert_allclose(sd_vae.decode(z), GOLDEN["sd_vae_decoded"], atol=1e-4)


def test_old_and_new_names_of_the_attention_layers_load_the_same_weights(sd_vae, tmp_path):
    state = {}
    for name, value in sd_state().items():
        for new, old in OLD.items():
            name = name.replace(f".{new}.", f".{old}.")
        state[name] = value
    assert sum("proj_attn" in name for name in state) == 4
    write_safetensors(tmp_path / "old.safetensors", state)
    assert SDVAE.load(tmp_path / "old.safetensors", **SD).fingerprint() == sd_vae.fingerprint()


def test_the_full_sd_vae_has_the_published_number_of_weights():
    shapes = [v.shape for v in SDVAE().variables]
    assert (len(shapes), sum(map(np.prod, shapes))) == (248, 83_653_863)


def test_missing_unknown_and_misshapen_weights_are_named(tmp_path):
    state = sd_state()
    state["extra.weight"] = state.pop("quant_conv.bias")
    write_safetensors(tmp_path / "bad.safetensors", state)
    with pytest.raises(ValueError, match="Missing: quant_conv.bias. Unknown: extra.weight"):
        SDVAE.load(tmp_path / "bad.safetensors", **SD)
    write_safetensors(tmp_path / "good.safetensors", sd_state())
    with pytest.raises(ValueError, match="another size.*shape.*Received"):
        SDVAE.load(tmp_path / "good.safetensors", widths=(32, 64), groups=8)
    with pytest.raises(ValueError, match=f"folder with {SAFETENSORS}"):
        SDVAE.load(tmp_path)
    with pytest.raises(ValueError, match="taef2_encoder.pth"):
        TAEF2.load(tmp_path)


def test_taef2_has_the_original_latents_and_reconstruction():
    codec = TAEF2()
    load_torch(codec.encoder, seeded_weights(SHAPES["taef2"]["encoder"]), "encoder")
    load_torch(codec.decoder, seeded_weights(SHAPES["taef2"]["decoder"]), "decoder")
    z = codec.encode_latents(codec.encode_pixels(pixels()))
    assert z.shape == (2, 3, 2, 32)
    scale = np.abs(GOLDEN["taef2_latents"]).max()
    np.testing.assert_allclose(z, GOLDEN["taef2_latents"], atol=1e-5 * scale)
    z = GOLDEN["taef2_latents"]
    scale = np.abs(GOLDEN["taef2_decoded"]).max()
    np.testing.assert_allclose(codec.decode(z), GOLDEN["taef2_decoded"], atol=1e-5 * scale)


def psnr(codec, paths):
    """The PSNR of each reconstruction in dB, for pixels in [0, 1]."""
    x = np.stack([np.asarray(Image.open(path).convert("RGB"), "float32") for path in paths])
    raw = codec.encode_pixels(x / 127.5 - 1)
    y = np.clip(codec.decode(codec.encode_latents(raw)) / 2 + 0.5, 0, 1)
    return -10 * np.log10(np.square(x / 255 - y).mean(axis=(1, 2, 3)))


@pytest.mark.long
def test_trained_taef2_reconstructs_all_real_images_as_the_original_does(shared_data):
    codec = TAEF2.load(shared_data / "taef2")
    paths = sorted((shared_data / "imagenet_sample_256").glob("*.jpg"))
    found = psnr(codec, paths)
    np.testing.assert_allclose(found, [PSNR[path.name] for path in paths], atol=1e-3)
    assert abs(found.mean() - 29.1) < 0.1 and abs(np.median(found) - 28.6) < 0.1


def test_encoded_rows_do_not_depend_on_the_batch_size():
    x = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 3)).astype("float32")
    whole = Identity().encode_pixels(x)
    np.testing.assert_array_equal(whole[:, 0], x)
    np.testing.assert_array_equal(Identity().encode_pixels(x, batch_size=2), whole)


def test_latents_are_sampled_by_mean_std_and_noise(sd_vae):
    raw, noise = np.random.default_rng(0).normal(size=(2, 2, 3, 3, 4)), np.full((2, 3, 3, 4), 2.0)
    expected = 0.18215 * (raw[:, 0] + 2 * raw[:, 1])
    np.testing.assert_allclose(sd_vae.encode_latents(raw, noise), expected, atol=1e-6)


@pytest.mark.parametrize("normalisation", [SD_SCALE, IMF, Normalisation()])
def test_a_normalisation_has_its_inverse(normalisation):
    raw = np.random.default_rng(0).normal(0, 5, (2, 3, 3, 4)).astype("float32")
    np.testing.assert_allclose(normalisation.inverse(normalisation(raw)), raw, atol=1e-5)


def test_the_normalisation_of_imf_is_the_one_of_its_released_code():
    raw = np.full((1, 1, 1, 4), 2.0, "float32")
    expected = (2 - np.array([0.86488, -0.27787343, 0.21616915, 0.3738409])) / np.array(
        [4.85503674, 5.31922414, 3.93725398, 3.9870003]
    )
    np.testing.assert_allclose(IMF(raw)[0, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("numbers", [{"std": (0.0,)}, {"mean": (np.nan,)}, {"std": ()}])
def test_a_normalisation_refuses_numbers_that_have_no_inverse(numbers):
    with pytest.raises(ValueError, match="mean and std must|mean must be finite"):
        Normalisation(**numbers)
    with pytest.raises(ValueError, match="one for each channel"):
        Normalisation(mean=(1.0, 2.0), std=(1.0, 2.0, 3.0))


def small_sd_vae():
    return SDVAE((4,), blocks=1, groups=2, normalisation=IMF)


@pytest.mark.parametrize("make", [small_sd_vae, lambda: Identity(1)])
def test_a_codec_saves_and_loads_with_its_normalisation(make, tmp_path):
    codec = make()
    codec.save(tmp_path / "codec.keras")
    loaded = keras.saving.load_model(tmp_path / "codec.keras")
    assert loaded.describe() == codec.describe()
    assert loaded.normalisation == codec.normalisation


def test_pixels_and_latents_of_another_codec_are_refused(sd_vae):
    with pytest.raises(ValueError, match="multiples of 2. Received"):
        sd_vae.encode_pixels(np.zeros((1, 9, 8, 3)))
    with pytest.raises(ValueError, match="width, 3"):
        sd_vae.encode_pixels(np.zeros((1, 8, 8, 1)))
    with pytest.raises(ValueError, match="another codec"):
        sd_vae.decode(np.zeros((1, 8, 8, 32)))
