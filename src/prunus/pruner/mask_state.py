"""The masks, units and branches of a pruning in progress: stored, restored, and described as decisions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from prunus.analysis.score import make_plan
from prunus.errors import OptionError, UsageError
from prunus.graph.coupling import Coupling
from prunus.plans import Decision, Plan
from prunus.pruner.strategy import Scene
from prunus.training.mask_holder import MaskHolder
from prunus.tree import find_branches


def first_masks(scene: Scene, given: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the masks from which a pruning begins: those of the structure's removed parts, or given ones of weights.

    Raises:
        OptionError: masks where units or branches are removed, of a weight that may not be masked, or of another shape.
        SelectorError: a mask for a name that is no parameter.
    """
    if scene.structure is not None:
        if given:
            raise OptionError(
                f"masks are given, and method {scene.options.method!r} removes units or branches; allowed there: none."
            )
        return scene.structure.masks(scene.model)
    MaskHolder.of(scene.model, given or {})
    for name in given or {}:
        if name not in scene.weights:
            raise OptionError(f"masks name {name!r}, which is not prunable here; allowed: {', '.join(scene.weights)}.")
    return scene.placed(given or {})


def scene_state(scene: Scene) -> dict[str, Any]:
    """Return options, masks, units and branches as a nest of tensors, numbers and texts."""
    parts = scene.structure
    return {
        "options": scene.options.describe(),
        "network": _network(scene),
        "masks": {name: mask.clone() for name, mask in scene.masks.items()},
        "keep": {axis: units.tolist() for axis, units in parts.keep.items()} if parts else {},
        "dropped": [branch.id for branch in parts.dropped] if parts else [],
    }


def restore_scene(scene: Scene, state: Mapping[str, Any]) -> None:
    """Restore the state that `scene_state` returned.

    Raises:
        OptionError: it is no such state, or it was made with other options or for another network.
    """
    if "options" not in state or "network" not in state:
        raise OptionError(f"a pruner's state has the keys {', '.join(state) or 'none'}; give what state_dict returned.")
    for name, value in scene.options.describe().items():
        stored = state["options"].get(name)
        if stored != value:
            raise OptionError(
                f"the stored pruning has {name} = {stored!r}, this one has {value!r}; go on with the same options, or "
                "begin anew."
            )
    if state["network"] != _network(scene):
        raise OptionError(
            f"the stored pruning is of a network with other weights than this {type(scene.model).__name__}; give the "
            "pruner the network that it was made for, uncut."
        )
    scene.masks = scene.placed(state["masks"])
    if scene.structure is not None:
        scene.structure.keep = {axis: np.asarray(units, bool) for axis, units in state["keep"].items()}
        if state["dropped"]:
            known = {branch.id: branch for branch in find_branches(scene.structure.coupling)}
            scene.structure.dropped = tuple(known[name] for name in state["dropped"])


def _network(scene: Scene) -> str:
    """Return a digest of names and shapes of all parameters."""
    shapes = sorted(f"{name}{tuple(parameter.shape)}" for name, parameter in scene.model.named_parameters())
    return hashlib.sha256(";".join(shapes).encode()).hexdigest()[:16]


def decisions_of(scene: Scene) -> list[Decision]:
    """Return what is masked or removed as decisions for people."""
    reason = f"{scene.options.method} while training"
    if scene.structure is None:
        return [Decision(n, "weight", int((~m).sum()), m.numel(), reason) for n, m in scene.masks.items()]
    blocks = [Decision(b.id, "block", b.params, b.params, reason) for b in scene.structure.dropped]
    units = [
        Decision(axis, "unit", int((~m).sum()), len(m), reason)
        for axis, m in scene.structure.keep.items()
        if not m.all()
    ]
    weights = [
        Decision(name, "weight", int((~m).sum()), m.numel(), reason) for name, m in scene.structure.masked.items()
    ]
    return blocks + units + weights


def plan_of(scene: Scene, coupling: Coupling | None) -> Plan:
    """Return the plan of the present masks; weight masks need the coupling of the network.

    Raises:
        UsageError: only weights are masked, and no coupling is given.
    """
    if scene.structure is not None:
        return scene.structure.plan(decisions_of(scene))
    if coupling is None:
        raise UsageError("a plan of weight masks needs the network's analysis; give couple(capture(model, inputs)).")
    arrays = {name: mask.cpu().numpy() for name, mask in scene.masks.items()}
    return make_plan(coupling, {}, masks=arrays, decisions=decisions_of(scene))
