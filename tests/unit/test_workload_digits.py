"""The digits workload, its network, and splits from whatever a user hands over."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from prunus.data.sources import BatchList, DatasetSplit
from prunus.errors import DataError, OptionError
from prunus.experiments.workloads import WORKLOADS, Split, Splits, splits_from_loaders
from prunus.experiments.workloads.digits import SIZES
from prunus.experiments.workloads.digits_net import DigitsNet, Parallel, Residual
from prunus.measurement.quality import evaluate
from prunus.training import finetune_

PARTS = ("train", "calibration", "selection", "test")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return WORKLOADS.get("digits").load()


def everything(source: Any) -> tuple[Tensor, Tensor]:
    pairs = list(source.batches(100))
    return torch.cat([inputs for inputs, _ in pairs]), torch.cat([targets for _, targets in pairs])


def pair(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator), torch.arange(count) % 3


def test_splits_have_their_sizes_and_share_no_sample(splits: Splits) -> None:
    from sklearn.datasets import load_digits

    assert {name: len(getattr(splits, name)) for name in PARTS} == SIZES
    inputs = torch.cat([everything(getattr(splits, name))[0] for name in PARTS]).flatten(1)
    assert len(inputs) == 1797
    whole = torch.from_numpy(load_digits().data).float()
    assert len(inputs.unique(dim=0)) == len(whole.unique(dim=0))
    assert splits.classes == tuple("0123456789")


def test_splits_are_stratified_normalised_and_the_same_every_time(splits: Splits) -> None:
    whole = torch.cat([everything(getattr(splits, name))[1] for name in PARTS]).bincount() / 1797
    for name in PARTS:
        inputs, targets = everything(getattr(splits, name))
        counts = targets.bincount(minlength=10)
        assert (counts - whole * len(targets)).abs().max() <= 1.5
        again = everything(getattr(WORKLOADS.get("digits").load(), name))
        assert torch.equal(inputs, again[0])
        assert torch.equal(targets, again[1])
    train, _ = everything(splits.train)
    assert train.mean().abs() < 1e-5
    assert train.std() == pytest.approx(1, abs=1e-5)


def test_only_shuffled_training_batches_are_varied(splits: Splits) -> None:
    first, _ = next(splits.train.batches(64, shuffle_seed=1))
    again, _ = next(splits.train.batches(64, shuffle_seed=1))
    plain, _ = everything(splits.train)
    assert torch.equal(first, again)
    assert not (first.flatten(1)[:, None] == plain.flatten(1)[None]).all(2).any(1).all()
    test, _ = next(splits.test.batches(300, shuffle_seed=1))
    assert torch.equal(test.flatten().sort().values, everything(splits.test)[0].flatten().sort().values)


def test_the_seed_alone_decides_the_untrained_network() -> None:
    build = WORKLOADS.get("digits").build
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    first, again, other = build(3).state_dict(), build(3).state_dict(), build(4).state_dict()
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.conv.weight"], other["stem.conv.weight"])


def test_the_network_holds_every_kind_of_coupling() -> None:
    net = DigitsNet()
    residuals = [module for module in net.modules() if isinstance(module, Residual)]
    assert {type(module.shortcut) is nn.Identity for module in residuals} == {True, False}
    assert all(len(module.branches) >= 3 for module in net.modules() if isinstance(module, Parallel))
    convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert any(1 < conv.groups < conv.in_channels for conv in convs)
    assert any(conv.groups == conv.in_channels > 1 for conv in convs)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert 150_000 <= count <= 400_000
    droppable = sum(parameter.numel() for block in residuals for parameter in block.branch.parameters())
    assert droppable > 0.8 * count
    joined = sum(p.numel() for part in net.modules() if isinstance(part, Parallel) for p in part.parameters())
    assert count - droppable - joined < 0.08 * count
    largest = max(sum(parameter.numel() for parameter in block.branch.parameters()) for block in residuals)
    assert largest < 0.2 * count


def test_example_inputs_run(splits: Splits) -> None:
    workload = WORKLOADS.get("digits")
    inputs = workload.example_inputs()
    assert inputs[0].shape[1:] == next(splits.test.batches(2))[0].shape[1:]
    assert workload.build(0).eval()(*inputs).shape == (len(inputs[0]), 10)


def test_a_few_steps_already_learn(splits: Splits) -> None:
    workload = WORKLOADS.get("digits")
    model = workload.build(0)
    finetune_(model, splits.train, replace(workload.training, steps=60))
    assert evaluate(model, splits.selection.batches(100), splits.classes).accuracy > 0.85


def test_unknown_workload_lists_the_known() -> None:
    with pytest.raises(OptionError, match="Did you mean 'digits'"):
        WORKLOADS.get("digit")


def test_batches_cover_every_sample_once_in_any_order() -> None:
    inputs, targets = torch.arange(10.0)[:, None], torch.arange(10)
    split = Split(inputs, targets)
    assert [len(labels) for _, labels in split.batches(4)] == [4, 4, 2]
    assert torch.equal(torch.cat([labels for _, labels in split.batches(4)]), targets)
    shuffled = torch.cat([labels for _, labels in split.batches(4, shuffle_seed=0)])
    assert not torch.equal(shuffled, targets)
    assert torch.equal(shuffled.sort().values, targets)
    assert all(torch.equal(x[:, 0].long(), y) for x, y in split.batches(3, shuffle_seed=2))
    with pytest.raises(OptionError, match="batch_size is 0"):
        next(split.batches(0))


class Counting(Dataset[Any]):
    """A map-style dataset that knows its classes and counts its reads."""

    classes = ("low", "high")

    def __init__(self, count: int) -> None:
        self.count, self.reads = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        return torch.tensor([float(index)]), int(index >= self.count // 2)


def test_loaders_over_datasets_stay_lazy_and_are_carved_by_sample() -> None:
    train, test = Counting(100), Counting(20)
    splits = splits_from_loaders({"train": DataLoader(train, 8, shuffle=True), "test": DataLoader(test, 8)})
    assert isinstance(splits.train, DatasetSplit)
    assert train.reads + test.reads < 20
    assert splits.classes == ("low", "high")
    seen = [everything(getattr(splits, name))[0].flatten() for name in PARTS[:3]]
    assert [len(part) for part in seen] == [80, 10, 10]
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(100.0))
    assert torch.equal(everything(splits.test)[0].flatten(), torch.arange(20.0))
    assert [len(labels) for _, labels in splits.test.batches()] == [8, 8, 4]
    order = torch.cat([inputs for inputs, _ in splits.test.batches(6, shuffle_seed=0)]).flatten()
    assert not torch.equal(order, torch.arange(20.0))


@pytest.mark.parametrize(
    "train",
    [
        pair(60),
        TensorDataset(*pair(60)),
        DataLoader(TensorDataset(*pair(60)), 7),
        list(zip(pair(60)[0].split(9), pair(60)[1].split(9), strict=True)),
        [
            [inputs, targets.tolist()]
            for inputs, targets in zip(pair(60)[0].split(9), pair(60)[1].split(9), strict=True)
        ],
    ],
    ids=["pair", "dataset", "loader", "batches", "lists"],
)
def test_every_form_of_data_gives_the_same_splits(train: Any) -> None:
    splits = splits_from_loaders(SimpleNamespace(train=train, test=pair(12, seed=1), selection=None))
    expected = splits_from_loaders({"train": pair(60), "test": pair(12, seed=1)})
    for name in PARTS:
        for got, wanted in zip(everything(getattr(splits, name)), everything(getattr(expected, name)), strict=True):
            assert torch.equal(got, wanted)


def test_given_splits_are_not_carved_and_splits_pass() -> None:
    given = {"train": pair(20), "test": pair(9, 1), "calibration": pair(6, 2), "selection": pair(3, 3)}
    splits = splits_from_loaders(given)
    assert [len(getattr(splits, name)) for name in PARTS] == [20, 6, 3, 9]
    assert splits_from_loaders(splits) is splits
    partly = splits_from_loaders({name: given[name] for name in ("train", "test", "selection")})
    assert [len(getattr(partly, name)) for name in PARTS] == [18, 2, 3, 9]


@pytest.mark.parametrize("form", [dict, tuple])
def test_inputs_of_several_tensors_stay_batches(form: type) -> None:
    def batch(size: int) -> Any:
        parts = {"ids": torch.arange(size), "mask": torch.ones(size, 3)}
        return (parts if form is dict else tuple(parts.values()), torch.zeros(size, dtype=torch.long))

    splits = splits_from_loaders({"train": [batch(4), batch(2), batch(3), batch(4)], "test": [batch(5)]})
    assert isinstance(splits.train, BatchList)
    assert sum(len(getattr(splits, name)) for name in PARTS[:3]) == 13
    inputs, targets = next(splits.test.batches(2))
    assert isinstance(inputs, form)
    assert len(targets) == 5


def test_names_of_classes_and_targets_that_are_no_labels() -> None:
    named = splits_from_loaders({"train": pair(30), "test": pair(9), "classes": ["a", "b", "c"]})
    assert named.classes == ("a", "b", "c")
    values = splits_from_loaders({"train": (torch.randn(30, 2), torch.randn(30)), "test": pair(9)})
    assert values.classes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": None}, "have no 'test' split"),
        ({"trian": pair(3)}, "Did you mean 'train'"),
        ({"train": []}, "split 'train' is empty"),
        ({"train": TensorDataset(*pair(0))}, "split 'train' is empty"),
        ({"train": (torch.zeros(0, 4), torch.zeros(0))}, "'train' holds no samples"),
        ({"train": 3}, "split 'train' is int"),
        ({"train": "folder"}, "split 'train' is str"),
        ({"train": [torch.zeros(4, 4)]}, "yields Tensor; allowed: pairs"),
        ({"train": TensorDataset(torch.zeros(30, 4))}, "yields 1 parts.*labels missing"),
        ({"train": [(torch.zeros(2, 4), None)]}, "targets of type NoneType"),
        ({"train": [("abc", torch.zeros(2))]}, "inputs of str"),
        ({"train": (torch.full((30, 4), torch.nan), pair(30)[1])}, "'train' has NaN or infinite inputs"),
        ({"test": (torch.full((3, 4), torch.inf), pair(3)[1])}, "'test' has NaN or infinite inputs"),
        ({"train": (torch.zeros(30, 4), torch.full((30,), torch.nan))}, "NaN or infinite targets"),
        ({"train": (torch.zeros(30, 4), torch.zeros(29))}, r"shape \(30, 4\) for 29 targets"),
        ({"train": (torch.zeros(30, 4), torch.arange(30) - 1)}, "label -1; allowed: 0 and above"),
        ({"test": (torch.zeros(9, 4), torch.arange(9)), "classes": "abc"}, r"'test' has label 8; allowed: 0\.\.2"),
        ({"train": pair(2)}, "calibration and selection would leave none"),
    ],
)
def test_bad_data_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    given = {"train": pair(30), "test": pair(9)} | change
    with pytest.raises(DataError, match=message):
        splits_from_loaders(given)
