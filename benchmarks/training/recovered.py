"""The part of the page about recovery: every way beside Torch-Pruning and beside training from scratch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from oneshot.page import interval

from .recovery import CHOICES, KEPT, NETS, SCRATCH, WAYS
from .rival import CRITERIA, SCOPES

Row = dict[str, Any]
Rows = Mapping[str, Row]
Seeds = dict[int, Row]
ALLOWED = 0.005
HOW = (
    "Right-sized networks cut to a share of their MACs by prunus (`{method}`, `{repair}`, no labels), then trained for "
    "a tenth of the dense network's steps: on labels, from the dense network and labels, or as the autopilot decides. "
    "Torch-Pruning: {peers}, "
    "norm statistics re-estimated, trained on labels for as many steps at the same rate from the same samples; its "
    "state is kept and its best configuration chosen as ours is. Scratch: the cut network with new weights. Points "
    "lost on the test split, mean over seeds and 95 % interval (Student's t; of one seed, a bootstrap of its samples); "
    "which state is kept and which way is best is decided by the cross-entropy on the selection split."
)


def tables(rows: Rows) -> list[str]:
    """Return the lines of the section."""
    from .starting import METHOD, REPAIR

    peers = " and ".join(f"`{c}`" for c in CRITERIA) + ", within layers and over all"
    lines = [
        "",
        "## Recovery in a tenth of the steps",
        "",
        HOW.format(method=METHOD, repair=REPAIR, peers=peers),
        "",
        "| network | MACs | seeds | as cut | fine-tuned | distilled | autopilot | Torch-Pruning, best "
        "| as it was cut | scratch, all steps | scratch, a tenth |",
        "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for net in NETS:
        for kept in KEPT:
            ways = {way: _of(rows, f"recovery/{net}/{kept:g}/{way}/") for way in (*CHOICES, *SCRATCH)}
            if not ways["finetune"]:
                continue
            peer = best_peer(rows, net, kept)
            theirs = (f"{_points(peer[1])} ({peer[0]})", _cut(peer[1])) if peer else ("–", "–")
            shown = [_points(ways[way]) for way in (*CHOICES, *SCRATCH)]
            cells = [
                net,
                f"{kept:.0%}",
                str(len(ways["finetune"])),
                _cut(ways["finetune"]),
                *shown[:3],
                *theirs,
                *shown[3:],
            ]
            lines.append("| " + " | ".join(cells) + " |")
    failed = sorted(
        {
            f"{name.rsplit('/', 1)[0]}: {row['reason']}"
            for name, row in rows.items()
            if name.startswith("peer/") and not row["ok"]
        }
    )
    return lines + (["", "What Torch-Pruning could not do:", "", *(f"- {line}" for line in failed)] if failed else [])


def claims(rows: Rows) -> list[tuple[str, str, bool]]:
    """Return (claim, measured, met) for what has been run."""
    found = []
    for net in NETS:
        pairs = dict(enumerate(pair for kept in KEPT for pair in _both(rows, net, kept)))
        if len(pairs) > 1:
            gain, low, high = interval({i: a for i, (a, _) in pairs.items()}, {i: b for i, (_, b) in pairs.items()})
            told = f"{gain * 100:+.2f} [{low * 100:+.2f}, {high * 100:+.2f}] points gained over {len(pairs)} pairs"
            found.append((f"{net}: distillation is no worse than fine-tuning in as many steps", told, gain >= 0))
        for kept in KEPT:
            found += _cells(rows, net, kept)
    return found


def _cells(rows: Rows, net: str, kept: float) -> list[tuple[str, str, bool]]:
    found, best = [], best_way(rows, net, kept)
    if best is None:
        return []
    way, ours = best
    lost = statistics.fmean(r["lost"] for r in ours.values())
    if kept == max(KEPT):
        claim = f"{net}: {kept:.0%} of the MACs and a tenth of the steps lose ≤ 0.5 points"
        found.append((claim, f"{_points(ours)} ({way}, {len(ours)} seeds)", lost <= ALLOWED))
    peer = best_peer(rows, net, kept)
    if peer is not None:
        more, low, high = interval(ours, peer[1])
        told = f"{more * 100:+.2f} [{low * 100:+.2f}, {high * 100:+.2f}] points more lost than {peer[0]}"
        if kept == min(KEPT):
            claim, met = f"{net}, {kept:.0%} of the MACs: loses less than Torch-Pruning", more < 0
        else:
            claim, met = f"{net}, {kept:.0%} of the MACs: no worse than Torch-Pruning beyond the interval", low <= 0
        found.append((f"{claim} in as many steps", told, met))
    return found


def best_way(rows: Rows, net: str, kept: float) -> tuple[str, Seeds] | None:
    """Return the way that is best on the selection split, among those measured on the same seeds."""
    return _best({way: _of(rows, f"recovery/{net}/{kept:g}/{way}/") for way in CHOICES})


def best_peer(rows: Rows, net: str, kept: float) -> tuple[str, Seeds] | None:
    """Return Torch-Pruning's configuration that is best on the selection split, and met the budget on all seeds."""
    names = [f"{criterion}-{scope}" for criterion in CRITERIA for scope in SCOPES]
    return _best({name: _of(rows, f"peer/{net}/{kept:g}/{name}/") for name in names})


def _best(measured: Mapping[str, Seeds]) -> tuple[str, Seeds] | None:
    most = max(map(len, measured.values()))
    whole = {name: found for name, found in measured.items() if found and len(found) == most}
    if not whole:
        return None
    name = min(whole, key=lambda n: statistics.fmean(r["selection_nll"] for r in whole[n].values()))
    return name, whole[name]


def _both(rows: Rows, net: str, kept: float) -> Sequence[tuple[Row, Row]]:
    plain, taught = (_of(rows, f"recovery/{net}/{kept:g}/{way}/") for way in WAYS)
    return [(plain[seed], taught[seed]) for seed in plain if seed in taught]


def _of(rows: Rows, start: str) -> Seeds:
    return {
        int(name.removeprefix(start)): row
        for name, row in rows.items()
        if name.startswith(start) and row.get("ok", True)
    }


def _points(found: Seeds) -> str:
    if not found:
        return "–"
    mean, low, high = interval(found)
    return f"{mean * 100:.2f} [{low * 100:.2f}, {high * 100:.2f}]"


def _cut(found: Seeds) -> str:
    return f"{statistics.fmean(r['dense'] - r['cut'] for r in found.values()) * 100:.2f}"
