"""Which tensors of a training checkpoint are the network's: averaged or raw, or none for sure."""

import numpy as np
import pytest
from commands import call, refusal

from keras_meanflow import DiT
from keras_meanflow.files.writers import write_weights
from keras_meanflow.formats.choosing import chosen_state
from keras_meanflow.formats.conversion import FORMATS, load_network, save_network

SIZES = {"image_size": 8, "channels": 3, "patch_size": 2, "width": 24, "depth": 1, "heads": 3}


def refused(message):
    return pytest.raises(ValueError, match=message)


def weights(value):
    """Tensors of a small network, all of one value."""
    return {"blocks.0.weight": np.full((2, 3), value, "f4"), "out.bias": np.full(3, value, "f4")}


def under(prefix, state):
    return {f"{prefix}{name}": array for name, array in state.items()}


RAW, AVERAGE = weights(1.0), weights(2.0)
KEYS = "ema ema_params params_ema model_ema ema_model ema_state_dict state_dict_ema ema_weights"
KEYS += " ema_0.9999 model_averaged swa_state_dict EMA shadow avg_model"


def value_of(tree, **choice):
    """The value of all tensors that were chosen, whose names must be the network's."""
    state = chosen_state(tree, **choice)
    assert set(state) == set(RAW)
    return {array.flat[0] for array in state.values()}.pop()


@pytest.mark.parametrize("key", KEYS.split())
@pytest.mark.parametrize("raw", ["model", "state_dict", "params", "net", "model_state_dict"])
def test_averages_under_another_key_are_known(key, raw):
    tree = {raw: RAW, key: AVERAGE, "epoch": 3, "opt_state": {"mu": RAW}, "args": {"lr": "1e-4"}}
    assert value_of(tree) == 2.0 and value_of(tree, averaged=False) == 1.0
    inner = {"state_dict": under(f"{raw}.", RAW) | under(f"{key}.", AVERAGE)}
    if "." not in key:
        assert value_of(inner) == 2.0 and value_of(inner, averaged=False) == 1.0


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_forward_module.",
     "_forward_module.model._orig_mod.", "model.", "model.net."],
)  # fmt: skip
def test_prefixes_of_wrappers_are_recognised(prefix):
    """DistributedDataParallel, torch.compile, DeepSpeed, Lightning."""
    assert value_of({"state_dict": under(prefix, RAW)}) == 1.0
    assert value_of(under(prefix, RAW)) == 1.0


def test_a_compiled_layer_and_an_average_of_torch_are_recognised():
    inside = {name.replace("blocks.0.", "blocks.0._orig_mod."): a for name, a in RAW.items()}
    assert value_of(inside) == 1.0
    swa = {"n_averaged": np.array(4), **under("module.", AVERAGE)}
    assert value_of({"model": RAW, "ema": swa}) == 2.0


@pytest.mark.parametrize(
    "tree, listed",
    [
        ({"model": RAW, "second": AVERAGE}, "2 sets of the same tensors, 'model', 'second', and 0"),
        ({"model": RAW, "ema_1": AVERAGE, "ema_2": AVERAGE}, "'ema_1', 'ema_2', 'model', and 2"),
        (under("model.", RAW) | under("copy.", AVERAGE), "'copy', 'model', and 0"),
    ],
)
def test_a_second_set_of_which_nothing_says_what_it_is_is_refused(tree, listed):
    with refused(listed):
        chosen_state(tree)
    assert value_of(tree, averaged=False) == 1.0


@pytest.mark.parametrize("entry", [None, "text", ["a", 1], {"a": None}, np.array(["x"]), 1 + 2j])
def test_an_entry_that_is_no_tensor_is_one_line(entry):
    with refused("Every entry must be a tensor. .*bad"):
        chosen_state({**RAW, "bad": entry})


@pytest.fixture(scope="module")
def sit():
    return FORMATS["sit"].state_of(DiT(**SIZES, num_classes=5, time_inputs=("1-t",)))


def test_the_command_takes_the_averages_and_refuses_what_it_cannot_know(sit, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch writes the nested file that is read here")
    monkeypatch.chdir(tmp_path)
    raw = {name: torch.tensor(array) for name, array in sit.items()}
    double = {name: 2.0 * tensor if "pos" not in name else tensor for name, tensor in raw.items()}
    torch.save({"model": raw, "model_ema": double}, "both.pt")
    convert = ("convert", "both.pt", "out.safetensors", "--from", "sit", "--set", "heads=3")
    for option, factor in (("--average", 2.0), ("--raw", 1.0)):
        output, code = call(*convert, option)
        assert code == 0, output
        found = FORMATS["sit"].state_of(load_network("out.safetensors"))
        name = "x_embedder.proj.weight"
        np.testing.assert_allclose(found[name], factor * sit[name])
    torch.save({"model": raw, "weights": double}, "both.pt")
    assert "2 sets of the same tensors" in refusal(*convert)
    torch.save({"model": {**raw, "final_layer.linear.bias": None}}, "both.pt")
    assert "Every entry must be a tensor. final_layer.linear.bias is of type None" in refusal(
        *convert
    )


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(sit, wrong, tmp_path):
    bad = {**sit, "final_layer.linear.bias": np.full_like(sit["final_layer.linear.bias"], wrong)}
    write_weights(tmp_path / "bad.safetensors", bad)
    with refused("bad.safetensors.* Weights must be finite. 1 tensors .*final_layer.linear"):
        load_network(tmp_path / "bad.safetensors", "sit", heads=3)
    network = DiT(**SIZES)
    network.out.bias.assign(np.full(network.out.bias.shape, wrong))
    save_network(network, tmp_path / "ours.safetensors")
    with refused("ours.safetensors.* Weights must be finite"):
        load_network(tmp_path / "ours.safetensors")
