"""Clicks of people on things, drawn from a known latent model, as splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch

from prunus.data.batches import check_count
from prunus.data.sources import Split
from prunus.data.splits import Splits

VERSION = 1  # raised with every change of a click
CLASSES = ("skip", "click")
FACTORS = 4  # factors of the latent model
# The fields of an event and their numbers of values; a thing's genre is given, but depends on the thing.
FIELDS = {"person": 200, "thing": 120, "genre": 8, "hour": 24, "device": 4}
_TASTE, _GENRE, _POPULAR, _MOOD, _OFFSET = 2.4, 1.2, 0.8, 1.0, -0.7  # weights in the latent score


@dataclass(frozen=True, slots=True)
class ClickSizes:
    """The number of events in each split; a split does not change when another one's size does.

    Raises:
        OptionError: a size below 1.
    """

    train: int = 80_000
    calibration: int = 1_000
    selection: int = 2_000
    test: int = 4_000

    def __post_init__(self) -> None:
        for item in fields(self):
            check_count(f"ClickSizes.{item.name}", getattr(self, item.name))


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """The latent model from which clicks are drawn.

    Shapes: people (200, F), things (120, F), genre of each thing (120), people by genre (200, 8), popularity (120),
    mood by hour and device (24, 4).
    """

    people: np.ndarray
    things: np.ndarray
    genre: np.ndarray
    liking: np.ndarray
    popularity: np.ndarray
    mood: np.ndarray

    def chance(self, person: np.ndarray, thing: np.ndarray, hour: np.ndarray, device: np.ndarray) -> np.ndarray:
        """Return the probability of a click: σ(taste + liking of the genre + popularity + mood − offset).

        Shapes: (N) indices each → (N).
        """
        taste = (self.people[person] * self.things[thing]).sum(1) / np.sqrt(FACTORS)
        score = _TASTE * taste + _GENRE * self.liking[person, self.genre[thing]]
        score += _POPULAR * self.popularity[thing] + _MOOD * self.mood[hour, device] + _OFFSET
        return np.asarray(1 / (1 + np.exp(-score)))


def make_world(seed: int = 0) -> World:
    """Return the latent model of a seed; all its numbers are standard normal."""
    draw = _generator(seed, 0)
    people, things, genres, hours, devices = FIELDS.values()
    return World(
        people=draw.standard_normal((people, FACTORS)),
        things=draw.standard_normal((things, FACTORS)),
        genre=draw.integers(genres, size=things),
        liking=draw.standard_normal((people, genres)),
        popularity=draw.standard_normal(things),
        mood=draw.standard_normal((hours, devices)),
    )


def load_clicks(sizes: ClickSizes | None = None, seed: int = 0) -> Splits:
    """Return events in the four splits, each drawn independently from the same latent model.

    Shapes: inputs (N, 5) int64, one index for each of FIELDS; targets (N) int64, 1 = click.
    """
    check_count("seed", seed, least=0)
    world, sizes = make_world(seed), sizes or ClickSizes()
    splits = {
        item.name: _events(world, getattr(sizes, item.name), _generator(seed, 1 + number), item.name)
        for number, item in enumerate(fields(sizes))
    }
    return Splits(**splits, classes=CLASSES)


def click_key(sizes: ClickSizes | None = None, seed: int = 0) -> str:
    """Return a text that changes with version, seed and sizes."""
    sizes = sizes or ClickSizes()
    return "-".join(map(str, (VERSION, seed, *(getattr(sizes, item.name) for item in fields(sizes)))))


def _events(world: World, count: int, draw: np.random.Generator, name: str, rare: bool = False) -> Split:
    """Draw events; frequencies of people and things fall with their rank, or rise with it if ``rare``."""
    people, things, _, hours, devices = FIELDS.values()
    person, thing = (_ranked(size, count, draw, rare) for size in (people, things))
    hour, device = draw.integers(hours, size=count), draw.integers(devices, size=count)
    clicked = draw.random(count) < world.chance(person, thing, hour, device)
    inputs = np.stack([person, thing, world.genre[thing], hour, device], axis=1)
    return Split(torch.from_numpy(inputs), torch.from_numpy(clicked.astype(np.int64)), name)


def _ranked(size: int, count: int, draw: np.random.Generator, rare: bool) -> np.ndarray:
    """Draw indices with probabilities ∝ 1/√rank: a few people and things take part in most events."""
    weights = 1 / np.sqrt(np.arange(1, size + 1))
    weights = weights[::-1] if rare else weights
    return np.asarray(draw.choice(size, size=count, p=weights / weights.sum()))


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(VERSION, stream))))


def _rare() -> Split:
    return _events(make_world(), ClickSizes().test, _generator(0, 1 + len(fields(ClickSizes))), "rare", rare=True)


# Name → function that loads the set: rare people and things are now the frequent ones.
SHIFTS: Mapping[str, Callable[[], Split]] = {"rare": _rare}
