"""The records of an inspection, and their JSON form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

SCHEMA = "prunus-inspection/1"


@dataclass(frozen=True, slots=True)
class FrozenPart:
    """A dim of a parameter, or a factor of it, that cannot be cut.

    Attributes:
        tensor, dim, numel: the tensor, the dim, and the scalars of the whole tensor.
        size: positions of the frozen factor; the whole dim if it has no other factor.
        reason: the short word that the analysis gives; `frozen_groups.meaning` explains it.
        op, module, source: the op that froze it, the module that ran the op, and the line of code;
            empty if no op reads the tensor.
    """

    tensor: str
    dim: int
    numel: int
    size: int
    reason: str
    op: str
    module: str
    source: str


@dataclass(frozen=True, slots=True)
class AxisPart:
    """A removable axis: each of its units can be cut, from all its tensors at once.

    Attributes:
        id: its name in plans.
        module: the module after which it is named, and under which it is shown.
        size: the number of units.
        statistic: whether some op averages over it.
        members: the tensor dims that it cuts, such as ``conv1.weight[0]``.
        params, macs: scalars and forward MACs on the axis; each removed unit saves a share of them.
    """

    id: str
    module: str
    size: int
    statistic: bool
    members: tuple[str, ...]
    params: int
    macs: int


@dataclass(frozen=True, slots=True)
class ModulePart:
    """One module; the root has the empty path.

    Attributes:
        path, kind: its name and its class.
        calls: the number of its calls in one forward; 0 for a container whose parts are called by others.
        params, macs: of it and everything inside; a shared parameter counts at its first module.
        own_params, own_macs: without the modules inside.
        axes: ids of the axes that it owns.
        frozen: dims of its own parameters that cannot be cut.
        tied: its parameters that are those of another module, with the names there.
    """

    path: str
    kind: str
    calls: int
    params: int
    own_params: int
    macs: int
    own_macs: int
    axes: tuple[str, ...]
    frozen: tuple[FrozenPart, ...]
    tied: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class UnknownOp:
    """An op without a rule, and the first place where it runs; the dims of its tensors are frozen."""

    op: str
    where: str


@dataclass(frozen=True, slots=True)
class NumberPart:
    """A number in the recorded program, and its origin in the code.

    Attributes:
        op, argument, value: the literal, such as ``view``, ``size``, 64.
        origin: the values that it was computed from: attributes of modules, entries of their settings, sizes of values.
        follows: the kept counts that it depends on, such as ``attn.heads = attn.q:out[0]``; empty if no cut changes it.
        module, source: the module whose forward uses it, and the line.
    """

    op: str
    argument: str
    value: int | float
    origin: str
    follows: str
    module: str
    source: str


@dataclass(frozen=True, slots=True)
class InspectionRecord:
    """A network with its price, its axes and its frozen dims; `Inspection` adds the text that printing it shows.

    Attributes:
        name: the name of the network; its class by default.
        inputs: shape and dtype of each example input; MACs are those of one call on them.
        how: the method of capture.
        notes: assumptions of the capture.
        nodes: ops in the graph.
        params, macs_forward, macs_backward, param_bytes: exact counts of the whole.
        coverage_params, coverage_macs: shares of the parameters and forward MACs that lie on a removable axis, in 0..1.
        modules: the modules, outside before inside, in the order of definition.
        axes: the removable axes.
        unknown: ops without a rule.
        forward: ``keep``: axes are frozen and tied so that no forward has to be rewritten; else ``rewrite``.
        coverage_rewritten: share of the parameters that could go if forwards were rewritten; None where they may be.
        ties: axes that lose units together, such as ``stem:out / 6 = attn.q:out[0]`` of kept counts.
        numbers: the numbers of the code that have an origin, where forwards are kept.
    """

    name: str
    inputs: tuple[str, ...]
    how: str
    notes: tuple[str, ...]
    nodes: int
    params: int
    macs_forward: int
    macs_backward: int
    param_bytes: int
    coverage_params: float
    coverage_macs: float
    modules: tuple[ModulePart, ...]
    axes: tuple[AxisPart, ...]
    unknown: tuple[UnknownOp, ...]
    forward: str = "rewrite"
    coverage_rewritten: float | None = None
    ties: tuple[str, ...] = ()
    numbers: tuple[NumberPart, ...] = ()

    @property
    def frozen(self) -> Iterator[FrozenPart]:
        """Every frozen dim of every parameter, in the order of the modules."""
        return (part for module in self.modules for part in module.frozen)

    def to_json(self) -> str:
        """Return everything as JSON text; ``schema`` names its version."""
        content = {"schema": SCHEMA, **asdict(self)}
        for module in content["modules"]:
            module["share_params"] = _share(module["params"], self.params)
            module["share_macs"] = _share(module["macs"], self.macs_forward)
            module["tied"] = dict(module["tied"])
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0
