"""`convert`, `card` and `sample` of presets on the command line."""

import numpy as np
import pytest
from commands import call
from hub import SIZES, filled
from keras import ops

from keras_meanflow import DiT, FlowMap
from keras_meanflow.flow_map.presets import codec_of
from keras_meanflow.formats.autoencoders import AUTOENCODERS
from keras_meanflow.formats.conversion import load_network, save_network
from keras_meanflow.networks import MLP, NoisePrediction


def test_convert_works_in_both_directions_and_makes_starts_of_flow_maps(tmp_path):
    network = filled(DiT(**SIZES, num_classes=5, time_inputs=("1-t",), unused_channels=3))
    source, ours, back = (tmp_path / name for name in ("sit.pt", "ours.safetensors", "back.pt"))
    save_network(network, source, "sit")
    output, code = call("convert", source, ours, "--from", "sit", "--set", "heads=3")
    assert code == 0 and f"DiT of {network.count_params():,} parameters: {ours}" in output
    assert call("convert", ours, back, "--to", "sit")[1] == 0
    assert back.read_bytes() == source.read_bytes()
    assert call("convert", ours, tmp_path / "start", "--interval")[1] == 0
    start = FlowMap.from_preset(tmp_path / "start").network
    assert start.time_inputs == ("1-t", "t-r")
    np.testing.assert_array_equal(ops.convert_to_numpy(start.times[1].out.kernel), 0.0)
    assert call("convert", ours, tmp_path / "split.safetensors", "--decouple", "1")[1] == 0
    assert load_network(tmp_path / "split.safetensors").split_depth == 1


@pytest.mark.any_backend
def test_a_diffusion_model_becomes_a_preset_to_fine_tune_with_the_same_output(tmp_path):
    noise = DiT(**SIZES, num_classes=5, time_inputs=("t",), time_scale=1000.0, unused_channels=3)
    flow = NoisePrediction(filled(noise))
    save_network(flow, tmp_path / "dit.pt", "dit")
    arguments = ("--from", "dit", "--interval", "--set", "heads=3", "--codec", "sd-vae-ft-ema")
    assert call("convert", tmp_path / "dit.pt", tmp_path / "start", *arguments)[1] == 0
    assert codec_of(tmp_path / "start") == AUTOENCODERS["sd-vae-ft-ema"]
    start = FlowMap.from_preset(tmp_path / "start")
    z, t = np.ones((3, 8, 8, 3), "float32"), np.array([0.0, 0.4, 1.0], "float32")
    labels = np.array([0, 5, 2], "int32")
    found, expected = (ops.convert_to_numpy(n(z, t, t, labels)) for n in (start.network, flow))
    np.testing.assert_array_equal(found, expected)
    start.compile("sgd")
    start.fit(z, labels, batch_size=3, verbose=0)  # with the JVP of the MeanFlow identity
    assert int(start.step.value) == 1


def test_convert_and_card_say_in_one_line_what_is_wrong(tmp_path):
    save_network(DiT(**SIZES, num_classes=5), tmp_path / "a.safetensors")
    for arguments, message in (
        (("convert", tmp_path / "a.safetensors", tmp_path / "b.pt", "--to", "sit"), "time_inputs"),
        (("convert", tmp_path / "a.safetensors", tmp_path / "b", "--to", "sit"), "an extension"),
        (("convert", tmp_path / "none.pt", tmp_path / "b.pt"), "none.pt"),
        (("convert", "x", "y", "--set", "heads"), "KEY=VALUE"),
        (
            ("convert", tmp_path / "a.safetensors", tmp_path / "b", "--codec", "vae"),
            "--codec is one",
        ),
        (
            ("convert", tmp_path / "a.safetensors", tmp_path / "b.npz", "--codec", "sd-vae-ft-ema"),
            "without extension",
        ),
        (("card", "nothing"), "one of imf-b-2"),
    ):
        output, code = call(*arguments)
        assert code == 1 and message in output.splitlines()[-1], output
    assert "Licence: MIT" in call("card", "imf-b-2")[0]


@pytest.mark.any_backend
def test_sample_draws_from_a_preset(hub):  # noqa: F811
    flow_map = FlowMap(filled(MLP(data_size=2, width=8)))
    flow_map.save_to_preset(hub / "me" / "points" / "resolve" / "main")
    out = hub / "points.png"
    arguments = ("-n", "4", "--npz", "--out", out, "--quiet")
    output, code = call("sample", "hf://me/points", *arguments)
    assert code == 0, output
    with np.load(out.with_suffix(".npz")) as stored:
        np.testing.assert_array_equal(stored["x"], flow_map.generate(4))
