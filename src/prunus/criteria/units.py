"""Every unit criterion, enrolled by importing it."""

from __future__ import annotations

from prunus.criteria.activity import apoz, mean_activation, unit_contribution, unit_sensitivity
from prunus.criteria.bn_scale import bn_scale
from prunus.criteria.fisher import fisher, worst_class
from prunus.criteria.fpgm import fpgm
from prunus.criteria.movement import movement_unit
from prunus.criteria.random import unit_random
from prunus.criteria.redundancy import redundancy
from prunus.criteria.unit_norm import unit_l1, unit_magnitude
from prunus.criteria.unit_taylor import snip_unit, taylor_batch, taylor_sample, unit_taylor
from prunus.criteria.wanda import wanda_unit

__all__ = [
    "apoz",
    "bn_scale",
    "fisher",
    "fpgm",
    "mean_activation",
    "movement_unit",
    "redundancy",
    "snip_unit",
    "taylor_batch",
    "taylor_sample",
    "unit_contribution",
    "unit_l1",
    "unit_magnitude",
    "unit_random",
    "unit_sensitivity",
    "unit_taylor",
    "wanda_unit",
    "worst_class",
]
