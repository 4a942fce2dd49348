"""The call table of every model of the zoo: which calls a cut network takes as the dense one does.

Writes docs/calls.md and .json. Usage: make bench-calls; one that was stopped goes on where it was. By default it runs
half an hour, the smallest models of every zoo first; --all runs everything. Each model has a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from calls.page import failures, hours, page, summary
from calls.trial import MODE, run_trial
from logged import ROOT, machine, write
from prunus.graph.rules import load_rules
from zoo.catalog import ZOOS, Entry, entries
from zoo.workers import Limits, Task, read_records, run_all


def main() -> None:
    """Run what is not in the log yet, then write the page."""
    given = _parser().parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    load_rules()  # before the forks: every child runs the same code
    given.log.parent.mkdir(parents=True, exist_ok=True)
    known = {zoo: entries(zoo) for zoo in given.zoo}
    _run(known, given)
    records = [r for (mode, zoo, _), r in read_records(given.log).items() if mode == MODE and zoo in known]
    write(given.docs, "calls", *_document(known, records))


def _run(known: dict[str, list[Entry]], given: argparse.Namespace) -> None:
    done = {} if given.again else read_records(given.log)
    wanted = [e for e in _in_turns(known) if not given.models or e.name in given.models]
    todo: Iterator[Task] = iter([(e, (MODE,)) for e in wanted if (MODE, e.zoo, e.name) not in done])
    limits = Limits.of(given)
    ends = float("inf") if given.all or given.models else time.monotonic() + 60 * given.minutes
    # A few at a time: what has begun ends, and nothing begins after that.
    while time.monotonic() < ends and (some := list(itertools.islice(todo, 2 * given.processes))):
        for record in run_all(some, run_trial, limits, given.log):
            told = "ok" if record["ok"] else "; ".join(failures([record])) or "nothing was compared"
            sys.stderr.write(f"{record['zoo']} {record['model']}: {told} ({record.get('seconds', 0):.0f} s)\n")


def _in_turns(known: dict[str, list[Entry]]) -> Iterator[Entry]:
    """Yield the smallest model of every zoo, then the second of every zoo, giants last."""
    small, large = (
        {zoo: [e for e in every if e.giant == giant] for zoo, every in known.items()} for giant in (False, True)
    )
    for group in (small, large):
        for row in itertools.zip_longest(*group.values()):
            yield from (e for e in row if e is not None)


def _document(known: dict[str, list[Entry]], records: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    weights = {zoo: {e.name: e.weight for e in every} for zoo, every in known.items()}
    document: dict[str, Any] = {
        "about": machine(),
        "hours": hours(records, weights),
        "models": {zoo: len(every) for zoo, every in known.items()},
        "run": {zoo: sum(r["zoo"] == zoo for r in records) for zoo in known},
        "rewritten": sum(r.get("rewritten", 0) for r in records),
        "calls": summary(records),
        "failures": failures(records),
        "records": [{k: v for k, v in r.items() if k != "trace"} for r in records],
    }
    return document, page(document)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench_calls", description=__doc__)
    parser.add_argument("models", nargs="*", help="only these models")
    parser.add_argument("--all", action="store_true", help="run everything")
    parser.add_argument("--minutes", type=float, default=30.0, help="begin no model after so many")
    parser.add_argument("--zoo", nargs="+", choices=ZOOS, default=list(ZOOS))
    parser.add_argument("--again", action="store_true", help="run again what is in the log")
    parser.add_argument("--log", type=Path, default=ROOT / "runs" / "calls.jsonl", help="finished models, one a line")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder for calls.json and calls.md")
    Limits.options(parser)
    return parser


if __name__ == "__main__":
    main()
