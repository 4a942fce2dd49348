"""The text workloads: which files go where, what a snippet is, and when the text is missing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prunus.data.sources import AugmentedSplit
from prunus.errors import DataError, OptionError
from prunus.experiments.workloads import WORKLOADS, Split, Splits
from prunus.experiments.workloads.text import PACKAGES, TextSizes, data, load_language, load_text
from prunus.experiments.workloads.text.corpus import LONGEST, MODULES, SHARES, TextFile, read_corpus, share_out
from prunus.experiments.workloads.text.data import CONTEXT, SNIPPET, replaced, snippets, text_key
from prunus.experiments.workloads.text.language import ByteGPT
from prunus.experiments.workloads.text.networks import TextTransformer
from prunus.measurement.quality import evaluate
from prunus.training import TrainingOptions, finetune_

SMALL = TextSizes(train=70, calibration=21, selection=28, test=35)


@pytest.fixture(scope="module")
def corpus() -> tuple[TextFile, ...]:
    return read_corpus(least=SNIPPET)


@pytest.fixture(scope="module")
def small() -> Splits:
    return load_text(SMALL)


def stored(splits: Splits) -> dict[str, Split]:
    assert isinstance(splits.train, AugmentedSplit)
    held = {"train": splits.train.split} | {name: getattr(splits, name) for name in SHARES if name != "train"}
    assert all(isinstance(split, Split) for split in held.values())
    return held


def library(root: Path, files: int = 5, size: int = 600) -> Path:
    for package in (*PACKAGES, ""):
        (root / package / "test").mkdir(parents=True)
        (root / package / "test" / "ignored.py").write_bytes(b"#" * size)
        for number in range(files):
            (root / package / f"{package or MODULES}{number}.py").write_bytes(bytes([65 + number]) * size)
    return root


def test_no_file_is_in_two_splits_and_every_package_in_all(corpus: tuple[TextFile, ...]) -> None:
    shared = share_out(corpus)
    paths = [file.path for files in shared.values() for file in files]
    assert sorted(paths) == sorted(file.path for file in corpus)
    assert len(set(paths)) == len(paths)
    for files in shared.values():
        assert {file.package for file in files} == {*PACKAGES, MODULES}
    for package in PACKAGES:
        size = {name: sum(len(f.content) for f in files if f.package == package) for name, files in shared.items()}
        assert max(size, key=size.__getitem__) == "train"


def test_no_snippet_of_a_split_lies_in_a_file_of_another(corpus: tuple[TextFile, ...], small: Splits) -> None:
    shared = share_out(corpus)
    for name, split in stored(small).items():
        for ids, label in zip(split.inputs[:12], split.targets[:12], strict=True):
            text, package = bytes(ids.tolist()), PACKAGES[int(label)]
            assert any(text in file.content for file in shared[name] if file.package == package)


def test_shares_follow_the_seed(corpus: tuple[TextFile, ...]) -> None:
    assert share_out(corpus, 1) == share_out(corpus, 1)
    assert share_out(corpus, 1) != share_out(corpus, 2)


def test_a_seed_gives_the_same_snippets_and_another_seed_others(small: Splits) -> None:
    again, other = stored(load_text(SMALL)), stored(load_text(SMALL, seed=1))
    for name, split in stored(small).items():
        assert torch.equal(split.inputs, again[name].inputs)
        assert not torch.equal(split.inputs, other[name].inputs)


def test_a_split_does_not_depend_on_the_size_of_another(small: Splits) -> None:
    changed = stored(load_text(replace(SMALL, train=14)))
    same = {name: torch.equal(split.inputs, changed[name].inputs) for name, split in stored(small).items()}
    assert same == {"train": False, "calibration": True, "selection": True, "test": True}


def test_snippets_are_bytes_balanced_and_shuffled(small: Splits) -> None:
    assert small.classes == PACKAGES
    for name, split in stored(small).items():
        assert split.inputs.shape == (getattr(SMALL, name), SNIPPET)
        assert 0 <= int(split.inputs.min()) <= int(split.inputs.max()) < 256
        assert len(set(torch.bincount(split.targets).tolist())) == 1
        assert not torch.equal(split.targets, split.targets.sort().values)


def test_the_train_split_is_varied_only_where_it_is_shuffled(small: Splits) -> None:
    plain = next(iter(small.train.batches(70)))[0]
    assert torch.equal(plain, stored(small)["train"].inputs)
    one, same, other = (next(iter(small.train.batches(70, seed)))[0] for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert bytes(one[0].tolist()) not in {bytes(row.tolist()) for row in plain}


def test_a_share_of_the_bytes_is_replaced() -> None:
    ids = torch.full((40, 500), 7)
    changed = (replaced(ids, torch.Generator().manual_seed(0), 0.2) != ids).float().mean()
    assert float(changed) == pytest.approx(0.2 * 255 / 256, abs=0.01)


def test_windows_stay_inside_a_file_and_reach_every_place() -> None:
    import numpy as np

    files = [TextFile("p", str(n), bytes([n]) * length) for n, length in enumerate((4, 3, 6))]
    found = snippets(files, 400, 3, np.random.default_rng(0))
    assert bool((found == found[:, :1]).all()), "each file is one byte over and over"
    # 2, 1 and 4 places: the files' shares of the windows
    counts = torch.bincount(found[:, 0], minlength=3) / 400
    assert counts.tolist() == pytest.approx([2 / 7, 1 / 7, 4 / 7], abs=0.08)


def test_the_targets_of_the_language_are_the_next_bytes() -> None:
    splits = load_language(SMALL)
    assert len(splits.classes) == 256
    files = share_out(read_corpus(least=CONTEXT + 1))["test"]
    for inputs, targets in splits.test.batches(5):
        assert inputs.shape == targets.shape == (5, CONTEXT)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        whole = bytes([*inputs[0].tolist(), int(targets[0, -1])])
        assert any(whole in file.content for file in files if file.package != data.TABLES)


def test_the_key_changes_with_the_text_sizes_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {text_key(), text_key(SMALL), text_key(seed=1)}
    root = library(tmp_path)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(root))
    keys |= {text_key()}
    (root / PACKAGES[0] / f"{PACKAGES[0]}0.py").write_bytes(b"changed" * 100)
    assert len(keys | {text_key()}) == 5


def test_tests_are_left_out_and_long_files_end(tmp_path: Path) -> None:
    root = library(tmp_path)
    (root / PACKAGES[0] / "long.py").write_bytes(b"x" * (LONGEST + 5))
    files = read_corpus(root)
    assert not [file for file in files if "ignored" in file.path]
    assert max(len(file.content) for file in files) == LONGEST


def test_a_library_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"finds no Python text of 'asyncio' in .*Install Python with its library"):
        read_corpus(tmp_path)
    with pytest.raises(DataError, match="package 'asyncio' has 3 files; needed: 4"):
        share_out(read_corpus(library(tmp_path, files=3)))


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"cannot read .*\.py': Permission denied; make it readable"):
        read_corpus(library(tmp_path))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TextSizes(train=0), "TextSizes.train is 0; allowed: a whole number of at least 1"),
        (lambda: load_text(SMALL, seed=-1), "seed is -1"),
    ],
)
def test_bad_sizes_and_seeds(call: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        call()  # type: ignore[operator]


def test_shift_sets_are_the_test_set_with_typos() -> None:
    shifts = WORKLOADS.get("text/gru").shifts
    assert list(shifts) == ["typos-1", "typos-2", "typos-3"]
    test = load_text().test
    assert isinstance(test, Split)
    found = [shifts[name]() for name in shifts]
    changed = [float((split.inputs != test.inputs).float().mean()) for split in found]  # type: ignore[attr-defined]
    assert changed == pytest.approx([0.05, 0.1, 0.2], abs=0.01)
    tables = WORKLOADS.get("text/gpt").shifts["tables"]()
    assert next(iter(tables.batches(2)))[0].shape == (2, CONTEXT)


def test_a_tiny_transformer_learns_and_a_tiny_gpt_beats_the_bytes_frequencies() -> None:
    torch.manual_seed(0)
    options = TrainingOptions(40, 8e-3, 32, schedule="one_cycle")
    splits = load_text(TextSizes(train=1400, calibration=7, selection=7, test=210))
    model = TextTransformer(24, 1, 2, len(PACKAGES))
    finetune_(model, splits.train, options)
    assert evaluate(model, splits.test.batches(), splits.classes).accuracy > 0.2
    language = load_language(TextSizes(train=600, calibration=1, selection=1, test=40))
    gpt = ByteGPT(32, 1, 2)
    finetune_(gpt, language.train, options)
    found = evaluate(gpt, language.test.batches(), language.classes)
    targets = torch.cat([targets for _, targets in language.test.batches()])
    assert found.count == targets.numel() == 40 * CONTEXT
    shares = torch.bincount(targets.flatten()).double() / targets.numel()
    entropy = -(shares * shares.clamp(min=1e-9).log2()).sum()
    assert found.nll / math.log(2) < float(entropy)


def test_the_language_model_looks_back_only() -> None:
    model = ByteGPT(16, 2, 2).eval()
    ids = torch.randint(256, (2, 20), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[:, 12:] = 0
    assert torch.allclose(model(ids)[..., :12], model(other)[..., :12], atol=1e-6)
    assert not torch.allclose(model(ids)[..., 12:], model(other)[..., 12:], atol=1e-3)
