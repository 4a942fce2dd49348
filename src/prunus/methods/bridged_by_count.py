"""Plans of budgets that count the layers of a chain, or the modules of any network, with bridges in place of others."""

from __future__ import annotations

from prunus.analysis import Analysis
from prunus.budget.counts import Count, Threshold, number_kept
from prunus.budget.useful import check_something_goes
from prunus.errors import BudgetError
from prunus.methods.bridges import fewer
from prunus.methods.chain_depth import chain_runs, layers_of
from prunus.methods.counted import number_of
from prunus.methods.reconnect import innermost, module_runs
from prunus.plans import Plan


def bridged_by_count(analysis: Analysis, count: Count, reconnect: str | None) -> Plan:
    """Bridge parts of a network until as many stay as the budget says.

    Args:
        analysis: the network and its data.
        count: the budget.
        reconnect: how modules are reconnected; None bridges layers of a chain.

    Raises:
        BudgetError: a threshold, no parts, or all would stay.
    """
    chain = reconnect is None
    parts = layers_of(analysis) if reconnect is None else innermost(analysis)
    what = "layers" if chain else "modules"
    if isinstance(count.whole, Threshold) or count.whole is None:
        raise BudgetError(
            f"Budget {count} compares scores, and {what} are ranked by the loss without them; give a number, such as "
            "modules: 0.5."
        )
    if len(parts) < 2:
        raise BudgetError(
            f"Budget {count} counts {what}, and this network has {len(parts) or 'no'} {what[:-1]} "
            "that a bridge can replace; at least 2 are needed. Use another budget or method."
        )
    number = max(1, number_kept(number_of(count.whole), len(parts)))
    check_something_goes(count, what, len(parts), number < len(parts))
    runs = chain_runs if reconnect is None else module_runs(reconnect)
    return fewer(analysis, runs, str(count), number, len(parts), "chain-depth" if chain else "modular", what)
