"""Numbers that modules hold, set to their values after a cut and recorded, so that a fresh instance gets them too."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from prunus.graph.module_twin import derive_lengths_, is_config
from prunus.graph.own_settings import entries, is_view, parts_of, view_of
from prunus.plans import Mend

_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\]]*)\]")


def mend_(model: nn.Module, mends: Iterable[Mend]) -> tuple[Mend, ...]:
    """Set the numbers; of settings that modules share, a module gets a view with its own entries.

    Returns what was changed.

    Raises:
        LookupError: a module or a number is not there, or the number is another one than the cut found.
    """
    modules: Mapping[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    held = Counter(id(v) for m in model.modules() for v in vars(m).values() if is_config(v))
    shared = frozenset(i for i, count in held.items() if count > 1)
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
        # The network's own settings stay one whole record: they are what is saved.
        _write(module, steps, mend.new, shared if mend.path else frozenset())
        derive_lengths_(module)
        done.append(mend)
    return tuple(done)


def _read(module: nn.Module, steps: list[str], mend: Mend) -> Any:
    value: Any = module
    for step in steps:
        try:
            inside = _inside(value)
            if value is module and step not in inside:
                inside = {step: getattr(type(module), step, None)}  # a number of the class
            value = inside[_key(value, step)]
        except (LookupError, TypeError, ValueError) as error:
            raise LookupError(f"{type(module).__name__} at {mend.path!r} has no number {mend.name!r}") from error
    return value


def _inside(holder: Any) -> Any:
    if isinstance(holder, (tuple, list, dict)):
        return holder
    return entries(holder) if is_view(holder) else vars(holder)


def _key(holder: Any, step: str) -> Any:
    return int(step) if isinstance(holder, (tuple, list)) else step


def _write(holder: Any, steps: list[str], value: int, shared: frozenset[int]) -> None:
    """Set one number below a holder that may be changed; what lies between is copied, others may hold it too."""
    key, inside = _key(holder, steps[0]), _inside(holder)
    new = value if len(steps) == 1 else _changed(inside[key], steps[1:], value, shared)
    if is_view(holder):
        parts_of(holder)[1][key] = new
    else:
        inside[key] = new


def _changed(holder: Any, steps: list[str], value: int, shared: frozenset[int]) -> Any:
    if isinstance(holder, tuple):
        changed = list(holder)
        _write(changed, steps, value, shared)
        made: Any = getattr(type(holder), "_make", type(holder))
        return made(changed)
    changed = _view(holder) if id(holder) in shared else copy.copy(holder)
    _write(changed, steps, value, shared)
    if is_view(changed):
        base, own = parts_of(changed)
        if all(entries(base).get(k) == v for k, v in own.items()):
            return base  # undone: nothing is the module's own any more
    return changed


def _view(settings: Any) -> Any:
    try:
        return view_of(settings, {})
    except Exception:  # a class that nobody may derive from; the module gets settings of its own
        return copy.copy(settings)
