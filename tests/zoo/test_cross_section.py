"""A few real architectures of each library, cut by half and at random; the whole zoo is `make zoo`."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)
pytestmark = pytest.mark.nightly

# Each stands for what the others do not have: grouped shuffles, dense joins, windows, fused and grouped attention,
# rotary pairs, tied embeddings, cross-attention, cache outputs, experts, state spaces, recurrent mixers.
CHOSEN = {
    "torchvision": ("shufflenet_v2_x0_5", "squeezenet1_1", "mobilenet_v3_small"),
    "timm": ("test_vit", "test_efficientnet", "test_nfnet", "test_byobnet", "test_resnet"),
    "transformers": ("bert", "gpt2", "llama", "t5", "whisper", "mamba", "mixtral", "phi3", "deberta-v2", "bloom"),
}
MODELS = [(zoo, name) for zoo, names in CHOSEN.items() for name in names]


# Rewritten attention, windows and shuffles, experts and shared tables; the others are kept as they are.
HYBRID = [
    ("torchvision", "shufflenet_v2_x0_5"),
    ("timm", "test_vit"),
    ("timm", "test_mambaout"),
    ("transformers", "llama"),
    ("transformers", "roformer"),
    ("transformers", "mixtral"),
    ("transformers", "t5"),
    ("transformers", "bloom"),
]


def tried(zoo: str, name: str, mode: str) -> dict[str, Any]:
    if importlib.util.find_spec(zoo.partition("-")[0]) is None:
        pytest.skip(f"{zoo} is not installed")
    from zoo.catalog import entries
    from zoo.trial import Options, run_trial

    return run_trial(next(e for e in entries(zoo) if e.name == name), Options(modes=(mode,)))[0]


@pytest.mark.parametrize(("zoo", "name"), MODELS, ids=[name for _, name in MODELS])
def test_a_real_architecture_is_cut_exactly(zoo: str, name: str) -> None:
    record = tried(zoo, name, "graph")
    assert record["ok"], record.get("trace", record)
    assert record["unknown"] == []
    assert record["coverage_macs"] > 0.5


@pytest.mark.parametrize(("zoo", "name"), HYBRID, ids=[name for _, name in HYBRID])
def test_a_real_architecture_keeps_its_classes(zoo: str, name: str) -> None:
    record = tried(zoo, name, "hybrid")
    assert record["ok"], record.get("trace", record)
    assert 0.48 <= record["budget"]["kept_of_removable"] <= 0.52
    for kind in ("budget", "random"):
        found = record[kind]
        assert found["verified"]
        assert found["survives"]
        assert found["surgery"] in ("module", "hybrid")
        assert found["own_share"] == 1.0
        assert found["reload"] == "equal"


def test_a_whole_detector_is_cut_in_its_parts() -> None:
    record = tried("torchvision-tasks", "ssdlite320_mobilenet_v3_large", "hybrid")
    assert record["ok"], record.get("trace", record)
    assert record["parts"] == ["backbone", "head"]
    assert "depends on values" in record["parts_because"]
    assert record["coverage_params"] > 0.5
    assert record["budget"]["kind"] == "SSD"
    assert record["budget"]["reload"] == "equal"


@pytest.mark.parametrize(("zoo", "name"), MODELS, ids=[name for _, name in MODELS])
def test_a_real_architecture_keeps_its_forwards(zoo: str, name: str) -> None:
    if importlib.util.find_spec(zoo) is None:
        pytest.skip(f"{zoo} is not installed")
    from zoo.catalog import entries
    from zoo.kept import run_kept

    record = run_kept(next(e for e in entries(zoo) if e.name == name))
    assert record["ok"], record.get("trace", record)
    assert record["budget"]["reached"]
    assert record["budget"]["rewritten"] == 0
    assert record["budget"]["proved_batches"] == 3
