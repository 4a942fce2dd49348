"""Model and data texts: found, built, and refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from prunus.errors import DataError, ModelError
from prunus.experiments.sources import resolve_data, resolve_model

NET = """
import torch
from torch import nn

def make(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))

ready = nn.Linear(3, 2)

def broken():
    raise ValueError("first line\\nsecond line")

def wrong():
    return 3

def poisoned():
    net = make()
    net[2].weight.data[1, 0] = float("nan")
    return net

def loaders(n=40):
    x = torch.arange(n * 3.0).reshape(n, 3)
    return {"train": (x, torch.arange(n) % 2), "test": (x[:10], torch.arange(10) % 2)}

def unlabelled():
    return {"train": torch.zeros(4, 3), "test": torch.zeros(4, 3)}

def without_test():
    return {"train": (torch.zeros(4, 3), torch.zeros(4).long())}

constant = 5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def refused(text: str, folder: Path, **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        resolve_model(text, base_dir=folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_file_callable_with_arguments_and_seed(folder: Path) -> None:
    state = torch.get_rng_state()
    model = resolve_model("net.py:make", {"width": 6}, folder, seed=1)
    assert model[0].out_features == 6
    same = resolve_model("net.py:make", {"width": 6}, folder, seed=1)
    other = resolve_model("net.py:make", {"width": 6}, folder, seed=2)
    assert torch.equal(next(model.parameters()), next(same.parameters()))
    assert not torch.equal(next(model.parameters()), next(other.parameters()))
    assert torch.equal(state, torch.get_rng_state())


def test_paths_in_arguments_start_from_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "seen.py").write_text(
        "import torch\nseen = {}\n\ndef loaders(**given):\n    seen.update(given)\n"
        "    x = torch.zeros(40, 3)\n    return {'train': (x, x[:, 0].long()), 'test': (x, x[:, 0].long())}\n"
    )
    (folder / "train").mkdir()
    (folder / "train" / "x.npz").write_text("")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    args = {"npz": "train/x.npz", "root": "train", "split": "train", "more": ["./train", "no/such"], "n": 3}
    resolve_data("seen.py:loaders", args, folder)
    (module,) = (m for name, m in sys.modules.items() if name.startswith("prunus_user_seen_"))
    place = folder.resolve() / "train"
    assert module.seen == {
        "npz": str(place / "x.npz"),
        "root": str(place),
        "split": "train",
        "more": [str(place), "no/such"],
        "n": 3,
    }


def test_file_beside_imports_and_leaves_the_path_as_it_was(folder: Path) -> None:
    (folder / "outer.py").write_text("from net import make as inner\n\ndef make():\n    return inner()\n")
    before = list(sys.path)
    assert isinstance(resolve_model("outer.py:make", base_dir=folder), nn.Sequential)
    assert sys.path == before
    sys.modules.pop("net", None)


def test_module_callable_finished_module_and_built_in(folder: Path) -> None:
    assert isinstance(resolve_model("torch.nn:Linear", {"in_features": 2, "out_features": 2}), nn.Linear)
    assert isinstance(resolve_model("net.py:ready", base_dir=folder), nn.Linear)
    assert sum(p.numel() for p in resolve_model("digits").parameters()) > 10_000


def test_edited_file_is_read_again(folder: Path) -> None:
    first = resolve_model("net.py:make", base_dir=folder)
    (folder / "net.py").write_text(NET.replace("width=4", "width=9"))
    assert resolve_model("net.py:make", base_dir=folder)[0].out_features != first[0].out_features


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("nett.py:make", ["no such file", "Did you mean 'net.py'"]),
        ("net.py:mkae", ["no 'mkae'", "Did you mean 'make'", "broken"]),
        ("net.py:constant", ["int", "a function or class"]),
        ("net.py:wrong", ["returned a int", "torch.nn.Module"]),
        ("net.py:broken", ["ValueError", "net.py:11", "first line second line"]),
        ("net.py:poisoned", ["1 of 8 values of '2.weight'", "NaN"]),
        ("torch.nn:ReLU", ["no parameters"]),
        ("torch.nnn:Linear", ["no module named 'torch.nnn'"]),
        ("torchvison:resnet18", ["Did you mean 'torchvision'"]),
        ("timm:", ["name after 'timm:' is missing"]),
        ("hf:./nothing", ["no such folder"]),
        ("digit", ["Did you mean 'digits'", "file.py:callable"]),
        ("net.py", ["not known", "file.py:callable"]),
    ],
)
def test_models_refused_in_one_line(folder: Path, text: str, parts: list[str]) -> None:
    message = refused(text, folder)
    for part in parts:
        assert part in message


