"""Which calls a cut network takes as the dense one does: a table, each row compared with the masked dense network."""

from prunus.outcome.calls.built_in import CALLS
from prunus.outcome.calls.record import CallTable, Row
from prunus.outcome.calls.subject import Subject
from prunus.outcome.calls.table import WantedCalls, call_table

__all__ = ["CALLS", "CallTable", "Row", "Subject", "WantedCalls", "call_table"]
