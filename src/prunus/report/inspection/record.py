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
        tensor, dim, numel: which dim, and the scalars of the whole tensor.
        size: positions of the frozen factor; the whole dim where nothing else is in it.
        reason: the short word that the analysis gives; `reasons.meaning` explains it.
        op, module, source: where it was found out: the op, the module that ran it, and the line of code that ran;
            empty where no op reads the tensor.
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
    """A set of units that go one by one, everywhere at once.

    Attributes:
        id: its name, as a plan uses it.
        module: the module that it is named after, which owns it here.
        size: how many units.
        statistic: whether some op averages over it.
        members: the tensor dims it runs through, such as ``conv1.weight[0]``.
        params, macs: scalars and forward MACs that lie on it, so that dropping a unit saves a share of them.
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
        calls: how often one forward runs it; a container whose parts are run by others has 0.
        params, macs: of it and everything inside; a shared parameter counts where it is met first.
        own_params, own_macs: of it alone.
        axes: ids of the axes that it owns.
        frozen: dims of its own parameters that cannot be cut.
        tied: its parameter names that stand for another's, with that name.
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
    """An op without a rule, and the first place where it runs; what it touches is frozen."""

    op: str
    where: str


@dataclass(frozen=True, slots=True)
class NumberPart:
    """A number in the recorded program that the code took from somewhere.

    Attributes:
        op, argument, value: the literal, such as ``view``, ``size``, 64.
        origin: what it was computed from: attributes of modules, entries of their settings, sizes of values.
        follows: what it needs in kept units, such as ``attn.heads = attn.q:out[0]``; empty where no cut changes it.
        module, source: whose forward uses it, and the line.
    """

    op: str
    argument: str
    value: int | float
    origin: str
    follows: str
    module: str
    source: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """A network with its price, its axes, and its frozen dims; printing it shows the module tree.

    Attributes:
        name: what the network is called; its class where nobody said.
        inputs: shape and dtype of each example input; MACs are those of one call on them.
        how: the way in which it was captured.
        notes: what capturing had to assume.
        nodes: ops in the graph.
        params, macs_forward, macs_backward, param_bytes: exact counts of the whole.
        coverage_params, coverage_macs: shares of the parameters and forward MACs that lie on a removable axis, in 0..1.
        modules: outside before inside, in the order of definition.
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

    def __str__(self) -> str:
        from prunus.report.inspection.text import plain_lines

        return "\n".join(plain_lines(self))


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0
