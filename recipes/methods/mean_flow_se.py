"""MeanFlowSE: one-step speech enhancement."""

from keras_meanflow.objectives import MeanFlowSE
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import derivative_of


@method(needs=("pairs",))
def mean_flow_se(
    task: Task,
    *,
    fraction_r_equals_t: float = 0.1,
    derivative: str = "exact",
) -> Method:
    """MeanFlowSE: clean speech from noisy speech; flow matching and MeanFlow on every row.

    derivative=clipped is the derivative in the released training script: half of a central
    difference, with a clipped norm. `ClippedDerivative` explains how this changes the method.

    Paper: MeanFlowSE (arXiv 2509.14858).
    Command: keras-meanflow train speech --set data=VBDMD/train
    Cost: 8 forward passes per step.
    Expected: docs/guide/speech.md
    """
    objective = MeanFlowSE(
        times=task.law(fraction_r_equals_t), derivative=derivative_of(derivative), **task.noise
    )
    return Method(objective)
