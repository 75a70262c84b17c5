"""What the tests compare with: closed forms and NumPy float64 code that shares none of ours."""

import numpy as np
from keras import ops


class Gaussian:
    """The exact average velocity of x ~ N(mu, s^2) on the linear path, and its z-derivative.

    `u = (z - m_t) [(t + r)(1 + s^2) - 2 s^2] / ((sigma_t + sigma_r) sigma_t) - mu`.
    """

    def __init__(self, mu=0.7, s=0.5):
        self.mu, self.s = mu, s

    def sigma(self, t, sqrt=ops.sqrt):
        return sqrt((1.0 - t) ** 2 * self.s**2 + t**2)

    def slope(self, r, t, sqrt=ops.sqrt):
        """d_z u, (B,)."""
        top = (t + r) * (1.0 + self.s**2) - 2.0 * self.s**2
        sigma_t, sigma_r = self.sigma(t, sqrt), self.sigma(r, sqrt)
        return top / ((sigma_t + sigma_r) * sigma_t)

    def __call__(self, z, r, t, condition=None, sqrt=ops.sqrt):
        shape = (-1,) + (1,) * (len(z.shape) - 1)
        mean = (1.0 - t).reshape(shape) * self.mu if sqrt is np.sqrt else None
        if mean is None:
            mean = ops.reshape((1.0 - t) * self.mu, shape)
            return (z - mean) * ops.reshape(self.slope(r, t), shape) - self.mu
        return (z - mean) * self.slope(r, t, np.sqrt).reshape(shape) - self.mu

    def velocity(self, z, r, t, condition=None):
        """A second head, which knows the velocity at t whatever r."""
        return self(z, t, t)

    def numpy(self, z, r, t):
        return self(*(np.asarray(a, "float64") for a in (z, r, t)), sqrt=np.sqrt)


class Mixture:
    """The exact u of a `GaussianMixture` by Runge-Kutta in Keras: guided as omega and kappa say.

    With labels, `u(z, t, t | c) = (omega v_c + (1 - omega - kappa) v) / (1 - kappa)`, the fixed
    point of guidance in training; the null label has the velocity v of the whole mixture.
    """

    def __init__(self, law, omega=1.0, kappa=0.0, steps=12):
        self.law, self.omega, self.kappa, self.steps = law, omega, kappa, steps
        arrays = (law.axes, law.centres @ law.axes, law.s**2)
        self.axes, self.centres, self.s2 = (np.asarray(a, "float32") for a in arrays)
        self.labels = law.labels

    def drop(self, condition, drop):
        return ops.where(drop, self.law.num_classes, condition)

    def of_class(self, z, t, label):
        """The marginal velocity, of one class for all rows, or of all for None."""
        arrays = (self.axes, self.centres, self.s2)
        axes, centres, s2 = (ops.convert_to_tensor(array) for array in arrays)
        other = (0.0 if label is None else -1e9) * (self.labels != label).astype("float32")
        z, t = ops.matmul(z, axes), ops.reshape(t, (-1, 1))
        variance = (1.0 - t) ** 2 * s2 + t**2
        apart = ops.expand_dims(z, 1) - ops.expand_dims(1.0 - t, 1) * centres  # (n, k, d)
        log_w = -0.5 * ops.sum(apart**2 / ops.expand_dims(variance, 1), axis=2)
        w = ops.expand_dims(ops.softmax(log_w + ops.convert_to_tensor(other)), 2)
        slope = ops.expand_dims((t - (1.0 - t) * s2) / variance, 1)
        v = ops.sum(w * (apart * slope - centres), axis=1)
        return ops.matmul(v, ops.transpose(axes))

    def at(self, z, t, condition):
        classes = self.law.num_classes
        whole = self.of_class(z, t, None)
        out = whole
        for label in range(classes):
            own = self.of_class(z, t, label)
            v = (self.omega * own + (1.0 - self.omega - self.kappa) * whole) / (1.0 - self.kappa)
            out = ops.where(ops.reshape(condition == label, (-1, 1)), v, out)
        return out

    def __call__(self, z, r, t, condition=None):
        start, h = z, (r - t) / self.steps
        mean = 0.0 * z  # of the slopes: no division by t - r
        wide = ops.reshape(h, (-1, 1))
        for i in range(self.steps):
            now = t + i * h
            k1 = self.at(z, now, condition)
            k2 = self.at(z + wide / 2 * k1, now + h / 2, condition)
            k3 = self.at(z + wide / 2 * k2, now + h / 2, condition)
            k4 = self.at(z + wide * k3, now + h, condition)
            mean = mean + (k1 + 2.0 * k2 + 2.0 * k3 + k4) / (6.0 * self.steps)
            z = start + wide * self.steps * mean
        return mean


