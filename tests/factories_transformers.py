"""Tiny Hugging Face models, cut so that their config can or cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from factories_pruned import Cut
from prunus.analysis.score import make_plan
from prunus.experiments.sources.vision_ops import import_torchvision
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.surgery.cut import cut_with_record

SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def transformers() -> Any:
    """Return the library, or skip where it cannot be imported."""
    import_torchvision()
    return pytest.importorskip("transformers", reason="transformers is an optional extra")


def build(kind: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return a tiny model with random weights in eval mode, and one call of it."""
    library = transformers()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    ids = torch.arange(14).view(2, 7) * 3 % 47 + 3
    if kind == "bert":
        config = library.BertConfig(**SIZES, **WORDS)
        return library.BertForSequenceClassification(config).eval(), {"input_ids": ids}
    if kind == "llama":
        config = library.LlamaConfig(**SIZES, **WORDS, num_key_value_heads=2)
        return library.LlamaForCausalLM(config).eval(), {"input_ids": ids, "use_cache": False}
    if kind == "gpt2":
        config = library.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=16, **WORDS)
        return library.GPT2LMHeadModel(config).eval(), {"input_ids": ids, "use_cache": False}
    if kind == "t5":
        config = library.T5Config(d_model=32, d_kv=8, d_ff=40, num_layers=1, num_heads=4, **WORDS)
        call = {"input_ids": ids, "decoder_input_ids": ids[:, :5], "use_cache": False}
        return library.T5ForConditionalGeneration(config).eval(), call
    if kind == "vit":
        config = library.ViTConfig(**SIZES, image_size=16, patch_size=4)
        return library.ViTForImageClassification(config).eval(), {"pixel_values": torch.randn(2, 3, 16, 16)}
    assert kind == "convnext"
    config = library.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 2], num_stages=2, image_size=16)
    return library.ConvNextForImageClassification(config).eval(), {"pixel_values": torch.randn(2, 3, 16, 16)}


def kept(coupling: Coupling, wanted: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return random masks: each axis whose id holds one of the given texts keeps that many units."""
    generator = np.random.default_rng(0)
    keep = {}
    for axis in coupling.axes.values():
        count = next((n for text, n in wanted.items() if text in axis.id), axis.size)
        keep[axis.id] = np.zeros(axis.size, bool)
        keep[axis.id][generator.permutation(axis.size)[:count]] = True
    return keep


def cut_axes(model: nn.Module, inputs: Any, keep: Mapping[str, np.ndarray], coupling: Coupling | None = None) -> Cut:
    """Cut these masks."""
    coupling = couple(capture(model, inputs)) if coupling is None else coupling
    plan = make_plan(coupling, keep)
    small, surgery = cut_with_record(model, coupling, plan, inputs)
    return Cut(small, plan, surgery, model, inputs, coupling)
