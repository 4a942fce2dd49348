"""Repair without labels: weights refitted so that the small network computes what the dense one did.

The heart is a *lock-step walk* (`walk`): the dense program and the program that a plan leaves share the names of their
nodes. Both are run node by node over all calibration batches at once. At each *site* (a linear layer or a convolution
that owns its weight) the walk stops before the small program computes it, and hands over what that site has read::

    walked = walk(model, coupling, plan, batches, at)      # plan may be None: nothing is removed
    walked.tensors                                         # name → tensor of the small network, repaired ones included

    def at(site: Site, moments: Moments) -> Tensor | None: # new weight in the shape of the small weight, or None

``site``    ``tensor`` (name of its weight), ``bias`` (name, "" where none), ``kind`` ("linear" or "conv"), ``groups``
            G, ``shape`` of the small weight, ``node``. ``site.matrix(weight)`` is the weight as (G, O/G, D), with
            D = inputs of a group × kernel positions; ``site.weight(matrix)`` is the way back.
``moments`` ``count`` n and, in float64 on the *pruned-and-repaired-so-far* network, with x the D inputs of a group
            (im2col for convolutions) and t the dense network's own output at the kept rows:
            ``second`` E[xxᵀ] (G, D, D) = H, ``mean`` E[x] (G, D), ``cross`` E[t xᵀ] (G, O/G, D),
            ``target`` E[t] (G, O/G), ``target_second`` E[t²] (G, O/G), ``covariance()`` (G, D, D).

What ``at`` returns takes its place at once: everything behind is computed from it. Sites come in the order of the
program; each once. Repairs stop at more than `walk` hands over: norms, transposed convolutions, weights that several
layers read (one stop, fitted to all), and recurrent layers, each cell of which is a few linear layers side by side.

| file | its one job |
|---|---|
| ``finding``, ``sites``, ``cells`` | where a program can be repaired |
| ``programs``, ``lockstep``, ``routes``, ``walking`` | both programs, side by side, with a stop at every site |
| ``lanes``, ``blending``, ``room`` | the samples, their parts, how many fit in memory |
| ``rows``, ``tails``, ``recurrent``, ``unrolling`` | what a layer reads and should answer |
| ``moments``, ``normals`` | these as moments or as rows, and the equations to solve |
| ``refold``, ``scales``, ``statistics``, ``blocks`` | the new weights |
| ``repairs``, ``auto``, ``report`` | the repairs by name, the choice between them, what came of it |
| ``in_parts`` | the same for every part of a model that no one program describes |
"""

from prunus.repairs.moments import Moments, merged
from prunus.repairs.partial_models import repair_parts_
from prunus.repairs.repair_model import check_repair, repair_
from prunus.repairs.repairs import REPAIRS
from prunus.repairs.report import LayerRepair, RepairReport
from prunus.repairs.sites import Site
from prunus.repairs.walking import Walked, walk

__all__ = [
    "REPAIRS",
    "LayerRepair",
    "Moments",
    "RepairReport",
    "Site",
    "Walked",
    "check_repair",
    "merged",
    "repair_",
    "repair_parts_",
    "walk",
]
