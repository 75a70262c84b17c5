"""Networks `u(z, r, t, condition)`. They do not depend on how they are trained."""

from keras_meanflow.networks.base import Network
from keras_meanflow.networks.dit import DiT
from keras_meanflow.networks.dit_dh import DiTDH
from keras_meanflow.networks.in_context import InContextDiT
from keras_meanflow.networks.mlp import MLP
from keras_meanflow.networks.noise_prediction import NoisePrediction
from keras_meanflow.networks.residual import ComplexMask, ConditionResidual
from keras_meanflow.networks.sharding import DIT_LAYOUT
from keras_meanflow.networks.tcn import TCN
from keras_meanflow.networks.unet import UNet
from keras_meanflow.networks.unet_layers import LogFourierPair, SinusoidPair

__all__ = [
    "ComplexMask",
    "ConditionResidual",
    "DIT_LAYOUT",
    "DiT",
    "DiTDH",
    "InContextDiT",
    "LogFourierPair",
    "MLP",
    "Network",
    "NoisePrediction",
    "SinusoidPair",
    "TCN",
    "UNet",
]
