"""What differs between backends, under the same names: the only folder that imports one.

`jvp`, `jvp_with_gradient`, `gradient`, `Trainer` (the train and test steps), `compiled`,
`first_row`, `replica_sum`, `lerp`, and the counter-based draws of `backend.random`, which are the
same bits everywhere.
"""

import keras

BACKEND = keras.config.backend()

if BACKEND == "jax":
    from keras_meanflow.backend.jax import (
        Trainer,
        compiled,
        cond,
        device_count,
        eigenvectors,
        export_arguments,
        first_row,
        global_norm,
        gradient,
        jvp,
        jvp_with_gradient,
        lerp,
        may_compile,
        replica_sum,
        spread,
        uncompiled,
    )
elif BACKEND == "tensorflow":
    from keras_meanflow.backend.tensorflow import (
        Trainer,
        compiled,
        cond,
        device_count,
        eigenvectors,
        export_arguments,
        first_row,
        global_norm,
        gradient,
        jvp,
        jvp_with_gradient,
        lerp,
        may_compile,
        replica_sum,
        spread,
        uncompiled,
    )
elif BACKEND == "torch":
    from keras_meanflow.backend.torch import (
        Trainer,
        compiled,
        cond,
        device_count,
        eigenvectors,
        export_arguments,
        first_row,
        global_norm,
        gradient,
        jvp,
        jvp_with_gradient,
        lerp,
        may_compile,
        replica_sum,
        spread,
        uncompiled,
    )
else:
    raise ImportError(
        "keras_meanflow needs forward-mode differentiation: KERAS_BACKEND must be jax, tensorflow "
        f"or torch. Received: {BACKEND!r}."
    )

__all__ = [
    "BACKEND",
    "Trainer",
    "compiled",
    "cond",
    "device_count",
    "eigenvectors",
    "export_arguments",
    "first_row",
    "global_norm",
    "gradient",
    "jvp",
    "jvp_with_gradient",
    "lerp",
    "may_compile",
    "replica_sum",
    "spread",
    "uncompiled",
]
