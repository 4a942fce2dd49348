"""A dense and a cut network with unlabelled data in; the cut network with refitted weights, and a report, out."""

from prunus.repairs.each_layer import refit_layers, see_layers
from prunus.repairs.layerwise_run import RunResult
from prunus.repairs.moments import Moments, merged
from prunus.repairs.partial_models import repair_parts_
from prunus.repairs.repair_model import check_repair, repair_
from prunus.repairs.repairs import REPAIRS
from prunus.repairs.report import LayerRepair, RepairReport
from prunus.repairs.sites import Site

__all__ = [
    "REPAIRS",
    "LayerRepair",
    "Moments",
    "RepairReport",
    "RunResult",
    "Site",
    "check_repair",
    "merged",
    "refit_layers",
    "repair_",
    "repair_parts_",
    "see_layers",
]
