"""What differs between backends, under the same names: the only folder that imports one.

`jvp`, `jvp_with_gradient`, `gradient`, `rematerialised`, `Trainer` (the train and test steps),
`compiled`, `compiled_network`, `first_row`, `replica_sum`, `lerp`, `distributed` and what belongs
to several processes, and the counter-based draws of `backend.random`, which are the same bits
everywhere.
"""

import keras

from keras_meanflow.backend.scopes import inside_jvp

BACKEND = keras.config.backend()

if BACKEND == "jax":
    from keras_meanflow.backend.jax import (
        Trainer,
        alone,
        attention,
        compiled,
        compiled_network,
        cond,
        constant,
        device_count,
        device_name,
        distributed,
        eigenvectors,
        export_arguments,
        first_row,
        global_norm,
        gradient,
        join_processes,
        jvp,
        jvp_with_gradient,
        lerp,
        local,
        may_compile,
        process_count,
        process_index,
        rematerialised,
        replica_sum,
        spread,
        step_operations,
        uncompiled,
        untraced,
        wait_for_processes,
    )
elif BACKEND == "tensorflow":
    from keras_meanflow.backend.tensorflow import (
        Trainer,
        alone,
        attention,
        compiled,
        compiled_network,
        cond,
        constant,
        device_count,
        device_name,
        distributed,
        eigenvectors,
        export_arguments,
        first_row,
        global_norm,
        gradient,
        join_processes,
        jvp,
        jvp_with_gradient,
        lerp,
        local,
        may_compile,
        process_count,
        process_index,
        rematerialised,
        replica_sum,
        spread,
        step_operations,
        uncompiled,
        untraced,
        wait_for_processes,
    )
elif BACKEND == "torch":
    from keras_meanflow.backend.torch import (
        Trainer,
        attention,
        compiled,
        compiled_network,
        cond,
        constant,
        device_count,
        device_name,
        eigenvectors,
        export_arguments,
        global_norm,
        gradient,
        jvp,
        jvp_with_gradient,
        lerp,
        may_compile,
        rematerialised,
        spread,
        step_operations,
        uncompiled,
        untraced,
    )
    from keras_meanflow.backend.torch_processes import (
        alone,
        distributed,
        first_row,
        join_processes,
        local,
        process_count,
        process_index,
        replica_sum,
        wait_for_processes,
    )
else:
    raise ImportError(
        "keras_meanflow needs forward-mode differentiation: KERAS_BACKEND must be jax, tensorflow "
        f"or torch. Received: {BACKEND!r}."
    )

__all__ = [
    "BACKEND",
    "Trainer",
    "alone",
    "attention",
    "compiled",
    "compiled_network",
    "cond",
    "constant",
    "device_count",
    "device_name",
    "distributed",
    "eigenvectors",
    "export_arguments",
    "first_row",
    "global_norm",
    "gradient",
    "inside_jvp",
    "join_processes",
    "jvp",
    "jvp_with_gradient",
    "lerp",
    "local",
    "may_compile",
    "process_count",
    "process_index",
    "rematerialised",
    "replica_sum",
    "spread",
    "step_operations",
    "uncompiled",
    "untraced",
    "wait_for_processes",
]
