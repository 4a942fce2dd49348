"""Batches that are dictionaries, as Hugging Face loaders yield them, and other nests, work at every door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import factories_transformers
import prunus
from prunus.errors import DataError
from prunus.graph.call_form import CallForm, as_called
from prunus.measurement.quality import evaluate
from prunus.outcome import Outcome
from prunus.pruner import Pruner, PrunerOptions

SAMPLES = 24
IMAGES, LABELS, MASK = torch.randn(SAMPLES, 3, 4, 4), torch.arange(SAMPLES) % 4, torch.ones(SAMPLES)
ROWS = [slice(start, start + 6) for start in range(0, SAMPLES, 6)]
HALF = {"params": 0.6}
STEPS = {"steps": 2, "batch_size": 6}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.head = (
            nn.Conv2d(3, 8, 1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 1),
            nn.Linear(8, 4),
        )

    def run(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        return self.head((x + torch.relu(self.b(x))).mean((2, 3)))


class OneDict(Net):
    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"logits": self.run(batch["image"])}


class Nested(Net):
    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        first, second = batch["views"]
        return self.run(first["x"] + second), batch["meta"]["mask"]


class Pair(Net):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        image, mask = pair
        return self.run(image * mask[:, None, None, None])


@dataclass
class Sample:
    image: Tensor
    mask: Tensor


class Names(NamedTuple):
    image: Tensor
    mask: Tensor


class Record(Net):
    def forward(self, sample: Sample | Names) -> Tensor:
        return self.run(sample.image * sample.mask[:, None, None, None])


class Keywords(Net):
    def forward(self, image: Tensor, mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.run(image * mask[:, None, None, None])
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Rows:
    """A dataset of dictionaries."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < SAMPLES:
            raise IndexError(index)
        return {"image": IMAGES[index], "mask": MASK[index], "labels": LABELS[index]}


def fields(rows: slice) -> dict[str, Tensor]:
    return {"image": IMAGES[rows], "mask": MASK[rows]}


def with_labels(rows: slice) -> dict[str, Tensor]:
    return {**fields(rows), "labels": LABELS[rows], "number": torch.arange(SAMPLES)[rows]}


def _pair(rows: slice) -> tuple[Tensor, Tensor]:
    return IMAGES[rows], MASK[rows]


def nest(rows: slice) -> dict[str, Any]:
    return {"views": [{"x": IMAGES[rows]}, IMAGES[rows]], "meta": {"mask": MASK[rows]}}


FORMS: dict[str, Callable[[], tuple[nn.Module, Any, Any]]] = {
    "one dict, pairs": lambda: (OneDict(), fields(ROWS[0]), [(fields(r), LABELS[r]) for r in ROWS]),
    "one dict, labels inside": lambda: (OneDict(), with_labels(ROWS[0]), [with_labels(r) for r in ROWS]),
    "one dict, as a tuple": lambda: (OneDict(), (fields(ROWS[0]),), [(fields(r), LABELS[r]) for r in ROWS]),
    "one dict, loader": lambda: (OneDict(), fields(ROWS[0]), DataLoader(Rows(), 6)),  # type: ignore[arg-type]
    "one dict, dataset": lambda: (OneDict(), fields(ROWS[0]), Rows()),
    "keywords, pairs": lambda: (Keywords(), fields(ROWS[0]), [(fields(r), LABELS[r]) for r in ROWS]),
    "keywords, labels inside": lambda: (Keywords(), with_labels(ROWS[0]), [with_labels(r) for r in ROWS]),
    "keywords, loader": lambda: (Keywords(), with_labels(ROWS[0]), DataLoader(Rows(), 6)),  # type: ignore[arg-type]
    "nest": lambda: (Nested(), nest(ROWS[0]), [(nest(r), LABELS[r]) for r in ROWS]),
    "tuple": lambda: (Pair(), (IMAGES[:6], MASK[:6]), [((IMAGES[r], MASK[r]), LABELS[r]) for r in ROWS]),
    "dataclass": lambda: (Record(), Sample(*_pair(ROWS[0])), [(Sample(*_pair(r)), LABELS[r]) for r in ROWS]),
    "named tuple": lambda: (Record(), Names(*_pair(ROWS[0])), [(Names(*_pair(r)), LABELS[r]) for r in ROWS]),
}


