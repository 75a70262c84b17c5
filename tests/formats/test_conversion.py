"""Converted networks against the authors' code on the same weights, and the conversion back.

`golden/weights_formats.py` ran the authors' code and wrote the expected outputs.
"""

import numpy as np
import pytest
from golden import weights_formats as golden
from keras import ops

from keras_meanflow.backend import BACKEND, compiled, jvp
from keras_meanflow.files.readers import read_weights
from keras_meanflow.files.writers import write_weights
from keras_meanflow.formats.choosing import flat, one_of, weights_of
from keras_meanflow.formats.conversion import FORMATS, load_network, save_network
from keras_meanflow.formats.names import named_weights
from keras_meanflow.networks import MLP, DiT, InContextDiT, NoisePrediction, UNet

# The arguments that no tensor shows.
SETTINGS = {name: {"heads": golden.SIZE["heads"]} for name in FORMATS}
SETTINGS |= {"imf": {}, "imf-torch": {}}
for _name in ("diffusers", "meanflow", "imf", "imf-torch"):
    SETTINGS[_name]["image_size"] = golden.SIZE["image"]
UNET_SETTINGS = {name: golden.UNET[name] for name in ("multipliers", "blocks", "attention_sizes")}
SETTINGS |= {"ncsnpp": {**UNET_SETTINGS, "image_size": (8, 16)}, "song": UNET_SETTINGS}
SETTINGS["dmf"]["split_depth"] = golden.SPLIT_DEPTH
SETTINGS |= {name: {"heads": golden.BODY_AND_HEAD["heads"]} for name in ("rae", "mf-rae")}
CONTAINER = {"meanflow": ".msgpack", "imf": ".msgpack", "diffusers": ".safetensors"}
# Both codes round the arguments of sinusoids, 1000 t or 16 turns, by a relative 1e-7.
TOLERANCE = {"dit": 5e-5, "diffusers": 5e-5, "ncsnpp": 5e-5}
AMBIGUOUS = "dit", "sit"  # the same tensors: nothing in a file tells which


def published(name):
    """The random tensors of a golden file, and the outputs of the authors' code with them."""
    with np.load(golden.golden_path(name)) as stored:
        names = str(stored["names"]).split("\n")
        shapes = [tuple(map(int, line.split())) for line in str(stored["shapes"]).split("\n")]
        fixed = {k.removeprefix("fixed/"): stored[k] for k in stored if k.startswith("fixed/")}
        outputs = {k.removeprefix("out/"): stored[k] for k in stored if k.startswith("out/")}
    return golden.random_state(names, shapes, fixed), outputs


def published_file(name, folder):
    """These tensors in a file as it would be published, and the outputs."""
    state, outputs = published(name)
    path = folder / f"published{CONTAINER.get(name, '.pt')}"
    write_weights(path, state, wrapping=("params", "net") if "." not in next(iter(state)) else ())
    return path, state, outputs


def tree(path):
    """The tensors of a written file, unwrapped."""
    return flat(weights_of(read_weights(path)))


def outputs_of(network):
    """The outputs for the golden inputs: noise, if the authors' network predicts noise."""
    if isinstance(network, UNet):
        return unet_outputs(network)
    z, r, t, labels, guidance = golden.inputs()
    if isinstance(network, NoisePrediction):
        network = network.network
    if not isinstance(network, InContextDiT):
        return {"u": ops.convert_to_numpy(network(z, r, t, labels))}
    u, v = network.u_and_v(z, r, t, {"labels": labels, **guidance})
    return {"u": ops.convert_to_numpy(u), "v": ops.convert_to_numpy(v)}


def unet_outputs(network):
    """u, and its derivative along (v, 0, 1)."""
    *arrays, condition = golden.unet_inputs("ncsnpp" if network.context_channels else "song")
    z, r, t, v = map(ops.convert_to_tensor, arrays)
    tangents = v, ops.zeros_like(r), ops.ones_like(t)

    def both(*primals):
        return jvp(lambda z, r, t: network(z, r, t, condition), primals, tangents)

    found = compiled(both, [], jit=BACKEND == "jax")([], z, r, t)
    return dict(zip(("u", "du_dt"), map(ops.convert_to_numpy, found), strict=True))


