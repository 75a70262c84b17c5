"""What the optimizers do first with the gradients of an embedding."""

from collections.abc import Sequence

import keras

from keras_meanflow.backend import Tensor, dense


class DenseGradients:
    """A base of optimizers before Keras' own: gradients are whole tensors before they are used.

    On TensorFlow the gradient of an embedding has a slice for each row of the batch. Keras'
    optimizers square and clip each slice apart, as if no row of the table came twice.
    """

    def apply(
        self,
        grads: Sequence[Tensor | None],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """As in Keras."""
        super().apply(dense(grads), trainable_variables)
