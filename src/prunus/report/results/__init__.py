"""Measured rows, or a results.json (schema prunus-results/1), in; the records of a comparison, or that file, out."""

from prunus.report.results.frontier import Frontier, TrainingPoint
from prunus.report.results.record import SCHEMA, Origin, Results
from prunus.report.results.rows import Environment, Interval, LayerChange, Level, Row, Skipped, named
from prunus.report.results.summary import Spread, Summary, summarise

__all__ = [
    "SCHEMA",
    "Environment",
    "Frontier",
    "Interval",
    "LayerChange",
    "Level",
    "Origin",
    "Results",
    "Row",
    "Skipped",
    "Spread",
    "Summary",
    "TrainingPoint",
    "named",
    "summarise",
]
