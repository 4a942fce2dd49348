"""Less dropout during a recovery."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

_WITH_ANY = (nn.RNNBase, nn.MultiheadAttention)


@contextmanager
def less_dropout(model: nn.Module, factor: float) -> Iterator[None]:
    """Multiply a model's dropout inside a block: p′ = factor · p; afterwards every module has its own p again.

    The cut already regularises, and in a few hundred steps the noise costs more than it gains: with full dropout a
    small network cannot follow its teacher.
    Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", arXiv:1506.02626, §3.2
    (dropout falls with the connections that are left).

    Args:
        model: changed while inside; torch's own modules, not calls of ``functional.dropout``.
        factor: 0 to 1.
    """
    rates: list[tuple[nn.Module, str]] = [(m, "p") for m in model.modules() if isinstance(m, _DropoutNd)]
    rates += [(m, "dropout") for m in model.modules() if isinstance(m, _WITH_ANY)]
    before = [(module, name, getattr(module, name)) for module, name in rates]
    try:
        for module, name, value in before:
            setattr(module, name, factor * value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
