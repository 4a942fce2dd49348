"""torchvision works beside a torch that its compiled ops do not fit, and is left alone where they do."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prunus.experiments.sources.vision_ops import non_maximum_suppression

there = pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is an optional extra")
CLI = "from prunus.cli.main import main; main()"

# What torchvision does: load ops, or not; then name one of them.
PACKAGE = """
import torch

library = torch.library.Library("torchvision", "FRAGMENT")
if {loads}:
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", lambda dets, scores, iou_threshold: dets.new_tensor([7]), "CPU")
{more}
torch.library.register_fake("torchvision::nms", lambda dets, scores, iou_threshold: scores)
"""
EXTENSION = "_has_ops = lambda: {loads}"


def python(code: str, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = [str(folder)] if folder else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*path, *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


def package(folder: Path, loads: bool, more: str = "") -> Path:
    """Write a small torchvision."""
    (folder / "torchvision" / "ops").mkdir(parents=True)
    (folder / "torchvision" / "__init__.py").write_text(PACKAGE.format(loads=loads, more=more))
    (folder / "torchvision" / "extension.py").write_text(EXTENSION.format(loads=loads))
    (folder / "torchvision" / "ops" / "__init__.py").write_text("")
    (folder / "torchvision" / "ops" / "boxes.py").write_text("_assert_has_ops = None")
    (folder / "torchvision" / "ops" / "roi_align.py").write_text("_roi_align = print")
    return folder


@there
@pytest.mark.parametrize("model", ["torchvision:resnet18", "timm:test_resnet"])
def test_a_model_is_inspected_in_a_fresh_process(model: str) -> None:
    if importlib.util.find_spec(model.partition(":")[0]) is None:
        pytest.skip("an optional extra")
    done = python(CLI, "inspect", model)
    assert done.returncode == 0, done.stderr
    assert "MACs forward" in done.stdout


@there
def test_torchvision_suppresses_boxes_after_a_model_was_resolved() -> None:
    done = python(
        "import torch; from prunus.experiments.sources import resolve_model;"
        "resolve_model('torchvision:squeezenet1_1');"
        "from torchvision.ops import nms; boxes = torch.tensor([[0., 0, 2, 2], [0, 0, 2, 1.9], [3, 3, 4, 4]]);"
        "print(nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist())"
    )
    assert done.stdout == "[1, 2]\n", done.stderr


CALL = (
    "import torch; from prunus.experiments.sources.vision_ops import compute_nms, import_torchvision;"
    "import_torchvision(); import_torchvision(); compute_nms(); compute_nms(); import torchvision.ops.boxes;"
    "found = torch.ops.torchvision.nms(torch.eye(4)[:1], torch.ones(1), 0.5).tolist();"
    "print(found, torchvision.ops.boxes._assert_has_ops)"
)


def test_ops_that_load_stay_what_they_are(tmp_path: Path) -> None:
    done = python(CALL, folder=package(tmp_path, loads=True))
    assert done.stdout == "[7.0] None\n", done.stderr


def test_ops_that_do_not_load_are_defined(tmp_path: Path) -> None:
    done = python(CALL, folder=package(tmp_path, loads=False))
    assert done.stdout.startswith("[0] <function"), done.stderr


@pytest.mark.parametrize("error", ["RuntimeError('too old')", "ValueError('operator torchvision::nms')"])
def test_another_failure_is_told_in_one_line(error: str, tmp_path: Path) -> None:
    folder = package(tmp_path, loads=True, more=f"raise {error}")
    done = python(CLI, "inspect", "torchvision:resnet18", folder=folder)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "'torchvision:' cannot be imported" in line
    assert error.partition("(")[0] in line


def test_without_torchvision_there_is_nothing_to_do() -> None:
    done = python(
        "import importlib.util, sys; find = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torchvision' else find(name, *a);"
        "from prunus.experiments.sources.vision_ops import import_torchvision; import_torchvision();"
        "print('torchvision' in sys.modules)"
    )
    assert done.stdout == "False\n", done.stderr


def test_suppression_is_the_plain_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(60, 2, generator=generator)
    boxes = torch.cat([low, low + torch.rand(60, 2, generator=generator) * 0.4], 1)
    scores = torch.rand(60, generator=generator)
    expected: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(_overlap(boxes[i], boxes[j]) <= 0.3 for j in expected):
            expected.append(i)
    assert 1 < len(expected) < 60
    assert non_maximum_suppression(boxes, scores, 0.3).tolist() == expected


def _overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = float(max(width, torch.tensor(0.0)) * max(height, torch.tensor(0.0)))
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    return shared / (sum(areas) - shared)
