"""Flow matching: the velocity, for sampling in many steps."""

from keras_meanflow import FlowMatching
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task


@method
def flow_matching(task: Task, *, label_dropout: float = 0.1) -> Method:
    """Flow matching: the velocity, for sampling in many steps; a teacher for other methods.

    label_dropout is the share of rows without a label; it allows a guidance scale in sampling.

    Paper: Flow Matching for Generative Modeling (arXiv 2210.02747); on tokens, Diffusion
        Transformers with Representation Autoencoders (arXiv 2510.11690).
    Command: keras-meanflow train digits --method flow_matching
    Cost: 3 forward passes per step.
    Expected:
        imagenet_rae    FID 1.51 in 50 steps without guidance (paper)
    """
    objective = FlowMatching(times=task.law(1.0), label_dropout=label_dropout, **task.noise)
    return Method(objective, sampler=task.solver)
