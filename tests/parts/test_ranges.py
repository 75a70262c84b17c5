"""Numbers out of range are refused where a class is made, with the rule, before anything runs."""

import keras
import pytest

from keras_meanflow import FlowMap, Guidance, MeanFlow
from keras_meanflow.flow_map import improved_training
from keras_meanflow.networks import MLP, TCN, DiT, DiTDH, InContextDiT, UNet
from keras_meanflow.objectives import DecoupledMeanFlow, FlowMatching, SplitMeanFlow
from keras_meanflow.optimizers import SPlus, compile_with
from keras_meanflow.optimizers.choice import warmed_up
from keras_meanflow.parts import (
    AdaptiveLoss,
    EasyFirst,
    FromCondition,
    Line,
    LogitNormal,
    LogMSE,
    MinSNRVelocity,
    NoisyToClean,
    PowerGap,
    ProgressiveGap,
    TwoLogitNormals,
    UShaped,
)
from keras_meanflow.samplers import Jump
from keras_meanflow.training.plan import Plan

NAN, INF = float("nan"), float("inf")
SIZES = dict(image_size=8, channels=1, patch_size=4, width=8, depth=1, heads=2)
CASES = [
    (LogitNormal, dict(mean=NAN), "mean must be finite. Received: nan"),
    (LogitNormal, dict(std=-1.0), "std must exceed 0"),
    (LogitNormal, dict(std=Line(start=1.0, end=0.0)), "std must exceed 0"),
    (LogitNormal, dict(fraction_r_equals_t=NAN), "fraction_r_equals_t must be finite"),
    (Line, dict(start=NAN, end=1.0), "start must be finite"),
    (TwoLogitNormals, dict(r_std=0.0), "r_std must exceed 0"),
    (EasyFirst, dict(std=INF), "std must be finite"),
    (UShaped, dict(snap_t=2.0), r"snap_t must lie in \[0, 1\]"),
    (PowerGap, dict(exponent=INF), "exponent must be finite"),
    (NoisyToClean, dict(sigma_min=NAN), "sigma_min must be finite"),
    (FromCondition, dict(std=-1.0), "std must be at least 0"),
    (MinSNRVelocity, dict(gamma=-1.0), "gamma must exceed 0"),
    (ProgressiveGap, dict(s=2.0), r"s must lie in \[0, 1\]"),
    (AdaptiveLoss, dict(p=-5.0), "p must be at least 0"),
    (AdaptiveLoss, dict(p=INF), "p must be at least 0 and finite"),
    (AdaptiveLoss, dict(c=-1.0), "c must exceed 0"),
    (LogMSE, dict(c=NAN), "c must exceed 0"),
    (MeanFlow, dict(label_dropout=-1.0), r"label_dropout must lie in \[0, 1\]"),
    (FlowMatching, dict(label_dropout=2.0), r"label_dropout must lie in \[0, 1\]"),
    (SplitMeanFlow, dict(label_dropout=NAN), "label_dropout must be finite"),
    (DecoupledMeanFlow, dict(label_dropout=2.0), r"label_dropout must lie in \[0, 1\]"),
    (Guidance, dict(omega=INF), "omega must be finite"),
    (Jump, dict(times=(1.0, NAN, 0.0)), "times must be finite"),
    (DiT, {**SIZES, "depth": 0}, "depth must be a whole number of at least 1. Received: 0"),
    (DiT, {**SIZES, "heads": 0}, "heads must be a whole number of at least 1. Received: 0"),
    (DiT, {**SIZES, "patch_size": 0}, "patch_size must be a whole number"),
    (DiT, {**SIZES, "num_classes": 0}, "num_classes must be a whole number"),
    (DiTDH, {**SIZES, "depth": (1, 0), "width": (8, 8), "heads": (2, 2)}, "depth must be"),
    (InContextDiT, {**SIZES, "head_depth": 0}, "head_depth must be a whole number"),
    (MLP, dict(data_size=2, depth=-1), "depth must be a whole number"),
    (TCN, dict(bins=4, frames=8, depth=0), "depth must be a whole number"),
    (UNet, dict(image_size=8, channels=1, width=0, multipliers=(1,), blocks=0), "width must"),
    (SPlus, dict(beta_1=NAN), r"beta_1 must be in \[0, 1\)"),
    (FlowMap, dict(network="mlp", averages=(0.9, 0.9)), "different decays"),
    (FlowMap, dict(network="mlp", averages=(NAN,)), "different decays"),
]


@pytest.mark.parametrize("make, arguments, rule", CASES)
def test_a_number_out_of_range_is_refused_where_the_class_is_made(make, arguments, rule):
    if arguments.get("network") == "mlp":
        arguments = {**arguments, "network": MLP(data_size=2, width=4, depth=1)}
    with pytest.raises(ValueError, match=rule):
        make(**arguments)


@pytest.mark.parametrize(
    "optimizer, rule",
    [
        (lambda: keras.optimizers.Adam(-1.0), "learning_rate must be at least 0 and finite"),
        (lambda: keras.optimizers.Adam(NAN), "learning_rate must be at least 0"),
        (
            lambda: keras.optimizers.Adam(warmed_up(INF, steps=9, warmup_steps=1)),
            "learning_rate .warmup_target",
        ),
        (lambda: keras.optimizers.Adam(warmed_up(1.0, steps=9, warmup_steps=-1)), "warmup_steps"),
        (
            lambda: keras.optimizers.SGD(warmed_up(1.0, steps=9, warmup_steps=1, last_rate=NAN)),
            "last_rate must be at least 0",
        ),
    ],
)
def test_a_learning_rate_out_of_range_is_refused_before_training(optimizer, rule):
    flow_map = FlowMap(MLP(data_size=2, width=4, depth=1))
    with pytest.raises(ValueError, match=rule):
        flow_map.compile(optimizer())


def test_the_other_arguments_of_compiling_are_checked():
    flow_map = FlowMap(MLP(data_size=2, width=4, depth=1))
    with pytest.raises(ValueError, match="jit_compile must be auto, True or False"):
        flow_map.compile("adam", jit_compile="perhaps")
    with pytest.raises(ValueError, match="beta_2 must lie in"):
        compile_with("adam", 1e-3, width=8, beta_2=1.0)
    with pytest.raises(ValueError, match="global_clipnorm must exceed 0"):
        compile_with("adam", 1e-3, width=8, global_clipnorm=NAN)
    with pytest.raises(ValueError, match="patience must be a whole number"):
        improved_training(MeanFlow(), patience=-1)


@pytest.mark.parametrize(
    "knob", [dict(checkpoint_seconds=NAN), dict(batch_size=2.5), dict(steps=0), dict(log_every=-1)]
)
def test_the_numbers_of_a_training_are_checked(knob):
    with pytest.raises(ValueError, match=f"{next(iter(knob))} must"):
        training = Plan.of("gaussian").training(dict(width=8, depth=1, points=20))
        type(training)(**{**vars(training), **knob})
