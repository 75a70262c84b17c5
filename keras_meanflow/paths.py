"""Paths between data and noise: `x, e, t -> z_t, v`. A path never sees a network."""

from keras import ops

from keras_meanflow.configurable import Configurable, part


def per_row(t, like):
    """`t` of shape (B,) as (B, 1, ..., 1), to multiply a batch of the rank of `like`."""
    return ops.reshape(t, (-1,) + (1,) * (len(like.shape) - 1))


@part
class Linear(Configurable):
    """The straight path `z_t = (1 - t) x + t e` with velocity `v = e - x`; t = 1 is noise.

    Example:
        >>> z, v = Linear()(x, e, t)  # x, e: (B, ...), t: (B,)

    References:
        Mean Flows for One-step Generative Modeling (arXiv 2505.13447), section 3.
    """

    def __call__(self, x, e, t):
        """`z_t` and `v`, each of the shape of `x`."""
        t = per_row(t, x)
        return (1.0 - t) * x + t * e, e - x
