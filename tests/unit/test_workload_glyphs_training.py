"""Training a workload: better than chance, the same every time, kept once, whole or not at all."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunus.errors import OptionError
from prunus.experiments.workloads import WORKLOADS, Workload, train_workload, trained
from prunus.experiments.workloads import train as training
from prunus.experiments.workloads.glyphs import GlyphSizes, load_glyphs
from prunus.experiments.workloads.glyphs.resnet import ResNet
from prunus.experiments.workloads.store import RECORD, WEIGHTS, EpochScore, read_trained
from prunus.foundation.cache import CacheWarning, cache_folder
from prunus.foundation.places import MANIFEST
from prunus.measurement.quality import evaluate
from prunus.training import TrainingOptions

SIZES = GlyphSizes(train=310, calibration=62, selection=62, test=62, unseen_fonts=62)
ENOUGH = replace(SIZES, train=6200, test=310)  # to learn something


def build(seed: int) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return ResNet((16, 32, 48), 1)


def tiny(**changes: Any) -> Workload:
    options = TrainingOptions(80, 1e-2, 32, schedule="one_cycle")
    load = lambda: load_glyphs(SIZES)  # noqa: E731
    example = lambda: (torch.zeros(2, 1, 32, 32),)  # noqa: E731
    return replace(Workload("tiny", build, load, example, options, options, lambda: "key"), **changes)


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNUS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setitem(WORKLOADS._members, "tiny", tiny())
        yield


def refuse_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "finetune_", refuse)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_two_epochs_are_far_better_than_chance_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    options = TrainingOptions(1, 5e-3, 64, schedule="one_cycle", weight_decay=0.05)
    enough = tiny(load=lambda: load_glyphs(ENOUGH), data_key=lambda: "more", training=options)
    monkeypatch.setitem(WORKLOADS._members, "tiny", enough)
    told: list[tuple[int, int, EpochScore | None]] = []
    found = train_workload("tiny", epochs=2, watch=lambda *what: told.append(what))
    record, splits = found.record, load_glyphs(ENOUGH)
    assert not found.cached
    assert record.test_accuracy > 0.1
    assert [score.epoch for score in record.scores] == [1, 2]
    assert record.scores[1].selection_nll < record.scores[0].selection_nll
    assert (record.epochs, record.options["steps"], len(told)) == (2, 194, 194)
    assert told[0] == (1, 194, None)
    assert told[-1] == (194, 194, record.scores[-1])
    assert not found.model.training
    assert evaluate(found.model, splits.test.batches()).accuracy == record.test_accuracy
    assert evaluate(found.model, splits.selection.batches()).accuracy == record.selection_accuracy


def test_what_was_trained_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_trained(train_workload("tiny", epochs=2).folder)
    refuse_training(monkeypatch)
    again = train_workload("tiny", epochs=2)
    assert again.cached
    assert first is not None
    assert again.record == first[1]
    assert same(again.model, trained("tiny", epochs=2))
    assert again.folder.is_relative_to(cache_folder() / "trained" / "tiny")
    assert sorted(path.name for path in again.folder.iterdir()) == [MANIFEST, RECORD, WEIGHTS]


def test_the_seed_decides_the_weights() -> None:
    kept = train_workload("tiny", epochs=2)
    anew = train_workload("tiny", epochs=2, again=True)
    assert not anew.cached
    assert same(kept.model, anew.model)
    assert not same(kept.model, trained("tiny", 1, epochs=1))


def test_the_own_length_seed_data_and_options_have_places_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORKLOADS._members, "tiny", tiny(training=TrainingOptions(2, 1e-2, 32)))
    places = [train_workload("tiny", seed).folder for seed in (0, 1)]
    monkeypatch.setitem(WORKLOADS._members, "tiny", tiny(training=TrainingOptions(2, 2e-2, 32)))
    places.append(train_workload("tiny").folder)
    monkeypatch.setitem(
        WORKLOADS._members, "tiny", tiny(training=TrainingOptions(2, 1e-2, 32), data_key=lambda: "other")
    )
    places.append(train_workload("tiny").folder)
    assert len(set(places)) == 4


@pytest.mark.parametrize("file", [WEIGHTS, RECORD])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_checkpoint_is_trained_again_and_said(file: str, damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    whole = train_workload("tiny", epochs=1, folder=folder)
    path = folder / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content[:-9] + b"\x07" + content[-8:])
    with pytest.warns(CacheWarning, match="damaged or outdated; training again"):
        again = train_workload("tiny", epochs=1, folder=folder)
    assert not again.cached
    assert same(again.model, whole.model)
    assert train_workload("tiny", epochs=1, folder=folder).cached


def test_a_network_whose_code_changed_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_workload("tiny", epochs=1, folder=tmp_path / "out")
    monkeypatch.setitem(WORKLOADS._members, "tiny", tiny(build=lambda seed: ResNet((4, 4, 4), 1)))
    with pytest.warns(CacheWarning, match="outdated"):
        assert not train_workload("tiny", epochs=1, folder=tmp_path / "out").cached


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    train_workload("tiny", epochs=1, folder=folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OptionError, match="No space left on device; make room"):
            train_workload("tiny", epochs=1, folder=folder, again=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_not_ours_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_training(monkeypatch)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OptionError, match=r"contains 'thesis\.tex', which prunus did not write"):
        train_workload("tiny", epochs=1, folder=tmp_path, again=True)
    with pytest.raises(OptionError, match="is a file; give a folder"):
        train_workload("tiny", epochs=1, folder=tmp_path / "thesis.tex")
    with pytest.raises(OptionError, match="is a file; give a folder"):
        train_workload("tiny", epochs=1, folder=tmp_path / "thesis.tex" / "out")


def test_another_training_in_the_folder_is_not_replaced_unasked(tmp_path: Path) -> None:
    train_workload("tiny", epochs=1, folder=tmp_path / "out")
    with pytest.raises(OptionError, match=r"holds 'tiny' of seed 0, 1 epochs, .*--again"):
        train_workload("tiny", 1, epochs=1, folder=tmp_path / "out")
    replaced = train_workload("tiny", 1, epochs=1, folder=tmp_path / "out", again=True)
    assert json.loads((tmp_path / "out" / RECORD).read_text())["seed"] == replaced.record.seed == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "glyphs/resnet-8"}, "Did you mean 'glyphs/resnet-8x'"),
        ({"name": "tiny", "seed": -1}, "seed is -1"),
        ({"name": "tiny", "epochs": 0}, "epochs is 0; allowed: a whole number of at least 1"),
    ],
)
def test_bad_input(arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_training(monkeypatch)
    with pytest.raises(OptionError, match=message):
        train_workload(**arguments)


def test_the_cache_goes_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("PRUNUS_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "prunus"
    for elsewhere in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", elsewhere)
        assert cache_folder() == Path.home() / ".cache" / "prunus"
