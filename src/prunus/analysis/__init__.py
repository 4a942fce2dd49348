"""A model, example inputs and data in; an `Analysis` out, from which every plan is made."""

from prunus.analysis.analyse import analyse
from prunus.analysis.record import BATCH, Analysis, LossFunction
from prunus.data.given import AsGiven, Given, NoData

__all__ = ["BATCH", "Analysis", "AsGiven", "Given", "LossFunction", "NoData", "analyse"]
