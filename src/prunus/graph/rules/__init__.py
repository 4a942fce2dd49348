"""How each ATen op relates the dims of its arguments and results: one file an op family."""

from __future__ import annotations

import importlib

from prunus.foundation.registry import words
from prunus.graph.rules.context import RULES, Flow, Rule, rule

_FAMILIES = words(
    "elementwise contraction convolution normalisation reshape join reduction indexing attention recurrent spatial "
    "creation"
)


def load_rules() -> None:
    """Import every rule family of this package; safe to call often."""
    for family in _FAMILIES:
        importlib.import_module(f"prunus.graph.rules.{family}")


__all__ = ["RULES", "Flow", "Rule", "load_rules", "rule"]
