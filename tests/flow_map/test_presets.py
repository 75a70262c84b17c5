"""Presets: what is saved comes back, from folders, addresses and names; the rest is refused."""

import json

import numpy as np
import pytest
from golden import codec_autoencoders as codec_weights
from golden import weights_formats as golden
from hub import SIZES, filled
from keras import ops

from keras_meanflow import DiT, FlowMap
from keras_meanflow.codecs import IMF, SDVAE, Identity, Normalisation
from keras_meanflow.files.fetching import fetch, split_address
from keras_meanflow.files.writers import write_weights
from keras_meanflow.flow_map.places import place_of
from keras_meanflow.flow_map.presets import codec_of, load_codec, model_card
from keras_meanflow.formats import checkpoints
from keras_meanflow.formats.autoencoders import AUTOENCODERS, PublishedCodec
from keras_meanflow.formats.conversion import FORMATS, save_network
from keras_meanflow.networks import MLP, NoisePrediction
from keras_meanflow.objectives import FlowMatching, MeanFlow
from keras_meanflow.parts import Uniform


def small(objective=None):
    """A FlowMap whose average is not its raw weights."""
    flow_map = FlowMap(filled(MLP(data_size=2, width=8, num_classes=3)), objective, averages=(0.9,))
    filled(flow_map.network, seed=1)
    return flow_map


def arrays(variables):
    return [ops.convert_to_numpy(v) for v in variables]


def refused(message):
    return pytest.raises(ValueError, match=message)


