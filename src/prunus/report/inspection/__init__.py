"""A model or its analysis in; an `Inspection` out: modules, removable axes, and frozen dims with their reasons."""

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
