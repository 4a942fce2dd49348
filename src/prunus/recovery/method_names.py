"""Names of recovery methods: the store of the registry, and the check of a name that needs no method to be imported."""

from __future__ import annotations

from typing import Any

from prunus.errors import OptionError, nearest
from prunus.foundation.registry import Registry

AUTOPILOT = "autopilot"
METHOD_ALLOWED = "autopilot, or one method: statistics, refold, blocks, distil, finetune"

REGISTRY: Registry[Any] = Registry("recovery", "prunus.recoveries")
"""The registry without the type of its members, which import the options; `RECOVERY_METHODS` is the typed name."""


def check_method(name: str) -> None:
    """Raise OptionError unless ``name`` is ``autopilot`` or an enrolled recovery method."""
    if not isinstance(name, str) or (name != AUTOPILOT and name not in REGISTRY):
        known = (AUTOPILOT, *REGISTRY.names())
        raise OptionError(f"Unknown recovery method {name!r}.{nearest(str(name), known)} Known: {', '.join(known)}.")
