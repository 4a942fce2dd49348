"""Counts in docs/bench/reliability.json and .md: a run that was stopped goes on, and another seed adds its counts."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from logged import machine
from prunus.foundation.atomic_files import write_text_atomic

_TITLE = "# Reliability\n\nEach number with the command that makes it.\n"
Row = dict[str, Any]
Seeds = dict[str, Row]
"""Seed, as a text → the counts of its run."""


@contextmanager
def counts_of(docs: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON of the page for a change, and write it back; runs side by side take turns."""
    docs.mkdir(parents=True, exist_ok=True)
    lock = os.open(docs, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        data = read_counts(docs)
        yield data
        write_text_atomic(docs / "reliability.json", json.dumps(data, indent=1) + "\n")
    finally:
        os.close(lock)


def read_counts(docs: Path | None) -> dict[str, Any]:
    """Return the JSON of the page; empty where there is none."""
    path = docs / "reliability.json" if docs is not None else None
    data: dict[str, Any] = json.loads(path.read_text("utf-8")) if path is not None and path.exists() else {}
    return data


def summed(seeds: Mapping[str, Mapping[str, Any]]) -> Row:
    """Return the counts of all seeds together: numbers are added, the slowest is the largest, tables are merged.

    Example:
        >>> summed({"1": {"kills": 2, "slowest_s": 0.5}, "2": {"kills": 3, "slowest_s": 0.1}})
        {'kills': 5, 'slowest_s': 0.5}
    """
    total: Row = {}
    for row in seeds.values():
        for key, value in row.items():
            if isinstance(value, Mapping):
                total[key] = summed({"so far": total.get(key, {}), "more": value})
            elif key == "slowest_s":
                total[key] = max(total.get(key, value), value)
            else:
                total[key] = total.get(key, 0) + value
    return total


def write_section(docs: Path, section: str) -> None:
    """Put a section into the page, in the place of the one with its heading; the rest of the page stays."""
    path = docs / "reliability.md"
    page = path.read_text("utf-8") if path.exists() else _TITLE
    heading = section.partition("\n")[0]
    start = page.find(heading)
    if start < 0:
        page = page.rstrip("\n") + "\n\n" + section
    else:
        end = page.find("\n## ", start + 1)
        page = page[:start] + section.rstrip("\n") + "\n" + ("" if end < 0 else page[end:])
    write_text_atomic(path, page)


def about_machine() -> str:
    """Return torch's version and the processor as the page names them."""
    return ", ".join(f"{key} {value}" if key == "torch" else value for key, value in machine().items())
