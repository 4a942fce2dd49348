"""Options that several commands share, and parsers of their values: budgets, recoveries, lists of numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from prunus.errors import OptionError

DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
ForwardOption = Annotated[
    str | None, typer.Option(help="keep: your own forwards stay; rewrite: those that contain a size are rewritten.")
]
CalibrationOption = Annotated[
    str | None, typer.Option(help="data; or noise, which scores and repairs without a sample.")
]
EffortOption = Annotated[
    str | None, typer.Option(help="The work of scores and repairs: seconds, minutes (default) or best.")
]
TimeLimitOption = Annotated[
    str | None, typer.Option(help="Scores and repairs end then, with the best so far: 90s, 5min, 2h.")
]
MemoryLimitOption = Annotated[
    str | None, typer.Option(help="Memory of samples and statistics, such as 4GB; a quarter of what is free.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Run the code, and read the files, that the recipe in the folder names.")
]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The options of every command that plans; None keeps the recipe's value."""

    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            "-b",
            help="Such as params=0.5, bytes=2MB, threshold=0.1 or units:LAYER=0.2; repeat for several.",
        ),
    ] = None
    criterion: Annotated[
        str | None,
        typer.Option(
            help="Criterion of units, weights or modules: a name, or a mixture such as magnitude=0.3,taylor=0.5."
        ),
    ] = None
    allocator: Annotated[str | None, typer.Option(help="Allocator that divides the budget among the axes.")] = None
    method: Annotated[str | None, typer.Option(help="A whole method instead, such as multi-scale.")] = None
    method_option: Annotated[
        list[str] | None,
        typer.Option("--method-option", help="A setting of the method, such as threshold=0.01; repeat for several."),
    ] = None
    transfer: Annotated[
        list[str] | None,
        typer.Option(help="from=CHECKPOINT guides method transfer; beside it weights=copy copies its weights first."),
    ] = None
    search: Annotated[
        int | None,
        typer.Option(
            help="Number of plans that the search tries, starting from the allocator's plan; it compares their true "
            "loss (200 is usually enough)."
        ),
    ] = None
    judge: Annotated[
        str | None, typer.Option(help="A repair after which the plans of a search are judged, or none.")
    ] = None
    merge: Annotated[
        bool | None,
        typer.Option("--merge/--no-merge", help="Inputs that stay take over the share of those that go."),
    ] = None
    reconnect: Annotated[
        str | None,
        typer.Option(help="How modular reconnects modules: identity, pooling, projection or auto."),
    ] = None
    key_path: Annotated[
        list[str] | None,
        typer.Option("--key-path", help="A module of the key path; repeat in order. Or gradient=0.01."),
    ] = None
    window: Annotated[
        str | None,
        typer.Option(help="The windows of window-wise, such as 4x4, kernel=3, strip=8, units=4 or positions=2x2."),
    ] = None
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--methods", help="A method of integrated, such as fine-tuning=0.4 or structured; repeat, in order."
        ),
    ] = None
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node",
            help="Settings of a part of the tree, such as 'stage1/*:criterion=magnitude,rate=0.8', or a file of them "
            "(YAML, JSON); repeat for several.",
        ),
    ] = None
    strategy: Annotated[
        str | None, typer.Option(help="How hierarchical scores nodes: auto, weight, gradient or activation.")
    ] = None
    divide: Annotated[
        str | None, typer.Option(help="How hierarchical divides the network: feature, depth:3 or connections:3.")
    ] = None
    optimise: Annotated[
        str | None, typer.Option(help="What hierarchical does after each level: refit, none, finetune:50.")
    ] = None
    level: Annotated[
        list[str] | None, typer.Option("--level", help="What to prune: unit, weight; repeat for both.")
    ] = None
    opt_in: Annotated[
        list[str] | None, typer.Option("--opt-in", help="Also prune experts or vocabulary; repeat for both.")
    ] = None
    forward: ForwardOption = None
    config_ties: Annotated[
        bool | None,
        typer.Option("--config-ties/--no-config-ties", help="One size per entry of a Hugging Face config."),
    ] = None
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="A module, glob or class to exclude; repeat for several.")
    ] = None
    resolution: Annotated[
        str | None,
        typer.Option(
            help="Input sizes to choose among: auto, or sides or lengths with commas, such as 192,160,128x96."
        ),
    ] = None
    effort: EffortOption = None
    time_limit: TimeLimitOption = None
    memory_limit: MemoryLimitOption = None
    calibration: CalibrationOption = None

    def changes(self) -> dict[tuple[str, ...], Any]:
        """Return the options as changes of a recipe: path of the key → value."""
        return {
            ("prune", "budget"): budget_of(self.budget),
            ("prune", "criterion"): self.criterion,
            ("prune", "allocator"): self.allocator,
            ("prune", "method"): self.method,
            ("prune", "method_options"): words_of("--method-option", self.method_option),
            ("transfer",): words_of("--transfer", self.transfer),
            ("prune", "search"): self.search,
            ("prune", "judge"): self.judge,
            ("prune", "merge"): self.merge,
            ("prune", "reconnect"): self.reconnect,
            ("prune", "key_path"): key_path_of(self.key_path),
            ("prune", "window"): self.window,
            ("prune", "methods"): self.methods,
            ("prune", "nodes"): nodes_of(self.node),
            ("prune", "strategy"): self.strategy,
            ("prune", "divide"): self.divide,
            ("prune", "optimise"): self.optimise,
            ("prune", "levels"): self.level,
            ("prune", "resolution"): resolution_of(self.resolution),
            ("opt_in",): self.opt_in,
            ("ignore",): self.ignore,
            ("forward",): self.forward,
            ("config_ties",): self.config_ties,
            ("calibration",): self.calibration,
            ("effort",): self.effort,
            ("time_limit",): self.time_limit,
            ("memory_limit",): self.memory_limit,
        }


