"""Dims from which a router chooses: where the user opts in, experts may be removed down to the number it needs."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.graph.layout import Expr, Frozen, Layout, Prod, Sum, atoms_of, factors_of


@dataclass(frozen=True, slots=True)
class _Choice:
    dim: Expr
    count: int
    why: Frozen


class Routes:
    """The dims that a router works along; they are decided at the end of the pass.

    With ``experts`` off, every such dim is frozen at once. With it on, a dim under a softmax or a running sum waits:
    where a top-k chooses from the dim, only ``least`` units of it must stay; otherwise it is frozen.
    """

    def __init__(self, layout: Layout, experts: bool) -> None:
        self.experts = experts
        self._layout = layout
        self._chosen: list[_Choice] = []
        self._waiting: list[tuple[Expr, Frozen]] = []

    def hold(self, dim: Expr, reason: str) -> None:
        """Freeze a dim unless experts are chosen from it."""
        if self.experts and not self._layout.is_frozen(dim):
            self._waiting.append((dim, Frozen(reason, self._layout.node)))
        else:
            self._layout.freeze(dim, reason)

    def choose(self, dim: Expr, count: int, reason: str) -> bool:
        """Note that an op takes the ``count`` best positions of a dim; return whether others may be removed."""
        if not self.experts or self._layout.is_frozen(dim):
            self._layout.freeze(dim, reason)
            return False
        self._chosen.append(_Choice(dim, count, Frozen(reason, self._layout.node)))
        return True

    def choose_again(self, dim: Expr, reason: str) -> bool:
        """Note that an op takes the best position of a dim; every further such op on it needs one more."""
        known = self._layout.norm(dim)
        before = [c.count for c in self._chosen if c.why.reason == reason and self._layout.norm(c.dim) == known]
        return self.choose(dim, 1 + max(before, default=0), reason)

    def settle(self) -> dict[int, int]:
        """Freeze all waiting dims without a choice, and return atom → the least number of its units that must stay."""
        least: dict[int, int] = {}
        for choice in self._chosen:
            self._require(self._layout.norm(choice.dim), choice, least)
        for dim, why in self._waiting:
            if not set(atoms_of(self._layout.norm(dim))) <= least.keys():
                self._layout.freeze(dim, why)
        return least

    def _require(self, dim: Expr, choice: _Choice, least: dict[int, int]) -> None:
        if isinstance(dim, Sum) or any(isinstance(f, (Sum, Prod)) for f in factors_of(dim)):
            self._layout.freeze(dim, choice.why)
            return
        atoms = [f for f in factors_of(dim) if isinstance(f, int)]
        enough = 1
        for atom in atoms:
            least.setdefault(atom, 1)
            enough *= self._layout.sizes[atom] if self._layout.frozen[atom] else least[atom]
        if enough >= choice.count or not atoms:
            return
        last = atoms[-1]
        if self._layout.frozen[last] is None:  # of G × e positions, the groups together keep enough to choose from
            others = enough // least[last]
            least[last] = min(self._layout.sizes[last], -(-choice.count // others))
        else:
            self._layout.freeze(dim, choice.why)
