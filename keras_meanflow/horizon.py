"""How long a `fit` is, for the schedules."""

import keras
from keras import ops

from keras_meanflow.schedules import is_scheduled


class Horizon(keras.callbacks.Callback):
    """Writes the length of this `fit`, in optimizer steps, into the model before it starts.

    A model with a horizon of its own keeps it.

    Raises:
        ValueError: on a scheduled objective, if the length is unknown and the model has no horizon.
    """

    def on_train_begin(self, logs=None):
        """Set `start` and `horizon`."""
        model, steps = self.model, self.params.get("steps")
        if model.fixed_horizon is not None:
            return
        if steps is None:
            if is_scheduled(model.objective):
                raise ValueError(
                    "Scheduled values need the length of training. Received data of unknown "
                    "length: give fit(steps_per_epoch=...) or FlowMap(horizon=...)."
                )
            return
        model.start.assign(int(ops.convert_to_numpy(model.step)) // model.accumulation)
        model.horizon.assign(self.params["epochs"] * steps // model.accumulation)
