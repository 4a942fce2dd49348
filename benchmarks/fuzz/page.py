"""The counts as a section of docs/bench/reliability.md, and under the key ``fuzz`` of its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from counted import Row, Seeds, about_machine, counts_of, read_counts, summed, write_section
from logged import machine

_TEXT = """## Fuzzed readers

{commands}, {machine}. The counts of all seeds are added.
Half of the inputs are damaged bytes; half are made from the grammar of the file, with every checksum right. Each batch
runs in a process of its own with 1 GB of address space beyond its imports and 5 s of processor time an input. A failure
is any other exception than one line of prunus, a hang, a larger allocation, the end of the process, or a load of
damaged bytes that gives other tensors. Inputs that failed are mended and kept in `tests/fuzz/kept`, which every test
run reads; `--anew` draws a seed again. What is trusted stands in [security.md](../security.md).

| reader | seeds | inputs | refused in one line | loaded | failures | slowest, s |
|---|---|---|---|---|---|---|
{rows}
"""


def stored_row(docs: Path | None, name: str, seed: int) -> Row | None:
    """Return the counts so far of a reader with a seed; None where it has not been run."""
    row: Row | None = read_counts(docs).get("fuzz", {}).get("readers", {}).get(name, {}).get(str(seed))
    return row


def write_row(docs: Path, name: str, seed: int, row: Row) -> None:
    """Store the counts of a reader with a seed, and write the section anew; other readers and seeds stay."""
    with counts_of(docs) as data:
        readers = data.setdefault("fuzz", {}).setdefault("readers", {})
        readers.setdefault(name, {})[str(seed)] = row
        data["fuzz"]["machine"] = machine()
        write_section(docs, _section(readers))


def _section(readers: Mapping[str, Seeds]) -> str:
    rows = {name: summed(seeds) for name, seeds in readers.items()}
    lines = [_line(name, ", ".join(readers[name]), row, f"{row['slowest_s']:.2f}") for name, row in rows.items()]
    lines.append(_line("all", "", summed(rows), ""))
    counts: dict[str, int] = {}
    for seeds in readers.values():
        for seed, row in seeds.items():
            counts[seed] = max(counts.get(seed, 0), row["requested"])
    commands = ", ".join(f"`make fuzz COUNT={count} SEED={seed}`" for seed, count in counts.items())
    return _TEXT.format(commands=commands, machine=about_machine(), rows="\n".join(lines))


def _line(name: str, seeds: str, row: Row, slowest: str) -> str:
    failures = sum(row["failures"].values())
    return f"| {name} | {seeds} | {row['inputs']:,} | {row['refused']:,} | {row['loaded']:,} | {failures} | {slowest} |"
