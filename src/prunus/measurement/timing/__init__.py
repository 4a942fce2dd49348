"""How long a network of any widths takes on this machine, without cutting it: op times measured, fitted, added up."""

from prunus.measurement.timing.model import LatencyModel, latency_model, widths_in_multiples
from prunus.measurement.timing.sampling import OpTimes, time_ops

__all__ = ["LatencyModel", "OpTimes", "latency_model", "time_ops", "widths_in_multiples"]