@pytest.fixture(params=FORMS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(0)
    return FORMS[request.param]()


def _prune(model: nn.Module, inputs: Any, data: Any, **options: Any) -> Outcome:
    return prunus.prune(model, inputs, **{"budget": HALF, "data": data, "repair": None, **options})


def test_every_form_goes_through_methods_and_choices(case: Any) -> None:
    for options in (
        {"method": "multi-scale"},
        {"method": "layer-wise"},
        {"method": "depth"},
        {"criterion": "taylor"},
        {"criterion": "taylor-sample"},
        {"criterion": "fisher"},
        {"criterion": "mean-activation", "damage": True},
        {"criterion": "magnitude", "search": 3},
        {"budget": {"max_drop": 0.9}, "criterion": "magnitude"},
        {"stages": [{"level": "units", "kept": 0.8, "recover": {"steps": 1}}, {"level": "weights"}]},
    ):
        found = _prune(*case, **options)
        assert found.plan.after.params < found.plan.before.params or found.plan.masks, options


def test_every_form_is_repaired_recovered_measured_and_verified(case: Any) -> None:
    model, inputs, data = case
    found = _prune(model, inputs, data, criterion="magnitude", repair="refold", recover=STEPS)
    assert found.repair is not None
    assert found.repair.samples > 0
    assert prunus.verify(found).ok
    later = prunus.repair(_prune(model, inputs, None, criterion="magnitude"), data, repair="refold")
    assert later.repair is not None
    assert later.repair.samples > 0
    assert not later.repair.notes or "not repaired" not in str(later.repair)
    assert prunus.recover(later, data, STEPS).recovery is not None
    bare = _prune(model, inputs, None, criterion="magnitude")
    assert prunus.recover_(model, bare.model, data, STEPS, plan=bare.plan).after <= 10
    quality = prunus.measure(model, inputs, data=data).quality
    assert quality is not None
    assert quality.count == SAMPLES


def test_the_form_does_not_change_the_plan() -> None:
    plans = []
    for name in ("one dict, pairs", "one dict, labels inside", "one dict, as a tuple", "keywords, pairs"):
        torch.manual_seed(0)
        model, inputs, data = FORMS[name]()
        plans.append(_prune(model, inputs, data, criterion="taylor").plan.axes)
    assert all({a: m.tolist() for a, m in p.items()} == {a: m.tolist() for a, m in plans[0].items()} for p in plans)


@pytest.mark.parametrize("form", ["one dict, pairs", "keywords, pairs"])
def test_noise_and_data_without_labels_take_the_form(form: str) -> None:
    model, inputs, _ = FORMS[form]()
    for data in ("noise", [fields(r) for r in ROWS]):
        found = _prune(model, inputs, data, criterion="mean-activation", repair="refold", recover=STEPS)
        assert found.repair is not None
        assert found.repair.samples > 0
        assert found.recovery is not None
    with pytest.raises(DataError, match=r"^calibration batch 0 is one (dict|tuple); .* Add the labels\.$"):
        _prune(model, inputs, [fields(r) for r in ROWS], criterion="taylor")


@pytest.mark.parametrize("kind", ["OneDict", "Keywords"])
def test_a_recipe_compares_on_dicts(kind: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from test_dict_batches import ROWS, {kind}, with_labels\n"
        f"def model():\n    return {kind}()\n"
        "def data():\n    found = [with_labels(r) for r in ROWS]\n"
        "    return {name: found for name in ('train', 'calibration', 'selection', 'test')}\n"
    )
    (tmp_path / "recipe.yaml").write_text(
        "version: 1\nmodel: net.py:model\ndata: net.py:data\ntrain: {steps: 2}\nrecover: {steps: 2}\n"
        "compare: {methods: [sensitivity, multi-scale], kept: [0.6], seeds: 1, repair: [refold],"
        " latency: {rounds: 2, batch: 2}}\n"
    )
    found = prunus.compare(tmp_path / "recipe.yaml")
    assert {row.method.split("+")[0].strip() for row in found.runs} == {"sensitivity", "multi-scale"}


def test_a_pruner_works_beside_a_loop_over_dicts() -> None:
    model, inputs, data = FORMS["one dict, labels inside"]()
    pruner = Pruner(model, PrunerOptions(0.6, method="units", every=2), example_inputs=inputs)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    pruner.train_begin(optimizer, 4)
    for batch in data:
        pruner.step_begin()
        nn.functional.cross_entropy(model(batch)["logits"], batch["labels"]).backward()
        pruner.before_optimizer_step()
        optimizer.step()
        pruner.after_optimizer_step()
        optimizer.zero_grad()
    pruner.train_end()
    pruner.cut_()
    assert model.a.weight.shape[0] < 8
    assert model(data[0])["logits"].shape == (6, 4)


@pytest.mark.parametrize("form", ["one dict, pairs", "keywords, pairs", "nest"])
@pytest.mark.parametrize("repair", ["auto", "refold"])
def test_a_repair_on_data_of_a_wrong_shape_is_refused(form: str, repair: str) -> None:
    model, inputs, _ = FORMS[form]()
    found = _prune(model, inputs, None, criterion="magnitude")
    wrong = {"image": torch.randn(6, 5, 4, 4), "mask": MASK[:6]}
    data = [
        ({"views": [{"x": wrong["image"]}, wrong["image"]], "meta": wrong} if form == "nest" else wrong, LABELS[:6])
    ]
    with pytest.raises(
        DataError, match=r"^a calibration batch of shapes .* does not go through the model: .*inputs\.$"
    ):
        prunus.repair(found, data, repair=repair)


def test_a_recovery_on_data_of_a_wrong_shape_is_refused() -> None:
    for model, inputs, wrong in (
        (OneDict(), fields(ROWS[0]), {"image": torch.randn(6, 5, 4, 4)}),
        (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(2, 8), torch.randn(6, 5)),
    ):
        found = _prune(model, inputs, None, criterion="magnitude")
        with pytest.raises(
            DataError, match=r"^a training batch of shapes .* does not go through the model: .*inputs\.$"
        ):
            prunus.recover(found, [(wrong, LABELS[:6])] * 3, STEPS)
        with pytest.raises(DataError, match=r"^a calibration batch .* does not go through the model"):
            prunus.repair(found, [(wrong, LABELS[:6])] * 3)


def test_one_pair_with_a_dict_is_refused() -> None:
    with pytest.raises(DataError, match="one pair"):
        _prune(OneDict(), fields(ROWS[0]), (fields(ROWS[0]), LABELS[:6]), criterion="taylor")


def test_a_call_is_read_from_the_signature_and_batches_from_the_call() -> None:
    assert as_called(Keywords(), {"image": 1, "id": 2}) == {"image": 1}
    assert as_called(OneDict(), {"image": 1, "id": 2}) == ({"image": 1, "id": 2},)
    assert as_called(Pair(), (1, 2)) == ((1, 2),)
    calls = CallForm(({"image": 0},))
    for batch in ({"image": 1, "id": 2, "label": 3}, ({"image": 1}, 3), [({"image": 1},), 3]):
        assert calls.batch(batch) == (({"image": 1},), 3)
        assert calls.batch(calls.batch(batch)) == (({"image": 1},), 3)
    assert calls.batch({"image": 1}) == (({"image": 1},), None)
    needs = CallForm({"image": 0, "labels": 0})
    assert needs.batch(({"image": 1}, 3)) == ({"image": 1, "labels": 3}, 3)


def test_the_example_without_labels_is_the_call() -> None:
    analysis = prunus.analyse(Keywords(), with_labels(ROWS[0]))
    assert set(analysis.user_inputs) == {"image", "mask"}
    own = prunus.analyse(Keywords(), with_labels(ROWS[0]), loss=lambda output, targets: output["loss"])
    assert set(own.user_inputs) == {"image", "mask", "labels"}


class Fixed(nn.Module):
    def __init__(self, logits: Tensor, named: bool) -> None:
        super().__init__()
        self.logits, self.named = nn.Parameter(logits), named

    def forward(self, x: Tensor) -> Any:
        return {"logits": self.logits} if self.named else self.logits


def test_quality_counts_positions_with_labels_alone() -> None:
    labels = torch.tensor([[0, 1, -100], [2, -100, 1]])
    logits = nn.functional.one_hot(labels.clamp(min=0), 3).float()
    logits[0, 0] = logits[0, 0].roll(1)
    found = evaluate(Fixed(logits, named=True), [(torch.zeros(2), labels)])
    assert (found.count, found.accuracy) == (4, 0.75)
    assert (
        evaluate(Fixed(logits, named=False), [(torch.zeros(2), labels)], loss="sparse_cross_entropy").accuracy == 0.75
    )


def test_quality_of_a_language_model_is_that_of_the_next_token() -> None:
    tokens = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    logits = nn.functional.one_hot(tokens.roll(-1, 1), 4).float()
    found = evaluate(Fixed(logits, named=True), [(torch.zeros(2), tokens)], loss="next_token")
    assert (found.count, found.accuracy) == (6, 1.0)


def _texts(kind: str) -> tuple[nn.Module, list[dict[str, Tensor]], str]:
    library = factories_transformers.transformers()
    torch.manual_seed(0)
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24}
    sizes = {**heads, "vocab_size": 30, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}

    def batch(width: int) -> dict[str, Tensor]:
        ids, mask = torch.randint(3, 30, (6, width)), torch.ones(6, width, dtype=torch.long)
        mask[:2, -2:] = 0
        found = {"input_ids": ids, "attention_mask": mask}
        words = {"tokens": ids % 3, "language": ids}
        return {**found, "labels": ids[:, 0] % 3 if kind == "text" else words[kind].masked_fill(mask == 0, -100)}

    data = [batch(width) for width in (6, 6, 7, 6)]
    if kind == "language":
        model = library.LlamaForCausalLM(library.LlamaConfig(**sizes, num_key_value_heads=2, use_cache=False))
        return model.eval(), data, "next_token"
    config = library.BertConfig(**sizes, num_labels=3, pad_token_id=0)
    if kind == "tokens":
        return library.BertForTokenClassification(config).eval(), data, "sparse_cross_entropy"
    return library.BertForSequenceClassification(config).eval(), data, "cross_entropy"


@pytest.mark.parametrize("kind", ["text", "tokens", "language"])
def test_hugging_face_batches_with_padding_work(kind: str) -> None:
    model, data, loss = _texts(kind)
    for options in (
        {"method": "multi-scale"},
        {"method": "fine-tuning-pruning"},
        {"criterion": "taylor", "damage": True},
        {"criterion": "magnitude", "repair": "refold", "recover": {**STEPS, "loss": loss}},
        {"criterion": "magnitude", "budget": {"max_drop": 0.9}},
    ):
        found = _prune(model, data[0], data, **{"budget": {"params": 0.9}, "loss": loss, **options})
        assert found.plan.after.params < found.plan.before.params, options
    quality = prunus.measure(model, data[0], data=data, loss=loss).quality
    counted = sum(
        int((batch["labels"][:, 1:] if kind == "language" else batch["labels"]).ne(-100).sum()) for batch in data
    )
    assert quality is not None
    assert quality.count == counted


def test_the_loss_of_the_model_itself_is_taken() -> None:
    model, data, _ = _texts("language")
    found = _prune(
        model, data[0], data, budget={"params": 0.9}, criterion="taylor", loss=lambda output, targets: output.loss
    )
    assert found.plan.after.params < found.plan.before.params
