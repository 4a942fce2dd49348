"""An outcome's cut and dense network in; a table out, one row per call, each compared with the masked dense network."""

from prunus.outcome.calls.built_in import CALLS
from prunus.outcome.calls.record import CallTable, Row
from prunus.outcome.calls.subject import Subject
from prunus.outcome.calls.table import Calls, call_table

__all__ = ["CALLS", "CallTable", "Calls", "Row", "Subject", "call_table"]
