"""What a network is made of, what can go, and what is frozen and why."""

from prunus.report.inspection.build import inspect_model, inspected, inspection_of
from prunus.report.inspection.record import AxisPart, FrozenPart, ModulePart, NumberPart, UnknownOp
from prunus.report.inspection.text import Inspection, print_inspection

__all__ = [
    "AxisPart",
    "FrozenPart",
    "Inspection",
    "ModulePart",
    "NumberPart",
    "UnknownOp",
    "inspect_model",
    "inspected",
    "inspection_of",
    "print_inspection",
]
