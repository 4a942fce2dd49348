"""Windows of any size: tiles, parts of kernels, runs of units and positions, by any criterion, with ragged ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from prunus.errors import BudgetError, OptionError
from prunus.masks import Kernel, Tile
from prunus.masks.window_option import canonical_window, window_of
from prunus.methods.scored_units import unit_scores
from prunus.methods.window_units import run_means


class Tokens(nn.Module):
    """Tokens with a position embedding, and a head behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.position = nn.Linear(5, 8), nn.Parameter(torch.randn(1, 6, 8))
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(48, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.mix(self.embed(x) + self.position)).flatten(1))


def images(kernel: int = 3) -> nn.Sequential:
    """Two convolutions, one of them depthwise, a flatten, and two linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, kernel, padding=kernel // 2),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 5 * 4, 10),
        nn.ReLU(),
        nn.Linear(10, 3),
    )


X = torch.zeros(2, 2, 5, 4)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(32, 2, 5, 4, generator=generator), torch.randint(0, 3, (32,), generator=generator))]


def planned(budget: dict[str, Any], window: Any = None, x: torch.Tensor = X, **options: Any) -> prunus.Plan:
    model = options.pop("model", None) or images()
    return prunus.plan(model, x, budget=budget, method="window-wise", window=window, **options)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([4, 8], "tile=4x8"),
        ((1, 8), "tile=1x8"),
        ("2x3", "tile=2x3"),
        ("2×3", "tile=2x3"),
        ({"tile": [2, 3]}, "tile=2x3"),
        ({"kernel": 3}, "kernel=3x3"),
        ({"kernel": [1, 3]}, "kernel=1x3"),
        ("strip=8", "strip=8"),
        ({"column": 8}, "column=8"),
        ({"units": 4}, "units=4"),
        ("positions=4", "positions=1x4"),
        ({"positions": [2, 2]}, "positions=2x2"),
        (None, None),
    ],
    ids=str,
)
def test_every_form_of_a_window_has_one_text(given: Any, text: str | None) -> None:
    assert canonical_window(given) == text
    assert canonical_window(text) == text
    if text is not None:
        window_of(text)


@pytest.mark.parametrize(
    "given",
    [[4], [0, 4], [2, 2, 2], 8, "4", "big", {"rows": 2}, {"units": 0}, {"units": [2, 2]}, {}, True, [1.5, 2]],
    ids=str,
)
def test_what_is_no_window_is_refused_in_one_line(given: Any) -> None:
    with pytest.raises(OptionError, match=r"window is .*; allowed: \[4, 4\] for tiles") as refused:
        planned({"params": 0.5}, given)
    assert "\n" not in str(refused.value)


def test_parts_of_kernels_are_numbered_with_ragged_ends() -> None:
    labels = Kernel(2, 2).labels((1, 2, 3, 3))
    assert labels[0, 0].tolist() == [[0, 0, 1], [0, 0, 1], [2, 2, 3]]
    assert labels[0, 1].tolist() == [[4, 4, 5], [4, 4, 5], [6, 6, 7]]
    assert Kernel(3, 3).labels((2, 2, 3, 3)).reshape(2, 2, -1).tolist() == [[[0] * 9, [1] * 9], [[2] * 9, [3] * 9]]
    assert Kernel(9, 2).labels((1, 1, 5)).tolist() == [[[0, 0, 1, 1, 2]]]
    assert Kernel(1, 2).labels((1, 5)).tolist() == [[0, 0, 1, 1, 2]]
    assert Kernel(1, 2).labels((1, 1, 2, 1, 3)).tolist() == [[[[[0, 0, 1]], [[2, 2, 3]]]]]


@pytest.mark.parametrize(
    "window", [[4, 4], [1, 8], [3, 5], [64, 64], {"kernel": 2}, {"kernel": [3, 1]}, {"strip": 5}], ids=str
)
@pytest.mark.parametrize("criterion", [None, "importance", {"magnitude": 1, "wanda": 2}], ids=str)
def test_windows_of_weights_are_kept_whole_and_the_count_is_exact(window: Any, criterion: Any) -> None:
    plan = planned({"params": 0.7}, window, criterion=criterion, data=batches())
    total = plan.before.params
    assert total - plan.masked == int(0.7 * total)
    kind, broken = window_of(canonical_window(window) or ""), 0
    for name, mask in plan.masks.items():
        labels = kind.labels(tuple(images().get_parameter(name).shape)).reshape(-1).numpy()  # type: ignore[union-attr]
        shares = np.bincount(labels, mask.reshape(-1)) / np.bincount(labels)
        broken += int(((shares > 0) & (shares < 1)).sum())
        assert mask.any()
    assert broken <= 1
    assert plan.settings["window"] == canonical_window(window)
    assert not plan.axes


def test_a_depthwise_layer_keeps_whole_kernels() -> None:
    plan = planned({"windows": {"2": 0.5}}, {"kernel": 3})
    kept = plan.masks["2.weight"].reshape(6, 9)
    norms = images()[2].weight.detach().abs().mean((1, 2, 3)).numpy()
    assert (kept.all(1) | ~kept.any(1)).all()
    assert set(np.flatnonzero(kept.all(1))) == set(np.argsort(-norms)[:3])


def test_the_methods_of_one_window_take_a_criterion_too() -> None:
    analysis = prunus.analyse(images(), X, data=batches())
    tile = analysis.plan({"params": 0.7}, method="window-tile", criterion="importance")
    own = analysis.plan({"params": 0.7}, method="window-wise", criterion="importance")
    other = analysis.plan({"params": 0.7}, method="window-tile")
    assert all((tile.masks[name] == own.masks[name]).all() for name in tile.masks | own.masks)
    assert any((tile.masks[name] != other.masks[name]).any() for name in tile.masks.keys() & other.masks.keys())
    assert "importance" in tile.decisions[0].reason
    for name in ("window-kernel", "window-strip", "window-strip-column"):
        counted = analysis.plan({"windows": 0.5}, method=name, criterion="snip")
        assert counted.settings["criterion"] == "snip"


def test_run_means_and_their_ragged_end() -> None:
    found = run_means({"a": np.array([1.0, 3.0, 5.0, 7.0, 2.0])}, 2)["a"]
    assert found.tolist() == [2.0, 2.0, 6.0, 6.0, 2.0]


@pytest.mark.parametrize("length", [2, 3, 4])
@pytest.mark.parametrize("criterion", [None, "contribution", {"magnitude": 1, "taylor": 1}], ids=str)
@pytest.mark.parametrize("budget", [{"params": 0.6}, {"macs": 0.6}, {"windows": 0.6}, {"threshold": "1*mean"}], ids=str)
def test_runs_of_units_leave_as_a_whole(length: int, criterion: Any, budget: dict[str, Any]) -> None:
    analysis = prunus.analyse(images(), X, data=batches())
    plan = analysis.plan(budget, method="window-wise", window={"units": length}, criterion=criterion)
    assert plan.axes
    assert not plan.masks
    for axis, mask in plan.axes.items():
        runs = [mask[start : start + length] for start in range(0, len(mask), length)]
        assert all(run.all() or not run.any() for run in runs)
        means = run_means(unit_scores(analysis, criterion or "magnitude"), length)[axis]
        assert means[mask].min() >= means[~mask].max()
    if "windows" in budget:
        counted = plan.settings["counted"]
        runs_of = {axis: -(-analysis.coupling.axis(axis).size // length) for axis in analysis.free_axes()}
        gone = {a: len(np.unique(np.flatnonzero(~m) // length)) for a, m in plan.axes.items()}
        assert counted["kind"] == "windows"
        assert counted["of"] == sum(runs_of.values())
        assert counted["kept"] == sum(runs_of.values()) - sum(gone.values()) <= int(0.6 * counted["of"])


def test_a_threshold_of_runs_counts_units_as_units() -> None:
    with pytest.raises(BudgetError, match=r"removes none of 16 units by their"):
        planned({"threshold": 1e-9}, {"units": 3})


def test_runs_of_units_are_cut_and_proved() -> None:
    done = prunus.prune(images(), X, budget={"macs": 0.6}, method="window-wise", window={"units": 3}, repair=None)
    assert done.check is not None
    assert done.after.macs_forward <= 0.6 * done.before.macs_forward
    assert done.plan.after.params == sum(p.numel() for p in done.model.parameters())


def test_runs_that_no_bound_allows_are_refused() -> None:
    with pytest.raises(OptionError, match=r"Axis '5:out' of 10 units may keep 3 of them .* whole runs of 4"):
        planned({"params": 0.6}, {"units": 4}, bounds={"5": {"forced": 3}})


def test_a_budget_of_less_than_one_run_an_axis_is_refused() -> None:
    with pytest.raises(BudgetError, match="cannot be met by whole runs of units: one run an axis is"):
        planned({"params": 0.2}, {"units": 5})


def test_positions_are_masked_for_all_units_and_channels() -> None:
    net = images()
    plan = planned({"windows": 0.5}, {"positions": [2, 2]}, model=net)
    assert set(plan.masks) == {"5.weight"}
    mask = torch.from_numpy(plan.masks["5.weight"]).reshape(10, 6, 5, 4)
    assert (mask == mask[:1, :1]).all()
    sizes = net[5].weight.detach().abs().mean(0).reshape(6, 5, 4).mean(0)
    means = {(r, c): float(sizes[r : r + 2, c : c + 2].mean()) for r in (0, 2, 4) for c in (0, 2)}
    best = sorted(means, key=lambda corner: -means[corner])[:3]
    for (r, c), _ in means.items():
        window = mask[0, 0, r : r + 2, c : c + 2]
        assert window.all() if (r, c) in best else not window.any()


def test_positions_of_pixels_and_of_tokens() -> None:
    torch.manual_seed(0)
    pixels = nn.Sequential(nn.Flatten(), nn.Linear(2 * 5 * 4, 10), nn.ReLU(), nn.Linear(10, 3))
    plan = planned({"windows": 0.5}, "positions=5x1", model=pixels)
    assert set(plan.masks) == {"1.weight"}
    mask = plan.masks["1.weight"].reshape(10, 2, 5, 4)
    assert mask.all((0, 1, 2)).sum() == 2
    assert mask.any((0, 1, 2)).sum() == 2
    plan = planned({"windows": {"head": 0.5}}, "positions=2", x=torch.zeros(2, 6, 5), model=Tokens())
    mask = plan.masks["head.weight"].reshape(3, 3, 2, 8)
    assert mask.all((0, 2, 3)).sum() == mask.any((0, 2, 3)).sum() == 1
    both = planned({"windows": 0.5}, "positions=2", x=torch.zeros(2, 6, 5), model=Tokens())
    assert set(both.masks) <= {"head.weight", "position"}
    assert both.settings["counted"]["of"] == 6


def test_positions_meet_a_budget_of_parameters_exactly() -> None:
    plan = planned({"params": 0.6}, {"positions": [2, 2]})
    assert plan.before.params - plan.masked == int(0.6 * plan.before.params)
    assert set(plan.masks) == {"5.weight"}


def test_a_network_without_positions_says_so() -> None:
    net = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 3))
    with pytest.raises(BudgetError, match="windows of 1×2 positions find no weight that belongs to positions"):
        planned({"params": 0.6}, "positions=2", x=torch.zeros(2, 8), model=net)


def test_a_window_larger_than_every_layer_keeps_them() -> None:
    with pytest.raises(BudgetError, match=r"keeping .* weights is less than"):
        planned({"params": 0.5}, [640, 640])
    assert Tile(640, 640).labels((3, 4)).max() == 0