def takes_plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the fields of `PlanOptions` as options of its own, in place of its parameter ``options``."""
    names = [field.name for field in fields(PlanOptions)]

    @wraps(command)
    def called(**given: Any) -> None:
        command(options=PlanOptions(**{name: given.pop(name) for name in names}), **given)

    own = inspect.signature(command, eval_str=True).parameters.values()
    shared = inspect.signature(PlanOptions, eval_str=True).parameters.values()
    options = [option for parameter in own for option in (shared if parameter.name == "options" else [parameter])]
    # Typer reads this signature; keyword-only parameters may follow in any order.
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    )
    return called


def key_path_of(words: Sequence[str] | None) -> list[str] | dict[str, float] | None:
    """Turn ``["gradient=0.01"]`` into a threshold, and other words into the modules of a path; None stays None."""
    if words is None or len(words) != 1 or not words[0].startswith("gradient="):
        return None if words is None else list(words)
    return {"gradient": numbers("--key-path", words[0].removeprefix("gradient="))[0]}


def budget_of(words: Sequence[str] | None) -> dict[str, Any] | None:
    """Turn ``["params=0.5", "bytes=2MB"]`` into a budget; None stays None.

    ``units:LAYER=0.2`` is the amount of one layer, as ``{"units": {"LAYER": 0.2}}``.

    Raises:
        OptionError: a word without ``=``, or a metric that occurs twice.

    Example:
        >>> budget_of(["params=0.5", "bytes=2MB"])
        {'params': 0.5, 'bytes': '2MB'}
    """
    if words is None:
        return None
    found: dict[str, Any] = {}
    for word in words:
        metric, sign, value = (part.strip() for part in word.partition("="))
        if not sign or not metric or not value:
            raise OptionError(f"--budget: got {word!r}; allowed: METRIC=AMOUNT, such as params=0.5 or bytes=2MB.")
        name, colon, layer = metric.partition(":")
        amounts = found.setdefault(name, {}) if colon else found
        if not isinstance(amounts, dict) or (layer or metric) in amounts:
            raise OptionError(f"--budget: {metric} is given twice; give it once.")
        amounts[layer if colon else metric] = _amount(value)
    return found


def words_of(option: str, words: Sequence[str] | None) -> dict[str, Any] | None:
    """Turn ``["threshold=0.01", "per=part"]`` into a section; None stays None.

    Raises:
        OptionError: a word without ``=``, or a key that occurs twice.

    Example:
        >>> words_of("--method-option", ["threshold=0.01", "per=part"])
        {'threshold': 0.01, 'per': 'part'}
    """
    if words is None:
        return None
    found: dict[str, Any] = {}
    for word in words:
        key, sign, value = (part.strip() for part in word.partition("="))
        if not sign or not key or not value or key in found:
            reason = f"{key} is given twice; give it once" if key in found else "allowed: KEY=VALUE, once a key"
            raise OptionError(f"{option}: got {word!r}; {reason}.")
        found[key] = _amount(value)
    return found


def nodes_of(words: Sequence[str] | None) -> dict[str, Any] | None:
    """Turn ``["stage1/*:criterion=magnitude,rate=0.8"]`` into settings of nodes; None stays None.

    A word without a setting is the path of a file with a section of settings. A window is written ``size=1x8``.

    Raises:
        OptionError: neither of them, or a part of the tree that occurs twice.
        RecipeError: a file that cannot be read.

    Example:
        >>> nodes_of(["stage1/*:criterion=magnitude,rate=0.8", "head:size=1x8,rate=0.5"])
        {'stage1/*': {'criterion': 'magnitude', 'rate': 0.8}, 'head': {'size': [1, 8], 'rate': 0.5}}
    """
    if words is None:
        return None
    found: dict[str, Any] = {}
    for word in words:
        pattern, colon, text = word.rpartition(":")
        for name, setting in ({pattern: _setting(word, text)} if colon and "=" in text else _settings_in(word)).items():
            if name in found:
                raise OptionError(f"--node: {name!r} is given two settings; give it one.")
            found[name] = setting
    return found


def _setting(word: str, text: str) -> dict[str, Any]:
    setting: dict[str, Any] = {}
    for pair in text.split(","):
        key, sign, value = (part.strip() for part in pair.partition("="))
        if not sign or not key or not value:
            raise OptionError(f"--node: got {word!r}; allowed: PART:KEY=VALUE,KEY=VALUE, such as 'stage1/*:rate=0.8'.")
        if key in setting:
            advice = "is given two methods; give one" if key == "method" else f"has {key} twice; give it once"
            raise OptionError(f"--node: {word!r} {advice}.")
        rows, by, columns = value.partition("x")
        sized = key == "size" and by and rows.isdigit() and columns.isdigit()
        setting[key] = [int(rows), int(columns)] if sized else _amount(value)
    return setting


def _settings_in(path: str) -> dict[str, Any]:
    from prunus.experiments.recipe.yaml_lines import read_yaml

    try:
        with Path(path).open("rb") as stream:
            text = stream.read(_LARGEST_NODES + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "is no text" if isinstance(error, UnicodeDecodeError) else f"cannot be read: {error.strerror}"
        raise OptionError(
            f"--node: {path!r} {why}; allowed: PART:KEY=VALUE such as 'stage1/*:rate=0.8', or a file (YAML, JSON)."
        ) from error
    if len(text) > _LARGEST_NODES:
        raise OptionError(f"--node: {path!r} is larger than 64 KB; give a short file of settings.")
    values = read_yaml(text, path).values
    if not isinstance(values, dict):
        raise OptionError(f"--node: {path!r} holds no section; write lines such as 'stage1/*: {{rate: 0.8}}'.")
    return {str(name): setting for name, setting in values.items()}


_LARGEST_NODES = 64 << 10


def resolution_of(text: str | None) -> str | list[int | str] | None:
    """Turn ``"192,160x128"`` into a list of sizes; ``auto`` and None stay.

    Example:
        >>> resolution_of("192,160x128"), resolution_of("auto")
        ([192, '160x128'], 'auto')
    """
    if text is None or text.strip() == "auto":
        return text and "auto"
    words = [part.strip() for part in text.split(",") if part.strip()]
    return [int(word) if word.isdecimal() else word for word in words]


def recovery_of(words: Sequence[str] | None) -> dict[tuple[str, ...], float | int | str]:
    """Turn ``["steps=500"]`` into changes of a recipe's section ``recover``; no method means autopilot.

    Raises:
        OptionError: a word without ``=``, or a key that occurs twice.

    Example:
        >>> recovery_of(["minutes=10"])
        {('recover', 'method'): 'autopilot', ('recover', 'minutes'): 10.0}
    """
    if words is None:
        return {}
    found: dict[tuple[str, ...], float | int | str] = {("recover", "method"): "autopilot"}
    given = set[str]()
    for word in words:
        key, sign, value = (part.strip() for part in word.partition("="))
        if not sign or not key or not value:
            raise OptionError(f"--recover: got {word!r}; allowed: KEY=VALUE, such as steps=500 or minutes=10.")
        if key in given:
            raise OptionError(f"--recover: {key} is given twice; give it once.")
        given.add(key)
        amount = _amount(value)
        found["recover", key] = float(amount) if key in _FRACTIONS and isinstance(amount, int) else amount
    if {"steps", "minutes"} <= given:
        raise OptionError("--recover: got steps and minutes; a recovery has one budget, give just one of them.")
    return found


_FRACTIONS = ("minutes", "lr", "weight_decay", "temperature", "soft", "hints", "mixed", "dropout")
"""Keys whose values are floats, even if they are written as whole numbers."""


def _amount(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def numbers(option: str, text: str) -> list[float]:
    """Turn ``"0.8,0.5"`` into numbers.

    Raises:
        OptionError: a word that is not a number, or no number at all.
    """
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise OptionError(f"{option}: got {text!r}; allowed: numbers with commas, such as 0.5,0.3,0.1.") from error
    if not found:
        raise OptionError(f"{option}: got {text!r}; give at least one number.")
    return found
