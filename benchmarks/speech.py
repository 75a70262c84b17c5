"""One-step speech enhancement of an unseen speaker in an unseen noise: table and pictures.

    python benchmarks/speech.py --data spoken_digits_8k.npz --noise voicebank_demand_6 \\
        runs/speech_digits runs/speech_digits_clipped

It trains nothing. The two runs are `keras-meanflow train speech_digits`, and the same with
`--set derivative=clipped --run runs/speech_digits_clipped`. The test utterances are of speaker 5 in
the last noise at 0 dB; training saw neither. A Wiener filter is measured too. Writes `speech.json`,
and with --picture spectrograms of one utterance: clean, noisy, by the Wiener filter, and by each
run's first number of steps.
"""

import argparse
import itertools
import json
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np  # noqa: E402

from keras_meanflow import open_model  # noqa: E402
from keras_meanflow.pictures.samples import image_grid  # noqa: E402
from keras_meanflow.speech.audio import read_all  # noqa: E402
from keras_meanflow.speech.enhancer import Enhancer, limited, score_pairs  # noqa: E402
from keras_meanflow.speech.pairs import mix, paired_files  # noqa: E402
from keras_meanflow.speech.spoken_digits import load_utterances  # noqa: E402

SPEAKER, RATE = 5, 8_000


def wiener(codec):
    """`G = max(1 - N / |Y|^2, 0.05)` with the noise power N of the quietest tenth of the frames.

    Y is the linear spectrogram of the codec; |Y|^2 is smoothed over three frames.
    """

    def enhance(noisy):
        z = codec.encode(np.pad(noisy, (0, codec.hop))[None])
        power = np.sum(np.square(z), axis=-1)
        smooth = sum(np.roll(power, shift, axis=2) for shift in (-1, 0, 1)) / 3.0
        loudness = smooth.sum(axis=1)[0]
        quiet = np.argsort(loudness)[: max(len(loudness) // 10, 1)]
        noise = smooth[:, :, quiet].mean(axis=2, keepdims=True)
        gain = np.maximum(1.0 - noise / np.maximum(smooth, 1e-12), 0.05)
        return codec.decode(gain[..., None] * z, len(noisy))[0]

    return enhance


def mixtures(data, noise, count, snr, seed=1):
    """(name, clean, noisy) of the speaker and the noise that training did not see."""
    clean = load_utterances(data, (SPEAKER,), count=count, seed=seed)
    held_out = _noises(noise)[-1]
    rng, pairs = np.random.default_rng(seed + 1), []
    for number, speech in enumerate(clean):
        places = int(rng.integers(len(held_out))) + np.arange(len(speech))
        noisy = mix(speech, np.take(held_out, places, mode="wrap"), snr)
        pairs.append((f"utterance {number}", speech, noisy))
    return pairs


def _noises(folder):
    """The differences noisy - clean, as the task `speech_digits` makes them."""
    pairs, _ = read_all(paired_files(folder), RATE)
    return [noisy - clean for clean, noisy in pairs]


def enhancers(flow_map, codec, steps, temperatures, limits):
    """An `Enhancer` for each number of steps, temperature and limit; "1,2" lists the first two."""
    made = {}
    for temperature in map(float, temperatures.split(",")):
        for n, limit in itertools.product(map(int, steps.split(",")), limits):
            name = f"{n} step{'s' if n > 1 else ''}"
            name += f" at {temperature:g}" if temperature != 1.0 else ""
            name += f", {limit:g} dB at most" if limit is not None else ""
            settings = dict(steps=n, temperature=temperature, attenuation_limit=limit)
            made[name] = Enhancer(flow_map, codec, **settings)
    return made


def table(report):
    """The means in Markdown."""
    columns = list(report["noisy"]["total"])
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for method, part in report.items():
        numbers = " | ".join(f"{part['total'][column]:.2f}" for column in columns)
        lines.append(f"| {method} | {numbers} |")
    return "\n".join(lines)


def picture(codec, pair, methods):
    """Spectrograms one above the other: clean, noisy, and each method's."""
    _, clean, noisy = pair
    seconds = 3 * RATE
    waves = [clean, noisy, *(enhance(noisy) for enhance in methods)]
    waves = np.stack([wave[:seconds] / np.abs(wave[:seconds]).max() for wave in waves])
    return image_grid(codec.picture(codec.encode(waves)), columns=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--noise", required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--snr", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1, help="of the utterances and their noise")
    parser.add_argument("--steps", default="1,2,5")
    parser.add_argument("--temperatures", default="1")
    parser.add_argument("--attenuation-limit", type=float, help="each method with it, too")
    parser.add_argument("--out", default="speech.json")
    parser.add_argument("--picture")
    arguments = parser.parse_args()

    opened = [open_model(run) for run in arguments.runs]
    linear = type(opened[0].codec)(RATE, fft_length=256, hop=64, exponent=1.0)
    pairs = mixtures(
        arguments.data, arguments.noise, arguments.count, arguments.snr, arguments.seed
    )
    methods, limits = {"Wiener filter": wiener(linear)}, [None]
    if arguments.attenuation_limit is not None:
        limits.append(arguments.attenuation_limit)
        name = f"Wiener filter, {arguments.attenuation_limit:g} dB at most"
        methods[name] = lambda noisy: limited(
            methods["Wiener filter"](noisy), noisy, arguments.attenuation_limit
        )
    shown = []
    for run in opened:
        drawn = arguments.steps, arguments.temperatures, limits
        made = enhancers(run.flow_map, run.codec, *drawn)
        methods |= {f"{Path(run.name).name}, {name}": enhancer for name, enhancer in made.items()}
        shown.append(next(iter(made.values())))
    report = score_pairs(pairs, RATE, methods, verbose=1)
    Path(arguments.out).write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    if arguments.picture:
        picture(linear, pairs[0], [methods["Wiener filter"], *shown]).save(arguments.picture)


if __name__ == "__main__":
    main()
