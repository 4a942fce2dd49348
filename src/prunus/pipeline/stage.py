"""One entry of a recipe's list of stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from prunus.criteria import canonical, mixture_of
from prunus.errors import OptionError, nearest
from prunus.foundation.clock import NO_LIMIT
from prunus.foundation.option_record import accepted_by
from prunus.recovery.method_names import METHOD_ALLOWED
from prunus.recovery.options import (
    MethodName,
    Minutes,
    RecoveryOptions,
    whole_recovery,
)
from prunus.training.options import Count

Name = Annotated[str, Field(min_length=1, description="a text that is not empty")]


def _criterion(given: Any) -> Any:
    """Return a criterion as plans record it: a mixture of criteria is a text."""
    try:
        return canonical(given)
    except OptionError as error:
        raise ValueError(str(error).removeprefix("criterion: ").rstrip(".")) from error


CriterionName = Annotated[Name, BeforeValidator(_criterion)]
"""The name of a criterion, or a mixture: a section of names and weights, or its text."""

LEVELS = ("blocks", "units", "weights")
WAYS = {"blocks": "depth", "units": "magnitude", "weights": "importance"}
"""Level → its default method or criterion."""


@accepted_by
def _schedule(name: str) -> None:
    from prunus.training.schedules import KEPT_SCHEDULES

    KEPT_SCHEDULES.get(name)


@accepted_by
def _allocator(name: str) -> None:
    from prunus.budget import ALLOCATORS

    ALLOCATORS.get(name)


class StageRecovery(BaseModel):
    """The recovery after a stage: a budget of steps or minutes; other options are those of the recipe's ``recover``."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    steps: Count | None = Field(default=None, description="a whole number of steps, 1 or more")
    minutes: Minutes | None = Field(default=None, description="a number of minutes above 0, in place of steps")
    method: MethodName | None = Field(default=None, description=METHOD_ALLOWED)

    @model_validator(mode="after")
    def _one_budget(self) -> StageRecovery:
        if self.steps is not None and self.minutes is not None:
            raise ValueError("steps and minutes stand side by side; a recovery has one budget, give just one of them")
        return self

    def over(self, recover: Any) -> RecoveryOptions:
        """Return the recovery of the request with the options of this stage in their place.

        Args:
            recover: a mapping, `RecoveryOptions`, the options of plain fine-tuning, or None for the defaults.
        """
        own = {name: value for name, value in self.model_dump().items() if value is not None}
        if "steps" in own:
            own["minutes"] = None
        elif "minutes" in own:
            own["steps"] = NO_LIMIT
        base = whole_recovery(recover)
        steps = max(1, base.steps) if base.minutes is None else NO_LIMIT
        return replace(base, **{"steps": steps, **own})


