"""`check_calls`: a table that passes where the cut is right, and can differ, fail and refuse where it is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import CaptureError, OptionError, UsageError, VerifyError
from prunus.outcome import Outcome
from prunus.outcome.calls import CALLS, CallTable, Row


class Normed(nn.Module):
    """Hand-written RMS norm over a width that is cut; the call takes ways that the example does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 24), nn.Linear(24, 4)
        self.weight = nn.Parameter(torch.ones(24))
        self.drop = nn.Dropout(0.5)

    def norm(self, y: torch.Tensor) -> torch.Tensor:
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight

    def forward(self, x: torch.Tensor, more: bool = False, plain: bool = False) -> torch.Tensor:
        y = self.a(x)
        if not plain:
            y = self.norm(y)
        if more:
            y = y / y.std(-1, keepdim=True)
        return self.b(self.drop(y))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 3)
        self.norm, self.mlp = nn.LayerNorm(16), nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.heads, self.scale = 4, 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        y = ((q @ k.mT) * self.scale).softmax(-1) @ v
        x = self.norm(x + self.out(y.transpose(1, 2).reshape(b, t, -1)))
        return self.head((x + self.mlp(x)).mean(1))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(y)))


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.group = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.blocks, self.head = nn.Sequential(Block(8), Block(8), Block(8)), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.group(self.stem(x))).mean((2, 3)))


def cut(kind: type[nn.Module], *shape: int, params: float = 0.5, **options: Any) -> Outcome:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return prunus.prune(kind(), torch.randn(*shape), budget={"params": params}, **options)


@pytest.fixture
def normed() -> Outcome:
    return cut(Normed, 2, 8)


def verdicts(table: CallTable) -> dict[str, str]:
    return {row.name: row.verdict for row in table.rows}


MADE_BY_ALL = {
    "eval",
    "train, backward",
    "other batch",
    "another batch",
    "bfloat16",
    "training step",
    "torch.export, dynamic",
    "forward hooks",
    "state_dict names",
    "deepcopy",
    "pickle",
    "torch.save",
    "prunus.save, load",
}


def test_a_sound_cut_passes_every_call_that_the_dense_network_takes(normed: Outcome) -> None:
    table = prunus.check_calls(normed)
    assert table.ok, table
    assert [row.name for row in table.rows] == list(CALLS)
    found = verdicts(table)
    assert {name for name, verdict in found.items() if verdict == "ok"} == MADE_BY_ALL
    assert all(verdict in ("ok", "n/a") for verdict in found.values())
    assert table.row("labels").reason == "its forward takes no labels"
    assert all(row.error <= row.tolerance for row in table.rows if row.verdict == "ok")
    assert prunus.verify(normed, thorough=True).ok


def test_a_convolutional_network_at_another_image_size() -> None:
    table = prunus.check_calls(cut(Images, 2, 3, 8, 8))
    assert table.ok, table
    assert table.row("other image size").verdict == "ok"
    assert table.row("train, backward").error < 1e-9  # batch norms in training, group norm over what is kept


def test_attention_with_numbers_that_were_mended() -> None:
    found = cut(Attending, 2, 6, 16)
    assert found.surgery.mended
    table = prunus.check_calls(found, ["eval", "train, backward", "other batch", "shorter", "longer", "pickle"])
    assert set(verdicts(table).values()) == {"ok"}, table


def test_dropped_blocks() -> None:
    found = cut(Images, 2, 3, 8, 8, method="depth", params=0.7, data=[(torch.randn(8, 3, 8, 8), torch.arange(8) % 4)])
    assert found.plan.drops
    table = prunus.check_calls(found, ["eval", "train, backward", "other image size", "state_dict names"])
    assert table.ok, table
    assert table.row("train, backward").verdict == "ok"


