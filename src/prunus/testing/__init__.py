"""Contract suites: what every member of a role promises, checked for yours by one line in your own test file.

Each function returns a class whose methods are the promises; pytest collects it under any name::

    import prunus.testing

    TestMyCriterion = prunus.testing.criterion_suite("my-criterion")
    TestMyAllocator = prunus.testing.allocator_suite("my-allocator")

A member is named as its package enrols it, or given itself. A failure says what is wrong, what was got, what is allowed
and what to do. ``TestMyCriterion.failures()`` runs the same checks without pytest, which prunus does not need.
"""

from prunus.testing.allocators import allocator_suite
from prunus.testing.cases import example_analysis, example_data
from prunus.testing.criteria import criterion_suite
from prunus.testing.exporters import Saved, example_result, exporter_suite
from prunus.testing.methods import method_suite
from prunus.testing.repairs import repair_suite
from prunus.testing.rules import rule_suite
from prunus.testing.schedules import schedule_suite
from prunus.testing.suite import ContractError, Suite
from prunus.testing.weight_criteria import weight_criterion_suite

__all__ = [
    "ContractError",
    "Saved",
    "Suite",
    "allocator_suite",
    "criterion_suite",
    "example_analysis",
    "example_data",
    "example_result",
    "exporter_suite",
    "method_suite",
    "repair_suite",
    "rule_suite",
    "schedule_suite",
    "weight_criterion_suite",
]
