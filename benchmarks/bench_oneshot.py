"""One shot without labels: cells against Torch-Pruning, the ladder, sample counts, solvers, cost.

Writes docs/bench/oneshot.md and .json. Usage: make bench-oneshot; one that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import logged
from logged import Work
from oneshot import costs, ours, peer, picture
from oneshot.networks import NOISE
from oneshot.page import claims, page, spread

FAMILIES = ("resnet", "vgg", "mobilenet", "vit")
SIZES = ("", "-8x")
KEPT = (0.5, 0.25)
LADDER = ("glyphs/resnet-8x", "glyphs/mobilenet", "glyphs/vit")
SAMPLES: tuple[int | str, ...] = (32, 128, 2048, NOISE)
"""Beside the 512 images of the cells."""
HELD_BACK = ("correct", "dense_correct")
"""What stays in the log: the answers to every test image."""


def jobs(families: Sequence[str], seeds: int) -> Iterator[tuple[str, Work]]:
    """Yield every measurement by name, cheap ones first; a network that is not in the cache is trained."""
    yield "solvers/sparsegpt-1024", costs.sparsegpt_seconds
    yield "cost/resnet18", lambda: costs.whole_network("resnet18", 64, 32)
    yield "cost/resnet50", lambda: costs.whole_network("resnet50", 224, 512)
    nets = [f"glyphs/{family}{size}" for size in SIZES for family in families]
    for seed in range(seeds):
        for net in nets:
            for kept in KEPT:
                yield f"cells/{net}/{kept:g}/{seed}/ours", lambda n=net, k=kept, s=seed: ours.cell(n, k, s)
            for criterion in peer.CRITERIA:
                for scope in peer.SCOPES:
                    yield (
                        f"peer/{net}/{seed}/{criterion}-{scope}",
                        lambda n=net, s=seed, c=criterion, w=scope: peer.cells(n, s, c, w, KEPT),
                    )
        for net in (n for n in LADDER if n in nets):
            for number, rung in enumerate(ours.RUNGS):
                yield f"ladder/{net}/0.25/{number}-{seed}", lambda n=net, s=seed, r=rung: ours.rung(n, 0.25, s, r)
            for count in SAMPLES:
                yield (
                    f"samples/{net}/0.25/{count}/{seed}",
                    lambda n=net, s=seed, c=count: ours.shot(n, 0.25, s, ours.METHOD, ours.REPAIR, c),
                )


def main() -> None:
    """Run what is not in the log yet, then write the page."""
    parser = logged.options(__doc__, "oneshot", 5, "cells/glyphs/vit")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    given = parser.parse_args()
    found = logged.run(jobs(given.families, given.seeds), given, HELD_BACK)
    order = {name: number for number, (name, _) in enumerate(jobs(FAMILIES, given.seeds))}
    found = dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))
    rows, about = spread(found), logged.machine()
    told = {name: logged.without(row, HELD_BACK) for name, row in rows.items()}
    logged.write(given.docs, "oneshot", {"about": about, "claims": claims(rows), "rows": told}, page(rows, about))
    picture.draw(rows, given.docs)


if __name__ == "__main__":
    main()
