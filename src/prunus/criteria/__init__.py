"""Scores, one file a criterion: higher = keep."""

from prunus.criteria.activation import ActivationStatistics, activation_statistics
from prunus.criteria.criterion import CRITERIA, Criterion
from prunus.criteria.evidence import Evidence
from prunus.criteria.gradient import gradient
from prunus.criteria.gradients import collect_gradients
from prunus.criteria.importance import importance, importance_weighted
from prunus.criteria.magnitude import magnitude
from prunus.criteria.random import random
from prunus.criteria.taylor import taylor_weight
from prunus.criteria.units import UNIT_CRITERIA, UnitCriterion, UnitEvidence, unit_scores

__all__ = [
    "CRITERIA",
    "UNIT_CRITERIA",
    "ActivationStatistics",
    "Criterion",
    "Evidence",
    "UnitCriterion",
    "UnitEvidence",
    "activation_statistics",
    "collect_gradients",
    "gradient",
    "importance",
    "importance_weighted",
    "magnitude",
    "random",
    "taylor_weight",
    "unit_scores",
]
