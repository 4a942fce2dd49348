"""Modules that a cut network may hold in the place of a module of torch: attention of any width, bypasses.

They are ordinary modules: they are pickled, exported, trained and moved like any other, and keep the names of the
parameters that they took over.
"""

from prunus.nn.attention import MultiheadAttention
from prunus.nn.bypass import Bypass, Zero

__all__ = ["Bypass", "MultiheadAttention", "Zero"]