def refused(message):
    return pytest.raises(ValueError, match=message)


@pytest.mark.any_backend
@pytest.mark.parametrize("name", FORMATS)
def test_a_converted_network_computes_what_the_authors_code_does_and_converts_back(name, tmp_path):
    path, state, outputs = published_file(name, tmp_path)
    network = load_network(path, name, **SETTINGS[name])
    found = outputs_of(network)
    assert found.keys() == outputs.keys()
    for key, expected in outputs.items():
        error = np.abs(found[key] - expected).max() / np.abs(expected).max()
        assert error < TOLERANCE.get(name, 5e-6)
    back = tmp_path / f"back{path.suffix}"
    save_network(network, back, name)
    training_only = ("projectors.", "logvar_linear.")
    kept = {k: v for k, v in state.items() if not k.startswith(training_only)}
    written = tree(back)
    assert written.keys() == kept.keys()
    for key, expected in kept.items():
        assert written[key].dtype == expected.dtype and written[key].shape == expected.shape
        if "feat_rope" in key:  # a table of cosines, which libraries round differently
            np.testing.assert_allclose(written[key], expected, atol=2e-7)
        else:
            assert written[key].tobytes() == np.ascontiguousarray(expected).tobytes(), key


@pytest.mark.parametrize(
    ("name", "depth", "tensors"),
    [  # counted in the authors' models: XL/2, B/4, B/4, XL/2
        ("sit", 28, 292),
        ("zhuyu", 12, 136),
        ("meanflow", 12, 135),
        ("meanflow", 28, 295),
        ("imf", {"trunk": 4, "u_blocks": 8, "v_blocks": 8}, 290),
        ("imf-torch", {"trunk": 4, "u_blocks": 8, "v_blocks": 8}, 290),
    ],
)
def test_published_sizes_have_as_many_tensors_as_the_authors_models(name, depth, tensors):
    names = {theirs for row in FORMATS[name].table(depth) for theirs in row.theirs}
    assert len(names) + getattr(FORMATS[name], "stores_positions", False) == tensors


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in (*AMBIGUOUS, "dmf")])
def test_a_format_is_recognised_by_the_names_of_its_tensors(name):
    state, _ = published(name)
    assert [f.name for f in FORMATS.values() if f.recognises(state)] == [name]


def test_a_file_that_fits_several_formats_needs_the_name_of_one(tmp_path):
    path, _, _ = published_file("sit", tmp_path)
    with refused(
        "Several formats have.*say which format it is. dit:.*sit:.*whose time 1 is data.*dmf"
    ):
        load_network(path, heads=3)
    with refused("No format has.*'a'.*say which"):
        load_network(_file(tmp_path, {"a": np.zeros(3, "f4")}))
    with refused("Formats are dit, sit.*Received: 'hit'"):
        load_network(path, "hit")


def _file(folder, state, name="made.safetensors"):
    write_weights(folder / name, state)
    return folder / name


@pytest.mark.parametrize("name", ["sit", "diffusers", "meanflow", "imf-torch"])
def test_missing_and_unmatched_tensors_are_all_named(name, tmp_path):
    state, _ = published(name)
    separator = "/" if name == "meanflow" else "."
    gone = [n for n in state if f"{separator}qkv{separator}" in n or "q_proj" in n or "to_q" in n]
    assert gone
    for key in gone:
        state[key.replace("q", "p", 1)] = state.pop(key)
    with refused("Missing: .*Unmatched: ") as raised:
        load_network(_file(tmp_path, state), name, **SETTINGS[name])
    for key in gone:
        assert key in str(raised.value) and key.replace("q", "p", 1) in str(raised.value)


def test_a_file_without_the_tensors_is_refused(tmp_path):
    state, _ = published("sit")
    nested = _file(tmp_path, {f"inner.{key}": value for key, value in state.items()})
    with refused("x_embedder.proj.weight.*Unmatched: inner.blocks.0"):
        load_network(nested, "sit", heads=3)
    with refused("Missing: "):
        load_network(_file(tmp_path, {}), "sit", heads=3)


