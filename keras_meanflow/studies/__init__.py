"""Look inside MeanFlow training.

Some studies train a task by a method several times and compare (`two_stages`, `noisy_velocity`,
`one_gap`). Others measure a trained model (`task_affinities`, `u_errors`, `du_dt_norms`,
`curvatures`).
"""

from keras_meanflow.studies.affinity import task_affinities
from keras_meanflow.studies.cells import CellRuns, Cells
from keras_meanflow.studies.curvature import curvatures
from keras_meanflow.studies.du_dt import du_dt_norms
from keras_meanflow.studies.fields import LearnedField, average_velocity
from keras_meanflow.studies.mixture import GaussianMixture
from keras_meanflow.studies.points import Points
from keras_meanflow.studies.quality import EnergyDistance, FrechetDistance
from keras_meanflow.studies.studies import noisy_velocity, one_gap, two_stages
from keras_meanflow.studies.training import Case, Subject, train_cases
from keras_meanflow.studies.u_error import UErrors, u_errors

__all__ = [
    "Case",
    "CellRuns",
    "Cells",
    "EnergyDistance",
    "FrechetDistance",
    "GaussianMixture",
    "LearnedField",
    "Points",
    "Subject",
    "UErrors",
    "average_velocity",
    "curvatures",
    "du_dt_norms",
    "noisy_velocity",
    "one_gap",
    "task_affinities",
    "train_cases",
    "two_stages",
    "u_errors",
]
