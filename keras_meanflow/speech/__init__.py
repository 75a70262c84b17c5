"""Speech enhancement: one domain in one folder.

Recordings and their spectrograms (`STFT`), pairs of clean and noisy speech to train on, the
enhancer that runs over whole files, and the scores that speech is judged by.
"""

from keras_meanflow.speech.pairs import (
    MixedSpeech,
    SpeechPairs,
)
from keras_meanflow.speech.stft import (
    STFT,
)

__all__ = [
    "MixedSpeech",
    "STFT",
    "SpeechPairs",
]
