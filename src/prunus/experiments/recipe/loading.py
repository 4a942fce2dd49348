"""The step from a file to a `Recipe`: every error names file, line, key, the value, and the allowed values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prunus.errors import OptionError, RecipeError, UsageError, nearest
from prunus.experiments.recipe.messages import Finding, findings, shown
from prunus.experiments.recipe.no_data import NO_DATA, without_data
from prunus.experiments.recipe.schema import Recipe
from prunus.experiments.recipe.yaml_lines import Path_, dotted, read_yaml
from prunus.foundation.arguments import door
from prunus.foundation.defaults import DEFAULTS
from prunus.foundation.registry import words

_LARGEST_FILE = 64 << 10


@door()
def load_recipe(path: Path | str) -> Recipe:
    """Read, check and return the recipe in the YAML file ``path``.

    Args:
        path: the file. Relative paths inside it start from its folder.

    Raises:
        RecipeError: no such file, not valid YAML, or a key or value that is not allowed.
    """
    file = Path(path)
    marked = read_yaml(_text(file), str(path))
    if not isinstance(marked.values, dict):
        raise RecipeError(
            f"{path}:1: a recipe is a section of keys; got {shown(marked.values)}. Begin with 'version: 1'."
        )

    def refuse(found: list[Finding]) -> UsageError:
        first = min(found, key=lambda finding: marked.line(finding.path))
        more = f" ({len(found) - 1} more after this one)" if len(found) > 1 else ""
        return RecipeError(f"{path}:{marked.line(first.path)}: {first.text}{more}")

    return _checked(marked.values, refuse).located(file.resolve().parent)


def override(recipe: Recipe, changes: Mapping[tuple[str, ...], Any]) -> Recipe:
    """Return ``recipe`` with single values changed, for the options of the command line.

    Args:
        recipe: the recipe, which is not changed.
        changes: path of keys → new value; None leaves the recipe's own value.

    Raises:
        OptionError: a value is not allowed; the message names the option of the command line.

    Example:
        >>> override(demo_recipe(), {("compare", "seeds"): 3}).compare.seeds
        3
    """
    values = recipe.model_dump()
    for path, value in changes.items():
        section = values
        for part in path[:-1]:
            section = section[part]
        if value is not None:
            section[path[-1]] = value
    _replaced(values["prune"], changes)
    for one, other in (("steps", "minutes"), ("minutes", "steps")):
        if changes.get(("frontier", one)) is not None:
            values["frontier"][other] = None
    if changes.get(("recover", "steps")) is not None:
        # A recovery has one budget: steps of the command line replace the recipe's minutes.
        values["recover"]["minutes"] = changes.get(("recover", "minutes"))

    def refuse(found: list[Finding]) -> UsageError:
        path, text = found[0]
        given = next((p for p, value in changes.items() if value is not None and path[: len(p)] == p), None)
        return OptionError(text if given is None else text.replace(dotted(path), _flag(given), 1))

    return _checked(values, refuse).located(recipe.base_dir)


def _flag(path: tuple[str, ...]) -> str:
    """Return the option of the command line that changes a key."""
    *sections, key = path
    if sections == ["recover"]:
        return f"--recover {key}"
    return f"--{_FLAGS.get(key, key.replace('_', '-'))}"


_FLAGS = {"levels": "level", "nodes": "node"}
"""Keys whose options have another name."""


def _replaced(prune: dict[str, Any], changes: Mapping[tuple[str, ...], Any]) -> None:
    """Let a method of the command line replace the options that it does not take, and the other way round."""
    from prunus.methods import METHODS
    from prunus.pipeline.method_options import OPTIONS, SWITCHES

    own = ("levels", *OPTIONS, *SWITCHES)
    named = {key for key in ("method", *own) if changes.get(("prune", key)) is not None}
    method = METHODS.get(prune["method"]) if prune["method"] in METHODS else None
    if "method" in named:
        taken = (*method.options, *method.switches) if method else own
        prune.update({key: getattr(DEFAULTS, key) for key in own if key not in named and key not in taken})
    elif named & {"criterion", "allocator", "levels"} - set(method.options if method else ()):
        prune["method"] = DEFAULTS.method


_IN_DEMO = words(
    "absolute-threshold relative-threshold importance window-tile window-kernel two-four alps sensitivity "
    "contribution magnitude obs-units key-path modular layer-wise multi-scale random smaller-dense"
)
"""Methods of every level that together take about a minute."""


def demo_recipe(seed: int = 0, seeds: int = 1, out: str = "prunus-demo") -> Recipe:
    """Return the recipe of ``prunus demo``: the digits workload, the methods, three kept fractions.

    Raises:
        OptionError: a negative seed, or fewer than one seed.
    """
    plain = Recipe.model_validate(_with_workload_defaults({"version": 1, "model": "digits", "data": "digits"}))
    from prunus.methods import METHODS

    quick = {
        ("compare", "methods"): [name for name in _IN_DEMO if name in METHODS.names()],
        ("workers",): 2,
        ("threads",): 1,
        ("compare", "latency", "rounds"): 10,
        ("compare", "latency", "batch"): 32,
    }
    return override(plain, {**quick, ("seed",): seed, ("compare", "seeds"): seeds, ("out",): out})


def _checked(values: dict[str, Any], refuse: Callable[[list[Finding]], UsageError]) -> Recipe:
    try:
        recipe = Recipe.model_validate(_with_workload_defaults(values))
    except ValidationError as error:
        raise refuse(findings(error)) from error
    if wrong := without_data(recipe):
        raise refuse(wrong)
    if isinstance(recipe.compare.methods, str):
        return recipe
    from prunus.methods import METHODS

    for index, name in enumerate(recipe.compare.methods):
        if name not in METHODS:
            text = f"{nearest(name, METHODS.names())} Allowed: levels, all, {', '.join(METHODS.names())}."
            path: Path_ = ("compare", "methods", index)
            raise refuse([Finding(path, f"{dotted(path)}: unknown method {name!r}.{text}")])
    return recipe


def _with_workload_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Fill ``train`` and ``recover`` of a built-in model from its workload if the recipe leaves them out.

    Without data nothing can be trained, so the default recovery has no steps there.
    """
    from prunus.experiments.workloads import WORKLOADS

    name = values.get("model")
    if values.get("data") == NO_DATA and isinstance(asked := values.get("recover", {}), dict):
        values = {**values, "recover": {"steps": 0, **asked}}
    if not (isinstance(name, str) and name in WORKLOADS):
        return values
    workload = WORKLOADS.get(name)
    filled = dict(values)
    for key, default in (("train", workload.training), ("recover", workload.recovery)):
        given = values.get(key, {})
        if isinstance(given, dict):
            filled[key] = {**asdict(default), **given}
    return filled


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise RecipeError(f"{file}: larger than 64 KB; a recipe is a short YAML file. Check the path.")
        return content.decode("utf-8")
    except FileNotFoundError as error:
        near = nearest(file.name, [entry.name for entry in file.parent.glob("*.y*ml")])
        raise RecipeError(f"{file}: no such file.{near} Give the path of a recipe in YAML.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: not UTF-8 text (byte {error.start}); a recipe is YAML. Check the path.") from error
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read: {error.strerror}; give the path of a recipe in YAML.") from error
