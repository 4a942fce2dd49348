"""docs/bench/oneshot.md: what is promised beside what was measured, every cell with its interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from zoo.claims import claims_table

from .networks import SAMPLES, Row
from .ours import METHOD, REPAIR, RUNGS
from .peer import CRITERIA, SCOPES

Rows = Mapping[str, Row]
Interval = tuple[float, float, float]
LOOSE, TIGHT = {0.5: 0.01, 0.25: 0.04}, {0.5: 0.003, 0.25: 0.02}
"""What may be lost at most by kept share of the MACs: MobileNet and ViT; over-parameterised ResNet and VGG."""
_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_HOW = (
    "Points of accuracy lost on the test split right after pruning, without training on labels; mean over seeds and "
    "its 95 % interval (Student's t; of one seed, a bootstrap of the test images). Ours: `{method}` and `{repair}` on "
    "512 images without labels; the test split chooses nothing. Torch-Pruning: of {count} configurations the one that "
    "loses least on average over the seeds *on the test split*, with norm statistics re-estimated on the same images; "
    "where it needs gradients it gets the true labels of those images. MACs are counted alike, never above the share."
)


def page(rows: Rows, about: Mapping[str, str]) -> str:
    """Return the text of the page."""
    lines = [
        "# One shot, without labels",
        "",
        f"Command: `make bench-oneshot` · torch {about['torch']} · {about['cpu']}.",
        "",
        claims_table(claims(rows)),
        *_picture(rows),
        "",
        *_cells(rows),
        *_ladder(rows),
        *_samples(rows),
        *_costs(rows),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _picture(rows: Rows) -> list[str]:
    if not cells(rows):
        return []
    told = "Points lost by network and kept share of the MACs, prunus beside Torch-Pruning's best; and rung by rung"
    return ["", f"![{told}](oneshot.svg)"]


def spread(rows: Rows) -> dict[str, Row]:
    """Return the rows with those of the peer, which hold all shares of one run, divided into one for each cell."""
    found = dict[str, Row]()
    for key, row in rows.items():
        if not key.startswith("peer/"):
            found[key] = row
            continue
        net, seed, way = key.removeprefix("peer/").rsplit("/", 2)
        for kept, one in row["shares"].items():
            found[f"cells/{net}/{kept}/{seed}/torch-pruning-{way}"] = one
    return found


def claims(rows: Rows) -> list[tuple[str, str, bool]]:
    """Return (claim, measured, met) for what has been run."""
    found = []
    for net, kept in cells(rows):
        ours = of_seeds(rows, f"cells/{net}/{kept:g}", "ours")
        lost, told = statistics.fmean(r["lost"] for r in ours.values()), f"{_shown(interval(ours))} points"
        allowed = _allowed(net, kept)
        if allowed is not None:
            found.append((f"{net}, {kept:.0%} of the MACs: ≤ {allowed * 100:g} points lost", told, lost <= allowed))
        best = best_peer(rows, net, kept)
        if best is not None:
            theirs = statistics.fmean(r["lost"] for r in best[1].values())
            same = statistics.fmean(ours[seed]["lost"] for seed in best[1])
            told = f"{same * 100:.2f} of {theirs * 100:.2f} points ({best[0]}, {len(best[1])} seeds)"
            claim = f"{net}, {kept:.0%} of the MACs: at most a third of what Torch-Pruning's best loses"
            found.append((claim, told, same <= theirs / 3))
    if row := rows.get("solvers/sparsegpt-1024"):
        told = f"{row['seconds']:.1f} s, {row['cpu_seconds']:.1f} s of processor time"
        found.append(("SparseGPT of 1,024 × 1,024 in ≤ 10 s", told, row["seconds"] <= 10))
    if row := rows.get("cost/resnet50"):
        told = f"{row['seconds']:.0f} s, {row['peak_gib']:.1f} GiB at most"
        found.append(
            (
                "ResNet-50: moments, OBS and levels of all layers in ≤ 10 min and ≤ 8 GB",
                told,
                row["seconds"] <= 600 and row["peak_gib"] * 2**30 <= 8e9,
            )
        )
    return found


def _allowed(net: str, kept: float) -> float | None:
    """Return what may be lost at most; nothing is promised of right-sized ResNets and VGGs."""
    family, _, size = net.removeprefix("glyphs/").partition("-")
    if family in ("mobilenet", "vit"):
        return LOOSE.get(kept)
    return TIGHT.get(kept) if size else None


def cells(rows: Rows) -> list[tuple[str, float]]:
    """Return the networks and kept shares that ours has been measured on, in the order of the log."""
    found = {}
    for key in rows:
        if key.startswith("cells/") and key.endswith("/ours"):
            net, kept, _, _ = key.removeprefix("cells/").rsplit("/", 3)
            found[net, float(kept)] = None
    return list(found)


def best_peer(rows: Rows, net: str, kept: float) -> tuple[str, dict[int, Row]] | None:
    """Return the configuration that loses least on average, of those that met the budget on every seed tried so far."""
    start = f"cells/{net}/{kept:g}"
    ours = of_seeds(rows, start, "ours")
    tried = {
        f"{criterion}, {scope}": of_seeds(rows, start, f"torch-pruning-{criterion}-{scope}")
        for criterion in CRITERIA
        for scope in SCOPES
    }
    seeds = [seed for seed in ours if any(seed in found for found in tried.values())]
    done = {name: {seed: found[seed] for seed in seeds} for name, found in tried.items() if found.keys() >= set(seeds)}
    if not (seeds and done):
        return None
    name = min(done, key=lambda n: statistics.fmean(r["lost"] for r in done[n].values()))
    return name, done[name]


def interval(ours: Mapping[int, Row], theirs: Mapping[int, Row] | None = None) -> Interval:
    """Return the mean points lost, or those more than by the other on the same networks, with a 95 % interval."""
    seeds = [s for s in ours if theirs is None or s in theirs]
    lost = [ours[s]["lost"] - (theirs[s]["lost"] if theirs else 0) for s in seeds]
    if len(lost) == 1:
        return _bootstrapped(ours[seeds[0]], theirs[seeds[0]] if theirs else None)
    half = _QUANTILES.get(len(lost) - 1, 2.1) * statistics.stdev(lost) / math.sqrt(len(lost))
    mean = statistics.fmean(lost)
    return mean, mean - half, mean + half


def _bootstrapped(ours: Row, theirs: Row | None) -> Interval:
    import torch

    from prunus.measurement.quality import paired_interval

    right = [
        torch.tensor([c == "1" for c in text])
        for text in (theirs["correct"] if theirs else ours["dense_correct"], ours["correct"])
    ]
    found = paired_interval(*right)
    return found.estimate, found.low, found.high


def of_seeds(rows: Rows, start: str, end: str) -> dict[int, Row]:
    """Return seed → row, of the rows named start/SEED/end that gave a network."""
    found = {}
    for key, row in rows.items():
        if key.startswith(f"{start}/") and key.endswith(f"/{end}") and row.get("ok", True):
            middle = key.removeprefix(f"{start}/").removesuffix(f"/{end}")
            if middle.isdigit():
                found[int(middle)] = row
    return found


def _cells(rows: Rows) -> list[str]:
    if not cells(rows):
        return []
    how = _HOW.format(method=METHOD, repair=REPAIR, count=len(CRITERIA) * len(SCOPES))
    lines = [
        "## Against Torch-Pruning at equal MACs",
        "",
        how,
        "",
        "| network | MACs | seeds | dense | ours loses | Torch-Pruning's best | seeds | it loses | ours − it |",
        "|---|--:|--:|--:|--:|---|--:|--:|--:|",
    ]
    for net, kept in cells(rows):
        ours, best = of_seeds(rows, f"cells/{net}/{kept:g}", "ours"), best_peer(rows, net, kept)
        dense = statistics.fmean(r["dense"] for r in ours.values())
        peer = (
            "– | – | – | –"
            if best is None
            else (f"{best[0]} | {len(best[1])} | {_shown(interval(best[1]))} | {_shown(interval(ours, best[1]))}")
        )
        lines.append(f"| {net} | {kept:.0%} | {len(ours)} | {dense:.2%} | {_shown(interval(ours))} | {peer} |")
    if refused := _refused(rows):
        lines += ["", "Configurations of Torch-Pruning that gave no network within the budget:", "", *refused]
    return [*lines, ""]


def _refused(rows: Rows) -> list[str]:
    seeds: dict[tuple[str, str, str, str], set[str]] = {}
    for key, row in rows.items():
        if key.startswith("cells/") and not row.get("ok", True):
            net, kept, seed, way = key.removeprefix("cells/").rsplit("/", 3)
            reason = row.get("reason", "missed the budget")
            seeds.setdefault((net, way.removeprefix("torch-pruning-"), kept, reason), set()).add(seed)
    return [
        f"- {net}, {way}, {float(kept):.0%} of the MACs, seeds {', '.join(sorted(found))}: {reason}"
        for (net, way, kept, reason), found in seeds.items()
    ]


def ladder_nets(rows: Rows) -> list[str]:
    """Return the networks with their kept shares whose ladder has been climbed, in the order of the log."""
    keys = (key.removeprefix("ladder/").rsplit("/", 1)[0] for key in rows if key.startswith("ladder/"))
    return list(dict.fromkeys(keys))


def _ladder(rows: Rows) -> list[str]:
    nets = ladder_nets(rows)
    if not nets:
        return []
    heads = [f"{name}, {float(kept):.0%}" for name, _, kept in (net.rpartition("/") for net in nets)]
    lines = [
        "## Where the gains come from",
        "",
        "Points lost on the test split.",
        "",
        "| rung | " + " | ".join(heads) + " |",
        "|---|" + "--:|" * len(nets),
    ]
    for number, rung in enumerate(RUNGS):
        found = [of_rung(rows, net, number) for net in nets]
        lines.append(f"| {rung} | " + " | ".join(_shown(interval(f)) if f else "–" for f in found) + " |")
    return [*lines, ""]


def of_rung(rows: Rows, net: str, number: int) -> dict[int, Row]:
    """Return seed → row of one rung of the ladder."""
    start = f"ladder/{net}/{number}-"
    return {int(key.removeprefix(start)): row for key, row in rows.items() if key.startswith(start)}


def _samples(rows: Rows) -> list[str]:
    found: dict[tuple[str, str], dict[str, dict[int, Row]]] = {}
    for key, row in rows.items():
        if key.startswith("samples/"):
            net, kept, count, seed = key.removeprefix("samples/").rsplit("/", 3)
            found.setdefault((net, kept), {}).setdefault(count, {})[int(seed)] = row
    if not found:
        return []
    for (net, kept), columns in found.items():
        seeds = {seed for column in columns.values() for seed in column}
        same = of_seeds(rows, f"cells/{net}/{kept}", "ours")
        columns[str(SAMPLES)] = {seed: row for seed, row in same.items() if seed in seeds}
    counts = sorted({c for columns in found.values() for c in columns}, key=lambda c: int(c) if c.isdigit() else 10**9)
    about = "Points lost with so many unlabelled images; noise: 512 images of Gaussian noise."
    lines = [
        "## How many images",
        "",
        about,
        "",
        "| network | MACs | " + " | ".join(counts) + " |",
        "|---|--:|" + "--:|" * len(counts),
    ]
    for (net, kept), columns in found.items():
        told = [_shown(interval(columns[c])) if columns.get(c) else "–" for c in counts]
        lines.append(f"| {net} | {float(kept):.0%} | " + " | ".join(told) + " |")
    return [*lines, ""]


def _costs(rows: Rows) -> list[str]:
    done = [r for k, r in rows.items() if k.startswith("cost/")]
    if not done:
        return []
    lines = [
        "## What it costs",
        "",
        "Moments, the OBS order of all units and all levels measured, two threads.",
        "",
        "| network | images | seconds | processor seconds | peak memory |",
        "|---|---|--:|--:|--:|",
    ]
    for r in done:
        lines.append(
            f"| {r['network']} | {r['samples']} of {r['side']}² | {r['seconds']:.0f} | "
            f"{r['cpu_seconds']:.0f} | {r['peak_gib']:.1f} GiB |"
        )
    return lines


def _shown(found: Interval) -> str:
    mean, low, high = (100 * value for value in found)
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
