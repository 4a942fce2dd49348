"""The counts as sections of docs/bench/reliability.md, and under the keys ``kills`` and ``io`` of its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from counted import Row, about_machine, counts_of, read_counts, summed, write_section
from logged import machine

_KILLS = """## Kills

`make bench-reliability`, {machine}. Each task is killed with SIGKILL at random moments; in half of the trials an older
result stands at the place. Then it is called again. Lost: the older result is gone. Half: what stands after the kill
cannot be read whole. Unequal: the second call ends with another result than a run that was not killed, times left out.
Left: temporary files stay after the second call. The counts of all seeds are added.

| task | seeds | kills | lost | half | unequal | left |
|---|---|---|---|---|---|---|
{rows}
"""
_IO = """## Errors of the disk

`make bench-reliability`, {machine}. From the n-th call that opens, writes, syncs, renames or makes something on, every
such call of a save fails. Lost: what stood there is not whole and equal afterwards. Foreign: another error than one
line of prunus.

| error, file | injected | lost | foreign |
|---|---|---|---|
{rows}
"""


def stored_kills(docs: Path, name: str, seed: int) -> Row | None:
    """Return the counts so far of a task with a seed; None where it has not been run."""
    row: Row | None = read_counts(docs).get("kills", {}).get("rows", {}).get(name, {}).get(str(seed))
    return row


def write_kills(docs: Path, name: str, seed: int, row: Row) -> None:
    """Store the counts of a task with a seed, and write the section anew; other tasks and seeds stay."""
    with counts_of(docs) as data:
        rows = data.setdefault("kills", {}).setdefault("rows", {})
        rows.setdefault(name, {})[str(seed)] = row
        data["kills"]["machine"] = machine()
        total = {task: {**summed(seeds), "seeds": ", ".join(seeds)} for task, seeds in rows.items()}
        write_section(docs, _filled(_KILLS, total, ("seeds", "kills", "lost", "half", "unequal", "left")))


def write_errors(docs: Path, rows: Mapping[str, Row]) -> None:
    """Store the counts of injected errors, and write their section anew; rows of other errors stay."""
    with counts_of(docs) as data:
        stored = data.setdefault("io", {}).setdefault("rows", {})
        stored.update(rows)
        data["io"]["machine"] = machine()
        write_section(docs, _filled(_IO, stored, ("errors", "lost", "foreign")))


def _filled(text: str, rows: Mapping[str, Row], columns: tuple[str, ...]) -> str:
    lines = [f"| {name} | " + " | ".join(str(row[column]) for column in columns) + " |" for name, row in rows.items()]
    return text.format(machine=about_machine(), rows="\n".join(lines))
