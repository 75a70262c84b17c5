"""SplitMeanFlow: the average velocity of an interval, from those of its two parts."""

from keras_meanflow.objectives import SplitMeanFlow, TeacherGuidance
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import guidance_of, network_of


@method
def split_mean_flow(
    task: Task,
    *,
    teacher: str | None = None,
    teacher_scale: float = 1.0,
    fraction_r_equals_t: float = 0.5,
    omega: float = 1.0,
    kappa: float = 0.0,
    guidance_end: float = 1.0,
    label_dropout: float = 0.1,
) -> Method:
    """SplitMeanFlow: the target of an interval comes from its two parts, without a derivative.

    teacher is the run of a flow model: its velocity replaces that of the data, and the network is
    initialised with its weights. Set label_dropout=0 then. teacher_scale is the guidance scale for
    a teacher trained with label dropout. Without a teacher, omega, kappa and guidance_end are as in
    mean_flow.

    Paper: SplitMeanFlow (arXiv 2507.16884); it has no results on images.
    Command: keras-meanflow train digits --method split_mean_flow
    Cost: 3 + 2f forward passes per step, for a share f of rows with r < t.
    Expected, one step:
        digits, mnist   docs/results/methods.md
    """
    common = dict(times=task.law(fraction_r_equals_t), label_dropout=label_dropout, **task.noise)
    if teacher is None:
        return Method(SplitMeanFlow(guidance=guidance_of(omega, kappa, guidance_end), **common))
    if guidance_of(omega, kappa, guidance_end):
        raise ValueError(
            "A teacher's velocity is guided by teacher_scale, not by omega and kappa. "
            f"Received: omega={omega}, kappa={kappa}."
        )
    taught = TeacherGuidance(teacher=network_of(teacher, "teacher"), scale=teacher_scale)
    objective = SplitMeanFlow(guidance=taught, **common)
    return Method(objective, network=lambda: network_of(teacher, "teacher"))
