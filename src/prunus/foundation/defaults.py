"""The one table of defaults, for every public function, recipe and command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Defaults:
    """The default of every option; `prunus.prune`, recipes and the command line read it from here.

    Attributes:
        levels: ``("unit",)``: units are removed.
        method: None: units, weights or both by a criterion and an allocator, as ``levels`` says.
        criterion: None: ``obs-units`` where there are data and that takes no longer than minutes, else magnitude.
        allocator: None: the knapsack over measured levels for ``obs-units``, uniform for other scores of units, global
            for weights.
        repair: how the kept weights are refitted where there are data.
        method_options: {}: the method's own settings as they are.
        window: None: tiles of 4 × 4 weights for ``window-wise``.
        methods: (): fine-tuning, structured and activation pruning for ``integrated``.
        effort: ``minutes``: closed-form repairs, then matching while it pays; or ``seconds``, ``best``.
        time_limit: None: no limit on the seconds of scores, repairs and searches.
        memory_limit: None: a quarter of the free memory for samples and statistics.
        search: the number of plans around the allocator's that are compared by their true loss.
        judge: a repair after which the plans of a search are judged.
        merge: None: inputs that stay take over the share of those that go where the method says so.
        key_path: None: the key path is found by importance.
        reconnect: None: a dropped branch leaves the other operand of its join.
        damage: whether the damage of every decision is measured.
        threads: intra-op threads while ops are timed for a budget in milliseconds.
        seed: the seed of all random numbers.
        loss: the loss that scores and choices minimise.
        forward: ``keep``: no forward of the user's is rewritten.
        resolution: None: the input size stays.
        config_ties: whether a Hugging Face config alone has to describe the cut network.
        nodes, strategy, divide, optimise: None: no node has a setting; ``hierarchical`` then takes the strategies
            ``auto``, divides by ``feature`` and optimises by ``refit``.
    """

    levels: tuple[str, ...] = ("unit",)
    method: str | None = None
    method_options: dict[str, Any] = field(default_factory=dict)
    criterion: str | None = None
    allocator: str | None = None
    window: str | None = None
    methods: tuple[dict[str, Any], ...] = ()
    repair: str = "auto"
    effort: str = "minutes"
    time_limit: None = None
    memory_limit: None = None
    search: int = 0
    judge: str = "none"
    merge: bool | None = None
    reconnect: Literal["identity", "pooling", "projection", "auto"] | None = None
    key_path: None = None
    damage: bool = False
    threads: int = 1
    seed: int = 0
    loss: str = "cross_entropy"
    forward: str = "keep"
    config_ties: bool = False
    nodes: None = None
    strategy: str | None = None
    divide: str | None = None
    optimise: str | None = None
    resolution: None = None


DEFAULTS = Defaults()
