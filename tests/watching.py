"""Ends a run in which a worker died: xdist alone waits for ever where a child of the worker lives on.

xdist learns of a worker's death when the pipe to it closes. A process that the worker forked holds the pipe open, and
the run then stands still before its end. This looks at the process itself.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import pytest

GRACE = 3.0
"""Seconds in which xdist may find out by itself."""


class Watch:
    """Of the process that hands the tests out; does nothing in a worker, and where there are none."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._up: dict[Any, float | None] = {}  # worker → when it was first seen dead
        self._lost: list[Any] = []
        self._thread: threading.Thread | None = None
        self._status = 1

    def pytest_testnodeready(self, node: Any) -> None:
        """Look after a worker from now on."""
        self._up[node] = None
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def pytest_testnodedown(self, node: Any) -> None:
        """Look after it no more: xdist knows."""
        self._up.pop(node, None)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Keep how the run ended."""
        self._status = int(exitstatus)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """End the process, which else would wait for the pipe of a dead worker."""
        if self._lost:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._status or 1)

    def _look(self) -> None:
        while True:
            time.sleep(0.5)
            for node, since in list(self._up.items()):
                if node.gateway._io.popen.poll() is None:
                    continue
                if since is None:
                    self._up[node] = time.monotonic()
                elif time.monotonic() - since > GRACE:
                    self._up.pop(node, None)
                    self._lost.append(node)
                    self._tell(node)

    def _tell(self, node: Any) -> None:
        """Say to xdist what it says to itself when the pipe closes."""
        session: Any = self._config.pluginmanager.get_plugin("dsession")
        ended = f"exit code {node.gateway._io.popen.returncode}, and a child of it lives on"
        session.queue.put(("errordown", {"node": node, "error": ended}))


def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch, unless this is a worker."""
    if config.pluginmanager.has_plugin("xdist") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Watch(config), "prunus-watch")
