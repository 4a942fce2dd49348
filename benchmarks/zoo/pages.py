"""docs/zoo.md: what the zoo's records say, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .catalog import ZOOS
from .claims import claims, claims_table
from .kept import KEEP
from .trial import KINDS

Record = dict[str, Any]
HEAD = """# The zoo

Every model is captured, coupled and cut twice: to half of its removable parameters (uniform budget, random scores),
then to a random share (5 to 90 %) of every axis with random units. Each plan is carried out in both modes.

- **Hybrid mode** keeps the user's classes. *ok*: a second capture of the cut model gives the edited program, op by op;
  it did not fall back to graph mode and is an instance of the user's class; saved and loaded into a fresh instance with
  other weights, state dict and outputs are bit-equal; and what is said of graph mode.
- **Graph mode** returns the edited program. *ok*: the cut model computes what the masked original computes (relative
  error ≤ 1e-5, constants perturbed, float64; ≤ 1e-4 in float32, above 100 million parameters and for long clips; one
  sample above 20 million), its
  output differs from the uncut one, and the predicted params and MACs equal those counted on the cut model.

*Coverage* is the share of parameters (of forward MACs) that at least one removable axis shrinks; a bare encoder's
hidden state is an output and stays. *Kept* is budget / random. *Rewritten* counts the modules whose forward was written
anew; their parameters stay in the user's modules. *CPU* is processor time of capture, couple, plan and cut on one
thread, *peak* the memory they need beside the imports. Written by `make zoo`; the numbers are in `zoo.json`.

**Forwards kept** is the default at every door: one more cut, by `analyse`, `plan`, `realise`, without half of the MACs
that rewriting could remove (random scores). *ok*: no module's forward is another than its class's, but for `prunus.nn`
and `nn.Identity`; proved in numbers, at three batch sizes where the model takes them; priced and stored as above. Its
*CPU* includes the proof.

