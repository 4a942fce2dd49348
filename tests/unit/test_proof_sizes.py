"""The proof of a kept forward: at which sizes it runs, and that it finds what is wrong at any of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from factories_own_forward import keep_forward
from prunus.errors import VerifyError
from prunus.surgery.proving.other_sizes import proof_sizes


class Branch(nn.Module):
    """Two layers between which 16 units may go; ``fault`` says where the answers of a cut one are wrong."""

    def __init__(self, fault: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.up, self.down, self.fault = nn.Linear(24, 16), nn.Linear(16, 24), fault

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.up(x))
        return out.flip(-1) if self.up.weight.shape[0] < 16 and self.fault(x) else out


class Tower(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(10, 24), block, nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        out: Tensor = self.head(x + self.block(x))
        return out


class Pictures(nn.Module):
    def __init__(self, side: int = 0) -> None:
        super().__init__()
        self.one, self.two, self.head, self.side = nn.Conv2d(3, 8, 3, 4), nn.Conv2d(8, 8, 3, 2), nn.Linear(8, 5), side

    def forward(self, x: Tensor) -> Tensor:
        if self.side and x.shape[-1] != self.side:
            raise ValueError("another size of images")
        out: Tensor = self.head(F.relu(self.two(F.relu(self.one(x)))).mean((2, 3)))
        return out


def sequence(batch: int = 2, length: int = 40) -> tuple[Tensor]:
    torch.manual_seed(0)
    return (torch.randn(batch, length, 10),)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("same", [False, True], ids=["numbers decide", "same program"])
def test_three_batch_sizes_and_another_length_are_met(batch: int, same: bool) -> None:
    check = keep_forward(Tower(Branch(lambda x: False)), sequence(batch), same_program=same).check
    met = {int(size.split()[1]) for size in check.sizes}
    assert len(met | ({batch} if check.on_example else set())) == 3
    assert check.on_example is not same
    assert all(size.endswith("of length 16") for size in check.sizes)
    assert check.change > 1e-3


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("same", [False, True], ids=["numbers decide", "same program"])
def test_what_is_wrong_at_one_batch_is_found_out(batch: int, same: bool) -> None:
    model = Tower(Branch(lambda x: x.shape[0] == batch))
    at = (
        "differs from the masked original: relative error"
        if batch == 2
        else f"but not at batch {batch} of length 16: relative error"
    )
    with pytest.raises(VerifyError, match=at):
        keep_forward(model, sequence(), same_program=same)


@pytest.mark.parametrize("same", [False, True], ids=["numbers decide", "same program"])
def test_what_is_wrong_at_another_length_is_found_out(same: bool) -> None:
    model = Tower(Branch(lambda x: x.shape[1] != 40))
    with pytest.raises(VerifyError, match="but not at batch 3 of length 16"):
        keep_forward(model, sequence(), same_program=same)


def test_a_fault_on_the_example_alone_is_found_where_numbers_decide() -> None:
    model = Tower(Branch(lambda x: x.shape[1] == 40))
    with pytest.raises(VerifyError, match="differs from the masked original"):
        keep_forward(model, sequence())


def test_an_original_that_looks_at_the_whole_batch_is_its_own_measure_at_each() -> None:
    class Centred(Tower):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(0, keepdim=True))

    check = keep_forward(Centred(Branch(lambda x: False)), sequence(), same_program=True).check
    assert check.ok
    assert len(check.sizes) == 3


def test_an_original_that_averages_over_what_goes_at_other_sizes_alone_is_followed() -> None:
    class Sometimes(Branch):
        def forward(self, x: Tensor) -> Tensor:
            h = self.up(x)
            return self.down(h if x.shape[1] == 40 else h - h.mean(-1, keepdim=True))

    check = keep_forward(Tower(Sometimes(lambda x: False)), sequence()).check
    assert check.ok
    assert check.sizes == ("batch 3 of length 16", "batch 1 of length 16")


@pytest.mark.parametrize(
    ("side", "sizes"),
    [(0, "batch 3 of 48×48, batch 2 of 48×48, batch 1 of 48×48"), (160, "batch 3, batch 2, batch 1")],
    ids=["any size", "one size"],
)
def test_images_are_as_small_as_the_code_takes(side: int, sizes: str) -> None:
    check = keep_forward(Pictures(side), (torch.randn(2, 3, 160, 160),), same_program=True).check
    assert ", ".join(check.sizes) == sizes
    assert check.on_example is (side == 160)
    assert ("on the example, in numbers at" in str(check)) is (side == 0)


def test_a_model_of_one_batch_is_proved_on_its_example() -> None:
    class Fixed(Tower):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(2, 40, 10))

    check = keep_forward(Fixed(Branch(lambda x: False)), sequence(), same_program=True).check
    assert check.on_example
    assert check.sizes == ()


def test_sequences_of_two_lengths_are_cut_together_and_each_alone() -> None:
    inputs = {"a": torch.zeros(2, 40, dtype=torch.int64), "b": torch.zeros(2, 30, dtype=torch.int64)}
    first = next(proof_sizes(inputs, set(), whole=False))
    assert [size.name for size in first] == ["length 16 and 16", "length 21 and 16", "length 21", "length 16"]
    assert [tuple(size.inputs["a"].shape) for size in first] == [(3, 16), (3, 21), (3, 21), (3, 40)]
