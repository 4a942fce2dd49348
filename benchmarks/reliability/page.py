"""The counts as sections of docs/bench/reliability.md, and under the keys ``kills`` and ``io`` of its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logged import machine

_TITLE = "# Reliability\n\nEach number with the command that makes it.\n"
_KILLS = """## Kills

`make bench-reliability`, {machine}. Each task is killed with SIGKILL at random moments; in half of the trials an older
result stands at the place. Then it is called again. Lost: the older result is gone. Half: what stands after the kill
cannot be read whole. Unequal: the second call ends with another result than a run that was not killed, times left out.
Left: temporary files stay after the second call.

| task | kills | lost | half | unequal | left |
|---|---|---|---|---|---|
{rows}
"""
_IO = """## Errors of the disk

`make bench-reliability`, {machine}. From the n-th call that opens, writes, syncs, renames or makes something on, every
such call of a save fails. Lost: the older checkpoint is not whole and equal afterwards. Foreign: another error than one
line of prunus.

| error | injected | lost | foreign |
|---|---|---|---|
{rows}
"""


def write_page(docs: Path, kills: Mapping[str, Mapping[str, int]], io: Mapping[str, Mapping[str, int]]) -> None:
    """Write both sections; what else stands in both files stays, and so do rows of tasks that were not run."""
    docs.mkdir(parents=True, exist_ok=True)
    data_path, page_path = docs / "reliability.json", docs / "reliability.md"
    data: dict[str, Any] = json.loads(data_path.read_text("utf-8")) if data_path.exists() else {}
    page = page_path.read_text("utf-8") if page_path.exists() else _TITLE
    for key, rows, text, columns in (
        ("kills", kills, _KILLS, ("kills", "lost", "half", "unequal", "left")),
        ("io", io, _IO, ("errors", "lost", "foreign")),
    ):
        rows = {**data.get(key, {}).get("rows", {}), **rows}
        if rows:
            data[key] = {"machine": machine(), "rows": rows}
            page = _with_section(page, _filled(text, rows, columns))
    data_path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    page_path.write_text(page, encoding="utf-8")


def _filled(text: str, rows: Mapping[str, Mapping[str, int]], columns: tuple[str, ...]) -> str:
    about = ", ".join(f"{key} {value}" if key == "torch" else value for key, value in machine().items())
    lines = [f"| {name} | " + " | ".join(str(row[column]) for column in columns) + " |" for name, row in rows.items()]
    return text.format(machine=about, rows="\n".join(lines))


def _with_section(page: str, section: str) -> str:
    heading = section.partition("\n")[0]
    start = page.find(heading)
    if start < 0:
        return page.rstrip("\n") + "\n\n" + section
    end = page.find("\n## ", start + 1)
    return page[:start] + section.rstrip("\n") + "\n" + ("" if end < 0 else page[end:])
