"""Build a Hugging Face class from a changed config without values, to see which shapes the config stands for."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from prunus.errors import ModelError
from prunus.graph.capture import unwrap
from prunus.surgery.adapters import MERGE, adapted_layers

Path = tuple[str | int, ...]
Shapes = dict[str, tuple[int, ...]]
Changes = Mapping[Path, int]
PER_LAYER = "per_layer_config"


@dataclass(frozen=True, slots=True)
class Trace:
    """The part of a network that its config decides: the shapes, and the numbers that modules remember."""

    shapes: Shapes
    floats: Mapping[str, float]
    integers: Mapping[str, int]

    @classmethod
    def of(cls, model: nn.Module) -> Trace:
        """Look at a model that was built."""
        numbers = {
            f"{p}.{k}": v for p, m in model.named_modules() for k, v in vars(m).items() if type(v) in (int, float)
        }
        floats = {k: v for k, v in numbers.items() if type(v) is float}
        return cls(shapes_of(model), floats, {k: v for k, v in numbers.items() if type(v) is int})


@dataclass(frozen=True, slots=True)
class Builder:
    """The user's class, the config that it was built from, and what other numbers in it were found to build."""

    kind: type[nn.Module]
    config: Any
    known: dict[frozenset[tuple[Path, int]], Trace | None] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, model: nn.Module) -> Builder:
        """Take the class and config of a model, cut or not.

        Raises:
            ModelError: no Hugging Face model.
        """
        model = unwrap(model)
        kind = own_class(model)
        adapted = adapted_layers(model)
        if adapted:
            raise ModelError(
                f"{kind.__name__} holds adapters in {len(adapted)} layers, such as {adapted[0]!r}, and no config of a "
                f"transformers model says that; {MERGE}, then prune."
            )
        if not any(c.__name__ == "PreTrainedModel" for c in kind.__mro__) or not hasattr(model, "config"):
            raise ModelError(
                f"{kind.__name__} is no transformers model with a config; use prunus.save(result, folder) or a .pt2 "
                "file."
            )
        return cls(kind, model.config)

    def numbers(self, least: int = 2) -> dict[Path, int]:
        """Return every whole number from ``least`` on that the config holds, nested configs and lists included."""
        return {p: v for p, v in _numbers(self.config.to_dict(), ()) if v >= least}

    def open_numbers(self, whole: Shapes) -> dict[Path, int]:
        """Return the numbers that the config leaves open and the class computes from others, as they are now.

        An open one stands for the size that builds the same shapes where another size builds others.
        """
        sizes = sorted({n for shape in whole.values() for n in shape if n > 1})
        found: dict[Path, int] = {}
        for key, value in self.config.to_dict().items():
            if value is not None or key.endswith("_id") or not sizes:
                continue
            first, last = self.shapes({(key,): sizes[0]}), self.shapes({(key,): sizes[-1]})
            if first == last:
                continue
            same = [n for n in sizes if self.shapes({(key,): n}) == whole]
            if len(same) == 1:
                found[(key,)] = same[0]
        return found

    def changed(self, changes: Changes) -> Any:
        """Return a config with other numbers; the model's own is untouched."""
        data = self.config.to_dict()
        for path, value in changes.items():
            *above, last = path
            place: Any = data
            for step in above:
                place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
            place[last] = value
        config = type(self.config).from_dict(data)
        attention = getattr(self.config, "_attn_implementation", None)
        if attention is not None:
            config._attn_implementation = attention  # not part of the file; the check compares like with like
        return config

    def build(self, changes: Changes) -> nn.Module | None:
        """Return the class built on the meta device from a changed config; None where it refuses the numbers."""
        try:
            with quiet(), torch.device("meta"):
                return self.kind(copy.deepcopy(self.changed(changes)))
        except Exception:  # every config class has its own checks and errors; a refusal is an answer here
            return None

    def trace(self, changes: Changes) -> Trace | None:
        """Return what a changed config moves; None where the class refuses it."""
        key = frozenset(changes.items())
        if key not in self.known:
            built = self.build(changes)
            self.known[key] = None if built is None else Trace.of(built)
        return self.known[key]

    def shapes(self, changes: Changes) -> Shapes | None:
        """Return the shapes that a changed config stands for; None where the class refuses it."""
        found = self.trace(changes)
        return None if found is None else found.shapes


def own_class(model: nn.Module) -> type[nn.Module]:
    """Return the class that a person wrote: a rewritten forward sits in a subclass of it."""
    return next(c for c in type(model).__mro__ if "prunus_source" not in vars(c))


def shapes_of(model: nn.Module) -> Shapes:
    """Return the shapes of what a state dict holds."""
    return {n: tuple(t.shape) for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, torch.Tensor)}


def differing(a: Shapes, b: Shapes) -> list[tuple[str, int]]:
    """Return (name, dim) of every size that differs; dim −1 for a tensor that one side lacks."""
    found = [(n, -1) for n in {**a, **b} if (n in a) != (n in b) or len(a[n]) != len(b[n])]
    lost = {n for n, _ in found}
    return found + [(n, d) for n in a if n not in lost for d, s in enumerate(a[n]) if s != b[n][d]]


def spelled(path: Path) -> str:
    """Write a path in a config as a person would: ``text_config.hidden_size``, ``hidden_sizes[1]``."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).removeprefix(".")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from warning about configs that are only tried out, and from drawing progress bars."""
    from transformers.utils import logging as talk

    before, bars = logging.root.manager.disable, talk.is_progress_bar_enabled()
    logging.disable(logging.CRITICAL)
    talk.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.disable(before)
        if bars:
            talk.enable_progress_bar()  # type: ignore[no-untyped-call]


def _numbers(value: Any, path: Path) -> Iterator[tuple[Path, int]]:
    if type(value) is int and not str(path[-1]).endswith("token_id"):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != PER_LAYER and isinstance(key, str):
                yield from _numbers(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _numbers(item, (*path, i))
