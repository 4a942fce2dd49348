"""docs/criteria.md says of every enrolled criterion what the registry says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prunus.criteria import CRITERIA, UNIT_CRITERIA, UnitRule, probes_for
from prunus.errors import OptionError
from prunus.experiments.citation import member_sources, references_in

PAGE = Path(__file__).resolve().parents[2] / "docs" / "criteria.md"
TEXT = PAGE.read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, list[str]]:
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in found}


def cited(cell: str) -> set[str]:
    return set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", cell))


def papers(member: object) -> set[str]:
    return {paper.arxiv for paper in references_in(member_sources(member)) if paper.arxiv}


def test_every_unit_criterion_is_there_and_no_other() -> None:
    assert set(rows("Units")) == set(UNIT_CRITERIA.names())


@pytest.mark.parametrize("name", UNIT_CRITERIA.names())
def test_a_unit_criterion_needs_what_the_page_says(name: str) -> None:
    _, data, labels, backward, scale, _, source = rows("Units")[name]
    member = UNIT_CRITERIA.get(name)
    assert isinstance(member, UnitRule)
    assert scale == member.scale
    assert cited(source) == papers(member)
    try:
        probes = probes_for(name)
    except OptionError:
        assert (data, labels, backward) == ("yes", "yes", "yes")  # a running training has all of them
        return
    said = [bool(probes), any(p.labels for p in probes), any(p.backward for p in probes)]
    assert [data, labels, backward] == ["yes" if x else "no" for x in said]


def test_every_weight_criterion_is_there_with_its_papers() -> None:
    found = rows("Weights")
    assert set(found) == set(CRITERIA.names())
    for name, cells in found.items():
        assert cited(cells[-1]) == papers(CRITERIA.get(name)), name
