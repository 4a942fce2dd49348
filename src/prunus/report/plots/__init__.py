"""Results in; charts as SVG texts out, deterministic, themed by CSS variables, readable without colour."""

from prunus.report.plots.bars import cost_bars, stability
from prunus.report.plots.curves import latency_scatter, tradeoff
from prunus.report.plots.layers import structure

__all__ = ["cost_bars", "latency_scatter", "stability", "structure", "tradeoff"]
