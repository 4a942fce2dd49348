"""An ATen op with the dims of its arguments in; the dims of its results out, related by one rule a family of ops."""

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
