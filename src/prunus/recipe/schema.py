"""The records of a recipe: what may stand in the file, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, Strict, model_validator

from prunus.defaults import DEFAULTS
from prunus.errors import OptionError
from prunus.recipe.stage import Stage, check_stages

if TYPE_CHECKING:
    from prunus.recovery import RecoveryOptions
    from prunus.training.options import TrainingOptions

# Each description completes the sentence "allowed: …" of an error message.
Steps = Annotated[int, Field(ge=0, le=10_000_000, description="a whole number of steps, 0 or more")]
Rate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False, description="a number above 0")]
Decay = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, description="a number from 0 to 1")]
Count = Annotated[int, Field(ge=1, le=1_000_000, description="a whole number, 1 or more")]
Seed = Annotated[int, Field(ge=0, lt=2**31, description="a whole number from 0 to 2147483647")]
Kept = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False, description="a fraction between 0 and 1, both excluded")]
Name = Annotated[str, Field(min_length=1, description="a text that is not empty")]


Listed = TypeVar("Listed")


def _nothing_twice(values: Listed) -> Listed:
    if isinstance(values, tuple):
        if not values:
            raise ValueError("the list is empty; name at least one, or leave the key out")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} stands twice; name each once")
    return values


def _member_of(registry: str) -> Callable[[str], str]:
    def check(name: str) -> str:
        from prunus import training

        try:
            getattr(training, registry).get(name)
        except OptionError as error:
            raise ValueError(str(error).rstrip(".")) from error
        return name

    return check


def _recovery_method(name: str) -> str:
    from prunus.recovery.options import check_method

    try:
        check_method(name)
    except OptionError as error:
        raise ValueError(str(error).rstrip(".")) from error
    return name


def _repair_name(name: str) -> str:
    from prunus.repairs import check_repair

    try:
        check_repair(name)
    except OptionError as error:
        raise ValueError(str(error).rstrip(".")) from error
    return name


def _bounds(given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    from prunus.budget import Bound

    for pattern, bound in given.items():
        try:
            Bound.of(bound)
        except OptionError as error:
            raise ValueError(f"{pattern}: {str(error).rstrip('.')}") from error
    return given


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Training(_Section):
    """How long and how fast to train; ``steps: 0`` takes the network as it comes."""

    steps: Steps = Field(default=0)
    lr: Rate = Field(default=1e-3)
    batch_size: Count = Field(default=64)
    optimizer: Annotated[Name, AfterValidator(_member_of("OPTIMIZERS"))] = Field(
        default="adamw", description="the name of an optimizer, such as adamw or sgd"
    )
    weight_decay: Decay = Field(default=5e-4)
    loss: Annotated[Name, AfterValidator(_member_of("LOSSES"))] = Field(
        default="cross_entropy", description="the name of a loss, such as cross_entropy or mse"
    )
    schedule: Annotated[Name, AfterValidator(_member_of("SCHEDULES"))] = Field(
        default="cosine", description="the name of a schedule, such as cosine or one_cycle"
    )

    def options(self) -> TrainingOptions:
        """Return the same values as the record that training takes."""
        from prunus.training.options import TrainingOptions

        return TrainingOptions(**self.model_dump())


class Recovery(Training):
    """What every method gets after pruning, with the same budget and seed; by default a short fine-tuning."""

    steps: Steps = Field(default=60)
    lr: Rate = Field(default=5e-4)
    minutes: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] | None = Field(
        default=None, description="a number of minutes above 0, in place of steps, or null"
    )
    method: Annotated[Name, AfterValidator(_recovery_method)] = Field(
        default="finetune", description="autopilot, or one way: statistics, refold, blocks, distil, finetune"
    )
    temperature: Rate = Field(default=2.0)
    soft: Decay = Field(default=0.9)
    hints: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = Field(
        default=0.0, description="a number, 0 or more"
    )
    mixed: Decay = Field(default=0.0, description="a number from 0 (none) to 1 (every sample); above 0 it needs soft 1")
    dropout: Decay | None = Field(
        default=None, description="a factor from 0 (none) to 1 (as the network was trained), or null"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Recovery:
        if self.mixed and self.soft < 1:
            raise ValueError(f"mixed is {self.mixed:g}, and mixed samples have no labels; give soft 1 with it")
        return self

    def options(self) -> TrainingOptions:
        """Return the training in it as the record that training takes."""
        from prunus.training.options import TrainingOptions

        return TrainingOptions(**self.model_dump(include=set(Training.model_fields)))

    def recovery(self) -> RecoveryOptions | None:
        """Return the whole as the record that recovery takes; None for no recovery, or plain fine-tuning by steps.

        Plain fine-tuning leaves the network's dropout as it is; whoever names a factor gets it, and held-out data
        decide.
        """
        from prunus.recovery import Distilling, RecoveryOptions
        from prunus.recovery.options import STEPS_WITHOUT_CLOCK

        plain = self.method == "finetune" and self.dropout is None
        if self.minutes is None and (plain or not self.steps):
            return None
        training = self.options() if self.minutes is None else replace(self.options(), steps=STEPS_WITHOUT_CLOCK)
        distilling = Distilling(self.temperature, self.soft, self.hints, self.mixed)
        return RecoveryOptions(training, self.minutes, self.method, distilling, self.dropout or 0.0)

    def for_stages(self) -> RecoveryOptions:
        """Return the whole as the record from which the recoveries of stages are made."""
        from prunus.recovery import Distilling, RecoveryOptions

        training = replace(self.options(), steps=max(1, self.steps))
        distilling = Distilling(self.temperature, self.soft, self.hints, self.mixed)
        return RecoveryOptions(training, self.minutes, self.method, distilling, self.dropout or 0.0)


class Latency(_Section):
    """How the latency ratio is measured: rounds of A/B/A/B, samples a batch, threads."""

    rounds: Count = Field(default=30)
    batch: Count = Field(default=64)
    threads: Count = Field(default=1)


class Compare(_Section):
    """Which methods meet, at which kept fractions, over how many seeds."""

    methods: Annotated[Literal["all"] | Annotated[tuple[Name, ...], Strict(False)], AfterValidator(_nothing_twice)] = (
        Field(default="all", description="'all' or a list of method names, none twice")
    )
    kept: Annotated[tuple[Kept, ...], AfterValidator(_nothing_twice)] = Field(
        default=(0.5, 0.3, 0.1), strict=False, description="a list of fractions between 0 and 1, none twice"
    )
    repair: Annotated[tuple[Annotated[Name, AfterValidator(_repair_name)], ...], AfterValidator(_nothing_twice)] = (
        Field(default=("none",), strict=False, description="a list of repairs such as none, refold, auto, none twice")
    )
    seeds: Count = Field(default=1)
    save: bool = Field(default=False, description="true or false: keep the network of every run as a checkpoint")
    latency: Latency = Field(default=Latency(), description="a section with the keys rounds, batch, threads")


Amount = Annotated[
    int | float | Annotated[str, Field(min_length=1)],
    Field(description="a kept fraction between 0 and 1, a whole number, or a size such as 2MB"),
]


class Prune(_Section):
    """What ``prunus plan`` and ``prunus prune`` do: one budget, and how units are scored and the budget divided."""

    budget: dict[Name, Amount] = Field(default={}, description="a section such as {params: 0.5} or {macs: 0.3}")
    criterion: Name | None = Field(
        default=DEFAULTS.criterion, description="the name of a criterion, such as magnitude or taylor, or null"
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
    search: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=DEFAULTS.search,
        description="how many plans around the allocator's are tried by their true loss, 0 for none",
    )
    judge: Annotated[Name, AfterValidator(_repair_name)] = Field(
        default=DEFAULTS.judge, description="the name of a repair after which the plans of a search are judged, or none"
    )
    repair: Annotated[Name, AfterValidator(_repair_name)] = Field(
        default=DEFAULTS.repair, description="the name of a repair, such as auto, refold or none"
    )
    damage: bool = Field(
        default=DEFAULTS.damage, description="true or false: measure what every decision of the plan costs"
    )


class Recipe(_Section):
    """A whole recipe: model, data, training, recovery, how to prune, and what to compare.

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
    data: Name = Field(
        description="a built-in name, imagefolder:PATH, package.module:callable, file.py:callable, or noise"
    )
    data_args: dict[str, Any] = Field(default={}, description="a section of keyword arguments for the data")
    calibration: Literal["data", "noise"] = Field(
        default="data", description="data, or noise for scores and repair without a single sample"
    )
    train: Training = Field(
        default=Training(), description="a section with the keys steps, lr, batch_size, optimizer, …"
    )
    recover: Recovery = Field(
        default=Recovery(), description="a section with the keys steps, minutes, method, lr, batch_size, optimizer, …"
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
    ignore: tuple[Name, ...] = Field(default=(), strict=False, description="a list of module names or patterns")
    opt_in: Annotated[tuple[Literal["experts", "vocabulary"], ...], Field(strict=False)] = Field(
        default=(), description="a list of experts and vocabulary: what else may go"
    )
    seed: Seed = Field(default=0)
    workers: Count = Field(default=1)
    threads: Count | None = Field(default=None, description="a whole number, 1 or more, or null (torch's choice)")
    out: Name = Field(default="prunus-runs", description="the path of a folder")

    _base_dir: Path = PrivateAttr(default_factory=Path)

    @property
    def base_dir(self) -> Path:
        """The folder that relative paths in the recipe start from."""
        return self._base_dir

    @property
    def out_dir(self) -> Path:
        """Where the results go: ``out``, seen from the recipe's folder."""
        return self._base_dir / Path(self.out).expanduser()

    def located(self, base_dir: Path) -> Recipe:
        """Return the same recipe with its relative paths starting from ``base_dir``."""
        copy = self.model_copy()
        copy._base_dir = base_dir
        return copy
