"""Find the forwards that have to be rewritten: capture the cut model, choose forwards where it differs, and repeat."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from prunus.errors import CaptureError
from prunus.foundation.as_found import random_state_kept
from prunus.graph.capture import capture, preserved, split_inputs
from prunus.graph.ir import INPUT, Graph, Ref
from prunus.surgery.rewriting.diff_programs import Differ
from prunus.surgery.rewriting.emit import ArgumentsError
from prunus.surgery.rewriting.module_calls import parameter_free
from prunus.surgery.rewriting.recapture import FurtherCaptures
from prunus.surgery.rewriting.splice import Splice, splice_
from prunus.surgery.rewriting.symbolic_sizes import Growth


@dataclass(slots=True)
class Search:
    """A search for forwards to rewrite, until a cut network runs the edited graph.

    Args:
        small: a copy of the user's model with the cut tensors; its classes change during the search.
        edited: the program that it has to run.
        values: the cut tensors.
        example_inputs: the inputs of its captures.
        splice: the choice so far.
        maybe: calls that may hold a stale size.

    Attributes:
        grown: the program at several sizes, with the nodes of ``edited``; None until a forward is rewritten.
    """

    small: nn.Module
    edited: Graph
    values: Mapping[str, torch.Tensor]
    example_inputs: Any
    splice: Splice
    maybe: set[int]
    grown: Growth | None = None
    _base: Graph | None = None
    _kinds: dict[str, type] = field(default_factory=dict)

    def splice_(self, captures: FurtherCaptures) -> tuple[str, ...]:
        """Rewrite exactly the chosen forwards, and return their paths."""
        modules = dict(self.small.named_modules(remove_duplicate=False))
        if not self._kinds:
            self._kinds = {path: type(m) for path, m in modules.items()}
        constants = [re.sub(r"[^0-9A-Za-z_]", "_", name) for name in self.edited.constants]
        for path, kind in self._kinds.items():
            module = modules[path]
            if type(module) is not kind:
                module.__class__ = kind
                for name in constants:
                    if name in module._non_persistent_buffers_set:
                        delattr(module, name)
        self._base = self._base or self.edited
        self.splice.use(captures.growth().opened(self._base)[1])
        try:
            self.splice.settle()
        except CaptureError:
            self.splice.take_all()
        written = self.splice.written()
        training = captures.training({self._base.calls[i].path for i in written})
        self.edited = training.applied(self._base, written)
        self.grown, opened = training.grown(captures.growth(), written).opened(self.edited)
        self.splice.use(opened)
        return splice_(self.small, self.splice, self.values, self.grown)

    def settled(self) -> bool:
        """Return True if the network runs the edited graph; if it does not, widen the choice."""
        # A real call is cheaper than a capture, and its failure changes the choice before the capture.
        return self._takes_real_arguments() and self._same_program()

    def _same_program(self) -> bool:
        how = "record" if "fake" in self.edited.how else "run"
        try:
            again = capture(self.small, self.example_inputs, method=how)
        except CaptureError as error:
            path = str(getattr(error.__cause__, "module_path", ""))
            suspects = [c.index for c in self.edited.calls if c.path == path] or [0]
        else:
            node = Differ(self.edited, again, self.values).first()
            if node is None:
                return True
            suspects = [node.call]
        self._choose(suspects)
        return False

    def _choose(self, suspects: list[int]) -> None:
        """Choose the nearest candidate around the first suspect, with all of its class; without one, widen."""
        calls, splice = self.edited.calls, self.splice
        candidates = self.maybe - splice.stale - splice.inlined
        at = suspects[0]
        while at >= 0 and at not in candidates:
            at = calls[at].parent
        if at >= 0:
            splice.stale |= {i for i in candidates if calls[i].kind == calls[at].kind}
            return
        self._widen(suspects)

    def _widen(self, indices: list[int]) -> None:
        splice = self.splice
        kinds = {self.edited.calls[splice.owner(i)].kind for i in indices}
        alike = [c.index for c in self.edited.calls if c.kind in kinds and c.index not in splice.inlined]
        try:
            for index in sorted(alike, reverse=True):
                if index not in splice.inlined:
                    splice.widen(index)
        except CaptureError:
            splice.take_all()

    def _takes_real_arguments(self) -> bool:
        """Return True if a call on real tensors gives the rewritten forwards the arguments of their capture.

        User code may drop a mask after reading its values, which fake tensors do not have. The forward that makes the
        mask is then rewritten too, so that it always passes the mask on.
        """
        if "fake" not in self.edited.how or not self._is_given_masks():
            return True
        args, kwargs = split_inputs(self.example_inputs)
        try:
            with preserved(self.small), random_state_kept(), torch.no_grad():
                self.small(*args, **kwargs)
        except ArgumentsError as error:
            path = next((p for p, m in self.small.named_modules() if m is error.module), "")
            for call in self.edited.calls:
                if call.path == path and call.index in self.splice.stale:
                    self._take_maker(call.index, error.leaf)
            return False
        except Exception:
            return True  # another failure: `verify` runs the model too, and reports it
        return True

    def _is_given_masks(self) -> bool:
        free = parameter_free(self.edited)
        for index in self.splice.stale:
            for leaf in self.edited.calls[index].in_leaves:
                if isinstance(leaf, Ref) and leaf.node in free and self.edited.node(leaf.node).op != INPUT:
                    return True
        return False

    def _take_maker(self, index: int, position: int | None) -> None:
        leaves = self.edited.calls[index].in_leaves
        leaf = leaves[position] if position is not None else None
        if isinstance(leaf, Ref) and leaf.node in self.splice.index.names:
            maker = self.splice.owner(self.edited.node(leaf.node).call)
            if maker not in self.splice.stale:
                self.splice.stale.add(maker)
                return
        self._widen([index])
