"""What a comparison found: the records behind results.json (schema prunus-results/1)."""

from prunus.report.results.record import SCHEMA, Results
from prunus.report.results.rows import Environment, Interval, LayerChange, Level, Row, Skipped, named
from prunus.report.results.summary import Spread, Summary, summarise

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
