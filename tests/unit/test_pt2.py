"""`.pt2` files: one program, equal to the cut model, run without its class; damaged and foreign files are refused."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from factories_networks import NetSpec
from factories_pruned import Cut, cut_at_random
from prunus.errors import ModelError, OptionError, UsageError
from prunus.exporters import load, save
from prunus.exporters.program_archive import SUMS, add_sums

ATTENTION = NetSpec("sequence", (0, 1), width=8)
IMAGE = NetSpec("image", (0, 2, 4), width=6, tied=True)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def cut_net(spec: NetSpec, mode: str = "hybrid") -> Cut:
    return cut_at_random(spec.build(), spec.inputs(), seed=1, mode=mode, masked=0.2)


@pytest.mark.parametrize("mode", ["hybrid", "graph"])
@pytest.mark.parametrize("spec", [ATTENTION, IMAGE], ids=["sequence", "image"])
def test_a_file_gives_the_cut_network_at_every_batch(spec: NetSpec, mode: str, tmp_path: Path) -> None:
    cut = cut_net(spec, mode)
    assert not cut.surgery.static
    cut.model.train()
    path = save(cut, tmp_path / "small.pt2", example_inputs=cut.inputs, metadata={"note": [1]})
    assert cut.model.training
    loaded = load(path)
    cut.model.eval()
    with torch.no_grad():
        for batch in (2, 3, 5):
            x = spec.inputs(batch, seed=3)
            torch.testing.assert_close(loaded(x), cut.model(x), rtol=1e-6, atol=1e-6)
    about = loaded.meta["prunus"]
    assert (about["mode"], about["metadata"]) == (cut.surgery.mode, {"note": [1]})
    assert about["after"]["params"] == cut.plan.after.params
    assert about["plan"] == json.loads(json.dumps(cut.plan.describe()))
    assert set(dict(loaded.named_parameters())) <= set(dict(cut.model.named_parameters(remove_duplicate=False)))


def test_a_batch_of_one_does_not_fix_the_batch(tmp_path: Path) -> None:
    cut = cut_net(IMAGE)
    loaded = load(save(cut, tmp_path / "small.pt2", example_inputs=IMAGE.inputs(1)))
    x = IMAGE.inputs(6, seed=2)
    torch.testing.assert_close(loaded(x), cut.model.eval()(x), rtol=1e-6, atol=1e-6)


class Wilful(nn.Module):
    """Refuses to be exported, but is captured: what it reads of the weights decides the way."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor, **more: torch.Tensor) -> dict[str, torch.Tensor]:
        if torch.compiler.is_compiling():
            raise RuntimeError("not me")
        return {"y": self.down(torch.relu(self.up(x)) + more["shift"])}


def test_what_cannot_be_exported_is_exported_from_its_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    call = {"x": torch.randn(2, 4), "shift": torch.randn(2, 1)}
    result = prunus.prune(Wilful(), call, budget={"params": 0.6})
    loaded = load(prunus.save(result, tmp_path / "small.pt2"))
    assert loaded.meta["prunus"]["exported_from"] == "program"
    again = {"x": torch.randn(7, 4), "shift": torch.randn(7, 1)}
    torch.testing.assert_close(loaded(**again)["y"], result.model(**again)["y"], rtol=1e-6, atol=1e-6)


def test_the_loaded_network_stays_in_eval_mode(tmp_path: Path) -> None:
    loaded = load(save(cut_net(IMAGE), tmp_path / "small.pt2", example_inputs=IMAGE.inputs()))
    assert loaded.eval() is loaded
    assert loaded.train(False) is loaded
    with pytest.raises(UsageError, match=r"small\.pt2 runs in eval mode only"):
        loaded.train()
    assert not any(p.requires_grad for p in loaded.parameters())


def test_files_that_are_none_are_refused_in_one_line(tmp_path: Path) -> None:
    cut = cut_net(IMAGE)
    whole = save(cut, tmp_path / "small.pt2", example_inputs=cut.inputs).read_bytes()
    plain = io.BytesIO()
    net = nn.Linear(2, 2)
    torch.export.save(torch.export.export(net, (torch.randn(1, 2),)), plain)
    cases = {
        "text": (b"hello", "is no .pt2 file, or only a part of one"),
        "part": (whole[: len(whole) // 2], "is no .pt2 file, or only a part of one"),
        "plain": (plain.getvalue(), "pickled objects"),
        "bare": (_rewritten(whole, "/extra/", None), "holds no prunus.json: prunus.save did not write it"),
        "odd": (_rewritten(whole, "/extra/prunus.json", b'{"format": "x/2"}'), "has format 'x/2'"),
        "torn": (_rewritten(whole, "/models/model.json", b"{}"), "is damaged"),
        "shut": (
            _rewritten(whole, "model_weights_config.json", b"[]"),
            r"is damaged: config: got \[\], expected an object",
        ),
        "old": (_rewritten(whole, "/archive_format", None), "holds pickled objects or code"),
        "pickle": (_rewritten(whole, "model_weights_config.json", _pickled(whole)), "holds pickled objects or code"),
    }
    for name, (data, told) in cases.items():
        path = tmp_path / f"{name}.pt2"
        path.write_bytes(data)
        with pytest.raises(ModelError, match=told) as caught:
            load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        load(tmp_path / "none.pt2")
    with pytest.raises(UsageError, match="is a whole program and needs no Linear"):
        load(tmp_path / "small.pt2", net)


def _rewritten(data: bytes, part: str, content: bytes | None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in (name for name in old.namelist() if not name.endswith(SUMS)):
            if part not in name:
                new.writestr(name, old.read(name))
            elif content is not None:
                new.writestr(name, content)
    if part not in f"/{SUMS}":
        add_sums(out)  # as an attacker would
    return out.getvalue()


def _pickled(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(n for n in archive.namelist() if n.endswith("model_weights_config.json"))
        found = json.loads(archive.read(name))
    next(iter(found["config"].values()))["use_pickle"] = True
    return json.dumps(found).encode()


def test_what_is_missing_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    cut = cut_net(IMAGE)
    with pytest.raises(UsageError, match=r"A \.pt2 file needs one call of the model; give example_inputs"):
        save(cut, tmp_path / "small.pt2")
    with pytest.raises(OptionError, match="The format 'pt2' takes no tensors"):
        save(cut, tmp_path / "small.pt2", tensors={}, example_inputs=cut.inputs)
    with pytest.raises(OptionError, match="metadata has no JSON form"):
        save(cut, tmp_path / "small.pt2", metadata={"a": {1}}, example_inputs=cut.inputs)
    assert not list(tmp_path.iterdir())
