"""Pruning methods, one file a family: an analysis and limits in, a `Plan` out; importing this package enrols them."""

from prunus.methods import weights  # noqa: I001  (the order of enrolment is the order of the tables)
from prunus.methods import patterns, scored_weights, solved_weights, solved_windows
from prunus.methods import scored_units, window_wise, unit_wise, obs_units
from prunus.methods import key_path, modular
from prunus.methods import chain_depth, depth, redundancy, redundant_weights
from prunus.methods import layer_wise, multi_scale, tree_knapsack, hierarchical
from prunus.methods import fine_tuning, integrated, transfer, while_training
from prunus.methods import baselines, oracle, by_criterion
from prunus.methods.method import METHODS, Level, Method

__all__ = [
    "METHODS",
    "Level",
    "Method",
    "baselines",
    "by_criterion",
    "chain_depth",
    "depth",
    "fine_tuning",
    "hierarchical",
    "integrated",
    "key_path",
    "layer_wise",
    "modular",
    "multi_scale",
    "obs_units",
    "oracle",
    "patterns",
    "redundancy",
    "redundant_weights",
    "scored_units",
    "scored_weights",
    "solved_weights",
    "solved_windows",
    "transfer",
    "tree_knapsack",
    "unit_wise",
    "weights",
    "while_training",
    "window_wise",
]