def test_wrong_arguments_are_one_line(folder: Path) -> None:
    assert "TypeError" in refused("net.py:make", folder, args={"depth": 3})
    assert "takes no arguments" in refused("digits", folder, args={"depth": 3})
    assert "takes no arguments" in refused("net.py:ready", folder, args={"depth": 3})


def test_file_that_does_not_parse(folder: Path) -> None:
    (folder / "bad.py").write_text("def make(:\n")
    assert "SyntaxError" in refused("bad.py:make", folder)


def test_missing_library_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, extra in (("timm", "vision"), ("transformers", "text")):
        monkeypatch.setitem(sys.modules, name, None)
        text = {"timm": "timm:resnet18", "transformers": "hf:a/b"}[name]
        assert f"prunus[{extra}]" in refused(text, folder)


def test_library_that_does_not_load_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator does not exist')\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(folder))
    assert "must match torch" in refused("torchvision:resnet18", folder)


def test_transformers_from_a_local_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is an optional extra")
    try:
        kind = transformers.BertForSequenceClassification
    except ImportError as error:
        pytest.skip(f"transformers does not load here: {error.__cause__}")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    kind(config).save_pretrained(tmp_path / "bert")
    model = resolve_model("hf:bert", base_dir=tmp_path).eval()
    assert type(model) is kind
    assert model(torch.ones(2, 5, dtype=torch.long)).logits.shape == (2, 3)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "wrapped.pth"])
def test_checkpoint_is_loaded(folder: Path, name: str) -> None:
    source = resolve_model("net.py:make", base_dir=folder, seed=7)
    state = dict(source.state_dict())
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    elif name.startswith("wrapped"):
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, folder / name)
    else:
        torch.save(state, folder / name)
    model = resolve_model("net.py:make", base_dir=folder, checkpoint=name, seed=8)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_checkpoints_refused(folder: Path) -> None:
    state = dict(resolve_model("net.py:make", base_dir=folder).state_dict())
    save_file({key: value for key, value in state.items() if key != "0.bias"}, folder / "missing.safetensors")
    save_file({**state, "more": torch.zeros(1)}, folder / "extra.safetensors")
    save_file({**state, "0.bias": torch.zeros(9)}, folder / "shape.safetensors")
    torch.save({"code": Path}, folder / "code.pt")
    (folder / "half.safetensors").write_bytes(b"\x10\x00")
    for name, part in (
        ("missing.safetensors", "'0.bias' is not in it"),
        ("extra.safetensors", "it contains 'more', which the model does not have (1 such). Check model_args."),
        ("shape.safetensors", "shape (9,), the model (4,)"),
        ("code.pt", "cannot be read"),
        ("half.safetensors", "cannot be read"),
        ("mising.safetensors", "Did you mean 'missing.safetensors'"),
        ("w.npz", ".npz"),
    ):
        assert part in refused("net.py:make", folder, checkpoint=name)


def paint(path: Path, shade: int, size: tuple[int, int] = (20, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 0, 255)).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        for index in range(10):
            paint(tmp_path / "images" / name / f"{index}.png", 100 * number + index)
    return tmp_path


