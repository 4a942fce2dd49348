"""``python -m zoo``: run what is not in the log yet, then write docs/zoo.json and docs/zoo.md."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from prunus.graph.rules import load_rules

from .catalog import ZOOS, Entry, entries
from .kept import KEEP, run_kept
from .tables import MODES, reason_of, write_tables
from .trial import Options, run_trial
from .workers import Limits, Task, read_records, run_all

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run the command line; returns 1 where a model does not pass."""
    options = _parser().parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    load_rules()  # before the forks: every child runs the same code, whatever changes on disk meanwhile
    options.log.parent.mkdir(parents=True, exist_ok=True)
    limits = Limits.of(options)
    known = {zoo: entries(zoo) for zoo in ZOOS if zoo in options.zoo}
    chosen = [e for zoo in known for e in known[zoo] if not options.models or e.name in options.models]
    _run(chosen, limits, options)
    records = read_records(options.log)
    if options.docs:
        write_tables(records, options.docs, options.state)
    return 0 if all(records.get((m, e.zoo, e.name), {}).get("ok") for m in options.mode for e in chosen) else 1


def _run(chosen: list[Entry], limits: Limits, options: argparse.Namespace) -> None:
    done = {} if options.again else read_records(options.log)
    todo: list[Task] = []
    for entry in _giants_last(chosen):
        known = {mode: done.get((mode, entry.zoo, entry.name)) for mode in options.mode}
        left = tuple(m for m, record in known.items() if record is None or (options.retry and not record["ok"]))
        if left:
            todo.append((entry, left))
    trial = functools.partial(_trial, prove=not options.unproved)
    for number, record in enumerate(run_all(todo, trial, limits, options.log), 1):
        verdict = "ok" if record["ok"] else reason_of(record)
        of = sum(len(modes) for _, modes in todo)
        sys.stderr.write(f"{number}/{of} {record['mode']} {record['zoo']} {record['model']}: {verdict}\n")


def _trial(entry: Entry, modes: tuple[str, ...], *, prove: bool) -> list[dict[str, Any]]:
    rewriting = tuple(mode for mode in modes if mode != KEEP)
    records = run_trial(entry, Options(modes=rewriting, prove=prove)) if rewriting else []
    return [*records, *([run_kept(entry)] if KEEP in modes else [])]


def _giants_last(chosen: list[Entry]) -> list[Entry]:
    return [e for e in chosen if not e.giant] + [e for e in chosen if e.giant]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zoo", description=__doc__)
    parser.add_argument("models", nargs="*", help="only these models")
    parser.add_argument("--zoo", nargs="+", choices=ZOOS, default=list(ZOOS))
    parser.add_argument("--mode", nargs="+", choices=("graph", "hybrid", "module", KEEP), default=list(MODES))
    parser.add_argument("--log", type=Path, default=ROOT / "runs" / "zoo.jsonl", help="finished trials, one a line")
    parser.add_argument("--docs", type=Path, default=None, help="folder for zoo.json and zoo.md")
    parser.add_argument("--state", default="", help="what the code was, for the tables: a commit")
    parser.add_argument("--retry", action="store_true", help="run failed models again")
    parser.add_argument("--again", action="store_true", help="run everything again")
    parser.add_argument("--unproved", action="store_true", help="compare programs only; run no network in float64")
    Limits.options(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
