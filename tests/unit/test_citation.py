"""Papers are read from docstrings: every enrolled algorithm names its own, and a recipe finds them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from prunus.cli.main import main
from prunus.errors import OptionError
from prunus.experiments.citation import ROLES, Reference, cite, member_sources, references_in, source_text


def members() -> list[tuple[str, str]]:
    found = []
    for role, (module, name) in ROLES.items():
        found += [(role, member) for member in getattr(import_module(module), name)]
    return found


@pytest.mark.parametrize(("role", "name"), members())
def test_every_enrolled_algorithm_names_its_source(role: str, name: str) -> None:
    module, registry = ROLES[role]
    source = member_sources(getattr(import_module(module), registry).get(name))
    papers = references_in(source)
    assert papers or source == "own.", f"{role} {name}: write 'Source: Authors, \"Title\", arXiv:…' or 'Source: own.'"
    # Every quoted title became a paper with a number or a year.
    assert len(papers) == source.count('"') // 2
    for paper in papers:
        assert paper.authors
        assert paper.arxiv or paper.year, paper


def test_sources_are_read_over_lines_and_parted_at_semicolons() -> None:
    text = """Do it.

    Source: Li et al., "One; and: two", arXiv:1608.08710 (first; second); the rest: Wu & Johnson,
    "Rethinking 'Batch' in BatchNorm", JMLR 3, 1999.

    Args:
        x: what.
    """
    papers = references_in(source_text(text))
    assert papers == (
        Reference("Li et al.", "One; and: two", "1608.08710"),
        Reference("Wu & Johnson", "Rethinking 'Batch' in BatchNorm", "", "JMLR 3, 1999"),
    )
    assert papers[0].key == "li2016one"
    assert "author = {Li and others}" in papers[0].bibtex()
    assert "author = {Wu and Johnson}" in papers[1].bibtex()
    assert "year = {1999}" in papers[1].bibtex()
    assert source_text("No line.") == ""
    assert references_in("own.") == ()


def test_a_recipe_cites_what_it_uses(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "version: 1\nmodel: digits\ndata: digits\nprune: {budget: {params: 0.5}, criterion: fpgm, allocator: lamp}\n"
    )
    found = cite(recipe)
    assert [(entry.role, entry.name) for entry in found.used][:2] == [("criterion", "fpgm"), ("allocator", "lamp")]
    assert {"1811.00250", "2010.07611"} <= {paper.arxiv for paper in found.references}
    assert str(found).splitlines()[0] == "criterion fpgm"
    assert found.bibtex().count("@misc{") == len(found.references)


def test_a_method_stands_for_criterion_and_allocator_and_compare_names_its_own(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "version: 1\nmodel: digits\ndata: digits\nrecover: {steps: 0}\n"
        "prune: {budget: {params: 0.5}, method: layer-wise}\ncompare: {methods: [magnitude, two-four]}\n"
    )
    assert [(e.role, e.name) for e in cite(recipe).used] == [
        ("method", "layer-wise"),
        ("method", "magnitude"),
        ("method", "two-four"),
    ]
    assert "1608.08710" in {paper.arxiv for paper in cite(recipe).references}


def test_a_method_with_a_criterion_and_one_of_several_methods_cite_them(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    head = "version: 1\nmodel: digits\ndata: digits\nrecover: {steps: 0}\n"
    recipe.write_text(head + "prune: {budget: {params: 0.5}, method: layer-wise, criterion: fpgm}\n")
    assert [(e.role, e.name) for e in cite(recipe).used] == [("criterion", "fpgm"), ("method", "layer-wise")]
    recipe.write_text(head + "prune: {budget: {params: 0.5}, method: integrated, methods: [depth, apoz=0.4]}\n")
    assert {("method", "integrated"), ("method", "depth"), ("method", "apoz")} <= {
        (e.role, e.name) for e in cite(recipe).used
    }


def test_stages_cite_their_ways_and_schedules(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "version: 1\nmodel: digits\ndata: digits\nrecover: {steps: 0}\nprune: {budget: {params: 0.5}}\n"
        "stages:\n- {level: blocks, kept: 0.8}\n- {level: units, criterion: fisher}\n"
    )
    named = {(e.role, e.name) for e in cite(recipe).used}
    assert {("method", "depth"), ("criterion", "fisher")} <= named


def test_unknown_names_are_refused() -> None:
    with pytest.raises(OptionError, match="Did you mean 'fpgm'"):
        cite({"criterion": "fpmg"})
    with pytest.raises(OptionError, match="Unknown role 'critic'"):
        cite({"critic": "fpgm"})


def test_the_command_prints_text_and_bibtex(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("version: 1\nmodel: digits\ndata: digits\ncompare: {methods: [two-four]}\n")
    printed = []
    for more in ([], ["--bibtex"]):
        with pytest.raises(SystemExit) as left:
            main(["cite", str(recipe), *more])
        assert left.value.code == 0
        printed.append(capsys.readouterr().out)
    assert printed[0].startswith('method two-four\n  Mishra et al., "Accelerating Sparse Deep Neural Networks"')
    assert printed[1].startswith("@misc{mishra2021accelerating,")


def test_repairs_and_the_search_are_cited(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "version: 1\nmodel: digits\ndata: digits\nrecover: {steps: 0}\n"
        "prune: {budget: {params: 0.5}, criterion: fisher, search: 20, judge: refold, repair: scales}\n"
        "compare: {methods: [obs-units], repair: [none, bias, auto]}\n"
    )
    named = [(e.role, e.name) for e in cite(recipe).used]
    assert [name for role, name in named if role == "repair"] == ["scales", "refold", "bias"]
    assert named[-1] == ("search", "evolution")
    assert {"1906.04721", "2410.14649"} <= {paper.arxiv for paper in cite(recipe).references}