def test_masked_weights_grow_in_training_as_they_do_in_the_cut_network() -> None:
    found = cut(Normed, 2, 8, params=0.4, levels=("weight",))
    assert found.plan.masks
    assert prunus.check_calls(found, ["eval", "train, backward", "training step"]).ok


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 12), nn.Linear(12, 20)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.words(ids)).mean(1))


def test_without_words_nothing_is_compared() -> None:
    found = prunus.prune(Words(), torch.arange(10).view(2, 5), budget={"params": 0.7}, opt_in=("vocabulary",))
    table = prunus.check_calls(found)
    assert set(verdicts(table).values()) == {"n/a"}
    assert not table.ok
    assert table.rows[0].reason == "not comparable: words were removed, ids have other numbers"


def test_what_only_the_wide_type_refuses_is_compared_in_float32() -> None:
    class Narrow(Normed):
        def forward(self, x: torch.Tensor, more: bool = False, plain: bool = False) -> torch.Tensor:
            if more and x.dtype is torch.float64:
                raise RuntimeError("no double here")
            return super().forward(x)

    found = cut(Narrow, 2, 8)
    assert prunus.check_calls(found, {"more": ((torch.randn(3, 8),), {"more": True})}).row("more").verdict == "ok"


def test_a_sabotaged_forward_differs_everywhere(normed: Outcome) -> None:
    class Sabotaged(Normed):
        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return 1.1 * super().forward(*args, **kwargs)

    normed.model.__class__ = Sabotaged
    table = prunus.check_calls(normed)
    found = verdicts(table)
    assert not table.ok
    same = {"forward hooks", "state_dict names"}
    assert {found[name] for name in MADE_BY_ALL - same - {"pickle", "torch.save"}} == {"differs"}, table
    assert found["pickle"] == "fails"  # a class within a function
    assert table.row("bfloat16").error > table.row("bfloat16").tolerance
    with pytest.raises(VerifyError, match="eval differs: the result; train, backward differs"):
        prunus.verify(normed, thorough=True)


def test_a_batch_that_is_baked_in_fails_at_another(normed: Outcome) -> None:
    class Baked(Normed):
        def forward(self, x: torch.Tensor, more: bool = False, plain: bool = False) -> torch.Tensor:
            return super().forward(x.reshape(2, 8), more, plain)

    normed.model.__class__ = Baked
    found = verdicts(prunus.check_calls(normed, ["eval", "other batch", "another batch", "train, backward"]))
    assert found == {"eval": "ok", "other batch": "fails", "another batch": "fails", "train, backward": "ok"}


def test_a_norm_over_the_old_width_differs(normed: Outcome) -> None:
    class Old(Normed):
        def norm(self, y: torch.Tensor) -> torch.Tensor:
            return y * torch.rsqrt(y.pow(2).sum(-1, keepdim=True) / 24 + 1e-6) * self.weight

    normed.model.__class__ = Old
    row = prunus.check_calls(normed, ["eval"]).row("eval")
    assert row.verdict == "differs"
    assert row.error > 1e-2


def test_a_wrong_scale_differs() -> None:
    found = cut(Attending, 2, 6, 16)
    found.model.scale = 0.6
    assert prunus.check_calls(found, ["eval"]).row("eval").verdict == "differs"


def test_wrong_gradients_differ_where_outputs_agree(normed: Outcome) -> None:
    class Detached(Normed):
        def norm(self, y: torch.Tensor) -> torch.Tensor:
            return super().norm(y.detach())

    normed.model.__class__ = Detached
    table = prunus.check_calls(normed, ["eval", "train, backward", "training step"])
    assert list(verdicts(table).values()) == ["ok", "differs", "differs"]
    assert "gradient of a." in table.row("train, backward").reason


def test_hooks_and_names_that_changed(normed: Outcome) -> None:
    normed.model.drop = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    normed.model.drop.forward = lambda x: x  # type: ignore[method-assign]
    table = prunus.check_calls(normed, ["eval", "state_dict names"])
    assert list(verdicts(table).values()) == ["ok", "differs"]
    assert "drop.0.weight is new" in table.row("state_dict names").reason


