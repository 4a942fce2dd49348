"""A model, example inputs and data in; an `Analysis` out, from which every plan is made."""

from prunus.analysis.analyse import analyse
from prunus.analysis.data import AsGiven, Given, NoData
from prunus.analysis.record import BATCH, Analysis, LossFunction

__all__ = ["BATCH", "Analysis", "AsGiven", "Given", "LossFunction", "NoData", "analyse"]
