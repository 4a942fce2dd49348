"""Find the config from which a cut model's shapes follow: a number is changed where building proves that it helps."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import combinations, product

from prunus.errors import ModelError
from prunus.exporters.config_build import PER_LAYER, Builder, Changes, Path, Shapes, differing, spelled

_PAIRED = 14  # how many single changes are also tried two by two
_SILENT = 5  # how many numbers that no shape shows are tried two by two
ELSE = "use prunus.save(result, folder) or a .pt2 file."
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


class UntoldError(ModelError):
    """A config cannot say what was cut; ``reason`` is the sentence that says what stands in the way."""

    def __init__(self, reason: str, way: str) -> None:
        self.reason = reason
        super().__init__(f"{reason} {way}")


def find_config(
    builder: Builder, target: Shapes, cuts: Collection[tuple[int, int]] = (), without: Collection[Path] = ()
) -> dict[Path, int]:
    """Return config path → new number such that the class built from it has exactly the shapes ``target``.

    A number v may become m / (n / v) where a dim, or an axis of the plan, went from n = k·v to m (v = k·n to k·m); of
    these, whatever brings the built shapes nearest to the target is taken, one or two numbers at a time, until nothing
    differs. What is left after that is tried with one value a layer, which few classes read.

    Args:
        builder: the class and its config.
        target: shapes of the cut model's state dict.
        cuts: (units, kept) of the axes of the plan.
        without: numbers to leave alone.

    Raises:
        UntoldError: no config gives these shapes; names a tensor that none explains.
    """
    whole = builder.shapes({})
    if whole is None:
        raise UntoldError(f"{builder.kind.__name__} cannot be built from its own config.", ELSE.capitalize())
    if whole == target:
        return {}
    # What follows from another number would move with it: it stays as it is until something speaks for a change.
    chosen = pinned = builder.open_numbers(whole)
    numbers = {p: v for p, v in (builder.numbers() | pinned).items() if p not in without}
    search = _Search(builder, numbers, whole, target, frozenset(cuts))
    left = search.distance(chosen)
    while left:
        step = search.best([*search.singles(chosen)], chosen, left)
        step = step or search.best(_pairs([*search.singles(chosen)][:_PAIRED]), chosen, left)
        step = step or search.best([*search.layered(chosen)], chosen, left)
        if step is None:
            raise search.unexplained(chosen)
        chosen = {**chosen, **step}
        left = search.distance(chosen)
    for path in pinned:
        rest = {p: v for p, v in chosen.items() if p != path}
        chosen = rest if search.distance(rest) == 0 else chosen
    return chosen


def find_configs(builder: Builder, target: Shapes, cuts: Collection[tuple[int, int]]) -> Iterator[dict[Path, int]]:
    """Yield the changes that lead to the shapes, the likeliest first: several may, and some numbers show in no shape.

    Half the heads and half their width give the same shapes; so do other heads where only their product is a size.
    Arguments and errors as in `find_config`.
    """
    first = find_config(builder, target, cuts)
    yield first
    for path in first:
        with contextlib.suppress(ModelError):
            yield find_config(builder, target, cuts, without=(path,))
    hidden: dict[Path, list[int]] = {}
    for (size, kept), (path, value) in product(cuts, builder.numbers().items()):
        new = value // size * kept
        if 0 < kept < size and value % size == 0 and path not in first and new not in hidden.get(path, []):
            hidden.setdefault(path, []).append(new)
    singles = [{p: v} for p, values in hidden.items() for v in values]
    silent = [s for s in singles if builder.shapes({**first, **s}) == target]
    yield from ({**first, **s} for s in silent)
    yield from ({**first, **a, **b} for a, b in combinations(silent[:_SILENT], 2) if a.keys() != b.keys())


@dataclass(frozen=True, slots=True)
class _Search:
    builder: Builder
    numbers: dict[Path, int]
    whole: Shapes
    target: Shapes
    cuts: frozenset[tuple[int, int]]

    def distance(self, changes: Changes) -> int | None:
        """Return how many sizes differ from the target; None where the class refuses or builds too little."""
        found = self.builder.shapes(changes)
        if found is None or any(n in self.whole and n not in found for n in self.target):
            return None
        return len(differing(found, self.target))

    def best(self, steps: Collection[Changes], chosen: Changes, left: int) -> Changes | None:
        """Return the step after which fewest sizes differ, if fewer than ``left``."""
        best: Changes | None = None
        for step in steps:
            count = self.distance({**chosen, **step})
            if count is not None and count < left:
                best, left = step, count
        return best

    def singles(self, chosen: Changes) -> Iterator[Changes]:
        """Yield changes of one number, by how many sizes speak for them, those that are the number itself first."""
        for (_, path, value), _ in self._votes().most_common():
            if chosen.get(path) != value:
                yield {path: value}

    def layered(self, chosen: Changes) -> Iterator[Changes]:
        """Yield changes of one number that take another value in every layer."""
        votes = self._votes(by_layer=True)
        for path in {p: None for _, p, _ in votes if len(p) == 1}:
            step: dict[Path, int] = {}
            for (layer, other, value), _ in votes.most_common():
                if other == path and layer:
                    step.setdefault((PER_LAYER, layer, path[0]), value)
            if step and any(chosen.get(p) != v for p, v in step.items()):
                yield step

    def _votes(self, by_layer: bool = False) -> Counter[tuple[str, Path, int]]:
        votes: Counter[tuple[str, Path, int]] = Counter()
        for (size, kept), (path, value) in product(() if by_layer else self.cuts, self.numbers.items()):
            if size > 1 and 0 < kept < size and value % size == 0:
                votes["", path, value // size * kept] += 1
        for name, dim in differing(self.whole, self.target):
            if dim < 0:
                continue
            old, new = self.whole[name][dim], self.target[name][dim]
            found = _LAYER.search(name) if by_layer else None
            for path, value in self.numbers.items():
                times = old // value
                if times and old % value == 0 and new % times == 0 and 0 < new // times != value:
                    votes[found[1] if found else "", path, new // times] += 1000 if times == 1 else 1
        return votes

    def unexplained(self, chosen: Changes) -> UntoldError:
        """Say which tensors no config explains."""
        found = self.builder.shapes(chosen) or self.whole
        left = differing(found, self.target)
        name = left[0][0]
        entries = ", ".join(f"{spelled(p)}={v}" for p, v in chosen.items()) or "as it is"
        got, want = self.target.get(name, "gone"), found.get(name, "none")
        return UntoldError(
            f"The config of {self.builder.kind.__name__} cannot say what was cut: {name!r} is {got}, the nearest "
            f"config ({entries}) builds {want}, and {len(left)} sizes differ in all.",
            f"Cut with config_ties=True, or {ELSE}",
        )


def _pairs(singles: list[Changes]) -> list[Changes]:
    return [{**a, **b} for a, b in combinations(singles, 2) if a.keys() != b.keys()]
