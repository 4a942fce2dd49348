"""Windows: their shape on every layout, and which of them stay."""

import pytest
import torch

from prunus.errors import BudgetError, DataError, OptionError
from prunus.masks import KernelPosition, Tile, kept_weights, window_masks


def test_tiles_cover_ragged_borders():
    assert Tile(2, 2).labels((3, 5)).tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


def test_tiles_of_a_convolution_lie_on_the_flattened_matrix():
    labels = Tile(1, 3).labels((2, 2, 1, 2))
    assert labels.flatten(1).tolist() == [[0, 0, 0, 1], [2, 2, 2, 3]]


def test_strips_are_thin_tiles():
    assert Tile(1, 2).labels((2, 4)).tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
    assert Tile(2, 1).labels((4, 2)).tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]


@pytest.mark.parametrize(("scope", "windows", "size"), [("layer", 4, 6), ("filter", 8, 3), ("group", 16, None)])
def test_kernel_positions_by_scope(scope, windows, size):
    labels = KernelPosition(scope, channels=2).labels((2, 3, 2, 2))
    counts = torch.bincount(labels.flatten())
    assert len(counts) == windows
    assert counts.min() > 0
    assert size is None or counts.tolist() == [size] * windows
    assert labels[0, 0, 0, 0] == labels[0, 1, 0, 0]
    assert len(labels[0, 0].unique()) == 4
    assert (labels[0, 0, 0, 0] == labels[0, 2, 0, 0]).item() == (scope != "group")
    assert (labels[0, 0, 0, 0] == labels[1, 0, 0, 0]).item() == (scope == "layer")


def test_kernel_positions_of_a_linear_are_strips():
    assert KernelPosition(strip=2).labels((2, 3)).tolist() == [[0, 0, 1], [2, 2, 3]]


def test_means_let_a_ragged_window_win():
    masks = window_masks({"w": torch.tensor([[2.0, 2.0, 3.0]])}, Tile(1, 2), keep_count=1)
    assert masks["w"].tolist() == [[False, False, True]]


def test_the_last_window_is_kept_in_part_by_its_best_weights():
    scores = {"w": torch.tensor([[9.0, 9.0, 9.0, 9.0], [1.0, 3.0, 2.0, 0.0]])}
    assert window_masks(scores, Tile(1, 4), keep_count=6)["w"][1].tolist() == [False, True, True, False]
    assert not window_masks(scores, Tile(1, 4), keep_count=6, whole=True)["w"][1].any()


def test_the_floor_takes_the_best_window_of_every_tensor_first():
    scores = {"big": torch.full((4, 4), 9.0), "small": torch.tensor([[1.0, 1.0, 2.0, 2.0]])}
    masks = window_masks(scores, Tile(1, 2), keep_count=6)
    assert masks["small"].tolist() == [[False, False, True, True]]
    assert kept_weights(masks) == 6
    assert not window_masks(scores, Tile(1, 2), keep_count=6, floor=False)["small"].any()


def test_too_few_weights_for_the_floor_name_no_option_that_doors_lack():
    scores = {"a": torch.ones(4, 4), "b": torch.ones(4, 4)}
    with pytest.raises(BudgetError, match=r"keep more, or use smaller windows\."):
        window_masks(scores, Tile(2, 2), keep_count=5)


def test_a_transposed_convolution_is_windowed_along_its_inputs():
    scores = {"w": torch.zeros(4, 2, 1, 1)}
    scores["w"][2:, 1] = 1.0
    masks = window_masks(scores, Tile(1, 2), keep_count=2, input_dims={"w": 0})
    assert torch.equal(masks["w"], scores["w"] > 0)


@pytest.mark.parametrize(
    ("scores", "count", "error", "says"),
    [
        ({"w": torch.ones(4)}, 2, OptionError, "1 dims; windows need at least 2"),
        ({"w": torch.ones(4, 4)}, 2, BudgetError, "less than the 4 in the best window"),
        ({"w": torch.tensor([[float("inf"), 1.0]])}, 2, DataError, "NaN or infinite"),
    ],
)
def test_bad_input_is_refused(scores, count, error, says):
    with pytest.raises(error, match=says):
        window_masks(scores, Tile(2, 2), keep_count=count)


def test_bad_windows_are_refused():
    with pytest.raises(OptionError, match="0 × 2"):
        Tile(0, 2)
    with pytest.raises(OptionError, match="'layer', 'filter' and 'group'"):
        KernelPosition("row")
    with pytest.raises(OptionError, match="at least 1"):
        KernelPosition(channels=0)
