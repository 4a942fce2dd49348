"""Spoken words as splits: synthesised once, stored in the user's cache, with sets of shifted test data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from prunus.data.batches import check_count
from prunus.data.sources import AugmentedSplit, Split
from prunus.data.splits import Splits
from prunus.experiments.workloads.speech.espeak import version
from prunus.experiments.workloads.speech.render import NOISE, VERSION, WORDS, render
from prunus.foundation.cache import cache_folder, cached_tensors

MEAN, DEVIATION = 0.35, 0.25  # of the bytes ÷ 255, roughly; the same for every set


@dataclass(frozen=True, slots=True)
class SpeechSizes:
    """The number of words in each set; a set does not change when another one's size does.

    Raises:
        OptionError: a size below 1.
    """

    train: int = 4_800
    calibration: int = 480
    selection: int = 960
    test: int = 1_920
    odd_voices: int = 480
    far_accents: int = 480

    def __post_init__(self) -> None:
        for item in fields(self):
            check_count(f"SpeechSizes.{item.name}", getattr(self, item.name))


def speech_sets(sizes: SpeechSizes | None = None, seed: int = 0) -> dict[str, Split]:
    """Return the six sets by the names of `SpeechSizes`, and the test set in five strengths of noise, as bytes.

    Shapes: inputs (N, 32, 48) uint8, targets (N) int64 into WORDS.

    Raises:
        DataError: espeak-ng is missing, or lacks a voice.
    """
    check_count("seed", seed, least=0)
    sizes, key = sizes or SpeechSizes(), speech_key(sizes, seed)
    stored = cached_tensors(
        cache_folder() / "speech" / f"{key}.safetensors", lambda: render(asdict(sizes), seed), "workload 'speech'"
    )
    names = [name.removesuffix(".inputs") for name in stored if name.endswith(".inputs")]
    return {name: Split(stored[f"{name}.inputs"], stored[f"{name}.targets"].long(), name) for name in names}


def speech_key(sizes: SpeechSizes | None = None, seed: int = 0) -> str:
    """Return 16 hexadecimal digits that change with version, seed, sizes and the version of espeak-ng.

    Raises:
        DataError: espeak-ng is missing.
    """
    parts = {"version": VERSION, "seed": seed, "sizes": asdict(sizes or SpeechSizes()), "espeak": version()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def load_speech(sizes: SpeechSizes | None = None, seed: int = 0) -> Splits:
    """Return the spoken words in the four splits; no voice of the train split occurs in selection or test.

    Shuffled batches of the train split are augmented, with new random numbers in each epoch (`varied`).

    Shapes: inputs (N, 1, 32, 48) float32: channel, mel band, frame; targets (N) int64 into WORDS.

    Raises:
        DataError: espeak-ng is missing, or lacks a voice.
    """
    sets = speech_sets(sizes, seed)
    named = {name: as_split(sets[name]) for name in ("calibration", "selection", "test")}
    return Splits(train=AugmentedSplit(as_split(sets["train"]), varied), **named, classes=WORDS)


def as_split(spoken: Split) -> Split:
    """Return byte spectrograms as a split on which a model can be trained."""
    return Split(((spoken.inputs.float() / 255 - MEAN) / DEVIATION)[:, None], spoken.targets, spoken.name)


def varied(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return each spectrogram moved by up to 3 frames, with up to 6 frames and up to 4 bands blanked.

    Source: Park et al., "SpecAugment", arXiv:1904.08779.

    Shapes: (B, 1, bands, frames) → (B, 1, bands, frames).
    """
    count, _, bands, frames = inputs.shape
    draws = torch.rand(5, count, 1, generator=generator)
    moved = (torch.arange(frames) - (draws[0] * 7).long() + 3) % frames  # (B, frames)
    found = inputs.gather(3, moved[:, None, None].expand(-1, 1, bands, -1))
    for dim, size, most, start, width in ((3, frames, 6, 1, 2), (2, bands, 4, 3, 4)):
        places = torch.arange(size)
        first = (draws[start] * size).long()
        blank = (places >= first) & (places < first + (draws[width] * (most + 1)).long())  # (B, size)
        shape = [count, 1, 1, 1]
        shape[dim] = size
        found = found.masked_fill(blank.reshape(shape), 0.0)
    return found


def _shift(name: str) -> Callable[[], Split]:
    return lambda: as_split(speech_sets()[name])


# Name → function that loads the set; nothing is synthesised before its call.
SHIFTS: Mapping[str, Callable[[], Split]] = {
    name.replace("_", "-"): _shift(name) for name in ("odd_voices", "far_accents", *(f"noise_{db}" for db in NOISE))
}
