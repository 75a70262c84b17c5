"""The stages of MF-RAE: a flow model becomes a flow map in two or three trainings."""

from pathlib import Path

from keras_meanflow.formats.conversion import load_network
from keras_meanflow.formats.fine_tuning import add_interval
from keras_meanflow.networks import Network
from keras_meanflow.objectives import MeanFlow, TrajectoryRegression
from keras_meanflow.objectives.guidance import TeacherGuidance
from keras_meanflow.parts.derivatives import CentralDifference
from keras_meanflow.parts.losses import AdaptiveLoss
from keras_meanflow.parts.time_laws import ShiftedUniform
from keras_meanflow.samplers import Euler, shifted_times
from keras_meanflow.training.run import trained_network
from keras_meanflow.training.training import Training


def network_of(path, knob) -> Network:
    """The averaged network of a run, or the network of a file of weights.

    Args:
        path: a run's folder, or a file that `load_network` can tell.
        knob: of the recipe that asks for it, for the message.

    Raises:
        ValueError: for None, with what to give.
    """
    if path is None:
        raise ValueError(
            f"This stage needs --set {knob}=PATH: the run of the stage before, or a file of "
            "weights. Received: None."
        )
    return trained_network(path) if Path(path).is_dir() else load_network(path)


def trajectory_stage(training, teacher, *, evaluations, pairs) -> Training:
    """CMT: the teacher, told t - r by zeros at first, learns its own solver's slopes.

    Args:
        training: of the flow model by `FlowMatching(times=ShiftedUniform(...))`; its data, labels,
            optimizer and shift are taken.
        teacher: see `network_of`.
        evaluations: of the teacher in a trajectory; 15 in the paper's code, which counts 16 states.
        pairs: of states a trajectory.
    """
    flow = training.flow_map.objective
    objective = TrajectoryRegression(
        teacher=network_of(teacher, "teacher"),
        sampler=Euler(times=shifted_times(evaluations, flow.times.shift)),
        pairs=pairs,
        label_dropout=flow.label_dropout,
    )
    student = add_interval(network_of(teacher, "teacher"))
    return training.with_objective(objective, network=student, sampler=None)


def distillation_stage(training, teacher, start, *, fraction_r_equals_t) -> Training:
    """MFD: MeanFlow along the teacher's velocity, from the weights of the stage before.

    Args:
        training, teacher: see `trajectory_stage`.
        start: the stage before; see `network_of`.
        fraction_r_equals_t: share of rows with r = t.
    """
    guidance = TeacherGuidance(teacher=network_of(teacher, "teacher"))
    objective = MeanFlow(guidance=guidance, **_mean_flow(training, fraction_r_equals_t))
    return training.with_objective(objective, network=network_of(start, "start"), sampler=None)


def tuning_stage(training, start, *, fraction_r_equals_t) -> Training:
    """MFT: MeanFlow on the data's own velocities, from the weights of the stage before.

    Args:
        training, start, fraction_r_equals_t: see `distillation_stage`.
    """
    objective = MeanFlow(**_mean_flow(training, fraction_r_equals_t))
    return training.with_objective(objective, network=network_of(start, "start"), sampler=None)


def _mean_flow(training, fraction_r_equals_t):
    """The settings of the paper's code that MFD and MFT share."""
    flow = training.flow_map.objective
    return {
        "times": ShiftedUniform(shift=flow.times.shift, fraction_r_equals_t=fraction_r_equals_t),
        "loss": AdaptiveLoss(c=1e-3),
        "derivative": CentralDifference(step=5e-3),
        "label_dropout": flow.label_dropout,
    }
