"""The same recipe gives the same masks in a plain loop, Hugging Face's Trainer, Lightning and Accelerate."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from factories_training import blocks, fit, samples
from prunus.errors import DataError, OptionError, UsageError
from prunus.experiments.sources.vision_ops import import_torchvision
from prunus.foundation import clock
from prunus.pruner import Pruner
from prunus.pruner.adapters import accelerated, huggingface_callback, lightning_callback

STEPS, BATCH, LR = 12, 32, 0.05
RECIPES: list[dict[str, Any]] = [
    {"kept": 0.4, "every": 2},
    {"kept": 0.4, "every": 2, "method": "adaptive"},
    {"kept": 0.4, "every": 2, "method": "granet"},
    {"kept": 0.6, "every": 2, "method": "units"},
]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)


def pruner_of(model: nn.Module, recipe: dict[str, Any]) -> Pruner:
    return Pruner(model, recipe, example_inputs=samples().inputs[:4])


@pytest.fixture(autouse=True, scope="module")
def _vision_ops() -> None:
    import_torchvision()  # torchmetrics does, and with it Lightning


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The samples of `fit`, in its order: no loader may shuffle them."""

    def __len__(self) -> int:
        return STEPS * BATCH

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        data, row = samples(), index % 128
        return {"x": data.inputs[row], "labels": data.targets[row]}


def plain(recipe: dict[str, Any]) -> tuple[Pruner, nn.Module]:
    model = blocks()
    pruner = pruner_of(model, recipe)
    fit(model, pruner, optimizer_of(model), STEPS)
    return pruner, model


def check_same(recipe: dict[str, Any], pruner: Pruner, model: nn.Module) -> None:
    expected, trained = plain(recipe)
    assert expected.masks
    assert pruner.masks.keys() == expected.masks.keys()
    assert all(torch.equal(mask, expected.masks[name]) for name, mask in pruner.masks.items())
    for (name, ours), (_, theirs) in zip(model.named_parameters(), trained.named_parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.get("method", "gradual"))
def test_plain_loop_with_the_context(recipe: dict[str, Any]) -> None:
    model, data = blocks(), samples()
    pruner, optimizer = pruner_of(model, recipe), optimizer_of(model)
    with pruner.attached(optimizer, STEPS):
        for step in range(STEPS):
            rows = torch.arange(BATCH) + BATCH * (step % 4)
            loss = nn.functional.cross_entropy(model(data.inputs[rows]), data.targets[rows])
            pruner.tell(loss)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    check_same(recipe, pruner, model)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.get("method", "gradual"))
def test_accelerate(recipe: dict[str, Any]) -> None:
    accelerate = pytest.importorskip("accelerate")
    model, data = blocks(), samples()
    accelerator = accelerate.Accelerator(cpu=True)
    pruner = pruner_of(model, recipe)
    prepared, optimizer = accelerator.prepare(model, optimizer_of(model))
    with accelerated(pruner, optimizer, STEPS, accelerator):
        for step in range(STEPS):
            rows = torch.arange(BATCH) + BATCH * (step % 4)
            loss = nn.functional.cross_entropy(prepared(data.inputs[rows]), data.targets[rows])
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    check_same(recipe, pruner, model)
    assert "backward" not in vars(accelerator)


class WithLoss(nn.Module):
    """What a Hugging Face trainer wants: a model that returns its loss."""

    def __init__(self, net: nn.Module, named: bool = True) -> None:
        super().__init__()
        self.net, self.named = net, named

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor] | tuple[Tensor, Tensor]:
        logits = self.net(x)
        loss = nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits} if self.named else (loss, logits)


def huggingface_trainer(
    wrapped: nn.Module, pruner: Pruner, folder: Path, *, minutes: float | None = None, **options: Any
) -> Any:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class InOrder(transformers.Trainer):  # type: ignore[name-defined,misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(Rows())

    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS if minutes is None else 1000,
        per_device_train_batch_size=BATCH,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        **{"save_strategy": "no", **options},
    )
    optimizer = optimizer_of(wrapped)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    return InOrder(
        wrapped,
        arguments,
        train_dataset=Rows(),
        optimizers=(optimizer, constant),
        callbacks=[huggingface_callback(pruner, minutes=minutes)],
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.get("method", "gradual"))
def test_hugging_face(recipe: dict[str, Any], tmp_path: Path) -> None:
    model = blocks()
    wrapped, pruner = WithLoss(model, named=recipe.get("method") != "adaptive"), pruner_of(model, recipe)
    trainer = huggingface_trainer(wrapped, pruner, tmp_path)
    trainer.train()
    check_same(recipe, pruner, model)


