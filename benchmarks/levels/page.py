"""docs/bench/levels.md: what was asked beside what was measured, and the tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from zoo.claims import claims_table

from .arms import AUTO, LEVELS_KEPT, SINGLE, UNIFORM, VARIANTS, VARIANTS_KEPT
from .cases import NETS, STEPS, Row
from .numbers import Rows, arm_of, gains, interval, points, seeds_of

BRIDGES = ("identity", "projection")
MERGED = ("redundancy", "units-redundancy", "redundant-weights")
MERGED_KEPT = (0.9, 0.7, 0.5)
MODULES_KEPT = 0.7
CHAIN = (5, 4, 3)
LESS = 0.95
"""A row that keeps less than this part of its share is listed."""
Claim = tuple[str, str, bool | None]


def page(rows: Rows, about: Mapping[str, str], spent: tuple[float, float], seeds: int, *, complete: bool) -> str:
    """Return the text of the page; where rows are missing, claims that are met so far are unfinished."""
    runs = sorted({int(name.rpartition("/")[2]) for name in rows if name.startswith("arm/")})
    done, whole = spent
    lines = [
        "# Levels: hierarchical pruning, and every variant of the founding texts",
        "",
        f"Command: `make bench-levels` · torch {about['torch']} · {about['cpu']} · one process, one thread. The whole, "
        f"of {seeds} seeds, takes about {whole:.1f} hours of processor time, with the training of the dense "
        f"networks by the clock; measured so far: {done:.2f} hours, "
        f"{len(rows)} rows of the seeds {', '.join(map(str, runs)) or 'none'}. "
        'A part of less than 30 minutes: `make bench-levels ARGS="--part"`.',
        "",
        f"Every row gets {STEPS} training steps, after the cut or during a training that prunes, at the rate of its "
        "workload's recovery; no repair comes before them. Kept share: parameters that are not zero. Accuracy on the "
        "test split, which chooses nothing; differences in points, paired by seed, with the 95 % interval (Student's "
        "t; none for one seed). Networks: " + ", ".join(f"`{net}` ({kind})" for net, kind in NETS.items()) + ".",
        "",
        claims_table(unfinished(claims(rows), complete)),
        *_short(rows),
        *_levels(rows),
        *_variants(rows),
        *_merging(rows),
        *_reconnection(rows),
        *_chain(rows),
        *_failed(rows),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def unfinished(found: Sequence[Claim], complete: bool) -> list[Claim]:
    """Return claims in which met is None where rows are missing: those may change it."""
    return [(claim, measured, met if complete or not met else None) for claim, measured, met in found]


def claims(rows: Rows) -> list[Claim]:
    """Return (claim, measured, met) for what has been run."""
    found: list[Claim] = []
    for kept in LEVELS_KEPT:
        against, uniform = list[float](), list[float]()
        for net in NETS:
            auto, single = arm_of(rows, net, kept, AUTO), best_single(rows, net, kept)
            against += gains(auto, arm_of(rows, net, kept, single)) if single else []
            uniform += gains(auto, arm_of(rows, net, kept, UNIFORM))
        if against:
            claim = f"{kept:.0%} kept: `hierarchical` with `strategy: auto` is at least as accurate as the best level"
            found.append((claim, f"{points(against)} points, {len(against)} pairs", statistics.fmean(against) >= 0))
        if len(uniform) > 1:
            claim = f"{kept:.0%} kept: it is more accurate than uniform pruning, interval above 0"
            found.append((claim, f"{points(uniform)} points, {len(uniform)} pairs", interval(uniform)[1] > 0))
    autos = [row for name, row in rows.items() if name.startswith("arm/") and f"/{AUTO}/" in name]
    if autos:
        made = sum(row["ok"] for row in autos)
        claim = "`hierarchical` with `strategy: auto` gives a network; a pair without one is in no difference above"
        found.append((claim, f"{made} of {len(autos)}", made == len(autos)))
    pairs = [pair for method in MERGED for pair in merged_pairs(rows, method)]
    if pairs:
        better = sum(merged["nll"] < dropped["nll"] for dropped, merged in pairs)
        claim = "merging of redundant units and connections is better than dropping in ≥ 80 % of the pairs"
        found.append((claim, f"{better} of {len(pairs)}, {better / len(pairs):.0%}", better >= 0.8 * len(pairs)))
    chains = {(n, seed): row for n in CHAIN for seed, row in seeds_of(rows, f"chain/{n}").items()}
    if chains:
        whole = sum(row["layers"] == n and row["proved"] for (n, _), row in chains.items())
        claim = "a chain of 5 convolutions and 2 linear layers loses whole layers when asked, proved and trained on"
        found.append((claim, f"{whole} of {len(chains)} cuts with the asked layers and a proof", whole == len(chains)))
    return found


def best_single(rows: Rows, net: str, kept: float) -> str | None:
    """Return the single level that is most accurate on the selection split, of those with the most seeds."""
    runs = {arm: found for arm in SINGLE if (found := arm_of(rows, net, kept, arm))}
    most = max(map(len, runs.values()), default=0)
    whole = {arm: found for arm, found in runs.items() if len(found) == most}
    if not whole:
        return None

    def selected(arm: str) -> tuple[float, float]:
        found = whole[arm].values()
        return statistics.fmean(r["selection"] for r in found), -statistics.fmean(r["selection_nll"] for r in found)

    return max(whole, key=selected)


def merged_pairs(rows: Rows, method: str) -> list[tuple[Row, Row]]:
    """Return (dropped, merged) of every network, share and seed in which something is merged."""
    return [
        (row["dropped"], row["merged"])
        for name, row in rows.items()
        if name.startswith("merge/") and f"/{method}/" in name and row["ok"] and row["merged"]["merges"]
    ]


def _short(rows: Rows) -> list[str]:
    missed = [(claim, measured) for claim, measured, met in claims(rows) if met is False]
    if not missed:
        return []
    lines = ["", "## What falls short", ""]
    lines += [f"- {claim}: measured {measured}." for claim, measured in missed]
    for kept in LEVELS_KEPT:
        for net in NETS:
            single = best_single(rows, net, kept)
            lost = gains(arm_of(rows, net, kept, AUTO), arm_of(rows, net, kept, single)) if single else []
            if lost and statistics.fmean(lost) < 0:
                lines.append(f"- `{net}` at {kept:.0%}: auto is {points(lost)} points from `{single}`.")
    return lines


def _levels(rows: Rows) -> list[str]:
    lines = [
        "",
        "## Hierarchical and single levels",
        "",
        "The best level is named by accuracy on the selection split and compared on the test split. Where a network "
        "has no branches, `depth` trims units; `chain-depth` trims units too where layers alone do not meet the "
        "budget. Uniform: units of least norm, the same share of every layer.",
        "",
        "| network | kept | seeds | dense | auto | " + " | ".join(f"`{a}` ({k})" for a, k in SINGLE.items()) + " "
        "| uniform | best level | auto − best | auto − uniform |",
        "|---|---:|---:|---:|---:|" + "---:|" * len(SINGLE) + "---:|---|---:|---:|",
    ]
    for net in NETS:
        for kept in LEVELS_KEPT:
            auto, single = arm_of(rows, net, kept, AUTO), best_single(rows, net, kept)
            if not auto or single is None:
                continue
            cells = [net, f"{kept:.0%}", str(len(auto)), _mean(seeds_of(rows, f"dense/{net}")), _mean(auto)]
            cells += [_mean(arm_of(rows, net, kept, arm)) for arm in (*SINGLE, UNIFORM)]
            cells += [f"`{single}`", points(gains(auto, arm_of(rows, net, kept, single)))]
            cells += [points(gains(auto, arm_of(rows, net, kept, UNIFORM)))]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _variants(rows: Rows) -> list[str]:
    lines = [
        "",
        "## To the letter, and today's",
        "",
        f"{VARIANTS_KEPT:.0%} of the parameters kept; means over the seeds, and the difference over all networks and "
        "seeds that both have. The sections are those of [founding.md](../founding.md). A threshold is the value that "
        "meets the budget; that of the key path by gradient is the median of its branches. Not here: compound scaling "
        "(second A.3), whose budget is of MACs, and entries without two variants.",
        "",
        "| section | to the letter | today's | " + " | ".join(f"{net}: letter, today's" for net in NETS) + " "
        "| today's − letter | pairs |",
        "|---|---|---|" + "---:|" * len(NETS) + "---:|---:|",
    ]
    for v in VARIANTS:
        cells, differences = [v.section, f"`{v.literal}`", f"`{v.ours}`"], list[float]()
        for net in NETS:
            literal, ours = (arm_of(rows, net, VARIANTS_KEPT, arm) for arm in (v.literal, v.ours))
            cells.append(f"{_mean(literal)}, {_mean(ours)}")
            differences += gains(ours, literal)
        lines.append("| " + " | ".join([*cells, points(differences), str(len(differences))]) + " |")
    return lines + _smaller(rows)


def _smaller(rows: Rows) -> list[str]:
    """Return which arms keep clearly less than asked: whole units and branches cannot always do better."""
    found: dict[str, list[float]] = {}
    for name, row in rows.items():
        if name.startswith("arm/") and row.get("ok") and row["kept"] < LESS * float(name.split("/")[-3]):
            found.setdefault("/".join(name.split("/")[1:-1]), []).append(row["kept"])
    if not found:
        return []
    listed = "; ".join(f"{name} {statistics.fmean(shares):.1%}" for name, shares in sorted(found.items()))
    return ["", f"Kept less than {LESS:.0%} of what the budget allows (workload/share/arm, mean): {listed}."]


def _merging(rows: Rows) -> list[str]:
    lines = [
        "",
        "## Merged and dropped",
        "",
        "Redundant units and connections, right after the cut, without training. Better: the lower cross-entropy on "
        "the test split. Plans in which nothing could be merged are no pairs.",
        "",
        "| method | pairs | merging better | more accurate | less | cross-entropy dropped | merged |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for method in MERGED:
        pairs = merged_pairs(rows, method)
        if not pairs:
            continue
        better = sum(merged["nll"] < dropped["nll"] for dropped, merged in pairs)
        more = sum(merged["accuracy"] > dropped["accuracy"] for dropped, merged in pairs)
        less = sum(merged["accuracy"] < dropped["accuracy"] for dropped, merged in pairs)
        means = [statistics.fmean(pair[i]["nll"] for pair in pairs) for i in (0, 1)]
        lines.append(
            f"| `{method}` | {len(pairs)} | {better / len(pairs):.0%} | {more} | {less} "
            f"| {means[0]:.3f} | {means[1]:.3f} |"
        )
    return lines


def _reconnection(rows: Rows) -> list[str]:
    lines = [
        "",
        "## Reconnected by identity and by a fitted projection",
        "",
        f"`modular` keeps {MODULES_KEPT:.0%} of the modules; the others are replaced. Accuracy as cut, and after "
        f"{STEPS} steps. A projection keeps parameters where the identity has none.",
        "",
        "| network | seeds | modules replaced | kept, identity | kept, projection | as cut: identity | projection "
        "| trained: identity | projection | projection − identity, trained |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for net in NETS:
        one, other = (seeds_of(rows, f"reconnect/{net}/{MODULES_KEPT:g}/{way}") for way in BRIDGES)
        if not one or not other:
            continue
        replaced = sorted({len(row["bridges"]) for row in (*one.values(), *other.values())})
        cells = [net, str(len(one.keys() & other.keys())), ", ".join(map(str, replaced))]
        cells += [f"{statistics.fmean(r['kept'] for r in found.values()):.0%}" for found in (one, other)]
        cells += [_mean(found, "cut_accuracy") for found in (one, other)]
        cells += [_mean(one), _mean(other), points(gains(other, one))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _chain(rows: Rows) -> list[str]:
    lines = [
        "",
        "## A chain that loses whole layers",
        "",
        f"Five convolutions and two linear layers on the digits, by `chain-depth`; {STEPS} steps afterwards.",
        "",
        "| layers asked | seeds | layers left | parameters kept | error of the proof | dense | as cut | trained |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for n in CHAIN:
        found = seeds_of(rows, f"chain/{n}")
        if not found:
            continue
        left = ", ".join(str(count) for count in sorted({row["layers"] for row in found.values()}))
        kept, error = statistics.fmean(r["kept"] for r in found.values()), max(r["error"] for r in found.values())
        cells = [f"{n} of 7", str(len(found)), left, f"{kept:.0%}", f"≤ {error:.0e}"]
        cells += [_mean(found, field) for field in ("dense", "cut", "accuracy")]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _failed(rows: Rows) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for name, row in rows.items():
        if not row.get("ok", True):
            reasons.setdefault(f"{name.rpartition('/')[0]}: {row['reason']}", []).append(name.rpartition("/")[2])
    if not reasons:
        return []
    lines = ["", "## Rows without a network", ""]
    return lines + [f"- {reason} (seeds {', '.join(seeds)})" for reason, seeds in sorted(reasons.items())]


def _mean(found: Mapping[int, Row], field: str = "accuracy") -> str:
    values: Sequence[float] = [row[field] for row in found.values()]
    return f"{statistics.fmean(values) * 100:.1f}" if values else "–"
