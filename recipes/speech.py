"""Clean speech from noisy speech in one step: VoiceBank-DEMAND, and spoken digits on a CPU."""

import dataclasses
import math
from pathlib import Path

import keras

from keras_meanflow import FlowMap, MeanFlow, UNet
from keras_meanflow.networks import TCN, ComplexMask
from keras_meanflow.objectives import MeanFlowSE, ReleasedMeanFlowSE
from keras_meanflow.optimizers import warmed_up
from keras_meanflow.parts import AdaptiveLoss, FromCondition, Line, NoisyToClean, PowerGap
from keras_meanflow.parts.derivatives import ClippedDerivative, ScaledCentralDifference
from keras_meanflow.recipe import recipe
from keras_meanflow.speech.audio import read_all
from keras_meanflow.speech.pairs import MixedSpeech, SpeechPairs, paired_files
from keras_meanflow.speech.spoken_digits import load_utterances
from keras_meanflow.speech.stft import STFT
from keras_meanflow.training.training import Training


@recipe
def speech_vbdmd(
    *,
    data: str | None = None,
    seed: int = 0,
    steps: int = 216_000,
    batch_size: int = 8,
    learning_rate: float = 1e-4,
    averages: tuple[float, ...] = (0.999,),
    width: int = 128,
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 2, 2, 2),
    frames: int = 256,
    sample_every: int | None = 2000,
    log_every: int = 500,
    checkpoint_seconds: float = 300.0,
    jit_compile: bool | str = "auto",
) -> Training:
    """VoiceBank-DEMAND at 16 kHz by NCSN++, the paper's settings with the exact identity.

    216,000 steps are about the paper's 150 epochs of 11,572 pairs.

    Paper: MeanFlowSE (arXiv 2509.14858).
    Command: keras-meanflow train speech_vbdmd --set data=VBDMD/train
    Data: a folder with clean/ and noisy/, .wav or .flac files of the same names, of any rate.
    Cost: meant for several GPUs; 65,985,190 parameters.
    """
    keras.utils.set_random_seed(seed)
    source = SpeechPairs.from_folder(_given(data, "speech_vbdmd"), STFT(16_000), frames)
    network = UNet.ncsnpp(image_size=source.shape[:2], width=width, multipliers=multipliers)
    flow_map = FlowMap(network, MeanFlowSE(), averages=averages, horizon=steps, seed=seed)
    optimizer = keras.optimizers.Adam(learning_rate, global_clipnorm=1.0)
    flow_map.compile(optimizer, jit_compile=jit_compile)
    return _training(
        flow_map,
        source,
        batch_size=batch_size,
        steps=steps,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        checkpoint_seconds=checkpoint_seconds,
    )


@recipe(extends=speech_vbdmd)
def speech_vbdmd_released(**knobs) -> Training:
    """The same with the released derivative: a difference, clipped, times one half.

    Paper: MeanFlowSE (arXiv 2509.14858); `ReleasedMeanFlowSE` says what that makes of it.
    Command: keras-meanflow train speech_vbdmd_released --set data=VBDMD/train
    """
    training = speech_vbdmd(**knobs)
    training.flow_map.set_objective(ReleasedMeanFlowSE())
    return training


