"""Measurements by name with a log: one that was stopped goes on where it was, then the page is written anew."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, Any]
Work = Callable[[], Row]


def options(doc: str | None, topic: str, seeds: int, example: str) -> argparse.ArgumentParser:
    """Return the options of a benchmark: beginnings of names, seeds, where log and page go."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("only", nargs="*", help=f"beginnings of names, such as {example}; all where none")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--log", type=Path, default=ROOT / "runs" / f"{topic}.jsonl")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "bench")
    return parser


def run(jobs: Iterable[tuple[str, Work]], given: argparse.Namespace, held_back: Collection[str] = ()) -> dict[str, Row]:
    """Run what is wanted and not in the log yet, on one thread; return every row by its name.

    Fields in ``held_back`` go into the log and are not printed.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    given.log.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in given.log.read_text().splitlines()] if given.log.exists() else []
    rows = {row["name"]: row["found"] for row in done}
    for name, work in jobs:
        wanted = not given.only or any(name.startswith(start) for start in given.only)
        if name not in rows and wanted:
            rows[name] = work()
            with given.log.open("a") as stream:
                stream.write(json.dumps({"name": name, "found": rows[name]}) + "\n")
            print(name, json.dumps(without(rows[name], held_back)), flush=True)
    return rows


def without(row: Mapping[str, Any], fields: Collection[str]) -> Row:
    """Return a row without some fields, nor those of rows within it."""
    return {
        field: without(value, fields) if isinstance(value, Mapping) else value
        for field, value in row.items()
        if field not in fields
    }


def machine() -> dict[str, str]:
    """Return what the page says of the machine: torch's version and the processor."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {"torch": torch.__version__, "cpu": cpu or platform.machine()}


def write(docs: Path, topic: str, found: Mapping[str, Any], text: str) -> None:
    """Write the numbers and the page."""
    docs.mkdir(parents=True, exist_ok=True)
    (docs / f"{topic}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (docs / f"{topic}.md").write_text(text, encoding="utf-8")
