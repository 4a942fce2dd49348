"""The algorithms that a recipe uses, and the papers of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from prunus.criteria import mixture_of
from prunus.errors import OptionError
from prunus.experiments.citation.reference import Reference, references_in, source_text
from prunus.experiments.compared_methods import compared_methods
from prunus.experiments.recipe import Recipe, load_recipe
from prunus.foundation.arguments import door
from prunus.foundation.registry import Registry

ROLES: Mapping[str, tuple[str, str]] = {
    "method": ("prunus.methods", "METHODS"),
    "criterion": ("prunus.criteria", "UNIT_CRITERIA"),
    "weight criterion": ("prunus.criteria", "CRITERIA"),
    "allocator": ("prunus.budget", "ALLOCATORS"),
    "weight allocator": ("prunus.budget.weights", "WEIGHT_ALLOCATORS"),
    "repair": ("prunus.repairs", "REPAIRS"),
    "schedule": ("prunus.training.schedules", "KEPT_SCHEDULES"),
    "strategy": ("prunus.pruner", "STRATEGIES"),
    "recovery": ("prunus.recovery.recovery_method", "RECOVERY_METHODS"),
}
"""Role → module and name of its registry. A key of a recipe that is a role names a member of it."""

_STAGE_ROLES = {"blocks": "method", "units": "criterion", "weights": "weight criterion"}
_SEARCH = "prunus.budget.evolutionary_search:refine"
_SIZES = "prunus.pipeline.input_sizes:plan_over_sizes"
_PARTS = ("plan", "score", "layer", "run", "collect")


@dataclass(frozen=True, slots=True)
class Used:
    """One algorithm that a recipe uses.

    Attributes:
        role: criterion, allocator, method, …
        name: as in the recipe.
        source: the source in its docstring, in one line.
        references: the papers in it; none for an own algorithm.
    """

    role: str
    name: str
    source: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Citations:
    """The algorithms in order of use; printing it lists the papers of each."""

    used: tuple[Used, ...]

    @property
    def references(self) -> tuple[Reference, ...]:
        """Every paper once, in order of use."""
        return tuple({(r.arxiv or r.title): r for entry in self.used for r in entry.references}.values())

    def bibtex(self) -> str:
        """Return a BibTeX entry for every paper."""
        return "\n\n".join(reference.bibtex() for reference in self.references)

    def __str__(self) -> str:
        lines = []
        for entry in self.used:
            lines.append(f"{entry.role} {entry.name}")
            own = entry.source == "own." or entry.source.startswith("own;")
            lines += ["  prunus' own"] if own else []
            lines += [f"  {reference}" for reference in entry.references]
        return "\n".join(lines)


@door()
def cite(what: Recipe | Path | str | Mapping[str, str]) -> Citations:
    """Return the papers of the algorithms that a recipe uses.

    Of the section ``prune`` these are the method, or else criterion and allocator, its repair, and its search; of
    ``compare`` its methods and repairs, where the file has that section or has no ``prune``. Then the stages, and the
    recovery method. ``auto`` names no algorithm: the data decide which one it takes.

    Args:
        what: a recipe, the path of one, or role → name, such as ``{"criterion": "fisher"}``.

    Raises:
        RecipeError: the file does not parse or validate.
        OptionError: an unknown role or name.

    Example:
        >>> [reference.arxiv for reference in cite({"criterion": "l1"}).references]
        ['1608.08710']
    """
    if isinstance(what, Mapping):
        return Citations(tuple(_used(role, name) for role, name in what.items()))
    recipe = load_recipe(what) if isinstance(what, (Path, str)) else what
    found = {(role, name): _used(role, name) for role, name in _named_in(recipe)}
    for asked, role, name, place in (
        (recipe.prune.search, "search", "evolution", _SEARCH),
        (recipe.prune.resolution, "resolution", "compound scaling", _SIZES),
    ):
        if asked:
            source = source_text(_named_object(place).__doc__)
            found[role, name] = Used(role, name, source, references_in(source))
    return Citations(tuple(found.values()))


def member_sources(member: Any, *, depth: int = 2) -> str:
    """Return the source of a registry's member: of the object in its field ``documents``, its own, or of its function.

    Several are joined by semicolons.
    """
    named = [_named_object(place) for place in getattr(member, "documents", ())]
    if named:
        return "; ".join(source_text(document.__doc__).rstrip(".") for document in named) + "."
    # A record has the docstring of its class, which does not describe the member.
    callable_itself = hasattr(member, "__name__")
    text = source_text(member.__doc__) if callable_itself else ""
    for part in _PARTS if not text and depth else ():
        inner = getattr(member, part, None)
        if callable(inner):
            text = text or member_sources(inner, depth=depth - 1)
    return text


def _used(role: str, name: str) -> Used:
    source = member_sources(_registry(role).get(name))
    return Used(role, name, source, references_in(source))


def _named_object(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _registry(role: str) -> Registry[Any]:
    if role not in ROLES:
        raise OptionError(f"Unknown role {role!r}. Known: {', '.join(ROLES)}.")
    module, name = ROLES[role]
    found: Registry[Any] = getattr(import_module(module), name)
    return found


def _named_in(recipe: Recipe) -> Iterator[tuple[str, str]]:
    from prunus.methods import METHODS

    given = recipe.model_fields_set
    if "prune" in given or recipe.prune.budget:
        section = recipe.prune.model_dump()
        if recipe.prune.method is not None:
            own = METHODS.get(recipe.prune.method).options if recipe.prune.method in METHODS else ()
            left_out = {"criterion", "allocator"} - set(own)
            section = {key: value for key, value in section.items() if key not in left_out}
        yield from _walk(section)
        for entry in recipe.prune.methods:
            yield from _member("method", entry["name"])
        yield from _member("repair", recipe.prune.judge if recipe.prune.search else None)
    if "compare" in given or "prune" not in given:
        names = compared_methods(recipe.compare.methods)
        yield from (("method", name) for name in names)
        for name in recipe.compare.repair:
            yield from _member("repair", name)
    for stage in recipe.stages:
        yield from _member("strategy" if stage.strategy else _STAGE_ROLES[stage.level], stage.way)
        yield from _walk(stage.model_dump(exclude={"method", "criterion", "recover"}))
        yield from _member("recovery", stage.recover.method if stage.recover else None)
    yield from _member("recovery", recipe.recover.method if recipe.recover.steps or recipe.recover.minutes else None)


def _member(role: str, name: str | None) -> Iterator[tuple[str, str]]:
    """Yield (role, name) if the registry has the name: ``auto`` and ``none`` name no algorithm.

    A mixture of criteria yields each of them.
    """
    if role.endswith("criterion") and (mixed := mixture_of(name)) is not None:
        yield from ((role, part) for part in mixed if part in _registry(role))
    elif name is not None and name in _registry(role):
        yield role, name


def _walk(value: Any) -> Iterator[tuple[str, str]]:
    """Yield (role, name) for every key of a nest that is a role and names a member of it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ROLES and isinstance(inner, str):
                yield from _member(key, inner)
            else:
                yield from _walk(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _walk(inner)
