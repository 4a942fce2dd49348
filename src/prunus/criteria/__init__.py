"""Criteria: weights and statistics of calibration data in, one score a unit or a weight out; higher = keep."""

from prunus.criteria import gate_probes, moments, parameter_gradients  # noqa: F401  (probes)
from prunus.criteria.activation import ActivationStatistics, activation_statistics
from prunus.criteria.comparable_scores import comparable_scores, damage_curves
from prunus.criteria.criterion import CRITERIA, Criterion
from prunus.criteria.functions import (
    criterion_name,
    criterion_of,
    is_unit_criterion,
    is_weight_criterion,
    weight_criterion_of,
)
from prunus.criteria.gradient import gradient
from prunus.criteria.gradients import collect_gradients
from prunus.criteria.importance import importance, importance_weighted
from prunus.criteria.lamp import lamp
from prunus.criteria.magnitude import magnitude
from prunus.criteria.mixture import canonical, mixture_of
from prunus.criteria.movement import MovementSums, movement
from prunus.criteria.noise import noise_batches
from prunus.criteria.probes import PROBES, Calibration, Probe, collect_evidence, probes_for
from prunus.criteria.random import random
from prunus.criteria.relative import relative_max, relative_std
from prunus.criteria.snip import snip
from prunus.criteria.taylor import taylor_weight
from prunus.criteria.unit_criterion import (
    UNIT_CRITERIA,
    CriterionLike,
    UnitCriterion,
    UnitEvidence,
    UnitRule,
    needs_of,
    unit_rule,
)
from prunus.criteria.unit_group import Group, groups_of
from prunus.criteria.units import unit_magnitude  # noqa: F401  (enrols the unit criteria)
from prunus.criteria.wanda import wanda
from prunus.criteria.weight_statistics import Evidence

__all__ = [
    "CRITERIA",
    "PROBES",
    "UNIT_CRITERIA",
    "ActivationStatistics",
    "Calibration",
    "Criterion",
    "CriterionLike",
    "Evidence",
    "Group",
    "MovementSums",
    "Probe",
    "UnitCriterion",
    "UnitEvidence",
    "UnitRule",
    "activation_statistics",
    "canonical",
    "collect_evidence",
    "collect_gradients",
    "comparable_scores",
    "criterion_name",
    "criterion_of",
    "damage_curves",
    "gradient",
    "groups_of",
    "importance",
    "importance_weighted",
    "is_unit_criterion",
    "is_weight_criterion",
    "lamp",
    "magnitude",
    "mixture_of",
    "movement",
    "needs_of",
    "noise_batches",
    "probes_for",
    "random",
    "relative_max",
    "relative_std",
    "snip",
    "taylor_weight",
    "unit_rule",
    "wanda",
    "weight_criterion_of",
]
