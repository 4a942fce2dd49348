"""Budgets over all levels: exactness, speed of allocation, milliseconds, several scales against one.

Writes docs/bench/budget.md and .json. Usage: make bench-budget; one that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator

import logged
from budget import exact, latency, scales
from budget.page import claims, page
from logged import Work

LATENCY_NETS = ("resnet18", "glyphs/resnet-8x", "vit_b_32", "glyphs/vit-8x")
KEPT = {
    "digits": {"bytes": (0.15,), "latency_ms": (0.6,)},
    "glyphs/resnet": {"bytes": (0.3,), "latency_ms": (0.6,)},
}
AGAINST = {"glyphs/resnet": 5, "glyphs/vgg": 1, "glyphs/vit": 1}
"""How many trained networks of each kind are pruned for milliseconds and for MACs."""


def jobs(seeds: int) -> Iterator[tuple[str, Work]]:
    """Yield every measurement by name, cheap ones first."""
    yield "tree/500", lambda: exact.tree_seconds(480, 16)
    for name in exact.NETS:
        yield f"exact/{name}", lambda name=name: exact.price_and_count(name)
    for name in LATENCY_NETS:
        yield f"meet/{name}", lambda name=name: latency.meet(name, 0.5)
        yield f"predict/{name}", lambda name=name: latency.predict(name, 8)
    yield "search/glyphs/resnet", lambda: exact.search_seconds(300)
    for name, count in AGAINST.items():
        for seed in range(count):
            yield f"against/{name}/{seed}", lambda n=name, s=seed: latency.against_macs(n, 0.5, s)
    for seed in range(seeds):
        for workload, metric, kept in cells():
            for method in scales.methods_for(metric):
                yield (
                    f"scales/{workload}/{metric}/{method}/{kept}/{seed}",
                    lambda w=workload, b=metric, m=method, k=kept, s=seed: scales.measure(w, b, m, k, s),
                )


def cells() -> Iterator[tuple[str, str, float]]:
    """Yield every workload, metric and kept share at which methods meet."""
    for workload, metrics in KEPT.items():
        for metric, shares in metrics.items():
            yield from ((workload, metric, kept) for kept in shares)


def main() -> None:
    """Run what is not in the log yet, then write the page."""
    given = logged.options(__doc__, "budget", 5, "meet or scales/digits").parse_args()
    rows, about = logged.run(jobs(given.seeds), given, ("correct", "points")), logged.machine()
    told = {name: logged.without(row, ("correct",)) for name, row in rows.items()}
    found = {"about": about, "claims": claims(rows, given.seeds), "rows": told}
    logged.write(given.docs, "budget", found, page(rows, about, given.seeds))


if __name__ == "__main__":
    main()