def test_a_checkpoint_for_another_size_is_refused_with_both_sizes(tmp_path):
    path, state, _ = published_file("zhuyu", tmp_path)
    with refused(r"\(1, 64, 24\).*another image size.*Received: \(1, 16, 24\)"):
        load_network(path, "zhuyu", heads=3, image_size=16)
    with refused(r"y_embedder.embedding_table.weight is \(6, 24\), the network's is \(11, 24\)"):
        load_network(path, "zhuyu", heads=3, num_classes=10)
    with refused("Missing: blocks.2"):
        load_network(path, "zhuyu", heads=3, depth=3)
    state["pos_embed"] = state["pos_embed"] + 0.01
    with refused("pos_embed must be the fixed sin-cos table.*it was trained"):
        load_network(_file(tmp_path, state), "zhuyu", heads=3)


def test_an_argument_that_no_tensor_shows_is_asked_for(tmp_path):
    path, _, _ = published_file("zhuyu", tmp_path)
    with refused("heads is not in the file: give it, as in heads=16"):
        load_network(path)
    with refused("image_size is not in the file"):
        load_network(published_file("meanflow", tmp_path)[0], heads=3)
    with refused("split_depth is not in the file.*20 for DMF-XL/2"):
        load_network(published_file("dmf", tmp_path)[0], "dmf", heads=3)


def test_a_diffusers_model_whose_copies_differ_is_refused(tmp_path):
    state, _ = published("diffusers")
    name = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    state[name] = state[name] + 1
    with refused("2 copies of an embedding.*they differ"):
        load_network(_file(tmp_path, state), heads=3, image_size=8)


def test_a_network_that_the_formats_code_would_compute_differently_is_not_written(tmp_path):
    small = {"image_size": 8, "channels": 3, "patch_size": 2, "width": 24, "depth": 1, "heads": 3}
    network = DiT(**small, num_classes=5)
    path = tmp_path / "a.pt"
    with refused(r"time_inputs \('t', 't-r'\) \(the format's is \('1-t',\)\)"):
        save_network(network, path, "sit")
    noise = DiT(**small, num_classes=5, time_inputs=("t",))
    with refused("time_scale"):
        save_network(NoisePrediction(noise), path, "dit")
    with refused(r"predict noise, NoisePrediction\(DiT\). Received: DiT"):
        save_network(noise, path, "dit")
    with refused("schedule.*Received: .*0.01.* in 500"):
        save_network(NoisePrediction(noise, betas=(1e-4, 0.01), steps=500), path, "diffusers")
    with refused("DiT networks with labels. Received: NoisePrediction"):
        save_network(NoisePrediction(noise), path, "sit")
    with refused("qk_norm True"):
        save_network(DiT(**small, num_classes=5, qk_norm=True), path, "zhuyu")
    with refused("DiT networks with labels. Received: DiT, num_classes None"):
        save_network(DiT(**small), path, "zhuyu")
    with refused("InContextDiT networks.*Received: DiT"):
        save_network(network, path, "imf")
    with refused("keras_meanflow end in .safetensors"):
        save_network(network, path)
    with refused("Weights are written as .safetensors, .npz"):
        save_network(network, tmp_path / "a.ckpt", "zhuyu")
    assert not list(tmp_path.iterdir())


def test_a_training_checkpoint_gives_its_averaged_weights_or_its_raw_ones(tmp_path):
    state, _ = published("meanflow")
    nested = {f"ema_params/net/{k}": v for k, v in state.items()}
    nested |= {f"params/net/{k}": -v for k, v in state.items()}
    write_weights(tmp_path / "checkpoint_0.msgpack", {**nested, "step": np.zeros(())})
    arguments = {"image_size": 8, "heads": 3}
    bias = "final_layer/linear/_flax_linear/bias"
    for averaged, sign in ((True, 1), (False, -1)):
        network = load_network(tmp_path / "checkpoint_0.msgpack", averaged=averaged, **arguments)
        np.testing.assert_array_equal(ops.convert_to_numpy(network.out.bias), sign * state[bias])
    write_weights(tmp_path / "ema.msgpack", {f"ema/{k}": v for k, v in state.items()})
    with refused("averaged weights only"):
        load_network(tmp_path / "ema.msgpack", averaged=False, **arguments)


