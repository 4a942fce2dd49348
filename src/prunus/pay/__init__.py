"""Will it pay? What a plan is predicted to gain in time and size on each runtime, before anything is cut."""

from prunus.pay.forecast import Forecast, forecast, warnings_of
from prunus.pay.onnx_ops import onnx_ratio
from prunus.pay.sparse_ops import sparse_ratio

__all__ = ["Forecast", "forecast", "onnx_ratio", "sparse_ratio", "warnings_of"]
