"""Makes `metrics_networks.npz`: features of the original networks on random weights and images.

Run by hand beside torch 2.13 and torch-fidelity 0.4.0, with checkouts of facebookresearch/dinov2
and rcmalli/keras-squeezenet, and the folder of real files:
    KERAS_BACKEND=torch python tests/golden/metrics_networks.py DINOV2 SQUEEZENET DATA
"""

import os
import sys
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DINOV2 = {"width": 48, "depth": 2, "heads": 3, "stored": 70, "image_size": 56}


def philox(name):
    """Draws that depend on a name alone."""
    return np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))


def random_state(shapes):
    """A state dict of random weights, each from its own name, that keeps activations alive."""
    return {name: _random(name, shape) for name, shape in shapes.items()}


def _random(name, shape):
    draw = philox(name).normal(size=shape)
    if name.endswith("running_var"):
        return np.exp(0.1 * draw).astype("float32")
    if name.endswith(("bn.weight", "norm.weight", "norm1.weight", "norm2.weight")):
        return (1 + 0.1 * draw).astype("float32")
    if len(shape) > 1 and name not in ("pos_embed", "cls_token"):
        gain = 1.0 if name == "fc.weight" else 2.0
        return (draw * np.sqrt(gain / np.prod(shape[1:]))).astype("float32")
    return (0.3 * draw).astype("float32")


def made_images(size, count=2):
    """Colour gradients with some noise, uint8 (count, size, size, 3)."""
    ramp = np.linspace(0, 1, size)
    red, green = np.meshgrid(ramp, ramp)
    image = np.stack([red, green, 1 - red * green], axis=-1)
    noise = philox(f"images {size}").normal(size=(count, size, size, 3))
    return np.clip(255 * image + 30 * noise, 0, 255).astype(np.uint8)


def real_images(data, count=2):
    """The first ImageNet images of the folder of real files, uint8 (count, 256, 256, 3)."""
    from PIL import Image

    paths = sorted((Path(data) / "imagenet_sample_256").glob("*.jpg"))[:count]
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


def inception_features(data):
    import metrics_torchvision_stub

    metrics_torchvision_stub.install()
    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as module

    class RandomInception(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, _, **__):
            state = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
            self.shapes = {name: s for name, s in state.items() if "num_batches" not in name}
            random = random_state(self.shapes)
            tensors = {name: torch.from_numpy(x) for name, x in random.items()}
            super().load_state_dict(tensors, strict=False)

    module.load_state_dict_from_url = lambda *_, **__: None
    network = RandomInception("inception", ["2048", "logits_unbiased"])
    out = {}
    for name, images in {"made": made_images(40), "real": real_images(data)}.items():
        features, logits = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        out[f"inception_{name}"], out[f"inception_{name}_logits"] = features, logits
    arrays = {name: tensor.numpy() for name, tensor in out.items()}
    return {**arrays, "inception_checksum": checksum(network.shapes)}


def checksum(shapes):
    """One number for all names and shapes of a state dict."""
    lines = sorted(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    return zlib.crc32("\n".join(lines).encode())


def legacy_resize():
    import torch
    from torch_fidelity import interpolate_compat_tensorflow as module

    out = {}
    for size in (40, 299, 512):
        x = torch.from_numpy(made_images(size, 1).transpose(0, 3, 1, 2).astype("float32"))
        y = module.interpolate_bilinear_2d_like_tensorflow1x(x, (299, 299), align_corners=False)
        out[f"legacy_{size}"] = y[0, :, 5::49, 7::49].numpy().transpose(1, 2, 0)
    return out


def antialiased_resize():
    import torch

    out = {}
    for size in (40, 300):
        x = torch.from_numpy(made_images(size, 1).transpose(0, 3, 1, 2).astype("float32"))
        y = torch.nn.functional.interpolate(x, (224, 224), mode="bicubic", antialias=True)
        out[f"bicubic_{size}"] = y[0, :, ::37, ::37].numpy().transpose(1, 2, 0)
    return out


def dinov2_features(checkout):
    os.environ["XFORMERS_DISABLED"] = "1"
    sys.path.insert(0, checkout)
    import torch
    from dinov2.models.vision_transformer import DinoVisionTransformer

    network = DinoVisionTransformer(
        img_size=DINOV2["stored"],
        patch_size=14,
        embed_dim=DINOV2["width"],
        depth=DINOV2["depth"],
        num_heads=DINOV2["heads"],
        init_values=1.0,
        block_chunks=0,
    ).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    state = random_state(shapes)
    network.load_state_dict({name: torch.from_numpy(x) for name, x in state.items()})
    images = standardised(made_images(DINOV2["image_size"]))
    with torch.no_grad():
        features = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return {"dinov2": features.numpy(), "dinov2_checksum": checksum(shapes)}


def standardised(images):
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return ((images / 255 - mean) / deviation).astype("float32")


def squeezenet_features(checkout, data):
    """The Keras-1 code of the weights' author, its imports and layer names brought up to date."""
    import h5py
    import keras

    text = (Path(checkout) / "keras_squeezenet" / "squeezenet.py").read_text()
    text = text[text.index("sq1x1 =") :].replace("'/'", "'-'")
    names = {"K": keras.backend, "Model": keras.Model, "_obtain_input_shape": lambda s, **_: s}
    names |= {name: getattr(keras.layers, name) for name in dir(keras.layers)}
    names["concatenate"] = keras.layers.concatenate
    exec(text, names)
    network = names["SqueezeNet"](False, None, input_shape=(64, 64, 3), pooling="avg")
    with h5py.File(Path(data) / "squeezenet1.1_imagenet_notop.h5") as file:
        for layer in network.layers:
            if layer.weights:
                group = file[layer.name.replace("-", "/")]
                stored = [np.asarray(group[n.decode()]) for n in group.attrs["weight_names"]]
                layer.set_weights(stored)
    blue_first = made_images(64)[..., ::-1] - np.array([103.939, 116.779, 123.68])
    return {"squeezenet": network.predict(blue_first.astype("float32"), verbose=0)}


def lenet_features(data):
    import torch
    import torch.nn.functional as F

    state = torch.load(Path(data) / "lenet_mnist_fid.pth", weights_only=True)
    images = np.load(Path(data) / "mnist.npz")["x_test"][:4]
    x = torch.from_numpy(images)[:, None].float() / 255
    for name in ("conv1", "conv2"):
        x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])
        x = F.max_pool2d(F.relu(x), 2)
    x = torch.flatten(x, 1)
    for name in ("fc1", "fc2"):
        x = F.relu(F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"]))
    logits = F.linear(x, state["fc3.weight"], state["fc3.bias"])
    return {"lenet": x.numpy(), "lenet_logits": logits.numpy()}


def main(dinov2, squeezenet, data):
    out = {
        **inception_features(data),
        **legacy_resize(),
        **antialiased_resize(),
        **dinov2_features(dinov2),
        **squeezenet_features(squeezenet, data),
        **lenet_features(data),
    }
    for name in [name for name in out if name.startswith(("inception_made", "inception_real"))]:
        out[f"{name}_norm"] = np.linalg.norm(out[name], axis=1)
        out[name] = out[name][:, :64]
    np.savez_compressed(HERE / "metrics_networks.npz", **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
