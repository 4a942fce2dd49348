"""The one table of defaults: what happens at every door where nothing is said."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request means where it is silent; `prunus.prune`, recipes and the command line read it from here.

    Attributes:
        levels: ``("unit",)``: units are removed.
        method: None: units, weights or both by a criterion and an allocator, as ``levels`` says.
        criterion: None: ``obs-units`` where there are data and that takes no longer than minutes, else magnitude.
        allocator: None: the knapsack over measured levels for ``obs-units``, uniform for other scores of units, global
            for weights.
        repair: with data, what is done to the weights that stay.
        search: how many plans around the allocator's are tried by their true loss.
        judge: a repair after which the plans of a search are judged.
        damage: whether the damage of every decision is measured.
        threads: intra-op threads while ops are timed for a budget in milliseconds.
        seed: of everything that draws numbers.
        loss: what scores and choices minimise.
        forward: ``keep``: no forward of the user's is rewritten.
        config_ties: whether a Hugging Face config alone has to say what is left.
    """

    levels: tuple[str, ...] = ("unit",)
    method: str | None = None
    criterion: str | None = None
    allocator: str | None = None
    repair: str = "auto"
    search: int = 0
    judge: str = "none"
    damage: bool = False
    threads: int = 1
    seed: int = 0
    loss: str = "cross_entropy"
    forward: str = "keep"
    config_ties: bool = False


DEFAULTS = Defaults()
