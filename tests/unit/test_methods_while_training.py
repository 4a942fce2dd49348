"""Methods that prune while they train: the lesson is all their training, and a row of a comparison says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from factories_digits import digits, fresh_subject
from prunus.experiments.recipe import load_recipe
from prunus.experiments.trained_model import TrainedModel
from prunus.experiments.trial import Trial, enter, trial_of
from prunus.methods import METHODS
from prunus.methods.method import Lesson
from prunus.report.results import Row, Skipped
from prunus.surgery.cut import cut_with_record
from prunus.surgery.proving.verify import verify
from prunus.training import TrainingOptions

TAUGHT = [name for name in METHODS if METHODS.get(name).teach is not None]
STEPS = 6


class Counted:
    """The train split, counting the batches that were taken."""

    def __init__(self) -> None:
        self.data, self.taken = digits().train, 0

    def __len__(self) -> int:
        return len(self.data)

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None):  # type: ignore[no-untyped-def]
        for batch in self.data.batches(batch_size, shuffle_seed):
            self.taken += 1
            yield batch


@pytest.mark.parametrize("name", TAUGHT)
def test_the_lesson_is_all_the_training_and_its_weights_are_what_is_cut(name: str) -> None:
    subject, data = fresh_subject(forward="rewrite"), Counted()
    before = {k: v.clone() for k, v in subject.model.state_dict().items()}
    teach = METHODS.get(name).teach
    assert teach is not None
    learned = teach(subject, subject.limits(0.5), Lesson(data, TrainingOptions(STEPS, 1e-2, 32), seed=1))
    assert data.taken == STEPS
    assert all(torch.equal(value, before[key]) for key, value in subject.model.state_dict().items())
    small, _ = cut_with_record(learned.model, subject.coupling, learned.plan, subject.example_inputs)
    assert verify(learned.model, small, subject.coupling, learned.plan, subject.example_inputs).ok
    moved = [n for n, p in learned.model.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) > 10
    for tensor, mask in learned.plan.masks.items():
        assert not bool(learned.model.get_parameter(tensor)[~torch.from_numpy(mask)].any())


def contest(folder: Path, recover: str) -> Trial:
    path = folder / "recipe.yaml"
    path.write_text(
        "version: 1\nmodel: digits\ndata: digits\nthreads: 1\n"
        f"recover: {recover}\ncompare: {{latency: {{rounds: 1, batch: 8}}}}\n"
    )
    recipe = load_recipe(path)
    return trial_of(TrainedModel(recipe, digits(), fresh_subject()), 0)


def test_a_row_says_where_the_steps_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "prunus.experiments.trial.recovered", lambda *_, **__: pytest.fail("recovered on top of the lesson")
    )
    row = enter(contest(tmp_path, "{steps: 5}"), METHODS.get("incremental"), 0.5)
    assert isinstance(row, Row)
    assert row.kept_actual == pytest.approx(0.5, abs=0.01)
    assert row.accuracy == row.accuracy_before_recovery
    assert row.notes[-1] == "pruned while training: the 5 steps of recover were spent there, none after"


def test_without_steps_it_stands_aside(tmp_path: Path) -> None:
    found = enter(contest(tmp_path, "{steps: 0}"), METHODS.get("rigl"), 0.5)
    assert isinstance(found, Skipped)
    assert "give recover.steps" in found.reason
