"""One capture at a time: torch's modes and what is patched meanwhile belong to the process, not to a thread."""

from __future__ import annotations

import threading

ALONE = threading.RLock()
"""Held while a model is run to be recorded, or with its modes changed."""

__all__ = ["ALONE"]
