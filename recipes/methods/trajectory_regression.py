"""Trajectory regression (CMT): the average velocities along the solver's path of a teacher."""

from keras_meanflow.objectives import TrajectoryRegression
from keras_meanflow.recipe import method
from keras_meanflow.samplers import Euler, shifted_times
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import network_of, with_interval


@method(needs=("noise",))
def trajectory_regression(
    task: Task,
    *,
    teacher: str | None = None,
    pairs: int = 64,
    evaluations: int = 15,
    label_dropout: float = 0.1,
) -> Method:
    """Trajectory regression, the second training of MF-RAE: slopes of a teacher's trajectories.

    teacher is the run of a flow model, or a file of its weights. The network is a copy of it with a
    new input t - r, whose weights start at zero. A solver with this number of evaluations follows
    the teacher; the network learns the average velocities between pairs of its states.

    Paper: MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019), section 3.
    Command: keras-meanflow train digits_rae --method trajectory_regression --set data=STORE
        --set teacher=runs/digits_rae
    Cost: 3 forward passes for each pair, and the evaluations of the teacher. imagenet_rae takes
        2.1 H100 days at 256 px, 8 at 512 px with pairs=8 (paper). We did not run it.
    """
    shift = getattr(task.times, "shift", 1.0)
    objective = TrajectoryRegression(
        teacher=network_of(teacher, "teacher"),
        sampler=Euler(times=shifted_times(evaluations, shift)),
        pairs=pairs,
        label_dropout=label_dropout,
    )
    return Method(objective, network=lambda: with_interval(network_of(teacher, "teacher")))
