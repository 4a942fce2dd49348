"""``prunus plan`` draws what it planned; ``prunus report`` makes a page of a plan folder, edits included."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from prunus.cli.main import main

RECIPE = (
    "version: 1\nmodel: digits\ndata: digits\ntrain: {steps: 0}\nprune: {budget: {params: 0.5}, criterion: magnitude}\n"
)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "recipe.yaml").write_text(RECIPE)
    assert run("plan", str(folder / "recipe.yaml"), "-o", str(folder / "plan"), "--no-pay") == 0
    return folder


def words(path: Path) -> set[str]:
    root = ElementTree.fromstring(path.read_text("utf-8"))
    return {"".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text")}


def test_plan_folder_holds_its_picture(place: Path) -> None:
    kept = json.loads((place / "plan" / "plan.json").read_text())["axes"]["stem.conv:out"]["keep"]
    assert kept
    assert {"plan for digits on digits", "stage1/stem.conv", "budget 0.5"} <= words(place / "plan" / "plan.svg")


def test_sweep_draws_its_front_and_no_picture_is_drawn_that_was_not_wanted(place: Path) -> None:
    plan, out = str(place / "plan"), place / "sweep"
    assert run("plan", plan, "--sweep", "0.6,0.3", "-o", str(out)) == 0
    assert {"sweep for digits on digits", "30", "60", "100", "dense"} <= words(out / "sweep.svg")
    assert run("plan", plan, "--sweep", "0.6", "-o", str(place / "bare"), "--no-picture") == 0
    assert not list((place / "bare").glob("*.svg"))


def test_report_shows_the_plan_as_a_person_left_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = json.loads((place / "plan" / "plan.json").read_text())
    text["axes"]["stem.conv:out"]["keep"] = "0-9"
    (place / "plan" / "plan.json").write_text(json.dumps(text))
    assert run("report", str(place / "plan"), "-o", str(place / "page" / "report.html"), "--no-pay") == 0
    page = (place / "page" / "report.html").read_text("utf-8")
    assert "Edited by hand" in page
    assert "10 of 32" in page
    assert run("report", str(place / "nothing"), "-o", str(place / "never.html")) == 2
    assert "No plan at" in capsys.readouterr().err
    assert not (place / "never.html").exists()
