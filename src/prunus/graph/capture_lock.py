"""A lock that lets one capture run at a time: some switches of torch belong to the whole process."""

from __future__ import annotations

import threading

ALONE = threading.RLock()
"""The lock is held while a model is recorded or runs with changed modes."""
