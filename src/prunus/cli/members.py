"""``prunus methods`` and ``prunus criteria``: the members that a recipe can name, a line each."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from prunus.cli.options import DebugOption

_Name = Annotated[str | None, typer.Argument(help="One name, shown whole; without it all, a line each.")]


def methods(
    name: _Name = None,
    level: Annotated[
        str | None, typer.Option(help="Only one level: weight, neuron, structure, hierarchical, baseline.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """List the methods: name, level, what a budget may count beside prices, and what the method does."""
    from prunus.errors import OptionError
    from prunus.experiments.citation.used import member_sources
    from prunus.methods import METHODS

    if name is not None:
        found = METHODS.get(name)
        _whole(
            name,
            found.description,
            {
                "level": found.level,
                "budget": _budget(found.counts),
                "options": ", ".join(found.options),
                "prunes": "while it trains" if found.teach is not None else "a trained network",
                "source": member_sources(found),
            },
        )
        return
    members = [METHODS.get(n) for n in METHODS.names()]
    levels = list(dict.fromkeys(m.level for m in members))
    if level is not None and level not in levels:
        raise OptionError(f"--level is {level!r}; allowed: {', '.join(levels)}.")
    rows = [(m.name, m.level, m.counts or "–", m.description) for m in members if level in (None, m.level)]
    _table(("method", "level", "counts", "does"), rows)


def criteria(name: _Name = None, debug: DebugOption = False) -> None:
    """List the criteria of units and of weights: name, level, the data that it reads, and its formula or purpose."""
    from prunus.criteria import CRITERIA, UNIT_CRITERIA
    from prunus.experiments.citation.used import member_sources

    registries: tuple[tuple[str, Any], ...] = (("unit", UNIT_CRITERIA), ("weight", CRITERIA))
    if name is not None:
        known = [(level, found) for level, registry in registries if (found := registry.find(name)) is not None]
        for level, member in known or [("unit", UNIT_CRITERIA.get(name))]:
            facts = {"level": level, "reads": _reads(level, name), "source": member_sources(member)}
            _whole(name, _summary(member), facts)
        return
    rows = [
        (n, level, _reads(level, n), _summary(registry.get(n)))
        for level, registry in registries
        for n in registry.names()
    ]
    _table(("criterion", "level", "reads", "score"), rows)


def _reads(level: str, name: str) -> str:
    """Return the kind of data that a criterion reads."""
    if level == "weight":
        return _read_by_weights(name)
    from prunus.criteria import probes_for
    from prunus.errors import OptionError

    try:
        probes = probes_for(name)
    except OptionError:  # no pass over data gives what it reads
        return "a training"
    if not probes:
        return "weights alone"
    return "labels" if any(p.labels for p in probes) else "inputs"


def _read_by_weights(name: str) -> str:
    """Return the data of a weight criterion, which names the first statistic that it misses."""
    import torch

    from prunus.criteria import CRITERIA, Evidence
    from prunus.criteria.weight_statistics import StatisticMissing
    from prunus.errors import PrunusError

    try:
        CRITERIA.get(name)(Evidence({"weight": torch.zeros(2, 2)}))
    except StatisticMissing as missing:
        return {"input_norm": "inputs", "movement": "a training"}.get(missing.statistic, "labels")
    except PrunusError:
        return "labels"
    return "weights alone"


def _summary(member: Any) -> str:
    """Return the first line of the docstring of a member, or of the function that it holds."""
    function = member if inspect.isfunction(member) else getattr(member, "score", member)
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _budget(counts: str) -> str:
    return f"prices (params, macs, bytes, …) or {counts}" if counts else "prices (params, macs, bytes, …)"


def _whole(name: str, does: str, facts: dict[str, str]) -> None:
    sys.stdout.write(f"{name}: {does}\n")
    for key, value in facts.items():
        if value:
            sys.stdout.write(f"  {key:<8} {value}\n")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from prunus.report.plan_table import aligned

    for line in aligned([tuple(heads), *rows], right=()):
        sys.stdout.write(line + "\n")
