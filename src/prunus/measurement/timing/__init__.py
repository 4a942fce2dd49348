"""A model and its coupling in; a model of its latency on this machine at any widths, fitted to op times, out."""

from prunus.measurement.timing.model import LatencyModel, latency_model, widths_in_multiples
from prunus.measurement.timing.sampling import OpTimes, time_ops

__all__ = ["LatencyModel", "OpTimes", "latency_model", "time_ops", "widths_in_multiples"]
