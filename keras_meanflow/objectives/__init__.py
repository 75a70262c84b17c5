"""One paper, one file, one method: each turns a batch into a regression problem."""

from keras_meanflow.objectives.alpha_flow import AlphaFlow
from keras_meanflow.objectives.base import Objective
from keras_meanflow.objectives.decoupled_mean_flow import DecoupledMeanFlow
from keras_meanflow.objectives.flow_consist import FlowConsist
from keras_meanflow.objectives.flow_matching import FlowMatching
from keras_meanflow.objectives.guidance import (
    Guidance,
    GuidanceInput,
    OwnGuidance,
    RandomGuidance,
    TeacherGuidance,
)
from keras_meanflow.objectives.improved_mean_flow import BoundaryMeanFlow, ImprovedMeanFlow
from keras_meanflow.objectives.learned_variance import Cauchy, LearnedVarianceLoss, ReleasedLogMSE
from keras_meanflow.objectives.mean_flow import MeanFlow
from keras_meanflow.objectives.mean_flow_se import MeanFlowSE, ReleasedMeanFlowSE
from keras_meanflow.objectives.noisy_velocity import NoisyVelocity
from keras_meanflow.objectives.problem import Draws, Problem
from keras_meanflow.objectives.split_mean_flow import SplitMeanFlow
from keras_meanflow.objectives.trajectory_regression import EvenlyLabelled, TrajectoryRegression

__all__ = [
    "AlphaFlow",
    "BoundaryMeanFlow",
    "Cauchy",
    "DecoupledMeanFlow",
    "Draws",
    "EvenlyLabelled",
    "FlowConsist",
    "FlowMatching",
    "Guidance",
    "GuidanceInput",
    "ImprovedMeanFlow",
    "LearnedVarianceLoss",
    "MeanFlow",
    "MeanFlowSE",
    "NoisyVelocity",
    "Objective",
    "Problem",
    "OwnGuidance",
    "RandomGuidance",
    "ReleasedLogMSE",
    "ReleasedMeanFlowSE",
    "SplitMeanFlow",
    "TeacherGuidance",
    "TrajectoryRegression",
]