def test_a_preset_has_the_average_and_the_objective_and_comes_back_from_folder_and_hub(hub):
    objective = MeanFlow(times=Uniform(), label_dropout=0.2)
    flow_map = small(objective)
    served = hub / "me" / "points" / "resolve" / "main"
    flow_map.save_to_preset(served, title="Points", licence="mit", text="Trained on points.")
    for preset in (served, "hf://me/points"):
        loaded = FlowMap.from_preset(preset)
        for found, expected in zip(
            arrays(loaded.network.trainable_variables),
            arrays(flow_map.weights_of(0.9)),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)
        for decay in loaded.averages:
            for found, expected in zip(
                arrays(loaded.weights_of(decay)), arrays(flow_map.weights_of(0.9)), strict=True
            ):
                np.testing.assert_array_equal(found, expected)
        assert loaded.get_config() == flow_map.get_config()
    card = (served / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n") and "# Points" in card
    assert "Trained on points." in card and "trained with MeanFlow" in card
    other = FlowMap.from_preset(served, objective=FlowMatching())
    assert isinstance(other.objective, FlowMatching)
    (served / "model.safetensors").unlink()
    FlowMap.from_preset("hf://me/points")  # from the cache


@pytest.mark.any_backend
def test_a_published_file_is_loaded_from_an_address_and_under_its_name(hub, tmp_path, monkeypatch):
    network = filled(DiT(**SIZES, num_classes=5, time_inputs=("1-t",)))
    path = hub / "them" / "nets" / "resolve" / "v2" / "a" / "sit.pt"
    save_network(network, path, "sit")
    address = "hf://them/nets@v2/a/sit.pt"
    known = checkpoints.Checkpoint(
        title="A small SiT",
        paper="2401.08740",
        address=address,
        format="sit",
        settings={"heads": 3},
        licence="MIT",
        quality="FID 300",
        autoencoder="sd-vae-ft-mse",
        predicts="velocity",
    )
    unnamed = FlowMap.from_preset(address, format="sit", heads=3)
    assert isinstance(unnamed.objective, MeanFlow)
    monkeypatch.setitem(checkpoints.CHECKPOINTS, "small", known)
    for loaded in (
        FlowMap.from_preset("small"),
        FlowMap.from_preset(address),
        FlowMap.from_preset("small", path=path),
    ):
        assert isinstance(loaded.objective, FlowMatching)
        np.testing.assert_array_equal(
            *(ops.convert_to_numpy(n.out.kernel) for n in (loaded.network, network))
        )
    monkeypatch.setitem(
        checkpoints.CHECKPOINTS, "small", known.__class__(**{**vars(known), "sha256": "0" * 64})
    )
    with refused("has SHA-256"):
        FlowMap.from_preset("small")


def test_what_cannot_be_fetched_or_is_unknown_is_refused(hub, tmp_path):
    with refused("There is no model 'imf-b-3'. Did you mean imf-b-2"):
        FlowMap.from_preset("imf-b-3")
    with refused("There is no model 'imf-b-3'. Did you mean imf-b-2"):
        model_card("imf-b-3")
    with refused("A browser has to fetch meanflow-b-4 from https://drive.*path=FILE"):
        FlowMap.from_preset("meanflow-b-4")
    with refused("nobody/here/resolve/main/a.pt cannot be read: HTTP Error 404"):
        fetch("hf://nobody/here/a.pt")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    for address in ("hf://nobody", "hf://a/b/../c"):
        with refused("An address is hf://OWNER/REPOSITORY"):
            split_address(address)
    with refused("begins with hf:// or https://. Received: 'file:///etc"):
        fetch("file:///etc/hostname")
    kinds = {"sit-xl-2": "checkpoint", "hf://a/b": "preset", "hf://a/b/c.pt": "weights"}
    assert {name: place_of(name).kind for name in kinds} == kinds


@pytest.mark.any_backend
def test_a_named_model_of_noise_is_a_flow_model_like_any_other(tmp_path):
    noise = DiT(**SIZES, num_classes=5, time_inputs=("t",), time_scale=1000.0)
    save_network(NoisePrediction(filled(noise)), tmp_path / "dit.pt", "dit")
    flow_map = FlowMap.from_preset("dit-xl-2", path=tmp_path / "dit.pt", heads=3)
    assert isinstance(flow_map.objective, FlowMatching)
    z, t = np.ones((1, 8, 8, 3), "float32"), np.array([0.4], "float32")
    labels = np.array([3], "int32")
    np.testing.assert_array_equal(
        *(
            ops.convert_to_numpy(n(z, t, t, labels))
            for n in (flow_map.network, NoisePrediction(noise))
        )
    )


def latent_map():
    """A FlowMap of latents 4x4x4."""
    sizes = {"image_size": 4, "channels": 4, "patch_size": 2, "width": 8, "depth": 1, "heads": 2}
    return FlowMap(filled(DiT(**sizes)), averages=())


def test_a_preset_of_latents_carries_its_codec(hub):
    codec = Identity(4, normalisation=Normalisation(mean=(0.1,), std=(0.5,)))
    served = hub / "me" / "latents" / "resolve" / "main"
    latent_map().save_to_preset(served, codec=codec)
    for preset in (served, "hf://me/latents"):
        FlowMap.from_preset(preset)
        assert load_codec(preset).describe() == codec.describe()
    with refused("Identity has latents of 3 channels. Received latents of .4, 4, 4"):
        latent_map().save_to_preset(served, codec=Identity(3))
    (served / "codec.keras").unlink()
    with refused("must hold codec.keras, the codec of its latents. It is missing"):
        load_codec(served)
    small().save_to_preset(hub / "points")
    assert load_codec(hub / "points") is None


def test_a_codec_that_is_published_itself_is_kept_by_its_address(hub, tmp_path, monkeypatch):
    published = hub / "them" / "vae" / "resolve" / "main" / "vae.safetensors"
    published.parent.mkdir(parents=True)
    state = codec_weights.seeded_weights(json.loads(str(codec_golden("shapes")))["sd_vae"])
    write_weights(published, state)
    codec = PublishedCodec(
        address="hf://them/vae/vae.safetensors", normalisation=IMF, sizes=codec_weights.SD
    )
    latent_map().save_to_preset(tmp_path / "preset", codec=codec)
    assert not (tmp_path / "preset" / "codec.keras").exists()
    assert codec_of(tmp_path / "preset").address == codec.address
    loaded = load_codec(tmp_path / "preset")
    assert loaded.normalisation == IMF
    assert loaded.fingerprint() == SDVAE.load(published, **codec_weights.SD).fingerprint()
    monkeypatch.setitem(AUTOENCODERS, "sd-vae-ft-ema", codec)
    assert load_codec("dit-xl-2").fingerprint() == loaded.fingerprint()


def codec_golden(name):
    with np.load(golden.golden_path("dit").with_name("codec_autoencoders.npz")) as stored:
        return stored[name]


def test_a_preset_with_another_networks_weights_is_refused(tmp_path):
    small().save_to_preset(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["flow_map"]["network"]["config"]["num_classes"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    with refused("config.json has SHA-256"):
        FlowMap.from_preset(tmp_path)
    (tmp_path / "README.md").unlink()
    with refused(r"model.safetensors cannot be loaded.*labels.embeddings is \(4, 8\).*is \(5, 8\)"):
        FlowMap.from_preset(tmp_path)
    for text, message in (("{", "cannot be read. Expecting"), ('{"a": 1}', r"Received: \['a'\]")):
        (tmp_path / "config.json").write_text(text)
        with refused(f"config.json.*{message}"):
            FlowMap.from_preset(tmp_path)


@pytest.mark.parametrize("name", checkpoints.CHECKPOINTS)
def test_every_known_checkpoint_has_a_format_and_a_card_with_its_licence(name):
    known = checkpoints.CHECKPOINTS[name]
    assert known.format in FORMATS
    card = model_card(name)
    assert known.licence in card and known.quality in card and known.address in card
    assert f'FlowMap.from_preset("{name}"' in card


@pytest.mark.any_backend
def test_omega_of_a_named_improved_mean_flow_is_the_published_one(tmp_path):
    with np.load(golden.golden_path("imf-torch")) as stored:
        names = str(stored["names"]).split("\n")
        shapes = [tuple(map(int, line.split())) for line in str(stored["shapes"]).split("\n")]
    write_weights(tmp_path / "imf.pth", golden.random_state(names, shapes, {}))
    flow_map = FlowMap.from_preset("imf-b-2", path=tmp_path / "imf.pth", image_size=8)
    assert flow_map.network.guidance == {"omega": 8.0, "t_min": 0.4, "t_max": 0.65}
