"""Couplings: which noise `e` belongs to which data `x`."""

from keras import ops

from keras_meanflow.configurable import Configurable, part


@part
class Independent(Configurable):
    """Fresh Gaussian noise for every row and step."""

    def __call__(self, keys, x):
        """`x` and `e ~ N(0, I)` of its shape."""
        if isinstance(x, dict):
            raise ValueError(
                "Data with stored noise, {'x', 'e'}, needs coupling=StoredPairs(). "
                f"Received keys {sorted(x)} with coupling=Independent()."
            )
        return x, keys.normal("e", ops.shape(x))


@part
class StoredPairs(Configurable):
    """Noise that is stored with the data: `fit({"x": x, "e": e}, y)`.

    References:
        Flow Straighter and Faster: Re-MeanFlow (arXiv 2511.23342).
    """

    def __call__(self, keys, x):
        """The stored `x` and `e`."""
        del keys
        if not isinstance(x, dict) or set(x) != {"x", "e"}:
            raise ValueError(
                "coupling=StoredPairs() needs data of the form {'x': ..., 'e': ...}. "
                f"Received: {sorted(x) if isinstance(x, dict) else type(x).__name__}."
            )
        return x["x"], x["e"]
