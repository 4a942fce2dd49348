"""Hierarchical pruning beside single levels, variants to the letter beside today's, merging, bridges, a chain.

Writes docs/bench/levels.md and .json; a call goes on from the rows that stand there, or in its log.

Usage: make bench-levels; a part of it: make bench-levels ARGS="--part"; single rows: ARGS="arm/digits --seeds 1"
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import logged
from levels import arms, cases, chain, trials
from levels.numbers import hours
from levels.page import BRIDGES, CHAIN, MERGED, MERGED_KEPT, MODULES_KEPT, claims, page, unfinished
from logged import Row, Work

SEEDS = 5
PART = ("digits", "recommendation/deepfm")
"""The networks of a part that measure the variants, merging and bridges; the levels are measured on all."""


def jobs(seeds: int, part: bool = False) -> Iterator[tuple[str, Work]]:
    """Yield every measurement by name, seed by seed."""
    for seed in range(seeds):
        for layers in CHAIN:
            yield f"chain/{layers}/{seed}", lambda n=layers, s=seed: chain.chain(n, s)
        for net in cases.NETS:
            yield f"dense/{net}/{seed}", lambda n=net, s=seed: cases.dense(n, s)
            yield from _arms(net, seed, levels_only=part and net not in PART)
            if not part or net in PART:
                yield from _substitutes(net, seed)


def _arms(net: str, seed: int, *, levels_only: bool) -> Iterator[tuple[str, Work]]:
    for kept in arms.LEVELS_KEPT:
        for arm in (arms.AUTO, *arms.SINGLE, arms.UNIFORM) if levels_only else arms.arms_at(kept):
            yield f"arm/{net}/{kept:g}/{arm}/{seed}", lambda k=kept, a=arm: trials.arm(net, k, a, seed)


def _substitutes(net: str, seed: int) -> Iterator[tuple[str, Work]]:
    for method in MERGED:
        for kept in MERGED_KEPT:
            yield f"merge/{net}/{method}/{kept:g}/{seed}", lambda k=kept, m=method: trials.merging(net, k, m, seed)
    for way in BRIDGES:
        name = f"reconnect/{net}/{MODULES_KEPT:g}/{way}/{seed}"
        yield name, lambda w=way: trials.reconnection(net, MODULES_KEPT, w, seed)


def main() -> None:
    """Run what is neither in the log nor on the page, then write the page."""
    parser = logged.options(__doc__, "levels", SEEDS, "chain or arm/digits/0.3/lamp")
    parser.add_argument("--part", action="store_true", help="one seed, and the variants on two networks: ≤ 30 minutes")
    parser.add_argument("--anew", action="store_true", help="forget all rows of the page and of the log")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    _continue(given)
    rows = logged.run(jobs(1, part=True) if given.part else jobs(given.seeds), given)
    about = logged.machine()
    names = [name for name, _ in jobs(SEEDS)]
    spent, complete = hours(rows, names), rows.keys() >= set(names)
    text = page(rows, about, spent, SEEDS, complete=complete)
    found = {
        "about": about,
        "hours": {"measured": spent[0], "whole": spent[1]},
        "claims": unfinished(claims(rows), complete),
        "rows": rows,
    }
    logged.write(given.docs, "levels", found, text)


def _continue(given: argparse.Namespace) -> None:
    """Put the rows of the page into the log, where it lacks them."""
    if given.anew:
        given.log.unlink(missing_ok=True)
        return
    stored = given.docs / "levels.json"
    rows: Mapping[str, Row] = json.loads(stored.read_text("utf-8"))["rows"] if stored.exists() else {}
    lines = given.log.read_text("utf-8").splitlines() if given.log.exists() else []
    known = {json.loads(line)["name"] for line in lines}
    given.log.parent.mkdir(parents=True, exist_ok=True)
    with given.log.open("a", encoding="utf-8") as stream:
        for name, row in rows.items():
            entry: dict[str, Any] = {"name": name, "found": row}
            if name not in known:
                stream.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
