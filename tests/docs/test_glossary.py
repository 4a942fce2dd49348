"""docs/glossary.md is short, names places that exist, gives every term in Chinese, and the front pages link to it."""

from __future__ import annotations

import importlib
import re
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pytest

from prunus.tree.levels import LEVELS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
MOST = 40
CHINESE = re.compile(r"[\u4e00-\u9fff]")
PLACE = re.compile(r"`(prunus[\w.]*):([\w.]+)`")


class Entry(NamedTuple):
    term: str
    chinese: str
    meaning: str
    place: str


ROWS = [line.strip("|").split("|") for line in TEXT.splitlines() if re.match(r"^\| (?!term \|)", line)]
ENTRIES = [Entry(*(cell.strip() for cell in row)) for row in ROWS]


def test_there_are_at_most_forty_entries_and_none_twice() -> None:
    terms = [entry.term for entry in ENTRIES]
    assert 20 < len(terms) <= MOST
    assert len(set(terms)) == len(terms)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.term)
def test_an_entry_has_a_chinese_term_a_sentence_and_a_place_or_formula(entry: Entry) -> None:
    assert CHINESE.search(entry.chinese)
    assert entry.meaning.endswith(".")
    assert PLACE.fullmatch(entry.place) or entry.place.startswith(f"{entry.term} = ")


@pytest.mark.parametrize(("module", "name"), PLACE.findall(TEXT))
def test_every_place_exists(module: str, name: str) -> None:
    attrgetter(name)(importlib.import_module(module))


def test_the_seven_levels_are_those_of_the_tree() -> None:
    (meaning,) = [entry.meaning for entry in ENTRIES if entry.term == "level"]
    assert tuple(re.findall(r"(\w+) \([\u4e00-\u9fff]+\)", meaning)) == LEVELS


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/python.md", "docs/methods.md"])
def test_the_front_pages_link_to_it(page: str) -> None:
    assert re.search(r"\]\((docs/)?glossary\.md\)", (ROOT / page).read_text(encoding="utf-8"))
