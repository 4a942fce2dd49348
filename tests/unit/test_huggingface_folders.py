"""Folders of cut transformers models: by config alone with `config_ties`, else with `prunus.load`; no other way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import prunus
from factories_transformers import build, transformers
from prunus.cli.main import app
from prunus.errors import ModelError, OptionError
from prunus.exporters import NeedsPrunusWarning
from prunus.exporters.config_proof import outputs
from prunus.plans import Plan

KINDS = ("bert", "llama", "gpt2", "t5", "vit", "convnext")


def same(one: nn.Module, other: nn.Module, inputs: Any) -> bool:
    return all(map(torch.equal, outputs(one, inputs), outputs(other, inputs)))


@pytest.mark.parametrize("kind", KINDS)
def test_with_config_ties_the_config_alone_says_what_is_left(kind: str, tmp_path: Path) -> None:
    model, inputs = build(kind)
    result = prunus.prune(model, inputs, budget={"params": 0.5}, allocator="global", config_ties=True)
    assert not result.surgery.spliced
    folder = prunus.save(result, tmp_path / "small", format="huggingface")
    loaded = type(model).from_pretrained(folder)  # type: ignore[attr-defined]
    assert same(loaded, result.model, inputs)
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in result.model.parameters())
    assert "prunus" not in json.loads((folder / "config.json").read_text())
    assert "from_pretrained(folder)` loads it without prunus" in (folder / "README.md").read_text()
    assert same(prunus.load(folder), result.model, inputs)


WAYS: tuple[dict[str, Any], ...] = (
    {"criterion": "magnitude", "allocator": "uniform"},
    {"criterion": "magnitude", "allocator": "knapsack"},
    {"criterion": "random", "allocator": "viterbi"},
    {"levels": ("unit", "weight")},
    {"criterion": "taylor"},
    {"method": "key-path"},
    {"method": "multi-scale"},
    {"method": "modular"},
)


@pytest.mark.parametrize("options", WAYS, ids=lambda options: "-".join(map(str, options.values())))
def test_config_ties_hold_with_every_way_to_plan(options: dict[str, Any], tmp_path: Path) -> None:
    model, inputs = build("llama")
    model, inputs = Scored.of(model), inputs["input_ids"]
    data = [(inputs.roll(n, 1), torch.tensor([n % 2, 1])) for n in range(4)]
    analysis = prunus.analyse(model, inputs, data=data, held_out=data, config_ties=True)
    for share in (0.8, 0.4):
        result = prunus.realise(analysis, analysis.plan({"params": share}, **options), repair=None)
        found = prunus.save(result, tmp_path / "small", format="huggingface")
        assert same(type(model).from_pretrained(found), result.model, inputs)  # type: ignore[attr-defined]
        assert result.plan.settings["config_ties"] is True


class Scored:
    """A Llama whose last position is scored."""

    @staticmethod
    def of(model: nn.Module) -> nn.Module:
        config = model.config
        config.num_labels, config.use_cache, config.pad_token_id = 3, False, 0
        torch.manual_seed(0)
        found: nn.Module = transformers().LlamaForSequenceClassification(config).eval()
        return found


def test_without_ties_the_layers_differ_and_with_them_they_do_not() -> None:
    model, inputs = build("bert")
    with torch.no_grad():  # magnitudes that want another width in each layer
        model.bert.encoder.layer[0].intermediate.dense.weight[:20] *= 0.01  # type: ignore[union-attr, index]

    def widths(**options: Any) -> set[int]:
        held = ["bert.embeddings", "bert.pooler", "*.attention.*"]
        plan = prunus.plan(model, inputs, budget={"params": 0.9}, allocator="global", ignore=held, **options)
        sizes = {a: int(m.sum()) for a, m in plan.axes.items() if "intermediate" in a}
        return set(sizes.values()) if len(sizes) == 2 else {*sizes.values(), 40}

    assert len(widths()) == 2
    assert len(widths(config_ties=True)) == 1


def test_what_the_class_computes_from_a_size_stays_whole_too(tmp_path: Path) -> None:
    """Gemma multiplies its embeddings by √hidden_size: a smaller number in the config would change the factor."""
    library = transformers()
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = library.GemmaConfig(**sizes, num_key_value_heads=1, head_dim=8, vocab_size=50)
    torch.manual_seed(0)
    model, inputs = library.GemmaForCausalLM(config).eval(), {"input_ids": torch.arange(7)[None], "use_cache": False}
    assert "model.embed_tokens:out" in prunus.analyse(model, inputs).coupling.axes
    analysis = prunus.analyse(model, inputs, config_ties=True)
    assert "model.embed_tokens:out" not in analysis.coupling.axes
    reasons = {d.reason for d in analysis.coupling.frozen if d.tensor == "model.embed_tokens.weight"}
    assert "no entry of the config of GemmaForCausalLM gives its size alone" in reasons
    result = prunus.realise(analysis, analysis.plan({"params": 0.7}))
    folder = prunus.save(result, tmp_path / "small", format="huggingface")
    assert same(type(model).from_pretrained(folder), result.model, inputs)


def test_bad_uses_of_config_ties_are_one_line() -> None:
    plain, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 3)
    with pytest.raises(ModelError, match="Sequential is no transformers model with a config"):
        prunus.analyse(plain, x, config_ties=True)
    changed, inputs = build("bert")
    changed.classifier = nn.Sequential(nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 2))
    told = (
        "config_ties: BertForSequenceClassification builds other tensors from its config than this model has, such as"
    )
    with pytest.raises(ModelError, match=f"{told} 'classifier"):
        prunus.analyse(changed, inputs, config_ties=True)
    with pytest.raises(OptionError, match="config_ties is on beside forward='rewrite'"):
        prunus.plan(plain, x, budget={"params": 0.5}, forward="rewrite", config_ties=True)
    with pytest.raises(OptionError, match="config_ties is 1; allowed: True or False"):
        prunus.prune(plain, x, budget={"params": 0.5}, config_ties=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2", "t5"])
def test_a_folder_that_needs_prunus_says_so_and_transformers_refuses_it(kind: str, tmp_path: Path) -> None:
    model, inputs = build(kind)
    result = prunus.prune(model, inputs, budget={"params": 0.6}, criterion="random", allocator="global")
    with pytest.warns(NeedsPrunusWarning, match=r"loads with prunus\.load, not with transformers alone: The config of"):
        folder = prunus.save(result, tmp_path / "small", format="huggingface")
    library, kept = transformers(), model.config.to_dict()
    for loader in (type(model), library.AutoModel):
        with pytest.raises(ValueError, match=r"this network needs prunus: prunus.load\(folder\) makes it"):
            loader.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["prunus"]["needs"] == "prunus"
    assert "cannot say what was cut" in config["prunus"]["reason"]
    assert config["prunus"]["reason"] in (folder / "README.md").read_text()
    assert "cannot be loaded without prunus" in (folder / "README.md").read_text()
    again = prunus.load(folder)
    assert type(again) is type(model)
    assert not again.training
    assert same(again, result.model, inputs)
    fresh = type(model)(library.AutoConfig.from_pretrained(folder))
    assert same(prunus.load(folder, fresh.eval()), result.model, inputs)
    assert model.config.to_dict() == kept
    assert again.config.to_dict().get("transformers_weights") is None


def test_widths_are_written_by_the_names_of_the_config(tmp_path: Path) -> None:
    model, inputs = build("llama")
    result = prunus.prune(model, inputs, budget={"params": 0.4}, criterion="random", allocator="global")
    with pytest.warns(NeedsPrunusWarning):
        folder = prunus.save(result, tmp_path / "small", format="huggingface")
    told = json.loads((folder / "config.json").read_text())["prunus"]["widths"]
    small = result.model.model  # type: ignore[union-attr]
    assert told["hidden_size"] == small.embed_tokens.weight.shape[1]  # type: ignore[union-attr]
    for number, layer in enumerate(small.layers):  # type: ignore[union-attr, arg-type]
        at = f"model.layers.{number}"
        now = {
            f"{at}.mlp.gate_proj": ("intermediate_size", layer.mlp.gate_proj.weight.shape[0]),
            f"{at}.self_attn.q_proj": ("num_attention_heads", layer.self_attn.q_proj.weight.shape[0] // 8),
        }
        for place, (name, size) in now.items():
            whole = told.get(name, model.config.to_dict()[name])
            assert (whole[place] if isinstance(whole, dict) else whole) == size
    assert any(isinstance(value, dict) for value in told.values())


def test_transformers_own_saving_of_an_uneven_cut_is_refused_when_read(tmp_path: Path) -> None:
    model, inputs = build("bert")
    result = prunus.prune(model, inputs, budget={"params": 0.6}, criterion="random", allocator="global")
    result.model.save_pretrained(tmp_path / "x")  # type: ignore[operator]
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        type(model).from_pretrained(tmp_path / "x")  # type: ignore[attr-defined]


def test_a_class_of_ones_own_is_asked_for(tmp_path: Path) -> None:
    model, inputs = build("bert")

    class Mine(type(model)):  # type: ignore[misc]
        pass

    model.__class__ = Mine
    result = prunus.prune(model, inputs, budget={"params": 0.6}, criterion="random", allocator="global")
    with pytest.warns(NeedsPrunusWarning):
        folder = prunus.save(result, tmp_path / "small", format="huggingface")
    assert "prunus.load(folder, Mine(config))" in (folder / "README.md").read_text()
    with pytest.raises(prunus.errors.UsageError, match=r"keeps the class .*Mine; give load a fresh instance of it"):
        prunus.load(folder)
    assert same(prunus.load(folder, Mine(model.config).eval()), result.model, inputs)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    model, _ = build("bert")
    model.save_pretrained(tmp_path / "bert")  # type: ignore[operator]
    (tmp_path / "task.py").write_text(
        "import torch\n"
        "def task():\n"
        "    ids = torch.randint(3, 50, (60, 7), generator=torch.Generator().manual_seed(0))\n"
        "    return {'train': (ids[:40], ids[:40, 0] % 2), 'test': (ids[40:], ids[40:, 0] % 2)}\n"
    )
    (tmp_path / "recipe.yaml").write_text(
        "version: 1\nmodel: hf:bert\ndata: task.py:task\nrecover: {steps: 2}\nconfig_ties: true\n"
        "prune: {budget: {params: 0.7}, criterion: taylor, allocator: global, repair: refold}\n"
    )
    return tmp_path


def test_a_recipe_prunes_the_users_own_class(task: Path) -> None:
    """Scores, repair, training and quality all read the logits out of a ModelOutput."""
    run = CliRunner().invoke(app, ["prune", str(task / "recipe.yaml"), "-o", str(task / "small")])
    assert run.exit_code == 0, run.output
    library = transformers()
    dense = library.BertForSequenceClassification.from_pretrained(task / "bert")
    small = prunus.load(task / "small", dense)
    assert type(small) is library.BertForSequenceClassification
    header = json.loads((task / "small" / "checkpoint.json").read_text())
    assert header["model"] == "transformers.models.bert.modeling_bert.BertForSequenceClassification"
    assert Plan.load(task / "small").settings["config_ties"] is True
    assert small(torch.ones(2, 5, dtype=torch.long), labels=torch.tensor([0, 1])).loss.isfinite()


def test_the_command_line_ties_to_the_config(task: Path) -> None:
    text = (task / "recipe.yaml").read_text()
    (task / "recipe.yaml").write_text(text.replace("config_ties: true\n", ""))
    ties = []
    for extra in ([], ["--config-ties"]):
        run = CliRunner().invoke(
            app, ["plan", str(task / "recipe.yaml"), "-o", str(task / "plan"), "--no-pay", "--no-picture", *extra]
        )
        assert run.exit_code == 0, re.sub(r"\s+", " ", run.output)
        ties.append(Plan.load(task / "plan").settings.get("config_ties", False))
    assert ties == [False, True]
