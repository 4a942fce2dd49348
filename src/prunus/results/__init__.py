"""What a comparison found: the records behind results.json (schema prunus-results/1)."""

from prunus.results.record import SCHEMA, Results
from prunus.results.rows import Environment, Interval, LayerChange, Level, Row, Skipped, named
from prunus.results.summary import Spread, Summary, summarise

__all__ = [
    "SCHEMA",
    "Environment",
    "Interval",
    "LayerChange",
    "Level",
    "Results",
    "Row",
    "Skipped",
    "Spread",
    "Summary",
    "named",
    "summarise",
]
