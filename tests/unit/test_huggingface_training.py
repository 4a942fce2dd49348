"""A cut transformers model where the dense one stood: Trainer, accelerate, peft, checkpointing, both attentions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from factories_transformers import build, transformers
from prunus.errors import BudgetError, ModelError
from prunus.exporters.config_proof import outputs

KINDS = ("bert", "llama", "gpt2", "t5")


def dense(kind: str) -> tuple[nn.Module, dict[str, Any]]:
    model, inputs = build(kind)
    if kind == "t5":
        model.config.decoder_start_token_id = 0  # type: ignore[union-attr]
    return model, inputs


def labels_of(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    own = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return torch.arange(len(ids)) % 2 if "Classification" in type(own).__name__ else ids


def trained(model: nn.Module, inputs: dict[str, Any], folder: Path, **options: Any) -> Any:
    """Train for two steps with padded masks and labels, and return the trainer."""
    pytest.importorskip("accelerate", reason="Trainer needs accelerate")
    library = transformers()
    ids = inputs["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    labels = labels_of(model, ids)
    rows = [{"input_ids": ids[i % 2], "attention_mask": mask[i % 2], "labels": labels[i % 2]} for i in range(8)]
    settings = {"max_steps": 2, "learning_rate": 0.01, "per_device_train_batch_size": 2, "report_to": []}
    arguments = library.TrainingArguments(
        str(folder), use_cpu=True, disable_tqdm=True, save_steps=1, **{**settings, **options}
    )
    trainer = library.Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    return trainer


def moved(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_model_goes_through_the_trainer_and_resumes(kind: str, tmp_path: Path) -> None:
    model, inputs = dense(kind)
    small = prunus.prune(model, inputs, budget={"params": 0.6}, criterion="random", allocator="global").model
    before = {n: v.clone() for n, v in small.state_dict().items()}
    again = copy.deepcopy(small)
    trainer = trained(small, inputs, tmp_path)
    assert moved(small, before)
    assert trainer.state.log_history[-1]["train_loss"] > 0
    assert (tmp_path / "checkpoint-1").is_dir()
    resumed = transformers().Trainer(model=again, args=trainer.args, train_dataset=trainer.train_dataset)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    torch.testing.assert_close(dict(again.state_dict()), dict(small.state_dict()), rtol=1e-4, atol=1e-5)


def test_what_the_trainer_has_learned_is_saved_with_the_widths_of_the_config(tmp_path: Path) -> None:
    model, inputs = dense("bert")
    result = prunus.prune(model, inputs, budget={"params": 0.6}, config_ties=True)
    trained(result.model, inputs, tmp_path / "run")
    folder = prunus.save(result, tmp_path / "small", format="huggingface")
    loaded = type(model).from_pretrained(folder)  # type: ignore[attr-defined]
    assert torch.equal(outputs(loaded, inputs)[0], outputs(result.model, inputs)[0])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(kind: str, when: str) -> None:
    model, inputs = dense(kind)
    options = {"budget": {"params": 0.6}, "criterion": "random", "allocator": "global"}
    plain = prunus.prune(model, inputs, **options).model
    if when == "before":
        model.gradient_checkpointing_enable()  # type: ignore[operator]
        model.train()
        result = prunus.prune(model, inputs, **options)
        assert not result.surgery.spliced
        other = result.model.eval()
    else:
        other = copy.deepcopy(plain)
        other.gradient_checkpointing_enable()  # type: ignore[operator]
    assert other.is_gradient_checkpointing
    for one in (plain, other):
        one.train()
        for module in one.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = 0.0  # type: ignore[assignment]
        torch.manual_seed(0)
        one(input_ids=inputs["input_ids"], labels=labels_of(one, inputs["input_ids"])).loss.backward()
    grads = [{n: p.grad for n, p in one.named_parameters() if p.grad is not None} for one in (plain, other)]
    assert len(grads[0]) > 10
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_both_attentions_are_cut_and_stay_interchangeable(kind: str) -> None:
    model, inputs = dense(kind)
    for first, second in (("eager", "sdpa"), ("sdpa", "eager")):
        model.set_attn_implementation(first)  # type: ignore[operator]
        result = prunus.prune(model, inputs, budget={"params": 0.6}, criterion="random", allocator="global")
        assert not result.surgery.spliced
        before = outputs(result.model, inputs)[0]
        result.model.set_attn_implementation(second)  # type: ignore[operator]
        torch.testing.assert_close(outputs(result.model, inputs)[0], before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_accelerate_prepares_a_cut_model(kind: str) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is for training alone")
    model, inputs = dense(kind)
    small = prunus.prune(model, inputs, budget={"params": 0.6}, criterion="random", allocator="global").model.train()
    accelerator = accelerate.Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(small, torch.optim.AdamW(small.parameters(), lr=0.01))
    before = {n: v.clone() for n, v in small.state_dict().items()}
    for _ in range(2):
        accelerator.backward(prepared(input_ids=inputs["input_ids"], labels=labels_of(small, inputs["input_ids"])).loss)
        optimizer.step()
        optimizer.zero_grad()
    assert moved(accelerator.unwrap_model(prepared), before)
    again = prunus.prune(prepared, inputs, budget={"params": 0.8}, criterion="random")
    assert again.plan.after.params < again.plan.before.params


def adapted(model: nn.Module, **options: Any) -> nn.Module:
    peft = pytest.importorskip("peft", reason="peft is an optional package")
    torch.manual_seed(1)
    settings = {"r": 2, "target_modules": "all-linear", "init_lora_weights": False}
    found: nn.Module = peft.get_peft_model(model, peft.LoraConfig(**{**settings, **options})).eval()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_put_on_a_cut_model(kind: str, tmp_path: Path) -> None:
    model, inputs = dense(kind)
    result = prunus.prune(model, inputs, budget={"params": 0.6}, criterion="random", allocator="global")
    prunus.save(result, tmp_path / "base")
    tuned = adapted(copy.deepcopy(result.model))
    trained(tuned, inputs, tmp_path / "run")
    tuned.eval()
    tuned.save_pretrained(tmp_path / "adapter")  # type: ignore[operator]
    peft = pytest.importorskip("peft")
    again = peft.PeftModel.from_pretrained(prunus.load(tmp_path / "base", model), tmp_path / "adapter").eval()
    expected = outputs(tuned, inputs)[0]
    torch.testing.assert_close(outputs(again, inputs)[0], expected)
    merged = tuned.merge_and_unload()  # type: ignore[operator]
    assert type(merged) is type(model)
    torch.testing.assert_close(outputs(merged, inputs)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_cut_with_their_base(kind: str, tmp_path: Path) -> None:
    model, inputs = dense(kind)
    tuned = adapted(copy.deepcopy(model))
    result = prunus.prune(tuned, inputs, budget={"params": 0.6}, criterion="random", allocator="global")
    assert not result.surgery.spliced
    peft = pytest.importorskip("peft")
    small = result.model
    assert type(small) is type(tuned)
    ranks = {v.shape[0] for n, v in small.named_parameters() if "lora_A" in n}
    assert ranks == {2}
    for path, layer in small.named_modules():
        if hasattr(layer, "base_layer") and type(layer.base_layer) is nn.Linear:
            assert layer.lora_A["default"].weight.shape[1] == layer.base_layer.weight.shape[1], path
            assert layer.lora_B["default"].weight.shape[0] == layer.base_layer.weight.shape[0], path
    expected = outputs(small, inputs)[0]
    small.save_pretrained(tmp_path / "adapter")  # type: ignore[operator]
    prunus.save(result, tmp_path / "all")
    other = adapted(copy.deepcopy(model))
    assert torch.equal(outputs(prunus.load(tmp_path / "all", other), inputs)[0], expected)
    merged = copy.deepcopy(small).merge_and_unload()
    torch.testing.assert_close(outputs(merged, inputs)[0], expected, rtol=1e-4, atol=1e-5)
    base = small.unload()  # type: ignore[operator]
    again = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(outputs(again, inputs)[0], expected)


def test_a_cut_model_with_adapters_goes_on_training(tmp_path: Path) -> None:
    model, inputs = dense("bert")
    result = prunus.prune(adapted(model), inputs, budget={"params": 0.6}, criterion="random", allocator="global")
    before = {n: v.clone() for n, v in result.model.state_dict().items()}
    trained(result.model, inputs, tmp_path)
    changed = {n for n, v in result.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all("lora" in n for n in changed)


def test_adapters_in_the_way_are_to_be_merged(tmp_path: Path) -> None:
    model, inputs = dense("bert")
    tuned = adapted(copy.deepcopy(model))
    told = r"holds adapters in \d+ layers, such as '.*', .* merge them first: model = model\.merge_and_unload\(\), then"
    with pytest.raises(ModelError, match=told):
        prunus.analyse(tuned, inputs, config_ties=True)
    result = prunus.prune(tuned, inputs, budget={"params": 0.6}, criterion="random", allocator="global")
    with pytest.raises(ModelError, match=told):
        prunus.save(result, tmp_path / "small", format="huggingface")
    assert not list(tmp_path.iterdir())
    with pytest.raises(BudgetError, match=r"Adapters such as DoRA hold the weights beside them; merge them first"):
        prunus.prune(adapted(model, use_dora=True), inputs, budget={"params": 0.6})
    merged = tuned.merge_and_unload()  # type: ignore[operator]
    result = prunus.prune(merged, inputs, budget={"params": 0.6}, config_ties=True)
    folder = prunus.save(result, tmp_path / "small", format="huggingface")
    loaded = type(merged).from_pretrained(folder)
    assert torch.equal(outputs(loaded, inputs)[0], outputs(result.model, inputs)[0])
