"""The speech workload: who speaks where, how sound becomes a picture, and when espeak-ng is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prunus.cli.main import main
from prunus.errors import DataError, OptionError
from prunus.experiments.workloads import WORKLOADS, Split
from prunus.experiments.workloads.speech import SHIFTS, WORDS, SpeechSizes, espeak, load_speech, speech_sets
from prunus.experiments.workloads.speech.data import speech_key, varied
from prunus.experiments.workloads.speech.espeak import PROGRAM, RATE, Utterance, check_voices, speak
from prunus.experiments.workloads.speech.features import BANDS, FRAMES, WINDOW, log_mel, mel_filters, noisy, placed
from prunus.experiments.workloads.speech.render import ACCENTS, CASTS, FAR_ACCENTS, NOISE

SMALL = SpeechSizes(train=48, calibration=24, selection=24, test=24, odd_voices=4, far_accents=4)
spoken = pytest.mark.skipif(shutil.which(PROGRAM) is None, reason="espeak-ng is not installed")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("PRUNUS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def sets(_cache: Path) -> dict[str, Split]:
    return speech_sets(SMALL)


def tone(hertz: float, seconds: float = 0.3) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(int(seconds * RATE)) / RATE)


def program(folder: Path, script: str) -> str:
    path = folder / PROGRAM
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(folder)


def test_no_voice_of_the_train_split_is_heard_in_another_group() -> None:
    groups = [CASTS[name].variants for name in ("train", "selection", "test", "odd_voices")]
    names = [name for group in groups for name in group]
    assert len(set(names)) == len(names)
    assert CASTS["calibration"] == CASTS["train"]
    assert not set(ACCENTS) & set(FAR_ACCENTS)
    assert set(CASTS) == set(asdict(SMALL))
    assert len(WORDS) == len(set(WORDS)) >= 20


@spoken
def test_the_groups_are_what_is_spoken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    said: list[Utterance] = []

    def note(utterance: Utterance) -> torch.Tensor:
        said.append(utterance)
        return tone(440)

    monkeypatch.setattr("prunus.experiments.workloads.speech.render.speak", note)
    speech_sets(SpeechSizes(train=200, calibration=1, selection=1, test=100, odd_voices=1, far_accents=1))
    train, test = said[:200], said[202:302]
    assert {u.variant for u in train} == set(CASTS["train"].variants)
    assert {u.variant for u in test} == set(CASTS["test"].variants)
    assert {u.accent for u in train} == set(ACCENTS)
    assert len({u.speed for u in train}) > 30
    assert len({u.pitch for u in train}) > 30


@spoken
def test_a_seed_gives_the_same_bytes_and_the_second_time_they_are_read(
    sets: dict[str, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {name: split.inputs.clone() for name, split in sets.items()}
    monkeypatch.setattr(
        "prunus.experiments.workloads.speech.render.speak", lambda utterance: pytest.fail("spoken again")
    )
    assert all(torch.equal(kept[name], split.inputs) for name, split in speech_sets(SMALL).items())
    monkeypatch.undo()
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    anew = speech_sets(replace(SMALL, train=24))
    same = {name for name, inputs in kept.items() if torch.equal(inputs, anew[name].inputs)}
    assert same == set(kept) - {"train"}, "rendered anew, the same but for the set whose size changed"
    assert len({speech_key(), speech_key(SMALL), speech_key(SMALL, seed=1)}) == 3


@spoken
def test_sets_are_balanced_pictures(sets: dict[str, Split]) -> None:
    assert set(sets) == {*asdict(SMALL), *(f"noise_{decibels}" for decibels in NOISE)}
    for name, size in asdict(SMALL).items():
        assert sets[name].inputs.shape == (size, BANDS, FRAMES)
        counts = torch.bincount(sets[name].targets, minlength=len(WORDS))
        assert int(counts.max() - counts.min()) <= 1
        assert sets[name].inputs.flatten(1).amax(1).tolist() == [255] * size
    splits = load_speech(SMALL)
    inputs, targets = next(iter(splits.test.batches(24)))
    assert inputs.shape == (24, 1, BANDS, FRAMES)
    assert splits.classes == WORDS
    assert torch.equal(targets, sets["test"].targets)
    assert abs(float(inputs.mean())) < 1
    assert 0.5 < float(inputs.std()) < 2


@spoken
def test_words_differ_and_noise_drowns_them(sets: dict[str, Split]) -> None:
    test = sets["test"].inputs.float()
    gaps = [float((sets[f"noise_{decibels}"].inputs.float() - test).abs().mean()) for decibels in NOISE]
    assert gaps == sorted(gaps)
    assert len({row.numpy().tobytes() for row in sets["train"].inputs}) == len(sets["train"])


def test_the_shift_sets_have_names() -> None:
    assert list(SHIFTS) == ["odd-voices", "far-accents", "noise-20", "noise-10", "noise-5", "noise-0", "noise--5"]
    assert WORKLOADS.get("speech").shifts is SHIFTS


def test_a_tone_lights_the_band_of_its_frequency() -> None:
    hot = [int(log_mel(placed(tone(hertz), 0.5)[None])[0].float().mean(1).argmax()) for hertz in (200, 1000, 4000)]
    assert hot == sorted(hot)
    assert len(set(hot)) == 3
    filters = mel_filters()
    assert filters.shape == (BANDS, 257)
    assert bool((filters.sum(1) > 0).all())
    peak = int(filters[hot[1]].argmax()) * RATE / 512
    assert abs(peak - 1000) < 120


def test_a_word_loses_its_silence_and_starts_where_it_is_put() -> None:
    word = torch.cat([torch.zeros(900), tone(300), torch.zeros(2000)])
    early, late = placed(word, 0.0), placed(word, 1.0)
    assert early.shape == (WINDOW,)
    assert early[:3].abs().max() > 0
    assert float(late[: WINDOW // 2].abs().max()) == 0
    assert float(early.square().sum()) == pytest.approx(float(late.square().sum()))
    assert float(placed(torch.zeros(50), 0.5).abs().max()) == 0
    assert placed(tone(300, 2.0), 0.7).shape == (WINDOW,)


def test_noise_has_the_power_that_the_decibels_say() -> None:
    sounds = torch.stack([placed(tone(300), 0.5)] * 3)
    levels = torch.tensor([20.0, 10.0, 0.0])
    noise = noisy(sounds, levels, np.random.default_rng(0)) - sounds
    ratio = 10 * torch.log10(tone(300).square().mean() / noise.square().mean(1))
    assert ratio.tolist() == pytest.approx(levels.tolist(), abs=0.3)


def test_variation_follows_the_generator_and_keeps_the_shape() -> None:
    inputs = torch.randn(30, 1, BANDS, FRAMES, generator=torch.Generator().manual_seed(0))
    one, same, other = (varied(inputs, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == inputs.shape
    assert 0 < float((one == 0).float().mean()) < 0.3, "some frames and bands are blank"


def test_without_espeak_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=r"needs the program espeak-ng, which is not installed\. Run: apt-get install"):
        load_speech(SMALL)
    with pytest.raises(SystemExit) as caught:
        main(["train-workload", "speech/gru"])
    error = capsys.readouterr().err
    assert caught.value.code != 0
    assert len(error.splitlines()) == 1
    assert "espeak-ng" in error


def test_an_unknown_voice_is_refused_and_not_spoken_in_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", program(tmp_path, 'echo "5 en-gb M F1 !v/f1"'))
    check_voices(("en-gb",), ("f1",))
    with pytest.raises(DataError, match="no voice en-us, f2, m1; install espeak-ng"):
        check_voices(("en-gb", "en-us"), ("f1", "f2", "m1"))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo broken >&2; exit 3", "failed with code 3: broken; install espeak-ng again"),
        ("echo hello", "gave no sound"),
        ("exit 0", "gave no sound"),
    ],
)
def test_a_broken_program_is_said(script: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", program(tmp_path, script))
    with pytest.raises(DataError, match=message):
        speak(Utterance("yes", "en-gb", "f1", 170, 50))


def test_a_program_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(espeak, "_PATIENCE", 0.2)
    monkeypatch.setenv("PATH", program(tmp_path, "while :; do :; done"))
    with pytest.raises(DataError, match="did not run \\(TimeoutExpired\\)"):
        espeak.version()


def test_bad_sizes_and_seeds() -> None:
    with pytest.raises(OptionError, match=r"SpeechSizes\.test is 0"):
        SpeechSizes(test=0)
    with pytest.raises(OptionError, match="seed is -1"):
        load_speech(SMALL, seed=-1)
