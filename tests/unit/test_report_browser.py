"""The HTML page in a real browser: no console error, the curves there, the buttons alive."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from factories_results import METHODS, make_results
from prunus.report import render_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine; install it to run this test")

# Runs in the page after its own script, and leaves what it saw in an attribute that --dump-dom shows.
PROBE = """
<script>
addEventListener("load", () => {
  const seen = [];
  const note = (name, value) => seen.push(name + "=" + value);
  const shown = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.getClientRects().length).length;
  note("wide", document.documentElement.scrollWidth <= innerWidth);
  note("panels", shown("#chart-bars .panel"));
  document.querySelector('.choose[data-target="chart-bars"] button[data-key="0.1"]').click();
  note("bars", [...document.querySelectorAll("#chart-bars .panel")].filter((p) => !p.hidden).map((p) => p.dataset.key));
  note("weight", shown("#chart-tradeoff-overview svg .lv-weight"));
  document.querySelector('#level-toggles input[value="weight"]').click();
  note("hidden", shown("#chart-tradeoff-overview svg .lv-weight"));
  note("levels", shown("#chart-tradeoff-levels .panel"));
  const column = [...document.querySelectorAll("#runs thead th")].findIndex((th) => th.textContent.trim() === "after");
  document.querySelectorAll("#runs thead button")[column].click();
  const values = [...document.querySelectorAll("#runs tbody tr")].map((r) => Number(r.children[column].dataset.value));
  note("sorted", values.every((v, i) => i === 0 || v <= values[i - 1]));
  document.body.dataset.seen = seen.join(";");
});
</script>
"""


def browse(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--no-first-run", "--hide-scrollbars", f"--user-data-dir={page.parent / 'profile'}"]
    command += ["--enable-logging=stderr", "--v=0", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(make_results(seeds=2)).replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    return path


def test_page_opens_without_a_console_error_and_with_its_curves(page: Path) -> None:
    done = browse(page, "--window-size=1280,900", "--dump-dom")
    assert console(done) == []
    for method, level in METHODS.items():
        assert re.search(rf'<g id="tradeoff-all-lv-{level}-{method}"[^>]*><title>{method}', done.stdout)
    seen = dict(pair.split("=") for pair in re.search(r'data-seen="([^"]*)"', done.stdout)[1].split(";"))
    assert seen == {
        "wide": "true",
        "panels": "3",
        "bars": "0.1,0.1,0.1",
        "weight": "7",
        "hidden": "0",
        "levels": "4",
        "sorted": "true",
    }


def test_page_fits_a_phone(page: Path) -> None:
    done = browse(page, "--window-size=500,900", "--dump-dom")
    assert console(done) == []
    assert 'data-seen="wide=true' in done.stdout


def test_console_errors_would_be_seen(tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<script>throw new Error('on purpose')</script>")
    assert "on purpose" in " ".join(console(browse(broken, "--dump-dom")))