def random_weights(shapes, seed=0, scale=0.2):
    """One float32 array per shape from Philox: reproducible without storing it."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return [(scale * rng.standard_normal(shape)).astype("float32") for shape in shapes]


def randomise(model, seed=0):
    """Give every trainable weight of a model random values, zero-initialised ones too."""
    for variable, value in zip(
        model.trainable_variables,
        random_weights([tuple(v.shape) for v in model.trainable_variables], seed),
        strict=True,
    ):
        variable.assign(value)
    return model


def _dense(x, weights):
    kernel, bias = next(weights), next(weights)
    return x @ kernel + bias


def _silu(x):
    return x / (1.0 + np.exp(-x))


def _gelu(x):
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def _norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _embed(t, weights, time_scale):
    w = np.exp(-np.log(10_000.0) * np.arange(128) / 128)
    angle = time_scale * t[:, None] * w[None]
    hidden = _silu(_dense(np.concatenate([np.cos(angle), np.sin(angle)], 1), weights))
    return _dense(hidden, weights)


def _positions(rows, columns, dim):
    omega = 10_000.0 ** (-np.arange(dim // 4) / (dim / 4))
    out = []
    for i in range(rows):
        for j in range(columns):
            parts = [np.sin(j * omega), np.cos(j * omega), np.sin(i * omega), np.cos(i * omega)]
            out.append(np.concatenate(parts))
    return np.stack(out)


def numpy_dit(network, z, r, t, labels=None):
    """The DiT's output in float64, from its weights in the order of `trainable_variables`.

    The order is: patches, one MLP a time input, labels, blocks (qkv, proj, fc1, fc2, modulation),
    final modulation, output.
    """
    weights = iter([np.asarray(w, "float64") for w in network.get_weights()])
    z, r, t = (np.asarray(a, "float64") for a in (z, r, t))
    b, (rows, columns), p, c = len(z), network.grid, network.patch_size, network.channels
    heads, width = network.heads, network.width
    tokens = (
        z.reshape(b, rows, p, columns, p, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, p * p * c)
    )
    x = _dense(tokens, weights) + _positions(rows, columns, width)
    times = {"t": t, "r": r, "t-r": t - r}
    cond = sum(_embed(times[name], weights, network.time_scale) for name in network.time_inputs)
    if labels is not None:
        cond = cond + next(weights)[labels]
    for _ in range(network.depth):
        block = [(next(weights), next(weights)) for _ in range(5)]
        qkv, proj, fc1, fc2, mod = block
        m = np.split((_silu(cond) @ mod[0] + mod[1])[:, None], 6, axis=-1)
        h = _norm(x) * (1 + m[1]) + m[0]
        q, k, v = (
            (h @ qkv[0] + qkv[1]).reshape(b, -1, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        )
        a = q @ k.transpose(0, 1, 3, 2) / np.sqrt(width // heads)
        a = np.exp(a - a.max(-1, keepdims=True))
        a = (a / a.sum(-1, keepdims=True)) @ v
        x = x + m[2] * (a.transpose(0, 2, 1, 3).reshape(b, -1, width) @ proj[0] + proj[1])
        h = _norm(x) * (1 + m[4]) + m[3]
        x = x + m[5] * (_gelu(h @ fc1[0] + fc1[1]) @ fc2[0] + fc2[1])
    shift, scale = np.split(_dense(_silu(cond), weights)[:, None], 2, axis=-1)
    out = _dense(_norm(x) * (1 + scale) + shift, weights)
    out = out.reshape(b, rows, columns, p, p, c).transpose(0, 1, 3, 2, 4, 5)
    assert next(weights, None) is None
    return out.reshape(z.shape)


def central_difference(f, primals, tangents, h=1e-5):
    """The directional derivative of a float64 NumPy function."""
    up = f(*(p + h * d for p, d in zip(primals, tangents, strict=True)))
    down = f(*(p - h * d for p, d in zip(primals, tangents, strict=True)))
    return (up - down) / (2.0 * h)


def relative_error(a, b):
    """||a - b|| / ||b||."""
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# The official JAX MeanFlow at a small size: its weights' names, our order, and shared draws.

OFFICIAL = dict(
    image_size=8,
    channels=3,
    patch_size=2,
    width=24,
    depth=2,
    heads=3,
    num_classes=5,
    rows=16,
    guidances={  # omega, kappa, start, end
        "none": (1.0, 0.0, 0.0, 1.0),
        "omega": (2.0, 0.0, 0.0, 1.0),
        "kappa": (1.0, 0.5, 0.0, 1.0),
        "interval": (0.2, 0.92, 0.3, 0.8),
    },
)


def official_parameters():
    """(name, shape) of each weight in the order of our DiT's `trainable_variables`."""
    d, p = OFFICIAL["width"], OFFICIAL["patch_size"]
    patch = p * p * OFFICIAL["channels"]

    def linear(name, rows, columns, layer="/_flax_linear"):
        return [(f"{name}{layer}/kernel", (rows, columns)), (f"{name}{layer}/bias", (columns,))]

    out = [
        ("x_embedder/proj/kernel", (p, p, OFFICIAL["channels"], d)),
        ("x_embedder/proj/bias", (d,)),
    ]
    for embedder in ("t_embedder", "h_embedder"):
        out += linear(f"{embedder}/mlp/layers_0", 256, d) + linear(f"{embedder}/mlp/layers_2", d, d)
    labels = (OFFICIAL["num_classes"] + 1, d)
    out.append(("y_embedder/embedding_table/_flax_embedding/embedding", labels))
    for i in range(OFFICIAL["depth"]):
        block = f"blocks/layers_{i}"
        out += linear(f"{block}/attn/qkv", d, 3 * d) + linear(f"{block}/attn/proj", d, d)
        out += linear(f"{block}/mlp/fc1", d, 4 * d) + linear(f"{block}/mlp/fc2", 4 * d, d)
        out += linear(f"{block}/adaLN_modulation/layers_1", d, 6 * d)
    out += linear("final_layer/adaLN_modulation/layers_1", d, 2 * d)
    return out + linear("final_layer/linear", d, patch)


