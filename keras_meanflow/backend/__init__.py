"""What differs between backends, under the same names: the only folder that imports one.

`jvp`, `jvp_with_gradient`, `gradient`, `rematerialised`, `Trainer` (the train and test steps),
`compiled`, `compiled_network`, `first_row`, `replica_sum`, `lerp`, `distributed` and the functions
for several processes. The counter-based draws of `backend.random` are the same bits everywhere.
"""

# ruff: noqa: F403, F405

from typing import Any

import keras

from keras_meanflow.backend.scopes import inside_jvp

BACKEND = keras.config.backend()
Tensor = Any  # a tensor of the backend in use, in annotations

if BACKEND == "jax":
    from keras_meanflow.backend.jax import *
elif BACKEND == "tensorflow":
    from keras_meanflow.backend.tensorflow import *
elif BACKEND == "torch":
    from keras_meanflow.backend.torch import *
else:
    raise ImportError(
        "keras_meanflow needs forward-mode differentiation: KERAS_BACKEND must be jax, tensorflow "
        f"or torch. Received: {BACKEND!r}."
    )

__all__ = [
    "BACKEND", "Tensor", "Trainer", "alone", "attention", "compiled", "compiled_network", "cond",
    "constant", "dense", "device_count", "device_name", "distributed", "eigenvectors",
    "export_arguments", "first_row", "global_norm", "gradient", "inside_jvp", "join_processes",
    "jvp", "jvp_with_gradient", "lerp", "local", "may_compile", "process_count", "process_index",
    "rematerialised", "replica_sum", "spread", "step_operations", "uncompiled", "untraced",
    "wait_for_processes",
]  # fmt: skip
