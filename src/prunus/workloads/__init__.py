"""Built-in models with data, by name; an outside package adds its own through the entry point ``prunus.workload``."""

from prunus.workloads.digits import DIGITS
from prunus.workloads.registry import WORKLOADS, Workload
from prunus.workloads.splits import Split, Splits, splits_from_loaders

__all__ = ["DIGITS", "WORKLOADS", "Split", "Splits", "Workload", "splits_from_loaders"]
