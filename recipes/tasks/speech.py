"""Clean speech from noisy speech: VoiceBank-DEMAND, and spoken digits on a CPU."""

import functools
import math

import keras

from keras_meanflow import UNet
from keras_meanflow.networks import TCN, ComplexMask
from keras_meanflow.optimizers import warmed_up
from keras_meanflow.parts import FromCondition, Line, NoisyToClean, PowerGap
from keras_meanflow.recipe import task
from keras_meanflow.speech.audio import read_all
from keras_meanflow.speech.pairs import MixedSpeech, SpeechPairs, paired_files
from keras_meanflow.speech.spoken_digits import load_utterances
from keras_meanflow.speech.stft import STFT
from keras_meanflow.training import Task
from keras_meanflow.training.task import given

_PAIRS = "a folder with clean/ and noisy/ recordings of the same names"
_CLIPS = "an .npz file of spoken digits (`load_utterances`)"


@task(
    has=("pairs",),
    methods={
        "mean_flow_se": {},
        "mean_flow": dict(label_dropout=0.0),
        "flow_matching": dict(label_dropout=0.0),
        "alpha_flow": dict(label_dropout=0.0),
        "split_mean_flow": dict(label_dropout=0.0),
    },
)
def speech(
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
) -> Task:
    """VoiceBank-DEMAND at 16 kHz with NCSN++, and the settings of MeanFlowSE.

    216,000 steps are about 150 epochs of 11,572 pairs, as in the paper.

    Paper: MeanFlowSE (arXiv 2509.14858).
    Command: keras-meanflow train speech --set data=VBDMD/train
    Data: a folder with clean/ and noisy/, .wav or .flac files of the same names, at any
        sample rate.
    Cost: meant for several GPUs; 65,985,190 parameters.
    """
    source = SpeechPairs.from_folder(given(data, "data", _PAIRS), STFT(16_000), frames)
    optimizer = keras.optimizers.Adam(learning_rate, global_clipnorm=1.0)
    return Task(
        data=source,
        network=functools.partial(
            UNet.ncsnpp, image_size=source.shape[:2], width=width, multipliers=multipliers
        ),
        compile=dict(optimizer=optimizer, jit_compile=jit_compile),
        times=PowerGap(exponent=Line(start=8.0, end=1.0, until=0.7)),
        path=NoisyToClean(),
        coupling=FromCondition(std=math.sqrt(0.5)),
        batch_size=batch_size,
        steps=steps,
        sample_labels=_first_noisy(source),
        averages=averages,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        checkpoint_seconds=checkpoint_seconds,
    )


@task(
    has=("pairs",),
    every=dict(fraction_r_equals_t=0.75, label_dropout=0.0),
    methods={
        "mean_flow": {},
        "mean_flow_se": dict(fraction_r_equals_t=0.1),
        "split_mean_flow": dict(fraction_r_equals_t=0.5),
    },
)
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
    gap_exponent: float = 4.0,
    lateness: float = 12.0,
    snr: tuple[float, ...] = (-5.0, 10.0),
    quieter: float = 12.0,
    speeds: tuple[float, ...] = (0.85, 1.18),
    equaliser: float = 2.0,
    utterances: int = 300,
    sample_every: int | None = 100,
    log_every: int = 25,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Task:
    """Spoken digits at 8 kHz in real noise, on a CPU.

    Speaker 5 and the last noise are for evaluation only.

    mean_flow has r < t on a quarter of the rows: in the mean this is the loss of MeanFlowSE with
    weight 1/4, for 3.5 forward passes per step instead of 8. It uses the exact identity. The window
    has 254 samples, with a hop of 127.

    Differences to the paper:
    - The network is a TCN on whole frames that predicts a complex mask. Its embedding of the times
      has low frequencies: with NCSN++'s random frequencies the exact identity does not converge.
    - Times are drawn near 1 (lateness), because one-step sampling uses only those.
    - Rows are weighted by their error, as in Mean Flows (power).
    - The initial noise is as weak as speech is in a spectrogram (sigma; 0.487 in the paper).
    - Speech is randomly changed in speed, filtered and made quieter.

    Paper: MeanFlowSE (arXiv 2509.14858).
    Command: keras-meanflow train speech_digits --backend torch --set jit_compile=false
        --set data=spoken_digits_8k.npz --set noise=voicebank_demand_6
    Data: an .npz of clips (`load_utterances`); a folder with clean/ and noisy/ of the same names,
        whose differences are the noise.
    Cost: 0.3 to 0.35 s per step on one core with PyTorch, seven minutes.
    Expected of mean_flow: at 0 dB one step gains 5.4 dB of SI-SDR and 0.1 of ESTOI. It gains 0.27
        of PESQ with an attenuation limit of 20 dB, and nothing without it (docs/guide/speech.md).
    """
    codec = STFT(8_000, fft_length=254, hop=127, factor=0.2)
    clean = load_utterances(given(data, "data", _CLIPS), (0, 1, 2, 3, 4), count=utterances)
    recorded = noises(given(noise, "noise", _PAIRS), codec.sample_rate)[:-1]
    varied = dict(snr=snr, quieter=quieter, speeds=speeds, equaliser=equaliser)
    source = MixedSpeech(clean, recorded, codec, frames, **varied)
    rate = warmed_up(learning_rate, steps=steps, warmup_steps=warmup_steps)
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=1.0)
    exponent = Line(start=gap_exponent, end=1.0, until=0.5)
    return Task(
        data=source,
        network=lambda: ComplexMask(TCN(bins=codec.bins, frames=frames, width=width, depth=depth)),
        compile=dict(optimizer=optimizer, jit_compile=jit_compile),
        times=PowerGap(exponent=exponent, lateness=lateness),
        path=NoisyToClean(sigma_max=sigma),
        coupling=FromCondition(std=math.sqrt(0.5)),
        batch_size=batch_size,
        steps=steps,
        sample_labels=_first_noisy(source),
        averages=averages,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        checkpoint_seconds=checkpoint_seconds,
    )


def noises(folder, sample_rate):
    """The differences noisy - clean of a folder of pairs, in the order of their names."""
    pairs, _ = read_all(paired_files(folder), sample_rate)
    return [noisy - clean for clean, noisy in pairs]


def _first_noisy(source):
    """The first four noisy spectrograms, for the pictures."""
    return source.take(range(min(4, len(source))))[1]
