"""docs/zoo.md: what the zoo's records say, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .catalog import ZOOS

Record = dict[str, Any]
HEAD = """# The zoo

Every model is captured, coupled and cut, twice in each mode.

- **Graph mode** returns the edited program: half of every removable axis, then a random share (5 to 90 %) of each with
  random units. *ok*: the cut model computes what the masked original computes (relative error ≤ 1e-4, constants
  perturbed, float64; float32 above 100 million parameters, batch 1 above 40 million), its output differs from the uncut
  one, and the predicted params and MACs equal those counted on the cut model.
- **Hybrid mode** keeps the user's classes: half of the removable parameters (uniform budget, random scores), then the
  random shares. *ok*: a second capture of the cut model gives the edited program, op by op; it did not fall back to
  graph mode; it is an instance of the user's class; the params are the predicted ones; saved and loaded into a fresh
  instance with other weights, state dict and outputs are bit-equal. Where it says *verified*, the check of graph mode
  was run as well.

*Coverage* is the share of parameters (of forward MACs) that at least one removable axis shrinks; a bare encoder's
hidden state is an output and stays. *Rewritten* counts the modules whose forward was written anew (parameters stay in
the user's modules); *untouched* is the share of parameters that lie directly in modules with the user's own forward.
*CPU* is processor time of capture, couple, plan and cut on one thread. Written by `make zoo`; the numbers are in
`zoo.json`.
"""


def write_page(document: Mapping[str, Any], path: Path) -> None:
    """Write the page of a ``zoo.json`` document."""
    states = [f"- {mode} mode: {state}" for mode, state in document["states"].items()]
    parts = [HEAD, "Code of the runs:\n\n" + "\n".join(states) + "\n" if states else ""]
    parts += [_graph_summary(document["summary"]["graph"]), _hybrid_summary(document["summary"]["hybrid"])]
    parts.append(_failures(document["models"]))
    for zoo in ZOOS:
        graph, hybrid = ({r["model"]: r for r in document["models"] if (r["mode"], r["zoo"]) == (m, zoo)}
                         for m in ("graph", "hybrid"))  # fmt: skip
        parts.append(_model_table(zoo, graph, hybrid))
    path.write_text("\n".join(p for p in parts if p), encoding="utf-8")


def _graph_summary(summary: Mapping[str, Record]) -> str:
    lines = [
        "| graph mode | captured | half ok | random ok | coverage params / MACs, median | worst error |",
        "|---|---|---|---|---|---|",
    ]
    for zoo, s in summary.items():
        n = s["models"]
        coverage = f"{s['coverage_params_median']:.3f} / {s['coverage_macs_median']:.3f}"
        lines.append(
            f"| {zoo} | {s['captured']}/{n} | {s['half_ok']}/{n} | {s['random_ok']}/{n} | {coverage} "
            f"| {s['worst_error']:.0e} |"
        )
    return "\n".join(lines) + "\n"


def _hybrid_summary(summary: Mapping[str, Record]) -> str:
    lines = [
        "| hybrid mode | tried | budget ok | random ok | cuts: class survives / reload equal / verified "
        "| module / hybrid / graph | top level rewritten | params in own modules / untouched, median | CPU, worst |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for zoo, s in summary.items():
        if "ways" not in s:
            continue
        n, cuts, ways = s["models"], s["cuts"], s["ways"]
        lines.append(
            f"| {zoo} | {s['tried']}/{n} | {s['budget_ok']}/{n} | {s['random_ok']}/{n} "
            f"| {s['survives']}/{cuts} / {s['reloads_equal']}/{cuts} / {s['verified']}/{cuts} "
            f"| {ways.get('module', 0)} / {ways.get('hybrid', 0)} / {ways.get('graph', 0)} | {s['top_rewritten']} "
            f"| {s['own_share_median']:.3f} / {s['untouched_share_median']:.3f} | {s['work_cpu_s_max']:.1f} s |"
        )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _failures(records: Sequence[Record]) -> str:
    lines = [f"- {r['mode']}: {r['zoo']} {r['model']}: {reason_of(r)}" for r in records if not r["ok"]]
    return "## What does not pass\n\n" + "\n".join(lines) + "\n" if lines else ""


def reason_of(record: Record) -> str:
    """Say in a few words why a model is not ok."""
    if "error" in record:
        return f"{record['stage']}: {record['error']}"
    words = []
    for kind in ("half", "budget", "random"):
        result = record.get(kind, {})
        if result and not result["ok"]:
            words.append(f"{kind}: {', '.join(_faults(result))}")
    return "; ".join(words) or "not finished"


def _faults(result: Record) -> list[str]:
    words = []
    if result.get("surgery") == "graph":
        words.append("fell back to graph mode")
    if result.get("reload", "equal") != "equal":
        words.append(f"reload: {result['reload']}")
    if "error" in result:
        words.append(f"error {result['error']:.1e}, change {result['change']:.1e}")
        words += [] if result["price_exact"] else ["price differs"]
        words += [] if result["values_equal"] else ["tensors are not the slices"]
    return words or ["params differ"]


def _model_table(zoo: str, graph: Mapping[str, Record], hybrid: Mapping[str, Record]) -> str:
    lines = [
        f"## {zoo}\n",
        "| model | axes | coverage params / MACs | graph ok | error half / random | hybrid ok | way | rewritten | "
        "kept of removable | CPU |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted({*graph, *hybrid}):
        one, two = graph.get(name, {}), hybrid.get(name, {})
        cells = [*_described(one or two), _verdict(one), _errors(one), _verdict(two), *_ways(two)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _described(record: Record) -> list[str]:
    if "axes" not in record:
        return ["", ""]
    return [str(record["axes"]), f"{record['coverage_params']:.3f} / {record['coverage_macs']:.3f}"]


def _verdict(record: Record) -> str:
    if not record:
        return "–"
    cuts = [record[k] for k in ("half", "budget", "random") if k in record]
    proved = record["mode"] == "hybrid" and record["ok"] and all("verified" in c for c in cuts)
    return ("yes, verified" if proved else "yes") if record["ok"] else "no"


def _errors(record: Record) -> str:
    return " / ".join(f"{record[k]['error']:.0e}" if k in record else "–" for k in ("half", "random"))


def _ways(record: Record) -> list[str]:
    cuts = [record[k] for k in ("budget", "random") if k in record]
    if not cuts:
        return ["–"] * 4
    columns = [[c["surgery"] for c in cuts], [str(c["spliced"]) for c in cuts]]
    columns += [[f"{c['kept_of_removable']:.0%}" for c in cuts], [f"{c['work_cpu_s']:.1f} s" for c in cuts]]
    return [" / ".join(values) for values in columns]
