"""MeanFlow distillation (MFD): MeanFlow along the velocity of a teacher."""

from keras_meanflow import MeanFlow
from keras_meanflow.objectives import TeacherGuidance
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import derivative_of, loss_of, network_of


@method(needs=("noise",))
def mean_flow_distillation(
    task: Task,
    *,
    teacher: str | None = None,
    start: str | None = None,
    fraction_r_equals_t: float = 0.75,
    power: float = 1.0,
    floor: float = 1e-3,
    derivative: str = "central",
    label_dropout: float = 0.1,
) -> Method:
    """MeanFlow distillation, the third training of MF-RAE: MeanFlow along a teacher's velocity.

    teacher is the run of a flow model, or a file of its weights. start is the run of
    trajectory_regression; the network is initialised with its weights.

    Paper: MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019), section 4.
    Command: keras-meanflow train digits_rae --method mean_flow_distillation --set data=STORE
        --set teacher=runs/digits_rae --set start=runs/digits_rae_trajectory_regression
    Cost: as mean_flow, and a forward pass of the teacher. imagenet_rae takes 21 H100 days at 256 px
        (paper); for 512 px set steps=20000 batch_size=128 averages=0.9995. We did not run it.
    Expected, one step:
        digits_rae      accuracy 0.99 and coverage 0.83 after all trainings (docs/guide/rae.md)
        imagenet_rae    FID 2.03, 1.89 in two steps, at 256 px; 3.95 at 512 px (paper)
    """
    objective = MeanFlow(
        guidance=TeacherGuidance(teacher=network_of(teacher, "teacher")),
        times=task.law(fraction_r_equals_t),
        loss=loss_of(power, floor),
        derivative=derivative_of(derivative),
        label_dropout=label_dropout,
        **task.noise,
    )
    return Method(objective, network=lambda: network_of(start, "start"))
