"""Blocks and branches of the graph."""

from prunus.tree.branches import Branch, concat_joins, find_branches, residual_joins
from prunus.tree.describe import ModuleRow, structure_rows

__all__ = ["Branch", "ModuleRow", "concat_joins", "find_branches", "residual_joins", "structure_rows"]
