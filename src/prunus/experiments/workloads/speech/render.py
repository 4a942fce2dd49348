"""The speakers and words of each set, rendered: words in windows, with noise, as log-mel spectrograms."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prunus.experiments.workloads.speech.espeak import Utterance, check_voices, speak
from prunus.experiments.workloads.speech.features import log_mel, noisy, placed
from prunus.foundation.registry import words

VERSION = 1  # raised with every change of a sound
WORDS = words(
    "zero one two three four five six seven eight nine yes no "
    "up down left right on off stop go forward backward follow learn"
)
ACCENTS = ("en-gb", "en-us", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
FAR_ACCENTS = ("en-gb-scotland", "en-029")
# The speakers; no name is in two groups.
TRAIN = words("m1 m3 m4 m6 m7 f1 f3 f4 Alex Andy Annie Denis Gene linda steph max klatt2 klatt4")
SELECTION = ("m8", "klatt3", "Lee", "belinda")
TEST = ("m2", "m5", "f2", "f5", "klatt", "Alicia", "Michael", "Jacky")
ODD = ("whisper", "croak", "grandpa", "grandma")
NOISE = (20, 10, 5, 0, -5)  # decibels of the shift sets
SLOWEST, FASTEST, LOWEST, HIGHEST = 150, 230, 20, 80  # words a minute; espeak's scale of pitch
QUIETEST, CLEAREST = 10.0, 30.0  # decibels of the noise in every set
_CHUNK = 512  # sounds at a time, which limits memory


@dataclass(frozen=True, slots=True)
class Cast:
    """The speakers of a set."""

    variants: tuple[str, ...]
    accents: tuple[str, ...] = ACCENTS


# Calibration has the voices of training; selection and test have others.
CASTS = {
    "train": Cast(TRAIN),
    "calibration": Cast(TRAIN),
    "selection": Cast(SELECTION),
    "test": Cast(TEST),
    "odd_voices": Cast(ODD),
    "far_accents": Cast(TEST, FAR_ACCENTS),
}


def render(sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """Return inputs and targets of every set of CASTS, and the inputs of the test set in each strength of NOISE.

    Shapes: inputs (N, 32, 48) uint8, targets (N) uint8 into WORDS.

    Raises:
        DataError: espeak-ng is missing, or lacks a voice.
    """
    check_voices((*ACCENTS, *FAR_ACCENTS), (*TRAIN, *SELECTION, *TEST, *ODD))
    found: dict[str, Tensor] = {}
    for number, (name, cast) in enumerate(CASTS.items()):
        generator = _generator(seed, number)
        sounds, labels = _spoken(cast, sizes[name], generator)
        span = CLEAREST - QUIETEST
        usual = QUIETEST + span * torch.from_numpy(generator.random(len(labels), dtype=np.float32))
        levels = {name: usual}
        if name == "test":
            levels |= {f"noise_{db}": torch.full((len(labels),), float(db)) for db in NOISE}
        for place, (called, decibels) in enumerate(levels.items()):
            heard = _generator(seed, len(CASTS) + number * (len(NOISE) + 1) + place)
            parts = zip(torch.split(sounds, _CHUNK), torch.split(decibels, _CHUNK), strict=True)
            found[f"{called}.inputs"] = torch.cat([log_mel(noisy(*part, heard)) for part in parts])
            found[f"{called}.targets"] = labels.to(torch.uint8)
    return found


def _spoken(cast: Cast, count: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return ``count`` sounds, equally many of each word, give or take one, with the words."""
    labels = generator.permutation(np.arange(count) % len(WORDS))
    accents = generator.integers(len(cast.accents), size=count)
    variants = generator.integers(len(cast.variants), size=count)
    speeds = generator.integers(SLOWEST, FASTEST + 1, size=count)
    pitches = generator.integers(LOWEST, HIGHEST + 1, size=count)
    leads = generator.random(count)
    spoken = [
        Utterance(WORDS[word], cast.accents[accent], cast.variants[variant], int(speed), int(pitch))
        for word, accent, variant, speed, pitch in zip(labels, accents, variants, speeds, pitches, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # other processes do the work
        sounds = list(pool.map(speak, spoken))
    windows = [placed(sound, float(lead)) for sound, lead in zip(sounds, leads, strict=True)]
    return torch.stack(windows), torch.from_numpy(labels)


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(VERSION, stream))))
