"""Pruning while training and after it: what hooks and cuts cost, what gradual pruning loses, what recovery gives back.

Writes docs/bench/training.md and .json. Usage: make bench-training; one that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator

import logged
from logged import Work
from training import costs, gradual, recovery, rival
from training.page import claims, page

NETS = ("digits", "speech/mlp-8x", "text/lstm-8x", "glyphs/vgg-8x")
"""Networks with many more weights than their task needs, cheap ones first."""
KEPT = 0.1
SEEDS = 3
"""Of these at most: their dense networks take minutes each."""
HELD_BACK = ("correct", "dense_correct")


def jobs(seeds: int) -> Iterator[tuple[str, Work]]:
    """Yield every measurement by name: costs, then seed by seed the cheap before the dear."""
    for method in ("gradual", "dynamic-threshold", "granet", "movement"):
        yield f"overhead/{method}", lambda m=method: costs.overhead(m, batch=16, side=64, steps=17)
    for proved in (False, True):
        yield f"cut/{'proved' if proved else 'unproved'}", lambda p=proved: costs.cut(p)
    for seed in range(seeds):
        yield from _recoveries(seed)
    for seed in range(seeds):
        yield from _scratch(seed)
    for net in NETS:
        for seed in range(min(seeds, SEEDS)):
            for method in gradual.METHODS:
                yield f"gradual/{net}/{method}/{seed}", lambda n=net, m=method, s=seed: gradual.measure(n, m, KEPT, s)


def _recoveries(seed: int) -> Iterator[tuple[str, Work]]:
    for net in recovery.NETS:
        for kept in recovery.KEPT:
            for way in recovery.CHOICES:
                yield (
                    f"recovery/{net}/{kept:g}/{way}/{seed}",
                    lambda n=net, k=kept, w=way: recovery.measure(n, k, w, seed),
                )
            for criterion in rival.CRITERIA:
                for scope in rival.SCOPES:
                    yield (
                        f"peer/{net}/{kept:g}/{criterion}-{scope}/{seed}",
                        lambda n=net, k=kept, c=criterion, s=scope: rival.measure(n, k, c, s, seed),
                    )


def _scratch(seed: int) -> Iterator[tuple[str, Work]]:
    for way in reversed(recovery.SCRATCH):
        for net in recovery.NETS:
            for kept in recovery.KEPT:
                yield (
                    f"recovery/{net}/{kept:g}/{way}/{seed}",
                    lambda n=net, k=kept, w=way: recovery.measure(n, k, w, seed),
                )


def main() -> None:
    """Run what is not in the log yet, then write the page."""
    given = logged.options(__doc__, "training", 5, "cut or recovery/glyphs/resnet/0.25").parse_args()
    rows, about = logged.run(jobs(given.seeds), given, HELD_BACK), logged.machine()
    told = {name: logged.without(row, HELD_BACK) for name, row in rows.items()}
    found = {"about": about, "claims": claims(rows), "rows": told}
    logged.write(given.docs, "training", found, page(rows, about))


if __name__ == "__main__":
    main()