@recipe
def speech_digits(
    *,
    data: str | None = None,
    noise: str | None = None,
    seed: int = 0,
    steps: int = 1200,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    warmup_steps: int = 50,
    averages: tuple[float, ...] = (0.99,),
    width: int = 256,
    depth: int = 8,
    frames: int = 64,
    sigma: float = 0.1,
    power: float = 1.0,
    exponent: float = 4.0,
    lateness: float = 12.0,
    fraction_r_equals_t: float = 0.75,
    snr: tuple[float, ...] = (-5.0, 10.0),
    quieter: float = 12.0,
    speeds: tuple[float, ...] = (0.85, 1.18),
    equaliser: float = 2.0,
    utterances: int = 300,
    sample_every: int | None = 100,
    log_every: int = 25,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Training:
    """Spoken digits at 8 kHz in real noise, on a CPU; speaker 5 and the last noise are kept out.

    The mean of MeanFlowSE's loss at weight 1/4, for 3.5 forward passes a step instead of 8:
    `MeanFlow` with a quarter of the rows r < t. The exact identity; a window of 254 samples, every
    half of it. Not the paper's: a complex mask from a TCN on whole frames, with slow sinusoids of
    the times, since with NCSN++'s random frequencies the exact identity does not settle; times
    near 1 (lateness), which are all that one step visits; rows weighed by their error, as in Mean
    Flows (power); the start's noise as weak as speech is in a spectrogram (sigma, 0.487 in the
    paper); speech at other speeds, filtered and made quieter at random.

    Paper: MeanFlowSE (arXiv 2509.14858).
    Command: keras-meanflow train speech_digits --backend torch --set jit_compile=false
        --set data=spoken_digits_8k.npz --set noise=voicebank_demand_6
    Data: an .npz of clips (`load_utterances`); a folder with clean/ and noisy/ of the same names,
        whose differences are the noise.
    Cost: on PyTorch 0.3 to 0.35 s a step on one core, seven minutes.
    Expected: at 0 dB one step gains 5.4 dB of SI-SDR and 0.1 of ESTOI, and in PESQ 0.27 with an
        attenuation limit of 20 dB, nothing without (docs/speech.md).
    """
    keras.utils.set_random_seed(seed)
    codec = STFT(8_000, fft_length=254, hop=127, factor=0.2)
    clean = load_utterances(_given(data, "speech_digits"), (0, 1, 2, 3, 4), count=utterances)
    recorded = noises(_given(noise, "speech_digits", "noise"), codec.sample_rate)[:-1]
    varied = dict(snr=snr, quieter=quieter, speeds=speeds, equaliser=equaliser)
    source = MixedSpeech(clean, recorded, codec, frames, **varied)
    network = TCN(bins=codec.bins, frames=frames, width=width, depth=depth)
    objective = MeanFlow(
        times=PowerGap(
            exponent=Line(start=exponent, end=1.0, until=0.5),
            lateness=lateness,
            fraction_r_equals_t=fraction_r_equals_t,
        ),
        loss=AdaptiveLoss(p=power),
        label_dropout=0.0,
        path=NoisyToClean(sigma_max=sigma),
        coupling=FromCondition(std=math.sqrt(0.5)),
    )
    flow_map = FlowMap(ComplexMask(network), objective, averages=averages, horizon=steps, seed=seed)
    rate = warmed_up(learning_rate, steps=steps, warmup_steps=warmup_steps)
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=1.0)
    flow_map.compile(optimizer, jit_compile=jit_compile)
    return _training(
        flow_map,
        source,
        batch_size=batch_size,
        steps=steps,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        checkpoint_seconds=checkpoint_seconds,
    )


@recipe(extends=speech_digits)
def speech_digits_released(**knobs) -> Training:
    """The spoken digits with the released derivative: a difference, clipped, times one half.

    Paper: MeanFlowSE (arXiv 2509.14858); `ClippedDerivative` says what that makes of it.
    Command: keras-meanflow train speech_digits_released, as speech_digits
    Cost: that of speech_digits.
    """
    training = speech_digits(**knobs)
    objective = training.flow_map.objective
    released = ClippedDerivative(derivative=ScaledCentralDifference())
    training.flow_map.set_objective(dataclasses.replace(objective, derivative=released))
    return training


def noises(folder, sample_rate):
    """The differences noisy - clean of a folder of pairs, in the order of their names."""
    pairs, _ = read_all(paired_files(folder), sample_rate)
    return [noisy - clean for clean, noisy in pairs]


def _training(flow_map, source, **settings):
    """With pictures of what becomes of the first four noisy spectrograms."""
    noisy = source.take(range(min(4, len(source))))[1]
    return Training(flow_map=flow_map, data=source, sample_labels=noisy, **settings)


def _given(path, name, knob="data"):
    if path is None:
        raise ValueError(f"{name} needs --set {knob}=PATH; `recipes show {name}` says of what.")
    return Path(path)