def test_a_module_that_is_not_called_any_more(normed: Outcome) -> None:
    class Short(Normed):
        def forward(self, x: torch.Tensor, more: bool = False, plain: bool = False) -> torch.Tensor:
            return self.b(self.norm(self.a(x)))

    normed.model.__class__ = Short
    assert prunus.check_calls(normed, ["forward hooks"]).row("forward hooks").verdict == "differs"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("more", "aten.std.* averages over an axis that was cut"), ("plain", "aten.mean.dim .* does not run")],
)
def test_a_call_whose_averages_are_unknown_is_not_compared(normed: Outcome, name: str, reason: str) -> None:
    row = prunus.check_calls(normed, {name: ((torch.randn(3, 8),), {name: True})}).row(name)
    assert row.verdict == "n/a"
    assert row.reason.startswith("not comparable: ")
    assert re.search(reason, row.reason), row.reason


def test_calls_of_ones_own(normed: Outcome) -> None:
    data = torch.randn(5, 8)

    def learn(model: nn.Module) -> Any:
        model.eval()
        with torch.enable_grad():
            loss = model(data).square().mean()
            loss.backward()
        return {"loss": loss.detach(), "probabilities": model(data).softmax(-1)}

    table = prunus.check_calls(
        normed,
        {"learn": learn, "five": ((data,), {}), "nonsense": ((data,), {"unknown": 1}), "wide": lambda m: m(data.T)},
    )
    assert list(verdicts(table).values()) == ["ok", "ok", "n/a", "n/a"], table
    assert "the dense model does not take it: TypeError" in table.row("nonsense").reason
    assert table.row("learn").tolerance == 1e-3
    assert all(p.grad is None for p in normed.model.parameters())


def test_networks_come_back_as_they_were(normed: Outcome) -> None:
    dense = normed.analysis.user_model
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in (dense, normed.model)]
    state, modes = torch.get_rng_state(), [m.training for m in (dense, normed.model)]
    prunus.check_calls(normed, ["train, backward", "training step", "bfloat16"])
    for model, old in zip((dense, normed.model), before, strict=True):
        assert all(torch.equal(t, old[n]) for n, t in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [m.training for m in (dense, normed.model)]


def test_bad_input(normed: Outcome) -> None:
    with pytest.raises(OptionError, match=r"'evel', which is none of the built-in calls. Did you mean 'eval'"):
        prunus.check_calls(normed, ["evel"])
    with pytest.raises(OptionError, match=r"'x' is a int; allowed: a function of the model, or"):
        prunus.check_calls(normed, {"x": 3})
    analysis = normed.analysis
    with pytest.raises(UsageError, match="thorough needs an outcome"):
        prunus.verify(analysis.model, normed.model, analysis.coupling, normed.plan, torch.randn(2, 8), thorough=True)
    normed.model.a = nn.Linear(8, 3)
    with pytest.raises(CaptureError, match=r"a\.weight has shape \(3, 8\), by the plan"):
        prunus.check_calls(normed, ["eval"])


def test_the_table_as_text_and_json(tmp_path: Path) -> None:
    two = Row("two", "differs", float("inf"), 1e-5, "logits")
    rows = (Row("one", "ok", 1e-9, 1e-5), two, Row("three", "n/a", reason="why"))
    table = CallTable("Net", rows)
    assert str(table).splitlines()[-1] == "Net: 1 ok, 1 differs, 1 n/a"
    assert "two    differs  inf      1.0e-05  logits" in str(table)
    found = json.loads(table.write(tmp_path / "table.json").read_text())
    assert found["ok"] is False
    assert found["rows"][1] == {
        "name": "two",
        "verdict": "differs",
        "error": None,
        "tolerance": 1e-5,
        "reason": "logits",
    }
    assert not CallTable("Net", rows[2:]).ok  # nothing was compared
