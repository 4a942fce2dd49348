"""The HTML page as text: self-contained, escaped, complete."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from factories_results import METHODS, make_results
from prunus.errors import UsageError
from prunus.report import render_report, write_report

VOID = {"meta", "link", "input", "br", "path", "use", "rect"}


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(make_results(seeds=2))


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [found[name] for name in ("src", "href") if found.get(name)]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_page_is_well_formed_and_ids_are_unique(page: str) -> None:
    reader = read(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))


def test_page_asks_the_network_for_nothing(page: str) -> None:
    reader = read(page)
    assert all(link.startswith(("#", "data:")) for link in reader.links)
    assert "://" not in page
    assert not re.search(r"@import|\bsrc=|url\((?!#)|fetch\(|XMLHttpRequest", page)
    assert "default-src 'none'" in page


def test_links_inside_the_page_lead_somewhere(page: str) -> None:
    reader = read(page)
    targets = {link[1:] for link in reader.links if link.startswith("#")}
    assert targets <= set(reader.ids)


def test_every_chart_is_there_with_a_caption_and_a_description(page: str) -> None:
    charts = ["tradeoff", "latency", "bars", "structure", "stability"]
    assert {f"chart-{name}" for name in charts} <= set(read(page).ids)
    assert page.count("<figure") == page.count("<figcaption>") == 6
    assert page.count("<svg") == page.count('role="img" aria-label="') > 15


def test_table_has_every_method_and_the_skipped_ones_their_reason(page: str) -> None:
    for method in METHODS:
        expected = 2 if method == "two-four" else 3
        assert page.count(f'<th scope="row">{method}</th>') == expected
    assert "10 % is out of its reach" in page


def test_names_are_escaped() -> None:
    results = make_results(seeds=1, kept=(0.5,), methods=("importance",))
    page = render_report(replace(results, title="<script>alert(1)</script>", recipe={"x": "</pre><script>"}))
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_nothing_run_still_gives_a_page() -> None:
    page = render_report(make_results(seeds=1, methods=()))
    assert "No method was run" in page
    assert "<svg" not in page


def test_untimed_runs_have_no_latency_chart() -> None:
    results = make_results(seeds=1, kept=(0.5,), methods=("importance",))
    untimed = {"latency_forward_ratio": None, "latency_forward_interval": None}
    about = {name: getattr(results, name) for name in ("title", "workload", "model", "created", "version", "recipe")}
    runs = [replace(row, **untimed) for row in results.runs]
    page = render_report(
        type(results).make(dense_runs=results.dense_runs, runs=runs, environment=results.environment, **about)
    )
    assert 'id="chart-latency"' not in page
    assert 'id="chart-tradeoff"' in page


def test_same_results_give_the_same_page(page: str) -> None:
    assert render_report(make_results(seeds=2)) == page


def test_file_is_written_whole(tmp_path: Path) -> None:
    results = make_results(seeds=1, kept=(0.5,), methods=("importance", "modular"))
    write_report(results, tmp_path / "report.html")
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_report(results)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r"jinja2.*pip install 'prunus\[report\]'"):
        render_report(make_results(seeds=1, methods=()))


def test_importing_the_report_loads_no_drawing_package() -> None:
    code = "import sys, prunus.report; print({'matplotlib', 'jinja2', 'rich', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
