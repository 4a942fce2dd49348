"""Saving and loading: what a checkpoint holds, what load gives back, without tracing and without pickle."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus.graph.recorder
from factories_networks import NetSpec
from factories_pruned import Cut, cut_at_random, same_bits, same_state
from prunus.errors import ModelError, OptionError, UsageError
from prunus.exporters import load, packed_size, save, undo
from prunus.exporters.header import read_header
from prunus.foundation.places import MANIFEST
from prunus.graph.capture import capture
from prunus.plans import Drop

ATTENTION = NetSpec("sequence", (0, 1), width=8)
IMAGE = NetSpec("image", (0, 2, 4), width=6, tied=True)
FILES = {"checkpoint.json", "plan.json", "weights.safetensors", MANIFEST}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def cut_attention(mode: str = "hybrid") -> Cut:
    return cut_at_random(ATTENTION.build(), ATTENTION.inputs(), seed=1, mode=mode)


def test_rewritten_forwards_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = cut_attention()
    assert cut.surgery.mode == "hybrid"
    assert "pieces.0" in cut.surgery.spliced
    folder = save(cut, tmp_path / "small")
    assert {p.name for p in folder.iterdir()} == FILES | {"graph.json", "constants.safetensors"}
    fresh = ATTENTION.build(seed=5)
    before = {n: t.clone() for n, t in fresh.state_dict().items()}

    def refused(*args: object, **kwargs: object) -> None:
        raise AssertionError("load must not trace")

    monkeypatch.setattr(prunus.graph.recorder, "record", refused)
    loaded = load(folder, fresh)
    assert type(loaded).__name__ == type(fresh).__name__
    assert isinstance(loaded, type(fresh))
    assert same_state(loaded, cut.model)
    assert all(same_bits(t, fresh.state_dict()[n]) for n, t in before.items())
    for batch in (1, 2, 5):
        x = ATTENTION.inputs(batch, seed=3)
        assert torch.equal(loaded(x), cut.model(x))


def test_a_program_needs_no_class(tmp_path: Path) -> None:
    cut = cut_attention("graph")
    loaded = load(save(cut, tmp_path / "small"))
    assert not loaded.training
    assert same_state(loaded, cut.model)
    assert torch.equal(loaded(cut.inputs), cut.model(cut.inputs))
    assert load(tmp_path / "small", ATTENTION.build().train()).training


def test_ties_sizes_and_flags_come_back(tmp_path: Path) -> None:
    cut = cut_at_random(IMAGE.build(), IMAGE.inputs(), seed=2)
    assert cut.surgery.mode == "module"
    cut.model.stem.requires_grad_(False)
    loaded = load(save(cut, tmp_path / "small"), IMAGE.build(seed=1).train())
    assert loaded.training
    assert loaded.pieces[0] is loaded.pieces[3]
    assert [n for n, p in loaded.named_parameters() if not p.requires_grad] == ["stem.weight", "stem.bias"]
    for (path, one), two in zip(cut.model.named_modules(), loaded.modules(), strict=True):
        sizes = {k: v for k, v in vars(one).items() if type(v) in (int, tuple)}
        assert {k: vars(two)[k] for k in sizes} == sizes, path
    loaded.eval()(cut.inputs).sum().backward()
    assert loaded.head.weight.grad is not None


def test_a_model_on_the_meta_device_is_enough(tmp_path: Path) -> None:
    cut = cut_attention()
    folder = save(cut, tmp_path / "small")
    with torch.device("meta"):
        empty = type(ATTENTION.build())(ATTENTION).eval()
    loaded = load(folder, empty)
    assert torch.equal(loaded(cut.inputs), cut.model(cut.inputs))


def test_other_dtypes_and_other_values(tmp_path: Path) -> None:
    cut = cut_attention()
    cut.model.bfloat16()
    assert read_header(save(cut, tmp_path / "half")).dtype == "bfloat16"
    assert same_state(load(tmp_path / "half", ATTENTION.build()), cut.model)
    averaged = {"head.bias": torch.full((4,), 7.0)}
    save(cut, tmp_path / "average", tensors=averaged, metadata={"run": [1, "two"]})
    assert load(tmp_path / "average", ATTENTION.build()).head.bias.tolist() == [7.0] * 4
    assert read_header(tmp_path / "average").metadata == {"run": [1, "two"]}


def test_masked_weights_are_packed_and_the_size_is_known(tmp_path: Path) -> None:
    spec = NetSpec("vector", (0,), width=64)
    cut = cut_at_random(spec.build(), spec.inputs(), masked=0.95)
    weights = save(cut, tmp_path / "small") / "weights.safetensors"
    dense = sum(t.numel() * t.element_size() for t in cut.model.state_dict().values())
    assert weights.stat().st_size == packed_size(cut.model) < dense / 3
    assert same_state(load(tmp_path / "small", spec.build()), cut.model)
    whole = spec.build()
    mask = torch.rand(whole.head.weight.shape) < 0.1
    predicted = packed_size(whole, {"head.weight": mask})
    with torch.no_grad():
        whole.head.weight.masked_fill_(~mask, 0)
    assert predicted == packed_size(whole)


def test_nothing_in_the_folder_is_executable_or_names_this_machine(tmp_path: Path) -> None:
    folder = save(cut_attention(), tmp_path / "small")
    for path in folder.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        assert "def forward" not in text
        assert str(Path(__file__).parent) not in text


def test_saving_again_replaces_the_folder(tmp_path: Path) -> None:
    save(cut_attention(), tmp_path / "small")
    save(cut_at_random(IMAGE.build(), IMAGE.inputs()), tmp_path / "small")
    assert {p.name for p in (tmp_path / "small").iterdir()} == FILES
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


def test_what_cannot_be_saved_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    cut = cut_attention()
    with pytest.raises(UsageError, match=r"bare Network; it needs the result of prunus\.prune"):
        save(cut.model, tmp_path / "small")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"without \.model"):
        save(object(), tmp_path / "small")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"Did you mean 'head\.bias'"):
        save(cut, tmp_path / "small", tensors={"head.bais": torch.ones(4)})
    with pytest.raises(UsageError, match=r"has shape \(5,\), the model's is \(4,\)"):
        save(cut, tmp_path / "small", tensors={"head.bias": torch.ones(5)})
    with pytest.raises(OptionError, match="metadata has no JSON form"):
        save(cut, tmp_path / "small", metadata={"x": float("nan")})
    cut.model.register_module("odd", _Extra())
    with pytest.raises(ModelError, match=r"'odd\._extra_state' is a dict"):
        save(cut, tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


class _Extra(nn.Module):
    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}


@pytest.mark.parametrize("mode", ["hybrid", "graph"])
@pytest.mark.parametrize("operand", [0, 1])
def test_bypassed_branches_stay_away(tmp_path: Path, mode: str, operand: int) -> None:
    spec = NetSpec("vector", (0, 0), width=8)
    model = spec.build()
    graph = capture(model, spec.inputs())
    joins = [n.name for n in graph.nodes if n.op == "aten.add.Tensor"]
    cut = cut_at_random(model, spec.inputs(), mode=mode, drops=(Drop(joins[1], operand, "the second"),))
    loaded = load(save(cut, tmp_path / "small"), spec.build(seed=4))
    assert [n for n, _ in loaded.named_modules()] == [n for n, _ in cut.model.named_modules()]
    assert same_state(loaded, cut.model)
    assert torch.equal(loaded(cut.inputs), cut.model(cut.inputs))
    assert same_state(undo(cut.model, cut.plan, model), model)


Pair = namedtuple("Pair", "left right")


class Structured(nn.Module):
    """Arguments by keyword, results in a named tuple in a dict, a constant made in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 12)
        self.down = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor, *, scale: float = 2.0, mode: str = "a") -> dict[str, object]:
        hidden = self.up(x).view(x.shape[0], 3, 4) * torch.arange(3.0)[:, None]
        y = self.down(hidden.flatten(1) * scale)
        return {"pair": Pair(y, [y + 1]), "mode": mode}


@pytest.mark.parametrize("mode", ["hybrid", "graph"])
def test_structured_arguments_and_results_come_back(tmp_path: Path, mode: str) -> None:
    torch.manual_seed(0)
    x = {"x": torch.randn(2, 4), "scale": 3.0, "mode": "b"}
    cut = cut_at_random(Structured().eval(), x, mode=mode)
    loaded = load(save(cut, tmp_path / "small"), Structured().eval())
    one, two = cut.model(**x), loaded(**x)
    assert isinstance(two["pair"], Pair)
    assert torch.equal(one["pair"].left, two["pair"].left)
    assert torch.equal(one["pair"].right[0], two["pair"].right[0])
    assert two["mode"] == "b"
