"""Errors of the disk at every call that writes, and the count of what was lost or not named in one line."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from prunus.errors import PrunusError
from reliability.tasks import Task

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
CODES = {"full disk": errno.ENOSPC, "read-only": errno.EROFS, "I/O error": errno.EIO}


def disk_errors(old: Task, new: Task, most: int) -> dict[str, dict[str, int]]:
    """Let the n-th call of a task over the state of an old one, and all later calls, fail, for n = 0, 1, … ``most``.

    ``lost``: the old state is not whole and equal afterwards. ``foreign``: another error than one line of prunus.
    """
    from faults import failing

    found: dict[str, dict[str, int]] = {}
    for name, code in CODES.items():
        counts = found[name] = {"errors": 0, "lost": 0, "foreign": 0}
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            old.run(folder)
            before = old.whole(folder)
            for first in range(most):
                error: Any = None
                with failing(folder, code, first):
                    try:
                        new.run(folder)
                    except Exception as caught:
                        error = caught
                if error is None:
                    break
                counts["errors"] += 1
                counts["foreign"] += not isinstance(error, PrunusError) or os.linesep in str(error)
                try:
                    counts["lost"] += old.whole(folder) != before
                except Exception:
                    counts["lost"] += 1
    return found
