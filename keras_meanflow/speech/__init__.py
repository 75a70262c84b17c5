"""Speech enhancement: everything about speech is in this folder.

`STFT` turns waveforms into spectrograms, the data of a flow map. `SpeechPairs` and `MixedSpeech`
are data sources of clean and noisy speech. `Enhancer` runs a trained flow map over recordings of
any length, and `speech_scores` measures the result. Audio files, resampling and scores need
`pip install 'keras_meanflow[speech]'`; importing this package does not.
"""

from keras_meanflow.speech.audio import audio_files, read_all, read_audio
from keras_meanflow.speech.enhancer import Enhancer, enhance_file, enhance_folder, score_pairs
from keras_meanflow.speech.pairs import MixedSpeech, SpeechPairs, mix, paired_files
from keras_meanflow.speech.scores import estoi, mean_scores, pesq, si_sdr, speech_scores
from keras_meanflow.speech.spoken_digits import load_utterances
from keras_meanflow.speech.stft import STFT, pad_frames

__all__ = [
    "Enhancer",
    "MixedSpeech",
    "STFT",
    "SpeechPairs",
    "audio_files",
    "enhance_file",
    "enhance_folder",
    "estoi",
    "load_utterances",
    "mean_scores",
    "mix",
    "pad_frames",
    "paired_files",
    "pesq",
    "read_all",
    "read_audio",
    "score_pairs",
    "si_sdr",
    "speech_scores",
]
