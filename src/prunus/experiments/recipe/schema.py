"""The records of a recipe: the allowed keys and values of the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, Strict, model_validator

from prunus.errors import OptionError, SelectorError
from prunus.foundation.defaults import DEFAULTS
from prunus.foundation.effort import Effort
from prunus.foundation.option_record import accepted_by
from prunus.pipeline.stage import CriterionName, Name, Stage, check_stages
from prunus.recovery import RecoveryOptions
from prunus.training.options import Count, Steps, TrainingOptions

# Each description completes the sentence "allowed: …" of an error message.
Seed = Annotated[int, Field(ge=0, lt=2**31, description="a whole number from 0 to 2147483647")]
Kept = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False, description="a fraction between 0 and 1, both excluded")]


Listed = TypeVar("Listed")


def _nothing_twice(values: Listed) -> Listed:
    if isinstance(values, tuple):
        if not values:
            raise ValueError("the list is empty; name at least one, or leave the key out")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice; name each once")
    return values


@accepted_by
def _repair_name(name: str) -> None:
    from prunus.repairs import check_repair

    check_repair(name)


@contextmanager
def _said_by_pydantic(prefix: str = "") -> Iterator[None]:
    """Turn the error of an option into one to which pydantic adds the key."""
    try:
        yield
    except (OptionError, SelectorError) as error:
        raise ValueError(str(error).removeprefix(prefix).rstrip(".")) from error


def _bounds(given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    from prunus.budget import Bound

    for pattern, bound in given.items():
        try:
            Bound.of(bound)
        except OptionError as error:
            raise ValueError(f"{pattern}: {str(error).rstrip('.')}") from error
    return given


def _window(given: Any) -> Any:
    from prunus.masks.window_option import canonical_window

    with _said_by_pydantic():
        return canonical_window(given)


def _resolution(given: Any) -> Any:
    from prunus.data.input_size import check_resolution

    with _said_by_pydantic():
        return check_resolution(given)


def _methods(given: Any) -> Any:
    from prunus.methods.integrated_parts import canonical_parts

    with _said_by_pydantic("methods: "):
        return tuple(part.plain() for part in canonical_parts(given))


def _tree_option(name: str) -> AfterValidator:
    """Return the check of one option of the hierarchical procedure."""

    def check(given: Any) -> Any:
        from prunus.methods.hierarchy.settings import TREE_OPTIONS, checked_tree_options

        with _said_by_pydantic(f"{name}: "):
            return checked_tree_options({**dict.fromkeys(TREE_OPTIONS), name: given})[name]

    return AfterValidator(check)


def _transfer(given: dict[str, Any]) -> dict[str, Any]:
    from prunus.methods.transfer import check_transfer

    with _said_by_pydantic():
        if given:
            check_transfer(given)
            if not isinstance(given["from"], str) or not given["from"]:
                raise OptionError(f"from is {given['from']!r}; allowed: the path of a folder or a .safetensors file.")
    return given


_TRAIN = TrainingOptions(steps=0, lr=1e-3)
_RECOVER = RecoveryOptions(steps=60, lr=5e-4, method="finetune")
"""The defaults of training and recovery: no training before pruning, and a short fine-tuning afterwards."""


def _over(default: TrainingOptions) -> BeforeValidator:
    """Return a validator that fills the keys which a section leaves out."""
    return BeforeValidator(lambda given: {**asdict(default), **given} if isinstance(given, dict) else given)


def _time(value: float | str | None) -> float | str | None:
    with _said_by_pydantic("time_limit is "):
        Effort.of(time_limit=value)
    return value


def _memory(value: int | str | None) -> int | str | None:
    with _said_by_pydantic("memory_limit is "):
        Effort.of(memory_limit=value)
    return value


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Latency(_Section):
    """The measurement of the latency ratio: rounds of A/B/A/B, samples per batch, threads."""

    rounds: Count = Field(default=30)
    batch: Count = Field(default=64)
    threads: Count = Field(default=1)


class Compare(_Section):
    """The methods, kept fractions and seeds of a comparison."""

    methods: Annotated[
        Literal["levels", "all"] | Annotated[tuple[Name, ...], Strict(False)], AfterValidator(_nothing_twice)
    ] = Field(default="levels", description="'levels', 'all' or a list of method names, none twice")
    kept: Annotated[tuple[Kept, ...], AfterValidator(_nothing_twice)] = Field(
        default=(0.5, 0.3, 0.1), strict=False, description="a list of fractions between 0 and 1, none twice"
    )
    repair: Annotated[tuple[Annotated[Name, AfterValidator(_repair_name)], ...], AfterValidator(_nothing_twice)] = (
        Field(default=("none",), strict=False, description="a list of repairs such as none, refold, auto, none twice")
    )
    seeds: Count = Field(default=1)
    save: bool = Field(default=False, description="true or false: keep the network of every run as a checkpoint")
    latency: Latency = Field(default=Latency(), description="a section with the keys rounds, batch, threads")


Budget = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number of minutes, 0 or more")]


class FrontierSection(_Section):
    """The budgets of ``prunus frontier``, of one unit, and the rule of the knee."""

    steps: Annotated[tuple[Steps, ...], AfterValidator(_nothing_twice)] | None = Field(
        default=None, strict=False, description="a list of whole numbers of steps, each 0 or more, none twice, or null"
    )
    minutes: Annotated[tuple[Budget, ...], AfterValidator(_nothing_twice)] | None = Field(
        default=None, strict=False, description="a list of numbers of minutes, each 0 or more, none twice, or null"
    )
    rule: Literal["chord", "noise"] = Field(default="chord", description="chord or noise")

    @model_validator(mode="after")
    def _one_unit(self) -> FrontierSection:
        if self.steps is not None and self.minutes is not None:
            raise ValueError("steps and minutes stand side by side; the budgets of a frontier have one unit")
        return self


Amount = Annotated[
    int | float | Annotated[str, Field(min_length=1)],
    Field(description="a kept fraction between 0 and 1, a whole number, or a size such as 2MB"),
]


class Prune(_Section):
    """The section of ``prunus plan`` and ``prunus prune``: one budget, the scores of units, and the allocator."""

    budget: dict[Name, Amount | dict[Name, Amount]] = Field(
        default={}, description="a section such as {params: 0.5}, {threshold: 0.1} or {units: {stem: 0.5}}"
    )
    criterion: CriterionName | None = Field(
        default=DEFAULTS.criterion,
        description="the name of a criterion, such as magnitude or taylor, a section of names and weights, or null",
    )
    allocator: Name | None = Field(
        default=DEFAULTS.allocator, description="the name of an allocator, such as uniform or global, or null"
    )
    levels: Annotated[tuple[Literal["unit", "weight"], ...], AfterValidator(_nothing_twice)] = Field(
        default=("unit",), strict=False, description="a list of unit and weight, none twice"
    )
    bounds: Annotated[dict[Name, dict[str, Any]], AfterValidator(_bounds)] = Field(
        default={}, description="a section from selectors to the keys floor, ceiling, round_to, frozen, forced"
    )
    method: Name | None = Field(
        default=DEFAULTS.method, description="the name of a method, such as multi-scale, or null"
    )
    method_options: dict[Name, Any] = Field(
        default=DEFAULTS.method_options,
        description="a section of the method's own settings, such as {threshold: 0.01, decay: 0.9}",
    )
    search: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=DEFAULTS.search,
        description="how many plans around the allocator's are tried by their true loss, 0 for none",
    )
    judge: Annotated[Name, AfterValidator(_repair_name)] = Field(
        default=DEFAULTS.judge, description="the name of a repair after which the plans of a search are judged, or none"
    )
    window: Annotated[Name | None, BeforeValidator(_window)] = Field(
        default=DEFAULTS.window,
        description="a window of window-wise, such as [4, 4], {kernel: 3} or {units: 4}, or null",
    )
    methods: Annotated[tuple[dict[str, Any], ...], BeforeValidator(_methods)] = Field(
        default=DEFAULTS.methods,
        description="a list of the methods of integrated, such as [{name: fine-tuning, share: 0.4}, structured]",
    )
    repair: Annotated[Name, AfterValidator(_repair_name)] = Field(
        default=DEFAULTS.repair, description="the name of a repair, such as auto, refold or none"
    )
    merge: bool | None = Field(
        default=DEFAULTS.merge,
        description="true or false: inputs that stay take over the share of those that go; or null, as the method says",
    )
    reconnect: Literal["identity", "pooling", "projection", "auto"] | None = Field(
        default=DEFAULTS.reconnect,
        description="identity, pooling, projection or auto, which modular puts in place of modules; or null",
    )
    key_path: Annotated[tuple[Name, ...], Strict(False)] | dict[str, float] | None = Field(
        default=DEFAULTS.key_path,
        description="a list of modules in order, {gradient: 0.01}, or null for the path of most importance",
    )
    nodes: Annotated[dict[Name, dict[str, Any]] | None, _tree_option("nodes")] = Field(
        default=DEFAULTS.nodes,
        description="a section from parts of the tree to the keys method, criterion, rate, size, strategy",
    )
    strategy: Annotated[Name | None, _tree_option("strategy")] = Field(
        default=DEFAULTS.strategy, description="auto, weight, gradient or activation, or null"
    )
    divide: Annotated[Name | dict[str, Any] | None, _tree_option("divide")] = Field(
        default=DEFAULTS.divide, description="feature, depth, connections, the latter two as depth:3, or null"
    )
    optimise: Annotated[Name | dict[str, Any] | None, _tree_option("optimise")] = Field(
        default=DEFAULTS.optimise, description="refit, none, the name of a repair, finetune:50, or null"
    )
    damage: bool = Field(
        default=DEFAULTS.damage, description="true or false: measure what every decision of the plan costs"
    )
    resolution: Annotated[
        Literal["auto"] | Annotated[tuple[int | str, ...], Strict(False)] | None, BeforeValidator(_resolution)
    ] = Field(
        default=DEFAULTS.resolution,
        description="auto, a list of sides or lengths such as [192, 160, 128x96], or null",
    )


class Recipe(_Section):
    """A whole recipe: model, data, training, recovery, pruning and comparison.

    Paths in it are relative to `base_dir`, the folder of the recipe file.

    Example:
        >>> Recipe(version=1, model="digits", data="digits").compare.kept
        (0.5, 0.3, 0.1)
    """

    version: Literal[1] = Field(description="1, the only version so far")
    model: Name = Field(
        description="torchvision:NAME, timm:NAME, hf:PATH, package.module:callable, file.py:callable or a built-in name"
    )
    model_args: dict[str, Any] = Field(default={}, description="a section of keyword arguments for the model")
    checkpoint: Name | None = Field(default=None, description="the path of a .safetensors, .pt or .pth file")
    transfer: Annotated[dict[Name, Any], AfterValidator(_transfer)] = Field(
        default={}, description="a section with the keys from (a checkpoint of a pretrained network) and weights"
    )
    data: Name = Field(
        description="a built-in name, imagefolder:PATH, package.module:callable, file.py:callable, or noise"
    )
    data_args: dict[str, Any] = Field(default={}, description="a section of keyword arguments for the data")
    calibration: Literal["data", "noise"] = Field(
        default="data", description="data, or noise for scores and repair without a sample"
    )
    train: Annotated[TrainingOptions, _over(_TRAIN)] = Field(
        default=_TRAIN, description="a section with the keys steps, lr, batch_size, optimizer, …"
    )
    recover: Annotated[RecoveryOptions, _over(_RECOVER)] = Field(
        default=_RECOVER, description="a section with the keys steps, minutes, method, lr, batch_size, optimizer, …"
    )
    prune: Prune = Field(
        default=Prune(),
        description="a section with the keys budget, criterion, allocator, levels, bounds, method, search, …",
    )
    stages: Annotated[tuple[Stage, ...], AfterValidator(check_stages)] = Field(
        default=(), strict=False, description="a list of stages, each with a level, from blocks to weights"
    )
    compare: Compare = Field(
        default=Compare(), description="a section with the keys methods, kept, repair, seeds, save, latency"
    )
    frontier: FrontierSection = Field(
        default=FrontierSection(), description="a section with the keys steps or minutes, and rule"
    )
    ignore: tuple[Name, ...] = Field(default=(), strict=False, description="a list of module names or patterns")
    opt_in: Annotated[tuple[Literal["experts", "vocabulary"], ...], Field(strict=False)] = Field(
        default=(), description="a list of experts and vocabulary, which are pruned too"
    )
    forward: Literal["keep", "rewrite"] = Field(
        default="keep", description="keep, or rewrite for forwards that are written anew where they hold a stale size"
    )
    config_ties: bool = Field(
        default=DEFAULTS.config_ties,
        description="true or false: one size per entry of a Hugging Face config, so that the config says what is left",
    )
    effort: Literal["seconds", "minutes", "best"] = Field(
        default="minutes", description="seconds, minutes or best: the work of scores and repairs"
    )
    time_limit: Annotated[float | str | None, AfterValidator(_time)] = Field(
        default=DEFAULTS.time_limit, description="seconds, a text such as 90s, 5min or 2h, or null"
    )
    memory_limit: Annotated[int | str | None, AfterValidator(_memory)] = Field(
        default=DEFAULTS.memory_limit, description="bytes, a text such as 4GB or 512MiB, or null"
    )
    seed: Seed = Field(default=0)
    workers: Count = Field(default=1)
    threads: Count | None = Field(default=None, description="a whole number, 1 or more, or null (torch's choice)")
    out: Name = Field(default="prunus-runs", description="the path of a folder")

    _base_dir: Path = PrivateAttr(default_factory=Path)

    @property
    def base_dir(self) -> Path:
        """The folder from which relative paths in the recipe start."""
        return self._base_dir

    @property
    def out_dir(self) -> Path:
        """The folder of the results: ``out``, relative to the recipe's folder."""
        return self._base_dir / Path(self.out).expanduser()

    def located(self, base_dir: Path) -> Recipe:
        """Return the same recipe with relative paths that start from ``base_dir``."""
        copy = self.model_copy()
        copy._base_dir = base_dir
        return copy

    def stored(self, folder: Path) -> dict[str, Any]:
        """Return the entries by which a folder remembers this recipe.

        The path of the recipe's folder is relative to ``folder``, so that both may move together.
        """
        place = os.path.relpath(self._base_dir.resolve(), folder.resolve())
        return {"recipe": self.model_dump(mode="json"), "base_dir": place}
