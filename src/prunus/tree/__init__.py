"""A coupling with its price in; the tree of stages, blocks, layers and units, and the removable branches, out."""

from prunus.tree.branches import Branch, concat_joins, find_branches, residual_joins
from prunus.tree.describe import ModuleRow, structure_rows
from prunus.tree.grow import grow_tree
from prunus.tree.levels import LEVELS, Tree, TreeNode

__all__ = [
    "LEVELS",
    "Branch",
    "ModuleRow",
    "Tree",
    "TreeNode",
    "concat_joins",
    "find_branches",
    "grow_tree",
    "residual_joins",
    "structure_rows",
]
