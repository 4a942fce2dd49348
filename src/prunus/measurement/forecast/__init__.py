"""A model and a plan in; the predicted gain in time and size on each runtime, before the cut, out."""

from prunus.measurement.forecast.forecast import Forecast, forecast, warnings_of
from prunus.measurement.forecast.onnx_ops import onnx_ratio
from prunus.measurement.forecast.sparse_ops import sparse_ratio

__all__ = ["Forecast", "forecast", "onnx_ratio", "sparse_ratio", "warnings_of"]
