"""MeanFlow distillation: the MeanFlow identity along a teacher's velocity."""

from keras_meanflow.configurable import part
from keras_meanflow.networks.base import Network
from keras_meanflow.objectives.mean_flow import MeanFlow


@part
class MeanFlowDistillation(MeanFlow):
    """MeanFlow with `w = (1 - eta) (e - x) + eta teacher(z_t, t)` in the place of `v = e - x`.

    eta = 1, MFD, has no variance from the single (x, e) that a row draws, but the teacher's bias;
    eta = 0 is MeanFlow itself (the paper's MFT, a second stage without the teacher's bias). The
    teacher sees the null condition where the row's is dropped. A forward pass of the teacher is
    added to the cost of `MeanFlow`.

    Args:
        teacher: a `Network` that is a flow model; `FlowMap` freezes it.
        eta: share of the teacher's velocity, in [0, 1].

    Raises:
        ValueError: for eta outside [0, 1].

    Example:
        >>> teacher = load("runs/digits_rae_teacher")
        >>> student = add_interval(teacher.copied_network(teacher.average))
        >>> objective = MeanFlowDistillation(teacher=teacher.copied_network(teacher.average))
        >>> flow_map = FlowMap(student, objective)

    References:
        MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019), Prop. 3.1;
        sony/mf-rae `training_losses_mfd`, which drops labels twice, u's a second time and
        differently on each side of its difference; here once for u and teacher alike.
    """

    teacher: Network
    eta: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta is a share, in [0, 1]. Received: {self.eta}.")

    def _velocity(self, u, z, v, condition, draws):
        """See `MeanFlow._velocity`, with the teacher's share in v."""
        kept = self.conditioned(u, condition, draws.drop)
        taught = self.teacher(z, draws.t, draws.t, kept)
        w = (1.0 - self.eta) * v + self.eta * taught  # Prop. 3.1
        return super()._velocity(u, z, w, condition, draws)
