"""Pruning while training: what the hooks cost, what a cut costs, what gradual pruning loses.

Writes docs/bench/training.md and .json. Usage: make bench-training; one that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator

import logged
from logged import Work
from training import costs, gradual
from training.page import claims, page

NETS = ("digits", "glyphs/resnet-8x", "text/transformer-8x", "speech/mlp-8x")
"""Networks with many more weights than their task needs."""
KEPT = 0.1


def jobs(seeds: int) -> Iterator[tuple[str, Work]]:
    """Yield every measurement by name, cheap ones first."""
    for method in ("gradual", "dynamic-threshold", "granet", "movement"):
        yield f"overhead/{method}", lambda m=method: costs.overhead(m, batch=16, side=64, steps=17)
    for proved in (False, True):
        yield f"cut/{'proved' if proved else 'unproved'}", lambda p=proved: costs.cut(p)
    for seed in range(seeds):
        for net in NETS:
            for method in ("gradual", "one-shot"):
                yield f"gradual/{net}/{method}/{seed}", lambda n=net, m=method, s=seed: gradual.measure(n, m, KEPT, s)


def main() -> None:
    """Run what is not in the log yet, then write the page."""
    given = logged.options(__doc__, "training", 3, "cut or overhead/gradual").parse_args()
    rows, about = logged.run(jobs(given.seeds), given), logged.machine()
    found = {"about": about, "claims": claims(rows), "rows": rows}
    logged.write(given.docs, "training", found, page(rows, about))


if __name__ == "__main__":
    main()
