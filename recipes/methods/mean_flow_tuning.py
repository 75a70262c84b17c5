"""MeanFlow tuning (MFT): MeanFlow with the velocities of the data, from a trained model."""

from keras_meanflow import MeanFlow
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import derivative_of, loss_of, network_of


@method(needs=("noise",))
def mean_flow_tuning(
    task: Task,
    *,
    start: str | None = None,
    fraction_r_equals_t: float = 0.75,
    power: float = 1.0,
    floor: float = 1e-3,
    derivative: str = "central",
    label_dropout: float = 0.1,
) -> Method:
    """MeanFlow tuning, the fourth training of MF-RAE: MeanFlow on the data, from a trained model.

    start is the run of mean_flow_distillation; the network is initialised with its weights.

    Paper: MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019), section 4; at
        512 px only.
    Command: keras-meanflow train digits_rae --method mean_flow_tuning --set data=STORE
        --set start=runs/digits_rae_mean_flow_distillation
    Cost: as mean_flow.
    Expected, one step:
        imagenet_rae    FID 3.23 at 512 px (paper). We did not run it.
    """
    objective = MeanFlow(
        times=task.law(fraction_r_equals_t),
        loss=loss_of(power, floor),
        derivative=derivative_of(derivative),
        label_dropout=label_dropout,
        **task.noise,
    )
    return Method(objective, network=lambda: network_of(start, "start"))
