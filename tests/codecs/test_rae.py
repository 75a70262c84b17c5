"""The representation autoencoder against the authors' code, and its training on small images."""

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from golden import rae as golden
from golden.codec_autoencoders import seeded_weights
from keras import layers, ops

from keras_meanflow import cli
from keras_meanflow.codecs.rae import RAE, dinov2_tokens
from keras_meanflow.codecs.rae_training import fit_decoder, fit_encoder, small_vit
from keras_meanflow.data import ArraySource, LatentStore, load_digits
from keras_meanflow.features.dinov2 import dinov2
from keras_meanflow.features.resize import TorchBicubic
from keras_meanflow.files.writers import write_weights

DECODER = (golden.WIDTH, golden.DEPTH, golden.HEADS, golden.HIDDEN)


def encoder():
    """The golden file's convolution, as a network from images to tokens."""
    images = keras.Input((golden.INPUT, golden.INPUT, 3))
    conv = layers.Conv2D(golden.CHANNELS, golden.PATCH, golden.PATCH)
    network = keras.Model(images, layers.Reshape((-1, golden.CHANNELS))(conv(images)))
    kernel = seeded_weights(golden.ENCODER)
    conv.set_weights([kernel["weight"].transpose(2, 3, 1, 0), kernel["bias"]])
    return network


def codec():
    return RAE(encoder(), image_size=golden.IMAGE, input_size=golden.INPUT, decoder=DECODER)


def stored(name):
    with np.load(golden.PATH) as arrays:
        return arrays[name]


def test_latents_and_pixels_equal_the_authors_code(tmp_path):
    write_weights(tmp_path / "model.pt", golden.decoder_weights())
    write_weights(tmp_path / "stat.pt", golden.statistics())
    made = codec()
    made.load_decoder(tmp_path / "model.pt")
    made.load_statistics(tmp_path / "stat.pt")
    raw = made.encode_pixels(golden.pixels())
    assert raw.shape == (2, 1, golden.GRID, golden.GRID, golden.CHANNELS)
    np.testing.assert_allclose(raw[:, 0], stored("latents"), atol=1e-4)
    np.testing.assert_allclose(made.decode(stored("latents")), stored("decoded"), atol=1e-4)
    made.save(tmp_path / "codec.keras")
    loaded = keras.saving.load_model(tmp_path / "codec.keras", compile=False)
    assert loaded.describe() == made.describe()
    np.testing.assert_array_equal(loaded.encode_pixels(golden.pixels()), raw)


def test_weights_and_statistics_of_another_size_are_refused(tmp_path):
    weights, made = golden.decoder_weights(), codec()
    for name in ("trainable_cls_token", "decoder_layers.1.attention.attention.key.bias"):
        write_weights(tmp_path / "model.pt", {k: v for k, v in weights.items() if k != name})
        with pytest.raises(ValueError, match=f"Missing: {name}"):
            made.load_decoder(tmp_path / "model.pt")
    weights["decoder_pos_embed"] = weights["decoder_pos_embed"][:, :10]
    write_weights(tmp_path / "model.pt", weights)
    with pytest.raises(ValueError, match=r"positions are \(1, 10, 24\). The codec's are \(1, 17"):
        made.load_decoder(tmp_path / "model.pt")
    write_weights(tmp_path / "stat.pt", {k: v[:, :2] for k, v in golden.statistics().items()})
    with pytest.raises(ValueError, match=r"\(4, 4, 8\). Received: \(2, 4, 8\)"):
        made.load_statistics(tmp_path / "stat.pt")
    with pytest.raises(ValueError, match="square grid that divides.*16 tokens, image size 18"):
        RAE(encoder(), image_size=18, input_size=golden.INPUT, decoder=DECODER)


def test_measured_statistics_give_every_position_mean_0_and_std_1():
    x = np.random.default_rng(0).uniform(-1, 1, (50, 16, 16, 3)).astype("float32")
    made = codec()
    made.fit_statistics(ArraySource(x), batch_size=16)
    z = made.encode_pixels(x)[:, 0]
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(z.std(axis=0), 1.0, atol=1e-3)


def test_tokens_of_dinov2_are_its_normed_tokens_without_scale_and_centre():
    network = dinov2((12, 1, 2), image_size=28)
    network.get_layer("norm").set_weights([np.full(12, 3.0), np.full(12, 5.0)])
    made = RAE(dinov2_tokens(network), image_size=8, input_size=28, decoder=(8, 1, 2, 8))
    x = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype("float32")
    tokens = ops.convert_to_numpy(made.encoder.tokens(ops.convert_to_tensor(x)))
    mean, deviation = made.encoder.pixels
    resized = TorchBicubic(28)(ops.convert_to_tensor(0.5 * (x + 1.0)))
    normed = keras.Model(network.input, network.get_layer("norm").output[:, 1:])
    scaled = ops.convert_to_numpy(normed((ops.convert_to_numpy(resized) - mean) / deviation))
    np.testing.assert_allclose(tokens.reshape(2, 4, 12), (scaled - 5.0) / 3.0, atol=1e-4)


@pytest.mark.any_backend
def test_an_encoder_learns_classes_and_a_decoder_the_pixels():
    source = ArraySource(*load_digits("train"))
    sizes = {"image_size": 8, "channels": 1, "patch_size": 4, "width": 16, "depth": 1, "heads": 2}
    tokens = small_vit(**sizes)
    fit_encoder(tokens, source, steps=5)
    half = {"mean": (0.5,), "deviation": (0.5,)}
    made = RAE(tokens, image_size=8, input_size=8, decoder=(16, 1, 2, 16), **half)
    made.fit_statistics(source)
    x = source.take(np.arange(64))[0]

    def error(codec):
        return np.abs(codec.decode(codec.encode_pixels(x)[:, 0]) - x).mean()

    before = error(made)
    fitted = fit_decoder(made, source, steps=30, learning_rate=5e-3)
    assert error(fitted) < 0.8 * before
    with pytest.raises(ValueError, match="trained on labels, and this data has none"):
        fit_encoder(tokens, ArraySource(x), steps=1)


@pytest.mark.any_backend
def test_the_command_makes_a_codec_that_encodes_a_store(tmp_path):
    def call(*arguments):
        done = CliRunner().invoke(cli.main, [str(a) for a in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output.splitlines()[-1], done.exit_code

    out = tmp_path / "rae.keras"
    small = ("--width", 8, "--patch-size", 4, "--decoder", "8,1,2,8", "-q")
    steps = ("--encoder-steps", 1, "--decoder-steps", 1)
    line, code = call("rae", "digits:train", out, *small, *steps)
    assert code == 0 and "latents of 2x2x8, reconstructed with" in line
    store = ("encode", "digits:test", tmp_path / "store", "--codec", "rae", "-q", "--weights")
    assert call(*store, out)[1] == 0
    assert LatentStore(tmp_path / "store").shape == (2, 2, 8)
    for arguments, message in (
        (("rae", "digits", "a.pt"), "OUT must end in .keras"),
        (("rae", "digits", out, *steps, "--decoder", "ViTS"), "--decoder is ViTB"),
        ((*store, tmp_path / "store"), "needs the .keras file"),
    ):
        line, code = call(*arguments)
        assert code == 1 and message in line, line
