"""MeanFlow-family generative models for Keras 3: one network, one step, three backends."""

import importlib

__version__ = "0.1.0"

# Public names, in the order in which a user meets them, and the module each comes from.
_NAMES = {
    "FlowMap": "flow_map",
    "DiT": "networks",
    "DiTDH": "networks",
    "InContextDiT": "networks",
    "MLP": "networks",
    "UNet": "networks",
    "TCN": "networks",
    "ConditionResidual": "networks",
    "ComplexMask": "networks",
    "SinusoidPair": "networks",
    "LogFourierPair": "networks",
    "NoisePrediction": "networks",
    "Network": "networks",
    "MeanFlow": "objectives",
    "DecoupledMeanFlow": "objectives",
    "FlowConsist": "objectives",
    "FlowMatching": "objectives",
    "MeanFlowSE": "objectives",
    "ReleasedMeanFlowSE": "objectives",
    "SplitMeanFlow": "objectives",
    "AlphaFlow": "objectives",
    "ImprovedMeanFlow": "objectives",
    "BoundaryMeanFlow": "objectives",
    "TrajectoryRegression": "objectives",
    "Objective": "objectives",
    "Guidance": "guidance",
    "RandomGuidance": "guidance",
    "TeacherGuidance": "guidance",
    "GuidanceInput": "guidance",
    "LogitNormal": "times",
    "Uniform": "times",
    "ShiftedUniform": "times",
    "MaskedThenClamped": "times",
    "TwoLogitNormals": "times",
    "DiagonalLogitNormal": "times",
    "UShaped": "times",
    "ShapedGap": "times",
    "PowerGap": "times",
    "EasyFirst": "difficulty",
    "Plateau": "difficulty",
    "AdaptiveLoss": "weightings",
    "SquaredError": "weightings",
    "MeanAdaptiveLoss": "weightings",
    "LogMSE": "weightings",
    "ReleasedLogMSE": "weightings",
    "Cauchy": "weightings",
    "ProgressiveGap": "weightings",
    "MinSNRVelocity": "weightings",
    "MinSNRData": "weightings",
    "Curriculum": "curriculum",
    "Line": "schedules",
    "Power": "schedules",
    "Cosine": "schedules",
    "Sigmoid": "schedules",
    "Steps": "schedules",
    "Piecewise": "schedules",
    "SPlus": "optimizers",
    "ForwardMode": "derivatives",
    "CentralDifference": "derivatives",
    "Linear": "paths",
    "NoisyToClean": "paths",
    "Independent": "couplings",
    "StoredPairs": "couplings",
    "FromCondition": "couplings",
    "Jump": "samplers",
    "Euler": "samplers",
    "Heun": "samplers",
    "Restart": "samplers",
    "AdamsBashforth2": "samplers",
    "BanditSampler": "samplers",
}
__all__ = [*_NAMES, "__version__"]


def __getattr__(name):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__():
    return __all__
