"""Formats are members: chosen by name or by the ending of the path, given what they take, read back if they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import OptionError
from prunus.exporters import EXPORTERS, Exporter

X = torch.randn(2, 6)


@pytest.fixture(scope="module")
def result() -> Any:
    torch.manual_seed(0)
    return prunus.prune(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)), X, budget={"params": 0.6})


def written(result: Any, path: Path | str, **options: Any) -> Path:
    Path(path).write_text(repr(sorted(options.items())))
    return Path(path)


def read(path: Path, model: nn.Module | None) -> nn.Module:
    return nn.Identity() if model is None else model


def test_a_path_chooses_by_its_ending(result: Any, tmp_path: Path) -> None:
    mine = Exporter("text", "a text", written, ("metadata", "example_inputs"), suffix=".mine", read=read)
    with EXPORTERS.lent("text", mine):
        path = prunus.save(result, tmp_path / "small.mine", metadata={"a": 1})
        assert path.read_text() == "[('example_inputs', None), ('metadata', {'a': 1})]"
        assert isinstance(prunus.load(path), nn.Identity)
        other = prunus.save(result, tmp_path / "small.other", format="text")
        model = nn.Linear(1, 1)
        assert prunus.load(other, model, format="text") is model
        with pytest.raises(OptionError, match="The format 'text' takes no tensors; leave it out or save a checkpoint"):
            prunus.save(result, tmp_path / "small.mine", tensors={})
    with pytest.raises(OptionError, match=r"Unknown format 'text'\. Known: checkpoint, pt2, huggingface"):
        prunus.save(result, tmp_path / "small.mine", format="text")


def test_without_an_ending_it_is_a_checkpoint(result: Any, tmp_path: Path) -> None:
    for name in ("small", "small.v1", "small.pt2.d"):
        folder = prunus.save(result, tmp_path / name)
        assert (folder / "checkpoint.json").is_file()
        back = prunus.load(folder, nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)))
        assert torch.equal(back(X), result.model(X))


def test_what_is_for_others_is_not_read(result: Any, tmp_path: Path) -> None:
    mine = Exporter("text", "a text for people", written, suffix=".mine")
    with EXPORTERS.lent("text", mine):
        path = prunus.save(result, tmp_path / "small.mine")
        assert path.read_text() == "[]"
        with pytest.raises(
            OptionError, match=r"The format 'text' is a text for people; prunus\.load does not read it\."
        ):
            prunus.load(path)


def test_records_that_make_no_sense_are_refused() -> None:
    with pytest.raises(OptionError, match="exporter 'text' takes 'colour'; allowed: tensors, metadata, example_inputs"):
        Exporter("text", "a text", written, ("colour",))
    with pytest.raises(OptionError, match=r"exporter 'text' has the suffix 'mine'; allowed: one such as '\.npz'"):
        Exporter("text", "a text", written, suffix="mine")