def official_names():
    """The official names in our order."""
    return [name for name, _ in official_parameters()]


def official_weights():
    """Random weights in the official shapes; ours have the patch kernel as a matrix."""
    return random_weights([shape for _, shape in official_parameters()], seed=11)


def official_directions():
    """Four random directions for each gradient."""
    shapes = [(4, *shape) for _, shape in official_parameters()]
    return random_weights(shapes, seed=12, scale=1.0)


def official_draws(step=0):
    """Data, labels, noise, times (r < t on rows 3, 7, 11, 15) and dropped rows."""
    rng = np.random.Generator(np.random.Philox(key=13 + step))
    rows, shape = OFFICIAL["rows"], (OFFICIAL["image_size"],) * 2 + (OFFICIAL["channels"],)
    x, e = rng.standard_normal((2, rows, *shape)).astype("float32")
    t = (1.0 / (1.0 + np.exp(0.4 - rng.standard_normal(rows)))).astype("float32")
    r = np.where(np.arange(rows) % 4 == 3, 0.4 * t, t).astype("float32")
    labels = (np.arange(rows) % OFFICIAL["num_classes"]).astype("int32")
    drop = np.isin(np.arange(rows), [0, 5, 7])
    return {"x": x, "e": e, "t": t, "r": r, "labels": labels, "drop": drop}