class Stage(BaseModel):
    """One step of a pruning in several: a level, its method or criterion, the kept share, and the recovery."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    level: Literal["blocks", "units", "weights"] = Field(description=f"one of {', '.join(LEVELS)}")
    kept: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = Field(
        default=None, description="the fraction that this stage leaves of what it finds, between 0 and 1, or null"
    )
    method: Name | None = Field(
        default=None, description="for blocks depth, modular or redundancy; else the same as criterion"
    )
    criterion: CriterionName | None = Field(
        default=None, description="the name of a criterion of units or of weights, or a section of names and weights"
    )
    allocator: Annotated[Name, AfterValidator(_allocator)] | None = Field(
        default=None, description="for units, the name of an allocator"
    )
    schedule: Annotated[Name, AfterValidator(_schedule)] | None = Field(
        default=None, description="how the level is reached while training: linear, cubic, cosine, geometric, …"
    )
    steps: Count | None = Field(
        default=None, description="a whole number of training steps, 1 or more, that the schedule takes"
    )
    minutes: Minutes | None = Field(
        default=None, description="a number of minutes above 0, in place of steps, that the schedule takes"
    )
    strategy: Name | None = Field(
        default=None, description="a strategy of the pruner, such as gradient-threshold, which prunes while it trains"
    )
    settings: dict[Name, Any] = Field(default={}, description="a section of the strategy's settings")
    recover: StageRecovery | None = Field(default=None, description="a section with the keys steps, minutes, method")

    @model_validator(mode="after")
    def _fits_together(self) -> Stage:
        problem = _problem(self)
        if problem:
            raise ValueError(f"a stage of {self.level} {problem}")
        return self

    @property
    def way(self) -> str:
        """The strategy, method or criterion of the stage, by default that of the level."""
        return self.strategy or self.method or self.criterion or WAYS[self.level]

    @property
    def trains(self) -> bool:
        """Return whether the stage prunes in rounds with training between them."""
        return self.steps is not None or self.minutes is not None


def stages_of(given: Any) -> tuple[Stage, ...]:
    """Return stages from records or mappings, as `prunus.prune` takes them.

    Raises:
        OptionError: no list, an unknown key or value, or stages that do not fit together.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise OptionError(
            f"stages is {given!r}; allowed: a list of mappings such as {{'level': 'units', 'kept': 0.5}}."
        )
    try:
        found = tuple(item if isinstance(item, Stage) else Stage.model_validate(item) for item in given)
        return check_stages(found)
    except (ValidationError, ValueError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(map(str, problem["loc"]))
        text = str(problem["msg"]).removeprefix("Value error, ")
        raise OptionError(f"stages{f': {where}' if where else ''}: {text}.") from error


def check_stages(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Refuse stages that do not fit together; the message names the stage, counted from 1.

    Raises:
        ValueError: a finer level before a coarser one, or a last stage with a share of its own.
    """
    for number, stage in enumerate(stages, 1):
        problem = _order_problem(stages, number)
        if problem:
            raise ValueError(f"stage {number} ({stage.level}) {problem}")
    return stages


def _order_problem(stages: tuple[Stage, ...], number: int) -> str:
    stage = stages[number - 1]
    before = stages[number - 2] if number > 1 else None
    if before is not None and LEVELS.index(before.level) > LEVELS.index(stage.level):
        return f"follows {before.level}; the order is blocks, units, weights"
    if before is not None and before.level == stage.level == "blocks":
        return "follows blocks; one stage of blocks is enough"
    if number == len(stages) and stage.kept is not None:
        return "is the last and meets the budget; leave kept out"
    return ""


def _problem(stage: Stage) -> str:
    if stage.allocator is not None and stage.level != "units":
        return "has an allocator; only units have one"
    if stage.strategy is not None:
        return _strategy_problem(stage)
    if stage.settings:
        return "has settings; only a strategy has some"
    if stage.method is not None and stage.criterion is not None:
        return "has a method and a criterion; name one of them"
    if stage.steps is not None and stage.minutes is not None:
        return "has steps and minutes; its schedule takes one of them"
    if (stage.schedule is None) == stage.trains:
        return "needs both schedule and steps (or minutes), or neither"
    if stage.schedule is not None and stage.level == "blocks":
        return "has a schedule; blocks go at once"
    known = known_ways(stage.level)
    mixed = mixture_of(stage.criterion) if stage.level != "blocks" else None
    unknown = next((name for name in mixed or (stage.way,) if name not in known), None)
    return "" if unknown is None else f"has no way {unknown!r}; known are {', '.join(known)}"


def _strategy_problem(stage: Stage) -> str:
    known = known_strategies(stage.level)
    if stage.strategy not in known:
        near = nearest(str(stage.strategy), known)
        return f"has no strategy {stage.strategy!r}.{near} Known are {', '.join(known)}"
    if stage.method is not None:
        return "has a strategy and a method; name one of them"
    if stage.steps is None or stage.minutes is not None:
        return "has a strategy, which prunes while it trains; give steps, not minutes"
    return ""


def known_strategies(level: str) -> list[str]:
    """Return the names of the pruner's strategies that a level knows."""
    from prunus.pruner import STRATEGIES

    found = []
    for name in STRATEGIES.names():
        kind = STRATEGIES.get(name)
        own = "weights" if not kind.structural else "blocks" if name.startswith("key-path") else "units"
        if own == level and not kind.masks_weights:
            found.append(name)
    return found


def known_ways(level: str) -> list[str]:
    """Return the names of methods or criteria that a level knows."""
    from prunus.criteria import UNIT_CRITERIA
    from prunus.pruner.gradient_statistics import shown_criteria

    known = {
        "blocks": ["depth", "modular", "redundancy"],
        "units": UNIT_CRITERIA.names(),
        "weights": shown_criteria(),
    }
    return known[level]
