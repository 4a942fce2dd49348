"""Hierarchical pruning: divide, evaluate, choose a strategy, prune and optimise, level by level."""

from __future__ import annotations

from typing import Any

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.methods.hierarchy.procedure import Procedure, plan_of
from prunus.methods.hierarchy.settings import TREE_OPTIONS
from prunus.methods.method import method
from prunus.plans import Plan


@method(
    "hierarchical",
    "hierarchical",
    "level by level: divide, evaluate, choose a strategy for each node, prune, optimise",
    options=TREE_OPTIONS,
)
def hierarchical(
    analysis: Analysis,
    limits: Limits,
    *,
    nodes: Any = None,
    strategy: str | None = None,
    divide: Any = None,
    optimise: Any = None,
) -> Plan:
    """Prune the levels of a network in turn, from blocks to units, windows and weights, under one budget.

    The network is divided into stages and every node is evaluated: its shares of parameters and MACs, the means of its
    weights, gradients and activations, and the rise of the loss with a part of it at zero. Each level then gets the
    share of the budget, and each node the strategy, of least loss; the weights are optimised before the next level.

    Source: own.

    Args:
        analysis: the network and its data.
        limits: the limit of all levels together.
        nodes: pattern or address → method, criterion, rate, size and strategy of a part of the tree. Nodes with a rate
            are fixed, the others divide what is left.
        strategy: ``auto``, ``weight``, ``gradient`` or ``activation`` for nodes without their own.
        divide: ``feature``, ``depth`` or ``connections``, the latter two as ``depth:3``.
        optimise: ``refit``, ``none``, the name of a repair, or ``finetune:50``.

    Raises:
        SelectorError: a pattern that matches nothing.
        OptionError: a setting that is not allowed, or that needs data where there are none.
        BudgetError: the budget is out of reach beside the fixed nodes.
    """
    procedure = Procedure.of(analysis, limits[0], nodes, strategy, divide, optimise)
    return plan_of(procedure.run(), "hierarchical", procedure)
