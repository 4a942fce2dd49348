"""Options that several commands share, and how they are read: a budget as words, numbers with commas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from prunus.errors import OptionError

BudgetOption = Annotated[
    list[str] | None, typer.Option("--budget", "-b", help="Such as params=0.5, macs=0.3 or bytes=2MB; once each.")
]
CriterionOption = Annotated[str | None, typer.Option(help="How units are scored.")]
AllocatorOption = Annotated[str | None, typer.Option(help="How the budget is divided.")]
MethodOption = Annotated[str | None, typer.Option(help="A whole method instead, such as multi-scale.")]
JudgeOption = Annotated[
    str | None, typer.Option(help="A repair after which the plans of a search are judged, or none.")
]
LevelOption = Annotated[
    list[str] | None, typer.Option("--level", help="unit or weight, or both: what may go; once each.")
]
OptInOption = Annotated[
    list[str] | None, typer.Option("--opt-in", help="experts or vocabulary: what else may go; once each.")
]
ForwardOption = Annotated[str | None, typer.Option(help="keep your own forwards, or rewrite what holds a size.")]
ConfigTiesOption = Annotated[
    bool | None,
    typer.Option("--config-ties/--no-config-ties", help="One size per entry of a Hugging Face config."),
]
IgnoreOption = Annotated[
    list[str] | None, typer.Option("--ignore", help="A module, glob or class to leave as it is; once each.")
]
CalibrationOption = Annotated[
    str | None, typer.Option(help="data, or noise: score and repair without a single sample.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Run the code, and read the files, that the recipe in the folder names.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def budget_of(words: Sequence[str] | None) -> dict[str, float | int | str] | None:
    """Turn ``["params=0.5", "bytes=2MB"]`` into a budget; None stays None.

    Raises:
        OptionError: a word without ``=``, or a metric that stands twice.

    Example:
        >>> budget_of(["params=0.5", "bytes=2MB"])
        {'params': 0.5, 'bytes': '2MB'}
    """
    if words is None:
        return None
    found: dict[str, float | int | str] = {}
    for word in words:
        metric, sign, value = (part.strip() for part in word.partition("="))
        if not sign or not metric or not value:
            raise OptionError(f"--budget: got {word!r}; allowed: METRIC=AMOUNT, such as params=0.5 or bytes=2MB.")
        if metric in found:
            raise OptionError(f"--budget: {metric} stands twice; give it once.")
        found[metric] = _amount(value)
    return found


def recovery_of(words: Sequence[str] | None) -> dict[tuple[str, ...], float | int | str]:
    """Turn ``["steps=500"]`` into changes of a recipe's section ``recover``; no method means autopilot.

    Raises:
        OptionError: a word without ``=``, or a key that stands twice.

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
            raise OptionError(f"--recover: {key} stands twice; give it once.")
        given.add(key)
        amount = _amount(value)
        found["recover", key] = float(amount) if key in _FRACTIONS and isinstance(amount, int) else amount
    if {"steps", "minutes"} <= given:
        raise OptionError("--recover: got steps and minutes; a recovery has one budget, give just one of them.")
    return found


_FRACTIONS = ("minutes", "lr", "weight_decay", "temperature", "soft", "hints", "mixed", "dropout")
"""Keys whose values are numbers with a fraction, whether or not they are written with one."""


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
        OptionError: something that is not a number, or nothing at all.
    """
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise OptionError(f"{option}: got {text!r}; allowed: numbers with commas, such as 0.5,0.3,0.1.") from error
    if not found:
        raise OptionError(f"{option}: got {text!r}; give at least one number.")
    return found