def test_flat_image_folder_is_divided_by_class(images: Path) -> None:
    data = resolve_data("imagefolder:images", {"image_size": 8, "batch_size": 5}, images)
    sizes = [len(part) for part in (data.train, data.calibration, data.selection, data.test)]
    assert sizes == [12, 2, 2, 4]
    assert data.classes == ("cat", "dog")
    x, y = next(iter(data.test.batches(4)))
    assert x.shape == (4, 3, 8, 8)
    assert sorted(y.tolist()) == [0, 0, 1, 1]
    blue = (1 - 0.406) / 0.225
    assert torch.allclose(x[:, 2], torch.full((4, 8, 8), blue))
    again = resolve_data("imagefolder:images", {"image_size": 8}, images)
    assert torch.equal(next(iter(again.train.batches(12)))[0], next(iter(data.train.batches(12)))[0])


def test_no_image_is_in_two_splits(images: Path) -> None:
    data = resolve_data("imagefolder:images", {"image_size": 4}, images)
    shades = [
        round(float(x[0, 0, 0] * 0.229 + 0.485) * 255)
        for part in (data.train, data.calibration, data.selection, data.test)
        for batch, _ in part.batches(64)
        for x in batch
    ]
    assert sorted(shades) == [*range(10), *range(100, 110)]


def test_given_train_val_and_test_folders(images: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            for index in range(5):
                paint(images / "three" / split / name / f"{index}.jpg", 30)
    data = resolve_data("imagefolder:three", {"image_size": 4, "channels": 1}, images)
    sizes = [len(part) for part in (data.train, data.calibration, data.selection, data.test)]
    assert sizes == [8, 2, 10, 10]
    assert next(iter(data.train.batches(2)))[0].shape == (2, 1, 4, 4)


def test_image_folders_refused(images: Path) -> None:
    paint(images / "loose" / "a.png", 1)
    paint(images / "single" / "cat" / "a.png", 1)
    paint(images / "few" / "cat" / "a.png", 1)
    paint(images / "few" / "dog" / "a.png", 1)
    (images / "empty" / "cat").mkdir(parents=True)
    (images / "empty" / "dog").mkdir()
    paint(images / "untested" / "train" / "cat" / "a.png", 1)
    for text, part in (
        ("imagefolder:imges", "Did you mean 'images'"),
        ("imagefolder:loose", "1 images without a class folder"),
        ("imagefolder:single", "at least 2"),
        ("imagefolder:few", "at least 4"),
        ("imagefolder:empty", "holds no image"),
        ("imagefolder:untested", "'train' but none of test"),
        ("imagefolder:", "path is missing"),
    ):
        with pytest.raises(DataError, match=part):
            resolve_data(text, {}, images)


def test_damaged_image_and_wrong_options_are_named(images: Path) -> None:
    for args, part in (
        ({"image_sise": 8}, "Did you mean 'image_size'"),
        ({"image_size": 0}, "image_size"),
        ({"channels": 2}, "channels"),
        ({"std": [0, 1, 1]}, "std"),
        ({"batch_size": 0}, "batch_size"),
        ({"test_fraction": 0.9}, "test_fraction"),
    ):
        with pytest.raises(DataError, match=part):
            resolve_data("imagefolder:images", args, images)
    (images / "images" / "cat" / "3.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"3\.png"):
        resolve_data("imagefolder:images", {}, images)


def test_callable_data(folder: Path) -> None:
    data = resolve_data("net.py:loaders", {"n": 50}, folder)
    assert len(data.train) + len(data.calibration) + len(data.selection) == 50


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("net.py:unlabelled", "train"),
        ("net.py:without_test", "test"),
        ("net.py:broken", "ValueError"),
        ("net.py:loadrs", "Did you mean 'loaders'"),
        ("net.py:wrong", "test|train"),
        ("imagefoldr:x", "no module named 'imagefoldr'"),
        ("digts", "Did you mean 'digits'"),
    ],
)
def test_data_refused_in_one_line(folder: Path, text: str, part: str) -> None:
    with pytest.raises(DataError, match=part) as caught:
        resolve_data(text, {}, folder)
    assert "\n" not in str(caught.value)


def test_built_in_data() -> None:
    assert len(resolve_data("digits").classes) == 10
    with pytest.raises(DataError, match="take no arguments"):
        resolve_data("digits", {"size": 3})
