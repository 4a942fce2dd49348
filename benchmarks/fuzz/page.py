"""The counts as a section of docs/bench/reliability.md, and under the key ``fuzz`` of its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logged import machine

_TITLE = "# Reliability\n\nEach number with the command that makes it.\n"
_HEADING = "## Fuzzed readers"
_TEXT = """{heading}

`make fuzz COUNT={count} SEED={seed}`, {machine}. Half of the inputs are damaged bytes; half are made from the grammar
of the file, with every checksum right. Each batch runs in a process of its own with 1 GB of address space beyond its
imports and 5 s of processor time an input. A failure is any other exception than one line of prunus, a hang, a larger
allocation, the end of the process, or a load of damaged bytes that gives other tensors. What is trusted stands in
[security.md](../security.md).

| reader | inputs | refused in one line | loaded | failures | slowest, s |
|---|---|---|---|---|---|
{rows}
"""


def write_page(docs: Path, rows: Mapping[str, Mapping[str, Any]], seed: int) -> None:
    """Write the section and the JSON; what else stands in both files stays, and so do rows of readers not run."""
    docs.mkdir(parents=True, exist_ok=True)
    data_path, page_path = docs / "reliability.json", docs / "reliability.md"
    data = json.loads(data_path.read_text("utf-8")) if data_path.exists() else {}
    readers = {**data.get("fuzz", {}).get("readers", {}), **rows}
    data["fuzz"] = {"seed": seed, "machine": machine(), "readers": readers}
    data_path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    page = page_path.read_text("utf-8") if page_path.exists() else _TITLE
    page_path.write_text(_with_section(page, _section(readers, seed)), encoding="utf-8")


def _section(readers: Mapping[str, Mapping[str, Any]], seed: int) -> str:
    lines = [
        f"| {name} | {row['inputs']:,} | {row['refused']:,} | {row['loaded']:,} | {sum(row['failures'].values())} "
        f"| {row['slowest_s']:.2f} |"
        for name, row in readers.items()
    ]
    total = {key: sum(row[key] for row in readers.values()) for key in ("inputs", "refused", "loaded")}
    failures = sum(sum(row["failures"].values()) for row in readers.values())
    lines.append(f"| all | {total['inputs']:,} | {total['refused']:,} | {total['loaded']:,} | {failures} | |")
    about = ", ".join(f"{key} {value}" if key == "torch" else value for key, value in machine().items())
    count = max(row["inputs"] for row in readers.values())
    return _TEXT.format(heading=_HEADING, count=count, seed=seed, machine=about, rows="\n".join(lines))


def _with_section(page: str, section: str) -> str:
    start = page.find(_HEADING)
    if start < 0:
        return page.rstrip("\n") + "\n\n" + section
    end = page.find("\n## ", start + 1)
    rest = "" if end < 0 else page[end:]
    return page[:start] + section.rstrip("\n") + "\n" + rest
