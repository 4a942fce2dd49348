"""The positions in the original of everything that is left of a network after any number of successive cuts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunus.errors import PlanError
from prunus.plans import Plan

Origins = dict[str, dict[int, np.ndarray]]


def origins(plans: Sequence[Plan]) -> Origins:
    """Return tensor → dim → the index in the original of every position that is left after all cuts.

    o₁ = k₁;  o_t = o_{t−1}[k_t], with k_t the indices that cut number t kept. Dims that no cut touched are left out.

    Args:
        plans: of successive cuts, the first that of the original.

    Raises:
        PlanError: a plan keeps a position that the one before it removed: they are no successive cuts of one network.

    Example:
        ``index = origins([first.plan, second.plan])["conv1.weight"][0]``
    """
    found: Origins = {}
    for number, plan in enumerate(plans, start=1):
        for name, dims in plan.keep.items():
            for dim, kept in dims.items():
                before = found.setdefault(name, {}).get(dim)
                if before is not None and len(kept) and int(kept.max()) >= len(before):
                    raise PlanError(
                        f"Plan number {number} keeps position {int(kept.max())} of dim {dim} of {name!r}, which has "
                        f"{len(before)} left; give the plans of successive cuts, in their order."
                    )
                found[name][dim] = np.asarray(kept) if before is None else before[kept]
    return found
