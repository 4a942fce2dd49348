"""Every enrolled weight criterion, allocator, schedule, repair and exporter keeps the promises of its role."""

from __future__ import annotations

from factories_suites import suites
from prunus.budget import ALLOCATORS
from prunus.criteria import CRITERIA
from prunus.exporters import EXPORTERS
from prunus.repairs import REPAIRS
from prunus.testing import (
    allocator_suite,
    exporter_suite,
    repair_suite,
    schedule_suite,
    weight_criterion_suite,
)
from prunus.training.schedules import KEPT_SCHEDULES

# A folder for transformers alone: what it promises is tried on its models in tests/unit/test_huggingface.py.
OF_TRANSFORMERS = ("huggingface",)
GENERAL = [name for name in EXPORTERS.names() if name not in OF_TRANSFORMERS]


def prefixed(kind: str, found: dict[str, object]) -> dict[str, object]:
    return {name.replace("Test_", f"Test_{kind}_"): suite for name, suite in found.items()}


globals().update(
    prefixed("criterion", suites(CRITERIA.names(), weight_criterion_suite, {"random": {"draws": True}}))
    | prefixed("allocator", suites(ALLOCATORS.names(), allocator_suite))
    | prefixed("schedule", suites(KEPT_SCHEDULES.names(), schedule_suite))
    | prefixed("repair", suites(REPAIRS.names(), repair_suite))
    | prefixed("exporter", suites(GENERAL, exporter_suite))
)
