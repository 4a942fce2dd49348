"""A few real architectures of each library, cut by half and at random; the whole zoo is `make zoo`."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)

# Each stands for what the others do not have: grouped shuffles, dense joins, windows, fused and grouped attention,
# rotary pairs, tied embeddings, cross-attention, cache outputs, experts, state spaces, recurrent mixers.
CHOSEN = {
    "torchvision": ("shufflenet_v2_x0_5", "squeezenet1_1", "mobilenet_v3_small"),
    "timm": ("test_vit", "test_efficientnet", "test_nfnet", "test_byobnet", "test_resnet"),
    "transformers": ("bert", "gpt2", "llama", "t5", "whisper", "mamba", "mixtral", "phi3", "deberta-v2", "bloom"),
}
MODELS = [(zoo, name) for zoo, names in CHOSEN.items() for name in names]


@pytest.mark.parametrize(("zoo", "name"), MODELS, ids=[name for _, name in MODELS])
def test_a_real_architecture_is_cut_exactly(zoo: str, name: str) -> None:
    if importlib.util.find_spec(zoo) is None:
        pytest.skip(f"{zoo} is not installed")
    from zoo.catalog import entries
    from zoo.trial import run_trial

    entry = next(e for e in entries(zoo) if e.name == name)
    record = run_trial(entry)
    assert record["ok"], record.get("trace", record)
    assert record["unknown"] == []
    assert record["coverage_macs"] > 0.5
