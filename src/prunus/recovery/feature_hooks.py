"""Hooks that record the outputs of modules inside a forward call, and detach the inputs of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.data.batches import tensors_in
from prunus.foundation.as_found import Handle, hooked


class FeatureHooks:
    """The outputs of some modules of a model during the calls made inside ``with``.

    Args:
        model: left as it is; the hooks are removed afterwards.
        paths: modules whose outputs are recorded: the first floating-point tensor of the last call of each.
        borders: modules whose inputs are detached, so that no gradient flows back through them.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str], borders: Iterable[str] = ()) -> None:
        self._model, self._paths, self._borders = model, tuple(paths), tuple(borders)
        self.values: dict[str, Tensor] = {}
        self.calls: dict[str, int] = {}

    def __enter__(self) -> FeatureHooks:
        self._open = hooked(self._registered())
        self._open.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.__exit__(kind, error, at)

    def _registered(self) -> Iterator[Handle]:
        for path in self._paths:
            yield self._model.get_submodule(path).register_forward_hook(self._keeper(path))
        for path in self._borders:
            yield self._model.get_submodule(path).register_forward_pre_hook(_detached, with_kwargs=True)

    def _keeper(self, path: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            tensor = next((t for t in tensors_in(output) if t.is_floating_point()), None)
            if tensor is not None:
                self.values[path] = tensor
                self.calls[path] = self.calls.get(path, 0) + 1

        return keep


def _detached(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.detach(), (args, kwargs))