def test_float16_weights_become_float32_and_the_prefix_of_parallel_training_is_removed(tmp_path):
    state, _ = published("haoyi")
    path = _file(tmp_path, {f"module.{k}": v.astype("float16") for k, v in state.items()})
    network = load_network(path, heads=3)
    kernel = ops.convert_to_numpy(network.out.kernel)
    np.testing.assert_array_equal(
        kernel, state["final_layer.linear.weight"].T.astype("float16").astype("float32")
    )


OWN = [
    lambda: MLP(data_size=3, width=8, num_classes=3),
    lambda: NoisePrediction(MLP(data_size=3, width=8, num_classes=3)),
    lambda: DiT(image_size=(4, 6), channels=2, patch_size=2, width=16, depth=1, heads=2),
    lambda: InContextDiT(
        image_size=4, channels=2, patch_size=2, width=16, depth=2, heads=2, head_depth=1
    ),
]


@pytest.mark.parametrize("make", OWN)
def test_a_file_of_this_package_holds_the_network_and_its_arguments(make, tmp_path):
    network, path = make(), tmp_path / "network.safetensors"
    for variable in network.weights:
        variable.assign(np.random.default_rng(3).standard_normal(variable.shape))
    save_network(network, path)
    loaded = load_network(path)
    assert type(loaded) is type(network) and loaded.get_config() == network.get_config()
    for ours, theirs in zip(loaded.weights, network.weights, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (ours, theirs)))
    save_network(loaded, tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_names_of_weights_are_the_attributes_that_lead_to_them():
    small = {"image_size": 4, "channels": 2, "patch_size": 2, "width": 16, "depth": 2, "heads": 2}
    weights = named_weights(DiT(**small, num_classes=3, qk_norm=True))
    for name in ("times.1.hidden.kernel", "labels.embeddings", "blocks.1.attention.q_norm.scale"):
        assert name in weights
    network = DiT(**small)
    assert [id(v) for v in named_weights(network).values()] == [id(v) for v in network.weights]


def test_a_file_of_this_package_is_refused_as_another_format(tmp_path):
    save_network(OWN[0](), tmp_path / "a.safetensors")
    with refused("is in the format keras_meanflow. Received: format='sit'"):
        load_network(tmp_path / "a.safetensors", "sit")


def test_training_checkpoints_of_the_unets_hold_their_network_under_a_prefix(tmp_path):
    averaged, _ = published("song")
    raw = {name: 0.5 * array for name, array in averaged.items()}
    raw |= {name: a for name, a in averaged.items() if name.endswith("resample_filter")}
    tree = {f"net.{n}": a for n, a in raw.items()} | {
        f"net_ema.{n}": a for n, a in averaged.items()
    }
    write_weights(tmp_path / "song.pth", tree, wrapping=("model",))
    for choice, expected in ((True, averaged), (False, raw)):
        network = load_network(tmp_path / "song.pth", averaged=choice, **SETTINGS["song"])
        kernel = ops.convert_to_numpy(network.times.out.kernel)
        np.testing.assert_array_equal(kernel, expected["map_layer1.weight"].T)


def test_averages_without_names_belong_to_the_trained_tensors(tmp_path):
    raw, _ = published("ncsnpp")
    fixed = ("all_modules.0.W", "delta_gfproj.W")
    for shadowed in (list(raw), [name for name in raw if name not in fixed]):
        shadows = [raw[name] if name in fixed else 2.0 * raw[name] for name in shadowed]
        tree = {"state_dict": {f"dnn.{n}": a for n, a in raw.items()}}
        tree["ema"] = {"decay": 0.999, "shadow_params": shadows}
        state = one_of(flat(weights_of(tree)))
        assert state.keys() == raw.keys()
        for name, array in state.items():
            np.testing.assert_array_equal(array, raw[name] * (1 if name in fixed else 2))
        state = one_of(flat(weights_of(tree, averaged=False)), averaged=False)
        np.testing.assert_array_equal(state["delta_fc1.weight"], raw["delta_fc1.weight"])
