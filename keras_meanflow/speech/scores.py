"""How close enhanced speech is to clean speech: SI-SDR, PESQ, ESTOI.

PESQ and ESTOI come from the packages pesq and pystoi: `keras_meanflow[speech,pesq]` installs them.
Installing pesq needs a C compiler.
"""

import importlib.util
from collections.abc import Mapping, Sequence

import numpy as np

from keras_meanflow.speech.audio import resampled, speech_library

NARROW, WIDE = 8_000, 16_000  # the sample rates of PESQ, in Hz


def si_sdr(clean: np.ndarray, estimate: np.ndarray) -> float:
    """`10 log10(|a s|^2 / |a s - e|^2)`, `a = <e, s> / |s|^2`, in decibels.

    Example:
        >>> round(si_sdr(clean, clean + noise), 1)  # noise orthogonal to speech, of equal power
        0.0

    References:
        Le Roux et al., SDR - half-baked or well done? (arXiv 1811.02508), Eq. 3.
    """
    clean, estimate = (np.asarray(x, "float64") for x in (clean, estimate))
    target = (estimate @ clean) / (clean @ clean) * clean
    error = target - estimate
    return float(10.0 * np.log10((target @ target) / max(error @ error, 1e-20)))


def pesq(clean: np.ndarray, estimate: np.ndarray, sample_rate: int, band: str = "nb") -> float:
    """PESQ, narrow band ("nb", at 8 kHz) or wide band ("wb", at 16 kHz); NaN without speech.

    Signals of other rates are resampled; wide band needs 16 kHz or more.

    References:
        ITU-T P.862.1, P.862.2, by the package pesq.
    """
    package = speech_library("pesq", extra="pesq")
    rate = WIDE if band == "wb" else NARROW
    pair = (resampled(np.asarray(x, "float32"), sample_rate, rate) for x in (clean, estimate))
    try:
        return float(package.pesq(rate, *pair, band))
    except package.NoUtterancesError:
        return float("nan")


def estoi(clean: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Extended short-time objective intelligibility, by the package pystoi."""
    return float(speech_library("pystoi").stoi(clean, estimate, sample_rate, extended=True))


def speech_scores(clean: np.ndarray, estimate: np.ndarray, sample_rate: int) -> dict[str, float]:
    """All scores by name; no PESQ if pesq is not installed, no wide band below 16 kHz.

    Raises:
        ValueError: for signals of two lengths.

    Example:
        >>> speech_scores(clean, enhanced, 8_000)["si_sdr"]
    """
    if len(clean) != len(estimate):
        raise ValueError(
            f"Scores compare equally long signals. Received: {len(clean)} and {len(estimate)}."
        )
    scores = {"si_sdr": si_sdr(clean, estimate), "estoi": estoi(clean, estimate, sample_rate)}
    if importlib.util.find_spec("pesq"):
        scores["pesq_nb"] = pesq(clean, estimate, sample_rate, "nb")
        if sample_rate >= WIDE:
            scores["pesq_wb"] = pesq(clean, estimate, sample_rate, "wb")
    return scores


def mean_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each score over files, without NaN."""
    return {name: float(np.nanmean([s[name] for s in scores])) for name in scores[0]}
