"""The glyphs: what is drawn, how it is split, how the shifted sets differ."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from prunus.errors import DataError, OptionError
from prunus.experiments.workloads import WORKLOADS
from prunus.experiments.workloads.glyphs import (
    CHARACTERS,
    CORRUPTIONS,
    SEVERITIES,
    SHIFTS,
    GlyphSizes,
    corrupted,
    glyph_sets,
    load_glyphs,
    long_tail,
)
from prunus.experiments.workloads.glyphs import data as glyph_data
from prunus.experiments.workloads.glyphs.data import glyph_key
from prunus.experiments.workloads.glyphs.fonts import HELD_OUT, SEEN, draw_fonts, find_fonts
from prunus.experiments.workloads.glyphs.render import GlyphSet, blurred, render
from prunus.foundation.cache import CacheWarning, checksum

SMALL = GlyphSizes(train=310, calibration=62, selection=70, test=124, unseen_fonts=62)
NAMES = tuple(item.name for item in fields(GlyphSizes))


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("PRUNUS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def sets(_cache: Path) -> dict[str, GlyphSet]:
    return glyph_sets(SMALL)


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    return draw_fonts(find_fonts(SEEN[:3]))


def sums(found: dict[str, GlyphSet]) -> dict[str, str]:
    return {
        name: checksum({"images": one.images, "labels": one.labels, "fonts": one.fonts}) for name, one in found.items()
    }


def test_a_seed_gives_the_same_bytes_and_another_seed_others(
    sets: dict[str, GlyphSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    torch.manual_seed(3)
    np.random.seed(3)
    assert sums(glyph_sets(SMALL)) == sums(sets)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1, "rendered anew, not read"
    other = sums(glyph_sets(SMALL, seed=1))
    assert not set(other.values()) & set(sums(sets).values())


def test_a_set_does_not_depend_on_the_size_of_another(sets: dict[str, GlyphSet]) -> None:
    changed = sums(glyph_sets(replace(SMALL, train=100)))
    assert {name for name in NAMES if changed[name] != sums(sets)[name]} == {"train"}


def test_no_picture_is_in_two_places(sets: dict[str, GlyphSet]) -> None:
    pictures = [image.numpy().tobytes() for one in sets.values() for image in one.images]
    assert len(pictures) == sum(map(len, sets.values())) == len(set(pictures))


def test_every_set_is_balanced_and_shuffled(sets: dict[str, GlyphSet]) -> None:
    for name, one in sets.items():
        assert len(one) == getattr(SMALL, name)
        counts = torch.bincount(one.labels.long(), minlength=62)
        assert int(counts.max() - counts.min()) <= 1
        assert not torch.equal(one.labels, one.labels.sort().values)


def test_unseen_fonts_are_in_no_other_set(sets: dict[str, GlyphSet]) -> None:
    assert not set(SEEN) & set(HELD_OUT)
    seen, held_out = find_fonts(SEEN), find_fonts(HELD_OUT)
    assert (len(seen), len(held_out)) == (16, 5)
    assert not {font.digest for font in seen} & {font.digest for font in held_out}
    assert set(sets["train"].fonts.tolist()) == set(range(16))
    assert set(sets["unseen_fonts"].fonts.tolist()) == set(range(5))


def test_the_drawn_fonts_decide_the_pictures() -> None:
    seen, held_out = (draw_fonts(find_fonts(names[:1])) for names in (SEEN, HELD_OUT))
    one, other = (render(fonts, 62, np.random.default_rng(0)) for fonts in (seen, held_out))
    assert torch.equal(one.labels, other.labels)
    assert not torch.equal(one.images, other.images)


def test_every_character_is_drawn_inside_the_canvas_and_like_no_other(drawn: torch.Tensor) -> None:
    assert drawn.shape == (3, 62, 64, 64)
    ink = drawn.float().sum((2, 3)) / 255
    assert float(ink.min()) > 40
    rim = torch.cat([drawn[..., 0, :], drawn[..., -1, :], drawn[..., 0], drawn[..., -1]], -1)
    assert int(rim.max()) == 0, "nothing is cut off"
    for font in drawn:
        assert len({glyph.numpy().tobytes() for glyph in font}) == 62


@pytest.mark.parametrize("pair", ["cC", "oO", "sS", "vV", "wW", "xX", "zZ"])
def test_case_shows_in_the_height_above_the_common_baseline(drawn: torch.Tensor, pair: str) -> None:
    def top(font: torch.Tensor, character: str) -> int:
        return int(font[CHARACTERS.index(character)].float().amax(1).nonzero()[0])

    for font in drawn:
        assert top(font, pair[0]) - top(font, pair[1]) >= 4


def test_a_split_is_what_a_model_wants(sets: dict[str, GlyphSet]) -> None:
    splits = load_glyphs(SMALL)
    assert splits.classes == tuple(CHARACTERS)
    inputs, targets = next(splits.test.batches(200))
    assert (inputs.shape, inputs.dtype, targets.dtype) == ((124, 1, 32, 32), torch.float32, torch.int64)
    assert torch.equal((inputs[:, 0] * 0.25 + 0.5).mul(255).round().to(torch.uint8), sets["test"].images)
    assert -2 <= float(inputs.min()) < -1 < 1 < float(inputs.max()) <= 2


@pytest.mark.parametrize("ratio", [1.0, 10.0, 50.0])
def test_the_long_tail_falls_geometrically(ratio: float) -> None:
    labels = torch.arange(62 * 400) % 62
    kept = long_tail(labels, ratio)
    counts = torch.bincount(labels[kept], minlength=62).sort(descending=True).values
    expected = 400 * ratio ** (-torch.arange(62) / 61)
    assert torch.allclose(counts.float(), expected, atol=0.51)
    assert torch.equal(kept, kept.unique())
    assert torch.equal(kept, long_tail(labels, ratio))
    assert ratio == 1 or not torch.equal(kept, long_tail(labels, ratio, seed=1))


def test_only_the_train_split_is_long_tailed(sets: dict[str, GlyphSet]) -> None:
    tailed, plain = load_glyphs(SMALL, tail_ratio=5.0), load_glyphs(SMALL)
    assert 62 < len(tailed.train) < len(plain.train)
    for name in ("calibration", "selection", "test"):
        for got, wanted in zip(getattr(tailed, name).batches(200), getattr(plain, name).batches(200), strict=True):
            assert torch.equal(got[0], wanted[0])
            assert torch.equal(got[1], wanted[1])


@pytest.mark.parametrize("kind", CORRUPTIONS.names())
def test_each_severity_is_further_from_the_clean_pictures(sets: dict[str, GlyphSet], kind: str) -> None:
    clean = sets["test"].images
    before = clean.clone()
    found = [corrupted(clean, kind, severity) for severity in SEVERITIES]
    distances = [float((one.float() - clean.float()).square().mean()) for one in found]
    assert torch.equal(clean, before)
    assert distances[0] > 1
    assert all(a * 1.02 < b for a, b in itertools.pairwise(distances))
    assert torch.equal(found[2], corrupted(clean, kind, 3))


def test_kinds_and_severities_that_are_not() -> None:
    images = torch.zeros(1, 32, 32, dtype=torch.uint8)
    with pytest.raises(OptionError, match="Did you mean 'noise'"):
        corrupted(images, "noisy", 1)
    with pytest.raises(OptionError, match="severity of 'blur' is 6; allowed: 1, 2, 3, 4 or 5"):
        corrupted(images, "blur", 6)


def test_shift_sets_have_the_labels_of_the_test_split(
    sets: dict[str, GlyphSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glyph_data, "glyph_sets", lambda *_: sets)
    shifts = WORKLOADS.get("glyphs/vit").shifts
    assert len(shifts) == 1 + 5 * 5
    noisy, clean = shifts["noise-5"](), load_glyphs(SMALL).test
    (inputs, targets), (clean_inputs, clean_targets) = next(noisy.batches(200)), next(clean.batches(200))
    assert torch.equal(targets, clean_targets)
    assert not torch.equal(inputs, clean_inputs)
    assert len(SHIFTS["unseen-fonts"]()) == 62


def test_blur_keeps_the_mean_of_a_flat_picture_and_widens_a_point() -> None:
    flat, point = torch.full((1, 9, 9), 0.4), torch.zeros(1, 9, 9)
    point[0, 4, 4] = 1
    assert torch.allclose(blurred(flat, torch.tensor([2.0])), flat)
    assert torch.equal(blurred(point, torch.tensor([0.0])), point)
    narrow, wide = (blurred(point, torch.tensor([sigma])) for sigma in (0.6, 1.2))
    assert 1 > float(narrow[0, 4, 4]) > float(wide[0, 4, 4])
    assert float(wide.sum()) == pytest.approx(1, abs=1e-5)


def test_a_damaged_cache_is_rendered_again_and_said(
    sets: dict[str, GlyphSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    glyph_sets(SMALL)
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for damaged in (bytes(flipped), whole[:1000], b""):
        file.write_bytes(damaged)
        with pytest.warns(CacheWarning, match="is damaged; made again"):
            assert sums(glyph_sets(SMALL)) == sums(sets)
        assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(whole).digest()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(CacheWarning, match="not kept for the next run: cannot write"):
        assert len(glyph_sets(SMALL)["train"]) == 310


def test_the_key_changes_with_what_decides_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [glyph_key(), glyph_key(SMALL), glyph_key(seed=1)]
    monkeypatch.setattr(glyph_data, "VERSION", 2)
    keys.append(glyph_key())
    monkeypatch.setattr(glyph_data, "SEEN", SEEN[1:])
    keys.append(glyph_key())
    assert len(set(keys)) == 5


@pytest.mark.parametrize("package", ["matplotlib", "PIL"])
def test_a_missing_package_is_named_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=r"is not installed\. Run: pip install 'prunus\[report\]'"):
        glyph_sets(SMALL)


def test_missing_fonts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(DataError, match=r"found none of its 16 fonts \(DejaVuSans\.ttf"):
        glyph_sets(SMALL)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GlyphSizes(train=0), r"GlyphSizes\.train is 0; allowed: a whole number of at least 1"),
        (lambda: load_glyphs(SMALL, seed=-1), "seed is -1"),
        (lambda: load_glyphs(SMALL, tail_ratio=0.5), "tail_ratio is 0.5; allowed: a finite number of at least 1"),
        (lambda: load_glyphs(SMALL, tail_ratio=float("nan")), "tail_ratio is nan"),
    ],
)
def test_sizes_seeds_and_ratios_out_of_range(call: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        call()  # type: ignore[operator]
