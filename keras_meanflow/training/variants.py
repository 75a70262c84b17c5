"""Trainings by other methods of the family, each made of one by MeanFlow: what recipes share."""

from keras_meanflow.data import PairStore
from keras_meanflow.formats.fine_tuning import decouple
from keras_meanflow.networks import InContextDiT
from keras_meanflow.objectives import (
    AlphaFlow,
    DecoupledMeanFlow,
    FlowConsist,
    ImprovedMeanFlow,
    MeanFlow,
    SplitMeanFlow,
)
from keras_meanflow.objectives.guidance import GuidanceInput, RandomGuidance, TeacherGuidance
from keras_meanflow.parts.couplings import StoredPairs
from keras_meanflow.parts.losses import MeanAdaptiveLoss
from keras_meanflow.parts.schedules import Sigmoid, Steps
from keras_meanflow.parts.time_laws import UShaped
from keras_meanflow.training.run import trained_network


def split(training, *, teacher=None, scale=1.0):
    """A training turned into one of SplitMeanFlow, under the mean squared error.

    Args:
        training: a `Training` with a `MeanFlow`, whose times are kept, and guidance and label
            dropout where there is no teacher.
        teacher: directory of a run of flow matching, whose velocity takes the data's place and
            whose weights the student starts from; None for the data.
        scale: guidance scale of the teacher, which needs one trained with label dropout.

    Example:
        >>> training = split(digits(**knobs), teacher="runs/digits_flow")

    References:
        SplitMeanFlow (arXiv 2507.16884), section 5.1.
    """
    old = training.flow_map.objective
    if teacher is None:
        objective = SplitMeanFlow(
            times=old.times, guidance=old.guidance, label_dropout=old.label_dropout
        )
        return training.with_objective(objective)
    guidance = TeacherGuidance(teacher=trained_network(teacher), scale=scale)
    objective = SplitMeanFlow(times=old.times, guidance=guidance, label_dropout=0.0)
    return training.with_objective(objective, network=trained_network(teacher))


def alpha(training, *, begin=0.0, until=1.0, **settings):
    """A training turned into one of AlphaFlow.

    Args:
        training: a `Training` with a `MeanFlow`, whose times, loss and guidance are kept.
        begin, until: the progress between which alpha falls from 1 to 0.
        **settings: other fields of the `AlphaFlow`.

    Example:
        >>> training = alpha(digits(**knobs), begin=0.5, until=0.8)

    References:
        AlphaFlow (arXiv 2510.20771), section 4.
    """
    old = training.flow_map.objective
    fields = {
        "times": old.times,
        "loss": old.loss,
        "guidance": old.guidance,
        "label_dropout": old.label_dropout,
        "alpha": Sigmoid(start=1.0, end=0.0, steepness=25.0, begin=begin, until=until),
    }
    return training.with_objective(AlphaFlow(**{**fields, **settings}))


def improved(training, *, head_depth, largest=8.0, beta=1.0, times=None, **network):
    """A training turned into one of improved MeanFlow, on an `InContextDiT` of the same size.

    Args:
        training: a `Training` with a `MeanFlow` on a `DiT`, whose loss and label dropout are kept.
        head_depth: blocks of each head, of the network's depth.
        largest: guidance scale up to which the network learns to be told; 1 for no guidance.
        beta: of `GuidanceInput`.
        times: the joint law of (r, t), or None to keep it.
        **network: other arguments of the `InContextDiT`.

    Example:
        >>> training = improved(digits(**knobs), head_depth=2)

    References:
        Improved Mean Flows (arXiv 2512.02012), section 4.
    """
    old, was = training.flow_map.objective, training.flow_map.network
    sizes = "image_size channels patch_size width depth heads num_classes".split()
    sizes = {name: getattr(was, name) for name in sizes}
    network = InContextDiT(**sizes, head_depth=head_depth, **network)
    objective = ImprovedMeanFlow(
        times=times or old.times,
        loss=old.loss,
        guidance=GuidanceInput(beta=beta, largest=largest) if largest > 1.0 else None,
        label_dropout=old.label_dropout,
    )
    return training.with_objective(objective, network=network)


def decoupled(training, *, split_depth, flow=None):
    """A training turned into one of Decoupled MeanFlow.

    Args:
        training: a `Training` with a `MeanFlow` on a `DiT`, whose guidance and label dropout are
            kept.
        split_depth: blocks that see t; see `decouple`.
        flow: the network of a flow model to start from, or None for the training's own.

    Example:
        >>> training = decoupled(digits(**knobs), split_depth=3)

    References:
        Decoupled MeanFlow (arXiv 2510.24474).
    """
    old = training.flow_map
    objective = DecoupledMeanFlow(
        guidance=old.objective.guidance, label_dropout=old.objective.label_dropout
    )
    return training.with_objective(objective, network=decouple(flow or old.network, split_depth))


def consistent(training, *, rectification, begin):
    """A training turned into one of FlowConsist, whose second network is one like the first.

    Args:
        training: a `Training` with a `MeanFlow`, whose fields are kept.
        rectification: weight of the push.
        begin: the progress from which on it has it.

    Example:
        >>> training = consistent(digits(**knobs), rectification=0.5, begin=0.4)

    References:
        FlowConsist (arXiv 2602.06346).
    """
    old = training.flow_map
    weight = Steps(values=(0.0, rectification), at=(begin,))
    companion = old.copied_network(None)
    return training.with_objective(FlowConsist.of(old.objective, companion, rectification=weight))


def rectified(training, data, *, percentile=90.0, start=None, largest_scale=1.0):
    """A training turned into one of Re-MeanFlow, on the straight lines between stored pairs.

    Args:
        training: a `Training` with a `MeanFlow`, whose share of rows with r = t and label dropout
            are kept.
        data: the path of a pair store.
        percentile: of the distance, up to which pairs are kept.
        start: directory of a run whose network to go on with, or None.
        largest_scale: of `RandomGuidance`, in the second stage, whose gradients are clipped to
            norm 1; 1 in the first, which has none.

    Raises:
        ValueError: for data that is no pair store.

    Example:
        >>> training = rectified(digits(**knobs), "digits-pairs")

    References:
        Re-MeanFlow (arXiv 2511.23342), Alg. 1.
    """
    old = training.flow_map
    guided = largest_scale > 1.0
    objective = MeanFlow(
        times=UShaped(fraction_r_equals_t=old.objective.times.fraction_r_equals_t),
        loss=MeanAdaptiveLoss(),
        guidance=RandomGuidance(largest=largest_scale) if guided else None,
        label_dropout=old.objective.label_dropout,
        coupling=StoredPairs(),
    )
    if guided:
        old.optimizer.global_clipnorm = 1.0
    network = None if start is None else trained_network(start)
    store = PairStore(data, percentile=percentile)
    return training.with_objective(objective, network=network, data=store, codec=store.codec)
