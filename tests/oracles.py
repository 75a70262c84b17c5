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

    def numpy(self, z, r, t):
        return self(*(np.asarray(a, "float64") for a in (z, r, t)), sqrt=np.sqrt)


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
