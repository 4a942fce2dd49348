"""The error tree: every message says what, where, got, allowed and what to do.

PrunusError
├── UsageError            the caller can fix the call (exit code 2)
│   ├── OptionError       an argument outside its allowed range
│   ├── RecipeError       a recipe file that does not parse or validate
│   ├── SelectorError     a name or pattern that matches nothing
│   ├── DataError         empty, label-less, non-finite or mis-shaped data
│   ├── ModelError        a model that cannot be found, built or used as it is
│   └── PlanError         a plan that does not fit the model or empties an axis
└── OutcomeError          the call was right, the outcome is not (exit code 1)
    ├── CaptureError      the model could not be turned into a graph
    ├── BudgetError       no plan reaches the budget
    └── VerifyError       the cut model differs from the masked original
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class PrunusError(Exception):
    """The base of all errors of prunus; each message is one line that a person can act on."""

    exit_code = 1


class UsageError(PrunusError):
    """The call itself is wrong; nothing was done."""

    exit_code = 2


class OptionError(UsageError):
    """An argument is outside its allowed range."""


class RecipeError(UsageError):
    """A recipe does not parse or validate."""


class SelectorError(UsageError):
    """A name or pattern matches nothing."""


class DataError(UsageError):
    """The data are empty, label-less, non-finite or of the wrong shape."""


class ModelError(UsageError):
    """The model cannot be found, built or used as it is."""


class PlanError(UsageError):
    """A plan does not fit the model, or would empty an axis."""


class OutcomeError(PrunusError):
    """The call was right; the requested result could not be reached."""


class CaptureError(OutcomeError):
    """The model could not be turned into a graph."""


class BudgetError(OutcomeError):
    """No plan within the limits reaches the budget."""


class VerifyError(OutcomeError):
    """The cut model does not compute what the masked original computes.

    Attributes:
        failed: the cut model raised an error; it did not compute something else.
    """

    failed = False


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def shown(value: Any) -> str:
    """Return a value as a message shows it: a plain value itself, shortened, of all else the type."""
    plain = isinstance(value, str | int | float | bool | None | list | tuple | dict | set)
    return reprlib.repr(value) if plain else f"a {type(value).__name__}"
