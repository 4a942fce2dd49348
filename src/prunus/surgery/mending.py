"""Numbers that modules hold, set to what a cut makes of them, and told so that it can be done again."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from prunus.plans import Mend

_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\]]*)\]")


def mend_(model: nn.Module, mends: Iterable[Mend]) -> tuple[Mend, ...]:
    """Set the numbers; settings that modules share become each module's own. Returns what was changed.

    Raises:
        LookupError: a module or a number is not there, or the number is another one than the cut found.
    """
    modules: Mapping[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    done = []
    for mend in mends:
        module = modules.get(mend.path)
        if module is None:
            raise LookupError(f"there is no module {mend.path!r}")
        steps = [a or b for a, b in _STEP.findall(mend.name)]
        now = _read(module, steps, mend)
        if now == mend.new:
            continue
        if now != mend.old or isinstance(now, bool):
            raise LookupError(f"{mend.path}.{mend.name} is {now!r} where the cut found {mend.old}")
        _write(module, steps, mend.new)
        done.append(mend)
    return tuple(done)


def _read(module: nn.Module, steps: list[str], mend: Mend) -> Any:
    value: Any = module
    for step in steps:
        try:
            value = _inside(value)[_key(value, step)]
        except (LookupError, TypeError, ValueError) as error:
            raise LookupError(f"{type(module).__name__} at {mend.path!r} has no number {mend.name!r}") from error
    return value


def _inside(holder: Any) -> Any:
    return holder if isinstance(holder, (tuple, list, dict)) else vars(holder)


def _key(holder: Any, step: str) -> Any:
    return int(step) if isinstance(holder, (tuple, list)) else step


def _write(holder: Any, steps: list[str], value: int) -> None:
    """Set one number below a holder that may be changed; what lies between is copied, others may hold it too."""
    key, inside = _key(holder, steps[0]), _inside(holder)
    inside[key] = value if len(steps) == 1 else _changed(inside[key], steps[1:], value)


def _changed(holder: Any, steps: list[str], value: int) -> Any:
    if isinstance(holder, tuple):
        changed = list(holder)
        _write(changed, steps, value)
        return type(holder)(changed)
    changed = copy.copy(holder)
    _write(changed, steps, value)
    return changed
