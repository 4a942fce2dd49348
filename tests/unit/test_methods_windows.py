"""Layer problems over whole windows: where the windows lie, that the count is exact, and that solving pays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from factories_analysis import analysis_of, planned_by
from prunus.analysis import Analysis
from prunus.data.splits import Split
from prunus.errors import BudgetError
from prunus.graph.recorder import named_tensors
from prunus.masks.window import Strip, Tile
from prunus.methods.layer_inputs import seen_inputs
from prunus.methods.solved_windows import STRIPS, TILES, Windows
from prunus.methods.weights import maskable, weights_to_keep
from prunus.methods.windows_to_budget import best_windows, completed, room_for_one
from prunus.repairs import Site, repair_
from prunus.surgery.cut import cut_with_record


class Layered(nn.Module):
    """A convolution, a grouped one, a depthwise one and a recurrent reader: windows in all of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.grouped = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.deep, self.point = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 8, 1)
        self.rnn, self.head = nn.GRU(8 * 4, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.grouped(torch.relu(self.stem(x))))
        x = torch.relu(self.point(self.deep(x)))
        return self.head(self.rnn(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


def layered() -> Analysis:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 4, 4, 4, generator=generator).cumsum(-1)
    split = Split(inputs, torch.randint(4, (64,), generator=generator))
    return analysis_of(Layered().eval(), inputs[:2], split, split)


def broken(mask: torch.Tensor, labels: torch.Tensor) -> int:
    """Count the windows that are neither whole nor gone."""
    share = torch.bincount(labels.reshape(-1), mask.reshape(-1).double()) / torch.bincount(labels.reshape(-1))
    return int(((share > 0) & (share < 1)).sum())


def numbers(subject: Analysis, name: str, windows: Windows) -> list[torch.Tensor]:
    """Return the windows of a weight as its layer problem has them, and as they are where none is solved."""
    elsewhere = windows.elsewhere.labels(tuple(named_tensors(subject.model)[name].shape))
    site = next((seen.site for seen in seen_inputs(subject).values() if seen.site.tensor == name), None)
    if site is None:
        return [elsewhere]
    columns = torch.arange(site.inputs)
    order = columns.reshape(-1, site.positions).T.reshape(-1) if windows.turned else columns
    return [windows.numbers(site, order), elsewhere]


@pytest.mark.parametrize(
    ("name", "windows"),
    [("alps-window", STRIPS), ("sparsegpt-window", STRIPS), ("alps-tile", TILES), ("exact-obs-tile", TILES)],
)
@pytest.mark.parametrize("kept", [0.6, 0.4])
def test_whole_windows_stay_but_for_one_and_the_count_is_exact(name: str, windows: Windows, kept: float) -> None:
    subject = layered()
    plan, weights = planned_by(name, subject, kept), maskable(subject)
    count = sum(int(m.sum()) for m in plan.masks.values()) + sum(
        w.numel() for n, w in weights.items() if n not in plan.masks
    )
    assert count == weights_to_keep(subject, weights, subject.limits(kept))
    parts = {
        n: min(broken(torch.from_numpy(m), labels) for labels in numbers(subject, n, windows))
        for n, m in plan.masks.items()
    }
    assert sum(parts.values()) <= 1
    assert {"stem.weight", "rnn.weight_ih_l0"} <= parts.keys()
    assert all(m.any() for m in plan.masks.values())


def site_of(subject: Analysis, name: str) -> Site:
    return next(seen.site for seen in seen_inputs(subject).values() if seen.site.tensor == name)


def test_strips_run_along_the_channels_of_a_position_and_tiles_as_the_masks_draw_them() -> None:
    site = site_of(layered(), "grouped.weight")
    turned = torch.arange(72).reshape(-1, 9).T.reshape(-1)
    assert torch.equal(STRIPS.numbers(site, turned), Strip(8).labels((16, 8, 3, 3)))
    site = site_of(layered(), "stem.weight")
    assert torch.equal(TILES.numbers(site, torch.arange(36)), Tile(4, 4).labels((16, 4, 3, 3)))
    # Four channels are half a strip of 8: it goes on with the next position.
    strips = STRIPS.numbers(site, torch.arange(36).reshape(-1, 9).T.reshape(-1)).flatten(2)[0]
    assert strips.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4]] * 4


def test_groups_have_windows_of_their_own() -> None:
    site = site_of(layered(), "grouped.weight")
    found = TILES.numbers(site, torch.arange(site.inputs)).reshape(2, 8, 72)
    assert torch.equal(found[0], Tile(4, 4).labels((8, 72)))
    assert torch.equal(found[1], found[0] + int(found[0].max()) + 1)


def outputs_missed(subject: Analysis, name: str, kept: float) -> float:
    """Return the squared error of the network's outputs on the selection split once what stays is refitted."""
    plan, dense = planned_by(name, subject, kept), subject.model
    small, _ = cut_with_record(dense, subject.coupling, plan, subject.example_inputs)
    repair_(dense, small, subject.coupling, plan, subject.calibration.batches(64), repair="refold")
    inputs = next(iter(subject.selection.batches(64)))[0]
    with torch.no_grad():
        return float((small(inputs) - dense(inputs)).square().mean())


def test_solved_windows_can_be_made_up_for() -> None:
    subject = layered()
    for plain, *solved in (("window-strip", "alps-window", "exact-obs-window"), ("window-tile", "alps-tile")):
        size = outputs_missed(subject, plain, 0.5)
        assert all(outputs_missed(subject, name, 0.5) < size for name in solved)


def test_a_budget_below_one_window_a_weight_is_refused() -> None:
    with pytest.raises(BudgetError, match="one window of 16 in each of"):
        planned_by("alps-tile", layered(), 0.05)


def test_the_largest_give_small_layers_their_window() -> None:
    assert room_for_one({"a": 1, "b": 60, "c": 39}, {"a": 8, "b": 100, "c": 100}, 16) == {"a": 8, "b": 53, "c": 39}
    assert room_for_one({"a": 20, "b": 20}, {"a": 50, "b": 50}, 16) == {"a": 20, "b": 20}
    with pytest.raises(BudgetError, match="24 in all"):
        room_for_one({"a": 1, "b": 20}, {"a": 8, "b": 50}, 16)


def test_open_windows_are_added_best_first_and_the_last_in_part() -> None:
    labels = torch.arange(4).repeat_interleave(3)
    scores = torch.tensor([1.0, 1, 1, 5, 5, 5, 9, 1, 8, 2, 2, 2])
    kept = {"x": labels == 0}
    found = completed(kept, {"x": labels}, {"x": scores}, 8)["x"]
    assert found.tolist() == [True] * 5 + [False] + [True] * 3 + [False] * 3
    whole = best_windows(scores, labels, 8)
    assert whole.tolist() == [False] * 3 + [True] * 6 + [False] * 3
    assert completed(kept, {"x": labels}, {"x": scores}, 12)["x"].all()
