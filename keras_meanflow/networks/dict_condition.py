"""Networks whose condition has several parts: a dict of arrays, or the one array alone."""

import keras
import numpy as np

from keras_meanflow.networks.base import Network


class DictCondition(Network):
    """A network told labels, a context, and how its data was augmented; any of them or none.

    Args:
        data_shape, num_classes: see `Network`.
        context_channels: channels of an array of the data's other axes, or 0.
        augmentation_size: numbers that say how a row was augmented, or 0; they may be missing.
        dropout: share of hidden numbers that are dropped in training, in [0, 1).

    Raises:
        ValueError: for a dropout out of range.
    """

    def __init__(
        self, *, data_shape, context_channels=0, augmentation_size=0, dropout=0.0, **kwargs
    ):
        super().__init__(data_shape=data_shape, **kwargs)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is a share in [0, 1). Received: {dropout}.")
        self.context_channels, self.augmentation_size = context_channels, augmentation_size
        self.dropout = dropout

    @property
    def conditional(self):
        """Whether the network needs a condition."""
        return self.num_classes is not None or self.context_channels > 0

    @property
    def context_shape(self):
        """The shape of one row's context."""
        return (*self.data_shape[:-1], self.context_channels)

    def _told(self, condition):
        """The condition as a dict."""
        if condition is None or isinstance(condition, dict):
            return condition or {}
        return {"context" if self.context_channels else "labels": condition}

    def training_condition(self, condition, keys, rows):
        """With the keys of dropout's masks, one a row: they go where the row goes."""
        if not self.dropout:
            return condition
        return {**self._told(condition), "dropout": keys.row_keys("dropout", rows)}

    def drop_condition(self, condition, drop):
        """The condition with the null label and an empty context on the rows of `drop` (B,)."""
        told = self._told(condition)
        lost = {name: told[name] for name in ("labels", "context") if name in told}
        lost = super().drop_condition(lost, drop)
        return {**told, **lost} if isinstance(condition, dict) else next(iter(lost.values()))

    def condition_inputs(self):
        """See `Network.condition_inputs`; what is exported knows no augmentation."""
        inputs = {}
        if self.num_classes is not None:
            inputs["labels"] = keras.Input((), dtype="int32", name="labels")
        if self.context_channels:
            inputs["context"] = keras.Input(self.context_shape, name="context")
        return (inputs or None) if len(inputs) != 1 else next(iter(inputs.values()))

    def check_condition(self, condition):
        """Raise a ValueError if labels, context or augmentation are not what this network takes."""
        told = self._told(condition)
        shapes = {"context": self.context_shape, "augmentation": (self.augmentation_size,)}
        known = [name for name, shape in shapes.items() if shape[-1]]
        names = known if self.num_classes is None else ["labels", *known]
        unknown = sorted(set(told) - set(names))
        if unknown:
            raise ValueError(
                f"The condition's keys are {', '.join(names) or 'none'}. Received: {unknown}."
            )
        if self.num_classes is not None:
            self._check_labels(told.get("labels"))
        if self.context_channels and "context" not in told:
            raise ValueError(f"This network needs a context {self.context_shape}. Received none.")
        for name in set(known) & set(told):
            _check_array(name, np.asarray(told[name]), shapes[name])


def _check_array(name, value, shape):
    if value.shape[1:] != shape or not np.isfinite(value).all():
        raise ValueError(
            f"{name} must be finite, of shape (n, {', '.join(map(str, shape))}). "
            f"Received: shape {value.shape}, {np.sum(~np.isfinite(value))} values not finite."
        )