A model that branches on values, such as a whole detector, is captured in parts: its largest submodules that are one
program are cut and proved, borders unchanged; the rest is left alone. torchvision's quantised models are left out:
their integer kernels hold no parameters that could be cut. Where its compiled ops are missing, box suppression and
pooling run in Python.
"""
_TITLES = {"torchvision-tasks": "torchvision: segmentation, detection, video, optical flow"}


def write_page(document: Mapping[str, Any], path: Path) -> None:
    """Write the page of a ``zoo.json`` document."""
    states = [f"- {mode} mode: {state}" for mode, state in document["states"].items()]
    parts = [HEAD, "Code of the runs:\n\n" + "\n".join(states) + "\n" if states else ""]
    parts += ["## Promised and measured\n", claims_table(claims(document["summary"]))]
    parts += [_summary(mode, document["summary"][mode]) for mode in ("hybrid", "graph")]
    parts.append(_kept_summary(document["summary"].get(KEEP, {})))
    parts.append(_failures(document["models"]))
    kept = [r for r in document["models"] if r["mode"] == KEEP]
    parts.append(_out_of_reach(kept))
    for zoo in ZOOS:
        hybrid, graph = (
            {r["model"]: r for r in document["models"] if (r["mode"], r["zoo"]) == (m, zoo)}
            for m in ("hybrid", "graph")
        )
        parts.append(_model_table(zoo, hybrid, graph))
        parts.append(_kept_table(zoo, {r["model"]: r for r in kept if r["zoo"] == zoo}))
    path.write_text("\n".join(p for p in parts if p), encoding="utf-8")


def _summary(mode: str, summary: Mapping[str, Record]) -> str:
    lines = [
        f"| {mode} mode | tried | captured (in parts) | ok | verified cuts | coverage params / MACs, median "
        "| worst error | module / hybrid / graph | CPU, worst | peak, worst |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for zoo, s in summary.items():
        ways = s.get("ways", {})
        lines.append(
            f"| {zoo} | {s['tried']}/{s['models']} | {s['captured']} ({s['in_parts']}) | {s['ok']}/{s['models']} "
            f"| {s['verified']}/{s['cuts']} | {s['coverage_params_median']:.3f} / {s['coverage_macs_median']:.3f} "
            f"| {s['worst_error']:.0e} | {' / '.join(str(ways.get(w, 0)) for w in ('module', 'hybrid', 'graph'))} "
            f"| {s['work_cpu_s_max']:.1f} s | {s['peak_bytes_max'] / 2**30:.2f} GB |"
        )
    return "\n".join(lines) + "\n"


def _kept_summary(summary: Mapping[str, Record]) -> str:
    if not any(s["tried"] for s in summary.values()):
        return ""
    lines = [
        "| forwards kept | tried | ok | half of the MACs reached | forwards rewritten | three batches | another size "
        "| of what rewriting could remove: median, worst | worst error | CPU, worst | peak, worst |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for zoo, s in summary.items():
        lines.append(
            f"| {zoo} | {s['tried']}/{s['models']} | {s['ok']} | {s['reached']} | {s['rewritten']} "
            f"| {s['three_batches']} | {s['other_size']} | {s['share_median']:.3f}, {s['share_worst']:.3f} "
            f"| {s['worst_error']:.0e} | {s['work_cpu_s_max']:.1f} s | {s['peak_bytes_max'] / 2**30:.2f} GB |"
        )
    return "\n".join(lines) + "\n"


def _out_of_reach(kept: Sequence[Record]) -> str:
    """List what keeps a forward from losing half of its removable MACs, from being kept, or from more batch sizes."""
    lines = []
    for record in kept:
        cut = record.get("budget", {})
        name = f"{record['zoo']} {record['model']}"
        if "because" in cut:
            lines.append(f"- {name}: half is out of reach: {cut['because']}")
        if cut.get("rewritten"):
            paths = ", ".join(path or "the top level" for path in cut["rewritten_paths"])
            lines.append(f"- {name}: {cut['rewritten']} forwards rewritten: {paths}")
        if cut.get("proved_batches", 3) < 3:
            lines.append(f"- {name}: proved at {cut['proved_batches']} batch sizes; the dense model takes no other")
    return "## What keeping forwards costs\n\n" + "\n".join(lines) + "\n" if lines else ""


def _kept_table(zoo: str, kept: Mapping[str, Record]) -> str:
    if not kept:
        return ""
    lines = [
        f"### {_TITLES.get(zoo, zoo)}: forwards kept\n",
        "| model | ok | MACs kept | params kept | coverage params: kept / rewriting | rewritten | mended | shipped "
        "| max error | batch sizes | also at | CPU | peak | trial |",
        "|---|---|--:|--:|---|--:|--:|--:|--:|--:|---|--:|--:|--:|",
    ]
    for name, record in sorted(kept.items()):
        cut = record.get("budget", {})
        if "rewritten" not in cut:
            lines.append(f"| {name} | no |" + " – |" * 12)
            continue
        sizes = dict.fromkeys(size.partition(" of ")[2] for size in cut["sizes"] if " of " in size)
        cells = [
            "yes" if record["ok"] else "no",
            f"{cut['macs'] / record['macs']:.0%}{'' if cut['reached'] else ' (out of reach)'}",
            f"{cut['params'] / record['params']:.0%}",
            f"{record['coverage_params']:.3f} / {record['coverage_params_rewritten']:.3f}",
            *(str(cut[key]) for key in ("rewritten", "mended", "shipped")),
            f"{cut['error']:.0e}",
            str(cut["proved_batches"]),
            ", ".join(sizes) or "–",
        ]
        costs = f"{cut['work_cpu_s']:.1f} s | {record['peak_bytes'] / 2**20:.0f} MB | {record['seconds']:.0f} s"
        lines.append(f"| {name} | {' | '.join(cells)} | {costs} |")
    return "\n".join(lines) + "\n"


def _failures(records: Sequence[Record]) -> str:
    lines = [f"- {r['mode']}: {r['zoo']} {r['model']}: {reason_of(r)}" for r in records if not r["ok"]]
    return "## What does not pass\n\n" + "\n".join(lines) + "\n" if lines else ""


def reason_of(record: Record) -> str:
    """Say in a few words why a model is not ok."""
    if "error" in record:
        return f"{record['stage']}: {record['error']}"
    words = []
    for kind in KINDS:
        result = record.get(kind, {})
        if result and not result["ok"]:
            words.append(f"{kind}: {', '.join(_faults(result))}")
    return "; ".join(words) or "not finished"


def _faults(result: Record) -> list[str]:
    if isinstance(result.get("error"), str):
        return [result["error"]]
    words = []
    if result.get("surgery") == "graph":
        words.append("fell back to graph mode")
    if result.get("reload", "equal") != "equal":
        words.append(f"reload: {result['reload']}")
    if "error" in result and not result["verified"]:
        words.append(f"error {result['error']:.1e}, change {result['change']:.1e}")
        words += [] if result["values_equal"] else ["tensors are not the slices"]
    words += [] if result.get("price_exact", True) else ["price differs"]
    return words or ["params differ"]


def _model_table(zoo: str, hybrid: Mapping[str, Record], graph: Mapping[str, Record]) -> str:
    lines = [
        f"## {_TITLES.get(zoo, zoo)}\n",
        "| model | hybrid | graph | params kept | MACs kept | coverage params / MACs | axes | max error | way "
        "| rewritten | CPU | peak | trial |",
        "|---|---|---|--:|--:|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for name in sorted({*hybrid, *graph}):
        one, two = hybrid.get(name, {}), graph.get(name, {})
        cells = [_verdict(one), _verdict(two), *_described(one or two), *_ways(one)]
        lines.append(f"| {name} | {' | '.join(cells)} | {_costs(one or two)} |")
    return "\n".join(lines) + "\n"


def _verdict(record: Record) -> str:
    if not record:
        return "–"
    whole = "in parts" if "parts" in record else "yes"
    return whole if record["ok"] else "no"


def _described(record: Record) -> list[str]:
    if "axes" not in record:
        return ["–"] * 5
    cuts = [c for c in _cuts(record) if "params" in c]
    errors = [c["error"] for c in cuts if isinstance(c.get("error"), float)]
    kept = [" / ".join(f"{c[key] / max(record[key], 1):.0%}" for c in cuts) for key in ("params", "macs")]
    coverage = f"{record['coverage_params']:.3f} / {record['coverage_macs']:.3f}"
    return [*kept, coverage, str(record["axes"]), f"{max(errors):.0e}" if errors else "–"]


def _ways(record: Record) -> list[str]:
    cuts = [c for c in _cuts(record) if "surgery" in c]
    if not cuts:
        return ["–", "–"]
    return [" / ".join(c["surgery"] for c in cuts), " / ".join(str(c["spliced"]) for c in cuts)]


def _costs(record: Record) -> str:
    cpu = [c["work_cpu_s"] for c in _cuts(record) if "work_cpu_s" in c]
    peak = f"{record['peak_bytes'] / 2**20:.0f} MB" if "peak_bytes" in record else "–"
    return (
        f"{max(cpu):.1f} s | {peak} | {record['seconds']:.0f} s" if cpu else f"– | {peak} | {record['seconds']:.0f} s"
    )


def _cuts(record: Record) -> list[Record]:
    return [record[k] for k in KINDS if k in record]