def test_hugging_face_goes_on_from_its_checkpoint_with_the_masks(tmp_path: Path) -> None:
    recipe = RECIPES[0]
    whole = WithLoss(blocks())
    first = Pruner(whole, recipe)
    trainer = huggingface_trainer(whole, first, tmp_path, save_strategy="steps", save_steps=5)
    trainer.train()
    again = WithLoss(blocks(seed=9))
    second = Pruner(again, recipe)
    resumed = huggingface_trainer(again, second, tmp_path, save_strategy="steps", save_steps=5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert all(torch.equal(mask, first.masks[name]) for name, mask in second.masks.items())
    assert second.masks.keys() == first.masks.keys()
    for ours, theirs in zip(again.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def a_second_a_step(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Set a clock that advances with every forward pass in training."""
    now = [0.0]
    monkeypatch.setattr(clock, "seconds", lambda: now[0])
    model.register_forward_pre_hook(lambda module, _: now.__setitem__(0, now[0] + 1.0) if module.training else None)
    return now


def test_hugging_face_ends_with_its_minutes_at_the_final_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = blocks()
    wrapped, pruner = WithLoss(model), pruner_of(model, {"kept": 0.4})
    now = a_second_a_step(model, monkeypatch)
    huggingface_trainer(wrapped, pruner, tmp_path, minutes=0.5).train()
    assert 30 <= now[0] <= 31
    assert pruner.kept == pytest.approx(0.4, abs=0.01)


def lightning_fit(model: nn.Module, folder: Path, callback: Any, steps: int) -> None:
    """Train a classifier by Lightning."""
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch["x"]), batch["labels"])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer_of(self.net)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[callback],
        )
        trainer.fit(Module(model), torch.utils.data.DataLoader(Rows(), batch_size=BATCH))


def test_lightning_ends_with_its_minutes_at_the_final_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning.pytorch")
    model = blocks()
    pruner = pruner_of(model, {"kept": 0.4})
    now = a_second_a_step(model, monkeypatch)
    lightning_fit(model, tmp_path, lightning_callback(pruner, minutes=0.5), -1)
    assert 30 <= now[0] <= 31
    assert pruner.kept == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.get("method", "gradual"))
def test_lightning(recipe: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("lightning.pytorch")
    model = blocks()
    pruner = pruner_of(model, recipe)
    lightning_fit(model, tmp_path, lightning_callback(pruner), STEPS)
    check_same(recipe, pruner, model)


def test_a_loop_that_cannot_say_the_loss_is_refused_before_its_first_step() -> None:
    model, data = blocks(), samples()
    before = [p.detach().clone() for p in model.parameters()]
    pruner, optimizer = pruner_of(model, RECIPES[1]), optimizer_of(model)
    torch.autograd.backward(nn.functional.cross_entropy(model(data.inputs), data.targets))
    with pytest.raises(DataError, match=r"pruner\.tell\(loss\) after every forward"), pruner.attached(optimizer, STEPS):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_failed_training_lets_go_of_the_network() -> None:
    model = blocks()
    pruner, optimizer = pruner_of(model, RECIPES[0]), optimizer_of(model)
    with pytest.raises(ZeroDivisionError), pruner.attached(optimizer, STEPS):
        raise ZeroDivisionError
    with pytest.raises(UsageError, match="has not begun"):
        pruner.step_begin()
    pruner_of(model, RECIPES[0]).train_begin(optimizer, STEPS)


def test_a_trainer_that_goes_on_without_its_masks_is_refused(tmp_path: Path) -> None:
    recipe = RECIPES[0]
    first = WithLoss(blocks())
    huggingface_trainer(first, Pruner(first, recipe), tmp_path / "one", save_strategy="steps", save_steps=5).train()
    again = WithLoss(blocks())
    trainer = huggingface_trainer(again, Pruner(again, recipe), tmp_path / "other")
    with pytest.raises(OptionError, match=r"resumes at step 5, but the pruner is at step 0: there is no '.*other.*'"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "one" / "checkpoint-5"))


def test_a_network_cut_by_hugging_faces_trainer_can_be_stored_whole(tmp_path: Path) -> None:
    wrapped, data = WithLoss(blocks()), samples()
    example = {"x": data.inputs[:4], "labels": data.targets[:4]}
    pruner = Pruner(wrapped, {**RECIPES[3], "cut": "final"}, example_inputs=example)
    huggingface_trainer(wrapped, pruner, tmp_path).train()
    assert pruner.plans
    assert not wrapped._forward_hooks


def test_lightning_lets_go_after_an_error_and_wants_an_end(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Failing(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
            if index == 2:
                raise ZeroDivisionError
            return nn.functional.cross_entropy(self.net(batch["x"]), batch["labels"])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer_of(self.net)

    def fit(model: nn.Module, steps: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = lightning.Trainer(
                max_steps=steps,
                max_epochs=-1,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=tmp_path,
                callbacks=[lightning_callback(pruner_of(model, RECIPES[0]))],
            )
            trainer.fit(Failing(model), torch.utils.data.DataLoader(Rows(), batch_size=BATCH))

    model = blocks()
    with pytest.raises(OptionError, match="the trainer has no end"):
        fit(model, -1)
    with pytest.raises(ZeroDivisionError):
        fit(model, STEPS)
    pruner_of(model, RECIPES[0]).train_begin(optimizer_of(model), STEPS)  # nobody holds it any more
