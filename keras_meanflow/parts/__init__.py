"""What a method is made of: frozen values that save and load with a model.

A path makes z_t from data and noise. A coupling says which noise belongs to which data. A time law
draws (r, t), a loss measures errors, a weighting weighs rows, and a derivative computes du/dt. Any
number in them may be a schedule over training progress. Each is a keyword-only dataclass (`part`).
"""

from keras_meanflow.parts.couplings import (
    Coupling,
    FromCondition,
    Independent,
    StoredPairs,
)
from keras_meanflow.parts.derivatives import (
    CentralDifference,
    ClippedDerivative,
    Derivative,
    ForwardMode,
    ScaledCentralDifference,
)
from keras_meanflow.parts.easy_first import (
    EasyFirst,
    EasyFirstInterval,
    EasyFirstOnDiagonal,
    Plateau,
)
from keras_meanflow.parts.gap_laws import GapBin, PowerGap, ShapedGap
from keras_meanflow.parts.losses import (
    AdaptiveLoss,
    AdaptiveQuartic,
    LogMSE,
    MeanAdaptiveLoss,
    SquaredError,
    mean_square,
    squared_norm,
)
from keras_meanflow.parts.part import (
    Configurable,
    fields_of,
    part,
    register,
)
from keras_meanflow.parts.paths import (
    Linear,
    NoisyToClean,
    Path,
)
from keras_meanflow.parts.rows import (
    Rows,
    per_row,
)
from keras_meanflow.parts.schedules import (
    Cosine,
    Line,
    Piecewise,
    Power,
    Schedule,
    Sigmoid,
    Steps,
    bounds_of,
    scheduled_values,
    value_at,
)
from keras_meanflow.parts.time_laws import (
    DiagonalLogitNormal,
    LogitNormal,
    MaskedThenClamped,
    ShiftedUniform,
    TwoLogitNormals,
    Uniform,
    UShaped,
    dimension_shift,
    shifted,
)
from keras_meanflow.parts.times import (
    StateVariable,
    TimeSampler,
)
from keras_meanflow.parts.weightings import (
    FallingGap,
    GapWeight,
    MinSNRData,
    MinSNRNoise,
    MinSNRVelocity,
    ProgressiveGap,
    TimeWeight,
)

__all__ = [
    "AdaptiveLoss",
    "AdaptiveQuartic",
    "CentralDifference",
    "ClippedDerivative",
    "Configurable",
    "Cosine",
    "Coupling",
    "Derivative",
    "DiagonalLogitNormal",
    "EasyFirst",
    "EasyFirstInterval",
    "EasyFirstOnDiagonal",
    "FallingGap",
    "ForwardMode",
    "FromCondition",
    "GapBin",
    "GapWeight",
    "Independent",
    "Line",
    "Linear",
    "LogMSE",
    "LogitNormal",
    "MaskedThenClamped",
    "MeanAdaptiveLoss",
    "MinSNRData",
    "MinSNRNoise",
    "MinSNRVelocity",
    "NoisyToClean",
    "Path",
    "Piecewise",
    "Plateau",
    "Power",
    "PowerGap",
    "ProgressiveGap",
    "Rows",
    "ScaledCentralDifference",
    "Schedule",
    "ShapedGap",
    "ShiftedUniform",
    "Sigmoid",
    "SquaredError",
    "StateVariable",
    "Steps",
    "StoredPairs",
    "TimeSampler",
    "TimeWeight",
    "TwoLogitNormals",
    "UShaped",
    "Uniform",
    "bounds_of",
    "dimension_shift",
    "fields_of",
    "mean_square",
    "part",
    "per_row",
    "register",
    "scheduled_values",
    "shifted",
    "squared_norm",
    "value_at",
]
