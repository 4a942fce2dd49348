"""What is promised of the zoo beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Summary = Mapping[str, Mapping[str, Any]]
Claim = tuple[str, str, bool | None]
"""What is promised, what was measured, and whether it is met; None where not all models were run."""
_COVERAGE = {"torchvision": 0.99, "timm": 0.99, "transformers": 0.85}


def claims(summary: Mapping[str, Summary]) -> list[Claim]:
    """Return (claim, measured, met) of every number that the zoo can show."""
    hybrid, graph = summary["hybrid"], summary["graph"]
    rows: list[Claim] = []
    for mode, found in (("hybrid", hybrid), ("graph", graph)):
        for kind, words in (
            ("budget", "half of the removable parameters"),
            ("random", "random kept shares, 5 to 90 %"),
        ):
            for zoo, s in found.items():
                passed = s[f"{kind}_ok"]
                rows.append(
                    (f"{mode} mode, {words}: all of {zoo} ok", f"{passed}/{s['models']}", passed == s["models"])
                )
    for zoo, s in hybrid.items():
        if "ways" not in s:
            continue
        n, cuts = s["models"], s["cuts"]
        rows += [
            (f"{zoo}: 50 ± 2 % of the removable parameters stay", f"{s['on_target']}/{n}", s["on_target"] == n),
            (f"{zoo}: the top-level class survives", f"{s['survives']}/{cuts} cuts", s["survives"] == cuts),
            (f"{zoo}: saved and reloaded equal", f"{s['reloads_equal']}/{cuts} cuts", s["reloads_equal"] == cuts),
            (
                f"{zoo}: ≥ 90 % of the parameters in the user's own modules at the median",
                f"{s['own_share_median']:.1%} ({s['mostly_own']}/{cuts} cuts); in modules with an unchanged forward "
                f"{s['untouched_share_median']:.1%} ({s['mostly_untouched']}/{cuts})",
                s["own_share_median"] >= 0.9,
            ),
            (
                f"{zoo}: peak memory ≤ 3 × the model + 1 GB",
                f"{s['memory_kept']}/{s['memory_measured']} models, worst {s['share_of_allowed_memory_max']:.0%} of it",
                s["memory_kept"] == s["memory_measured"],
            ),
            (
                f"{zoo}: no model over 20 s of processor time",
                f"worst {s['work_cpu_s_max']:.1f} s",
                s["work_cpu_s_max"] <= 20,
            ),
        ]
        if zoo in _COVERAGE:
            measured = s["coverage_macs_median"]
            rows.append(
                (
                    f"{zoo}: coverage of MACs ≥ {_COVERAGE[zoo]:.0%} at the median",
                    f"{measured:.1%}",
                    measured >= _COVERAGE[zoo],
                )
            )
    return rows + _kept_claims(summary.get("keep", {}))


_REACHED = {"torchvision": 78, "timm": 92, "transformers": 118}


def _kept_claims(kept: Summary) -> list[Claim]:
    rows: list[Claim] = []
    for zoo, s in kept.items():
        if not s["tried"]:
            continue
        n, tried = s["models"], s["tried"]
        of = f"{n}" if tried == n else f"{tried} run, {n} in all"
        found: list[tuple[str, str, bool]] = [
            (f"forwards kept: all of {zoo} ok", f"{s['ok']}/{of}", s["ok"] == tried),
            (
                f"forwards kept: none of {zoo} rewritten",
                f"{s['rewritten']} forwards of {s['models_rewritten']} models",
                s["cuts"] == tried and not s["rewritten"],
            ),
            (
                f"forwards kept: every cut of {zoo} proved at three batch sizes",
                f"{s['three_batches']}/{of}; at another length or image size {s['other_size']}",
                s["three_batches"] == tried,
            ),
            (
                f"forwards kept, {zoo}: ≥ 0.97 of what rewriting could remove at the median, ≥ 0.8 at worst",
                f"{s['share_median']:.3f}, {s['share_worst']:.3f}",
                s["share_median"] >= 0.97 and s["share_worst"] >= 0.8,
            ),
        ]
        if zoo in _REACHED:
            found.append(
                (
                    f"forwards kept: half of the removable MACs reached in ≥ {_REACHED[zoo]} of {zoo}",
                    f"{s['reached']}/{of}",
                    s["reached"] >= _REACHED[zoo] or tried < n,
                )
            )
        rows += [(claim, measured, met if tried == n or not met else None) for claim, measured, met in found]
    return rows


_WORDS = {True: "met", False: "**not met**", None: "unfinished"}


def claims_table(rows: Sequence[tuple[str, str, bool | None]]) -> str:
    """Return the claims as a Markdown table."""
    lines = ["| claim | measured | |", "|---|---|---|"]
    lines += [f"| {claim} | {measured} | {_WORDS[met]} |" for claim, measured, met in rows]
    return "\n".join(lines) + "\n"
