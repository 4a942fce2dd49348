"""The edited graph as an nn.Module, with the user's module tree and parameter names; its forward is generated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prunus.graph.ir import TENSOR, Graph
from prunus.surgery.rewriting.emit import Emitter, compile_forward
from prunus.surgery.rewriting.symbolic_sizes import Growth


class Program(nn.Module):
    """A network that runs an edited graph.

    Dropout and batch normalisation switch with ``.train()``; parameter names are those of the captured model.
    """

    def __init__(
        self,
        graph: Graph,
        values: Mapping[str, torch.Tensor],
        trainable: Mapping[str, bool],
        growth: Growth | None = None,
    ) -> None:
        super().__init__()
        placed: dict[str, torch.Tensor] = {}
        used = {n.tensor for n in graph.nodes if n.op == TENSOR}
        names = [n for n, i in graph.tensors.items() if n in used or i.kind != "constant"]
        names += [a for a, c in graph.aliases.items() if c in graph.tensors]
        for path in graph.modules:
            self._place(path)
        for name in names:
            canonical = graph.aliases.get(name, name)
            info = graph.tensors[canonical]
            if info.kind == "parameter":
                if canonical not in placed:
                    placed[canonical] = nn.Parameter(values[canonical].clone(), trainable.get(canonical, True))
            else:
                placed.setdefault(canonical, values[canonical].clone())
            self._register(name, placed[canonical], info.kind)
        emitter = Emitter(graph, 0, growth=growth)
        emission = emitter.emit()
        self.source, self._names = emitter.source(), emission.names
        self._run = compile_forward(self.source, self._names, "program")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._run = compile_forward(self.source, self._names, "program")

    def _place(self, path: str) -> nn.Module:
        module: nn.Module = self
        for part in path.split(".") if path else ():
            child = module._modules.get(part)
            if child is None:
                child = nn.Module()
                module.add_module(part, child)
            module = child
        return module

    def _register(self, name: str, value: torch.Tensor, kind: str) -> None:
        if kind == "constant":
            self.register_buffer(re.sub(r"[^0-9A-Za-z_]", "_", name), value)
            return
        path, _, leaf = name.rpartition(".")
        owner = self._place(path)
        if kind == "parameter":
            owner.register_parameter(leaf, value)  # type: ignore[arg-type]
        else:
            owner.register_buffer(leaf, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the edited program on inputs that have the captured structure."""
        return self._run(self, *args, **kwargs)
