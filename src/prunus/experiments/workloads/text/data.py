"""Snippets of the standard library as splits, labelled with their package or with the next byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch import Tensor

from prunus.data.batches import check_count
from prunus.data.sources import AugmentedSplit, Split
from prunus.data.splits import Splits
from prunus.experiments.workloads.text.corpus import PACKAGES, TextFile, digest, read_corpus, share_out

VERSION = 1  # raised with every change of a snippet
BYTES = 256  # size of the alphabet
SNIPPET, CONTEXT = 512, 128  # bytes of a snippet to classify, and of a window of the language model
TABLES = "encodings"  # hardly language: not in the language model's text, but the text of its shift set
BLANKED = 0.1  # share of the bytes that are replaced while a classifier is trained
_TYPOS = (0.05, 0.1, 0.2)  # share of the bytes, by severity


@dataclass(frozen=True, slots=True)
class TextSizes:
    """The number of snippets in each split; a split does not change when another one's size does.

    Raises:
        OptionError: a size below 1.
    """

    train: int = 12_000
    calibration: int = 512
    selection: int = 1_600
    test: int = 3_200

    def __post_init__(self) -> None:
        for item in fields(self):
            check_count(f"TextSizes.{item.name}", getattr(self, item.name))


LM_SIZES = TextSizes(train=12_000, calibration=128, selection=256, test=384)


def text_key(sizes: TextSizes | None = None, seed: int = 0) -> str:
    """Return 16 hexadecimal digits that depend on version, seed, sizes and the text itself.

    Raises:
        DataError: the standard library is not installed as source text.
    """
    parts = {"version": VERSION, "seed": seed, "sizes": asdict(sizes or TextSizes()), "text": digest(read_corpus())}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def load_text(sizes: TextSizes | None = None, seed: int = 0) -> Splits:
    """Return snippets of 512 bytes, each labelled with its package; no file is in two splits.

    Every split holds equally many snippets of each package, give or take one. Shuffled batches of the train split have
    a tenth of their bytes replaced, with new random numbers in each epoch.

    Shapes: inputs (N, 512) int64, bytes; targets (N) int64 into PACKAGES.

    Raises:
        DataError: the standard library is not installed as source text.
    """
    files = share_out(read_corpus(least=SNIPPET), seed)
    splits = {name: _labelled(files[name], count, name, seed) for name, count in _counts(sizes or TextSizes(), seed)}
    train = AugmentedSplit(splits.pop("train"), replaced)
    return Splits(train=train, **splits, classes=PACKAGES)


def load_language(sizes: TextSizes | None = None, seed: int = 0) -> Splits:
    """Return windows of 128 bytes with, as targets, the byte after each; no file is in two splits.

    The likelihood of an evaluation is in nats per byte: ÷ ln 2 gives bits per byte.

    Shapes: inputs (N, 128) int64, targets (N, 128) int64, both bytes.

    Raises:
        DataError: the standard library is not installed as source text.
    """
    files = share_out(read_corpus(least=CONTEXT + 1), seed)
    return Splits(
        **{
            name: _windows([file for file in files[name] if file.package != TABLES], count, name, seed)
            for name, count in _counts(sizes or LM_SIZES, seed)
        },
        classes=tuple(_shown(value) for value in range(BYTES)),
    )


def replaced(ids: Tensor, generator: torch.Generator, share: float = BLANKED) -> Tensor:
    """Return the bytes with a share of them, drawn at random, replaced by other random bytes.

    Shapes: (B, T) int64 → (B, T) int64.
    """
    noise = torch.randint(BYTES, ids.shape, generator=generator)
    return torch.where(torch.rand(ids.shape, generator=generator) < share, noise, ids)


def snippets(files: Sequence[TextFile], count: int, length: int, generator: np.random.Generator) -> Tensor:
    """Return ``count`` windows at positions drawn uniformly from all at which a whole window fits into a file.

    Shapes: (count, length) int64.
    """
    places = np.cumsum([len(file.content) - length + 1 for file in files])
    found = np.empty((count, length), dtype=np.int64)
    for row, place in enumerate(generator.integers(places[-1], size=count)):
        number = int(np.searchsorted(places, place, side="right"))
        start = int(place) - int(places[number - 1] if number else 0)
        found[row] = np.frombuffer(files[number].content, np.uint8, length, start)
    return torch.from_numpy(found)


def _typos(severity: int) -> Callable[[], Split]:
    def load() -> Split:
        files, name = share_out(read_corpus(least=SNIPPET))["test"], f"typos-{severity}"
        test = _labelled(files, TextSizes().test, "test", 0)
        generator = torch.Generator().manual_seed(severity)
        return Split(replaced(test.inputs, generator, _TYPOS[severity - 1]), test.targets, name)

    return load


def _tables() -> Split:
    files = share_out(read_corpus(least=CONTEXT + 1))["test"]
    return _windows([file for file in files if file.package == TABLES], LM_SIZES.test, "tables", 0)


# Name → function that loads the set; nothing is read before its call.
SHIFTS: Mapping[str, Callable[[], Split]] = {f"typos-{s}": _typos(s) for s in range(1, len(_TYPOS) + 1)}
LANGUAGE_SHIFTS: Mapping[str, Callable[[], Split]] = {"tables": _tables}


def _labelled(files: Sequence[TextFile], count: int, name: str, seed: int) -> Split:
    generator = _generator(seed, name)
    labels = torch.from_numpy(generator.permutation(np.arange(count) % len(PACKAGES)))
    inputs = torch.empty(count, SNIPPET, dtype=torch.int64)
    for label, package in enumerate(PACKAGES):
        own = [file for file in files if file.package == package]
        inputs[labels == label] = snippets(own, int((labels == label).sum()), SNIPPET, generator)
    return Split(inputs, labels, name)


def _windows(files: Sequence[TextFile], count: int, name: str, seed: int) -> Split:
    found = snippets(files, count, CONTEXT + 1, _generator(seed, name))
    return Split(found[:, :-1].contiguous(), found[:, 1:].contiguous(), name)


def _counts(sizes: TextSizes, seed: int) -> list[tuple[str, int]]:
    check_count("seed", seed, least=0)
    return [(item.name, getattr(sizes, item.name)) for item in fields(sizes)]


def _generator(seed: int, name: str) -> np.random.Generator:
    stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(VERSION, stream))))


def _shown(value: int) -> str:
    return chr(value) if 33 <= value < 127 else f"0x{value:02x}"
