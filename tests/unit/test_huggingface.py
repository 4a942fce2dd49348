"""Hugging Face folders: the config says what was cut, proved by building and by running; or it says why it cannot."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from factories_pruned import Cut, cut_at_random
from factories_transformers import build, cut_axes, kept, transformers
from prunus.budget import fit_units, parse_budget
from prunus.cost.price import cost_model
from prunus.criteria import UNIT_CRITERIA, UnitEvidence
from prunus.errors import ModelError, OptionError, UsageError
from prunus.exporters import NeedsPrunusWarning, as_pretrained, config_widths, load, save, update_config_
from prunus.exporters.config_proof import outputs
from prunus.graph.capture import capture
from prunus.graph.coupling import couple


def cut_to_config(kind: str, share: float = 0.6) -> Cut:
    """Cut what the config can express until ``share`` of the parameters is left."""
    model, inputs = build(kind)
    coupling = couple(capture(model, inputs))
    widths, cost = config_widths(model, coupling), cost_model(coupling)
    scores = {a: s.numpy() for a, s in UNIT_CRITERIA.get("random")(UnitEvidence(coupling, {}, seed=0)).items()}
    keep = fit_units(
        cost, {a: scores[a] for a in widths.axes}, parse_budget({"params": share}, cost.price()), allocator=widths
    )
    cut = cut_axes(model, inputs, keep, coupling)
    assert share - 0.25 < sum(p.numel() for p in cut.model.parameters()) / cost.price().params <= share
    return cut


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", {"hidden_size", "intermediate_size", "num_attention_heads"}),
        ("bert", {"hidden_size", "num_attention_heads"}),
        ("gpt2", {"n_embd", "n_head", "n_inner"}),
        ("t5", {"d_kv", "d_ff"}),
        ("convnext", {"hidden_sizes"}),
    ],
)
def test_a_folder_loads_without_prunus_and_computes_the_same(kind: str, names: set[str], tmp_path: Path) -> None:
    cut = cut_to_config(kind)
    folder = save(cut, tmp_path / "small", format="huggingface", example_inputs=cut.inputs)
    library = transformers()
    loaded = getattr(library, type(cut.original).__name__).from_pretrained(folder)
    assert type(loaded) is type(cut.original)
    for got, expected in zip(outputs(loaded, cut.inputs), outputs(cut.model, cut.inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    old, new = cut.original.config.to_dict(), json.loads((folder / "config.json").read_text())
    changed = {k for k in old if k in new and new[k] != old[k]} - {"architectures", "dtype"}
    assert names <= changed
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in cut.model.parameters())
    assert cut.original.config.to_dict() == old


def test_untouched_forwards_give_the_same_bits_and_the_config_follows() -> None:
    model, inputs = build("llama")
    cut = cut_axes(model, inputs, kept(_coupling(model, inputs), {"embed_tokens:out": 24, ".mlp.": 20}))
    assert cut.surgery.mode == "module"
    before = outputs(cut.model, cut.inputs)
    fresh = as_pretrained(cut, cut.inputs)
    assert all(map(torch.equal, outputs(fresh, cut.inputs), before))
    changes = update_config_(cut, cut.inputs)
    assert changes == {"hidden_size": 24, "intermediate_size": 20}
    assert cut.model.config.to_dict() == fresh.config.to_dict()
    assert all(map(torch.equal, outputs(cut.model, cut.inputs), before))
    assert update_config_(cut, cut.inputs) == {}


def test_the_same_shapes_with_half_the_heads_or_half_their_width() -> None:
    """2 heads of 8 and 4 heads of 4 have the same tensors; only what is computed tells them apart."""
    model, inputs = build("bert")
    heads = {"embeddings:out": 16, "query:out[0]": 2, "word_embeddings:out": 16}
    width = {"embeddings:out": 16, "query:out[1]": 4, "value:out[1]": 4}
    pooled = {"pooler.dense:out": 16}
    by_heads = cut_axes(model, inputs, kept(_coupling(model, inputs), heads | pooled))
    by_width = cut_axes(model, inputs, kept(_coupling(model, inputs), width | pooled))
    shapes = [{n: t.shape for n, t in c.model.state_dict().items()} for c in (by_heads, by_width)]
    assert shapes[0] == shapes[1]
    for cut, count in ((by_heads, 2), (by_width, 4)):
        fresh = as_pretrained(cut, inputs)
        assert (fresh.config.hidden_size, fresh.config.num_attention_heads) == (16, count)
        torch.testing.assert_close(outputs(fresh, inputs)[0], outputs(cut.model, inputs)[0], rtol=1e-5, atol=1e-6)
    query = "bert.encoder.layer.1.attention.self.query.weight"
    folded = as_pretrained(by_width, inputs).get_parameter(query)
    # The class scales by 1/√4, the cut model by 1/√8: the queries carry √(4/8).
    torch.testing.assert_close(folded, by_width.model.get_parameter(query) * 0.5**0.5)


def _coupling(model: nn.Module, inputs: Any) -> Any:
    return couple(capture(model, inputs))


@pytest.mark.parametrize(
    ("kind", "wanted", "told"),
    [
        (
            "llama",
            {"layers.0.mlp": 20},
            r"cannot say what was cut: '.*layers.0.mlp.gate_proj.weight' is \(20, 32\)",
        ),
        ("bert", {"word_embeddings": 30}, r"cannot say what was cut: .* is \(50, 30\), the nearest config"),
        ("llama", {"q_proj:out[2]": 2, "v_proj:out[1]": 4}, "computes something else from them"),
    ],
)
def test_what_a_config_cannot_express_is_refused_as_a_class_and_saved_for_prunus(
    kind: str, wanted: dict[str, int], told: str, tmp_path: Path
) -> None:
    model, inputs = build(kind)
    cut = cut_axes(model, inputs, kept(_coupling(model, inputs), wanted))
    before = cut.model.config.to_dict()
    with pytest.raises(ModelError, match=told) as caught:
        as_pretrained(cut, inputs)
    assert "\n" not in str(caught.value)
    assert "use prunus.save(result, folder) or a .pt2 file" in str(caught.value)
    with pytest.raises(ModelError, match=told):
        update_config_(cut, inputs)
    assert cut.model.config.to_dict() == before
    with pytest.warns(NeedsPrunusWarning, match=told):
        folder = save(cut, tmp_path / "small", format="huggingface", example_inputs=inputs)
    assert all(map(torch.equal, outputs(load(folder), inputs), outputs(cut.model, inputs)))


def test_widths_leave_out_what_the_class_computes_anew() -> None:
    model, inputs = build("llama")
    coupling = _coupling(model, inputs)
    widths = config_widths(model, coupling)
    rotary = {a for a in coupling.axes if "q_proj:out[2]" in a or "v_proj:out[1]" in a}
    assert rotary
    assert not rotary & widths.axes
    assert {str(w).partition(":")[0] for w in widths.widths} >= {"hidden_size=32", "intermediate_size=40"}


def test_errors_name_what_is_missing() -> None:
    plain = cut_at_random(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 3))
    with pytest.raises(ModelError, match="Sequential is no transformers model with a config"):
        as_pretrained(plain, plain.inputs)
    model, inputs = build("llama")
    program = cut_at_random(model, inputs, mode="graph")
    with pytest.raises(ModelError, match="A whole program has no transformers class any more"):
        as_pretrained(program, inputs)
    with pytest.raises(OptionError, match=r"Unknown format 'onnx'\..*Known: checkpoint, pt2, huggingface"):
        save(plain, "nowhere", format="onnx")
    with pytest.raises(OptionError, match="The format 'huggingface' takes no metadata"):
        save(plain, "nowhere", format="huggingface", metadata={})
    picture, _ = build("convnext")
    cut = cut_at_random(picture, {"pixel_values": torch.randn(2, 3, 16, 16)})
    with pytest.raises(UsageError, match="is proved on one call of it; give example_inputs"):
        as_pretrained(dataclasses.replace(cut))


def test_layers_that_differ_where_the_class_reads_them_one_by_one(tmp_path: Path) -> None:
    library = transformers()
    step = pytest.importorskip("transformers.models.step3p7.modeling_step3p7", reason="an older transformers")
    config = library.Step3p7Config().text_config.__class__(
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=4,
        vocab_size=50,
        mlp_layer_types=["dense", "dense"],
        layer_types=["full_attention", "full_attention"],
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model, inputs = step.Step3p7TextModel(config).eval(), {"input_ids": torch.arange(14).view(2, 7), "use_cache": False}
    cut = cut_axes(model, inputs, kept(_coupling(model, inputs), {"layers.1.self_attn.q_proj:out[1]": 1}))
    loaded = type(model).from_pretrained(save(cut, tmp_path / "x", format="huggingface", example_inputs=inputs))
    assert [c.num_attention_heads for c in loaded.config.per_layer_config] == [4, 2]
    torch.testing.assert_close(outputs(loaded, inputs), outputs(cut.model, inputs), rtol=1e-6, atol=1e-6)


def test_widths_that_a_class_scales_by_are_left_out_on_trial() -> None:
    """Gemma multiplies its embeddings by √hidden_size: the shapes would do, the numbers would not."""
    library = transformers()
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = library.GemmaConfig(**sizes, num_key_value_heads=1, head_dim=8, vocab_size=50)
    torch.manual_seed(0)
    model, inputs = library.GemmaForCausalLM(config).eval(), {"input_ids": torch.arange(7)[None], "use_cache": False}
    coupling = _coupling(model, inputs)
    by_shape, by_trial = (
        {str(w).partition(":")[0] for w in config_widths(model, coupling, x).widths} for x in (None, inputs)
    )
    assert "hidden_size=32" in by_shape - by_trial
    assert "intermediate_size=40" in by_trial
