"""docs/founding.md and its Chinese twin: every entry has a call that exists and an example that runs."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import shlex
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

import prunus
from prunus.budget import ALLOCATORS
from prunus.budget.counts import COUNTS
from prunus.budget.limits import METRICS
from prunus.cli.main import app
from prunus.criteria import UNIT_CRITERIA
from prunus.experiments.recipe import load_recipe
from prunus.experiments.workloads import WORKLOADS
from prunus.methods import METHODS
from prunus.pruner import STRATEGIES, PrunerOptions
from prunus.recovery import RECOVERY_METHODS
from prunus.recovery.options import RecoveryOptions
from prunus.training import LOSSES, OPTIMIZERS
from prunus.training.schedules import KEPT_SCHEDULES

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = ROOT / "docs" / "founding.md", ROOT / "docs" / "founding.zh.md"
FIGURES = ROOT / "docs" / "images" / "founding"
MOST_BYTES = 20_000

# The functions, figures and sections of the two texts; each has to be in the index of the page.
FUNCTIONS = {
    "first": [
        *("threshold_pruning", "importance_pruning", "sensitivity_pruning", "contribution_pruning"),
        *("key_path_pruning", "modular_pruning", "gradient_based_pruning", "model_based_pruning"),
        *("gradient_based_neuron_pruning", "model_based_neuron_pruning"),
        *("gradient_based_structure_pruning", "model_based_structure_pruning"),
    ],
    "second": [
        *("prune_weights", "fine_tuning_pruning", "structured_pruning", "integrated_pruning", "evaluate_model"),
        *("layer_wise_pruning", "unit_wise_pruning", "window_wise_pruning"),
    ],
}
DRAWN = {"first": [str(number) for number in range(1, 12)], "second": ["7.4a", "7.4b", "7.4c", "7.4d"]}
SECTIONS = {
    "first": "1.1.3 1.2 2.1 2.2.1 2.2.2 3.1 3.2.1 3.2.2 4.1 4.2.1 4.2.2 5.1 5.2 5.3 6.1.1 6.1.2 6.1.3 6.2.1 6.2.2 "
    "6.2.3 6.3.1 6.3.2 6.3.3",
    "second": "1.2 1.3 1.4 2.1 2.2 2.3 2.4 3.1 3.2.1 3.2.2 3.2.3 3.3 4.1 4.2 4.3 5.1 5.2.1 5.2.2 5.2.3 5.3 6.1 6.2 6.3 "
    "7.1 7.2 7.3 7.4 8.1 8.2 8.3 8.4 9.1 9.2 9.3 9.4 A",
}

ALLOWED = {
    "method": lambda: METHODS.names(),
    "criterion": lambda: UNIT_CRITERIA.names(),
    "allocator": lambda: ALLOCATORS.names(),
    "strategy": lambda: STRATEGIES.names(),
    "schedule": lambda: KEPT_SCHEDULES.names(),
    "recovery": lambda: RECOVERY_METHODS.names(),
    "loss": lambda: LOSSES.names(),
    "optimizer": lambda: OPTIMIZERS.names(),
    "workload": lambda: WORKLOADS.names(),
    "budget": lambda: [*METRICS, *COUNTS, "memory", "energy", "max_drop"],
    "option": lambda: list(inspect.signature(prunus.prune).parameters),
    "pruner option": lambda: [field.name for field in fields(PrunerOptions)],
    "recovery option": lambda: [field.name for field in fields(RecoveryOptions)],
    "command": lambda: [command.name for command in app.registered_commands],
}
CALL = re.compile(r"`((?:[a-z]+ )+)([\w.-]+)`")


class Entry(NamedTuple):
    anchor: str
    thing: str
    calls: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]
    text: str
    code: str


@cache
def entries(page: Path) -> dict[str, Entry]:
    """Return anchor → entry, from the index of a page and its text."""
    whole = page.read_text(encoding="utf-8")
    parts = re.split(r'^<a id="([\w.-]+)"></a>$', whole, flags=re.MULTILINE)
    texts = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = {}
    for first, thing, calls, tests in re.findall(
        r"^\| (\[[^|]*) \| ([^|]*) \| (`[^|]*) \| ([^|]*) \|$", parts[0], re.M
    ):
        anchor = re.fullmatch(r"\[[^\]]+\]\(#([\w.-]+)\)", first)[1]
        named = tuple((kind.strip(), name) for kind, name in CALL.findall(calls))
        text = texts[anchor]
        found[anchor] = Entry(anchor, thing, named, tuple(re.findall(r"`([^`]+)`", tests)), text, code_of(text))
    assert set(found) == set(texts)
    return found


def code_of(text: str) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))


def setup() -> str:
    return code_of(ENGLISH.read_text(encoding="utf-8").split('<a id="')[0])


ANCHORS = list(entries(ENGLISH))


@pytest.mark.parametrize("anchor", ANCHORS)
def test_an_example_needs_the_networks_of_the_page_and_nothing_else(
    anchor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = entries(ENGLISH)[anchor].code
    assert "assert " in code
    monkeypatch.chdir(tmp_path)
    exec(compile(f"{setup()}\n{code}", f"{ENGLISH.name}#{anchor}", "exec"), {"__name__": anchor})


def test_both_languages_have_the_same_entries_and_examples() -> None:
    english, chinese = entries(ENGLISH), entries(CHINESE)
    assert list(english) == list(chinese)
    for anchor, entry in english.items():
        other = chinese[anchor]
        assert (entry.calls, entry.tests, entry.code) == (other.calls, other.tests, other.code), anchor
        assert _formulas(entry.text) == _formulas(other.text), anchor
        assert images(entry.text) == images(other.text), anchor
        assert set(re.findall(r"`[a-z]+(?:_[a-z]+)+`", entry.thing)) <= set(re.findall(r"`[^`]+`", other.thing)), anchor
    assert setup() == code_of(CHINESE.read_text(encoding="utf-8").split('<a id="')[0])


def _formulas(text: str) -> list[list[str]]:
    """Return the numbers and signs of each formula: the lines outside code blocks that four spaces indent."""
    lines = re.findall(r"^    (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return [re.findall(r"[0-9]+|[=≤≥⇔←∂ΣΠ√·²³∈‖|γλτσρ]", line) for line in lines]


def images(text: str) -> list[str]:
    return re.findall(r"!\[[^\]]+\]\(images/founding/([\w.-]+)\)", text)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_every_call_exists_and_the_entry_makes_it(anchor: str) -> None:
    entry = entries(ENGLISH)[anchor]
    assert entry.calls
    for kind, name in entry.calls:
        if kind == "function":
            module, _, attribute = name.rpartition(".")
            assert callable(getattr(importlib.import_module(module), attribute)), name
            name = attribute
        else:
            assert name in ALLOWED[kind](), f"{kind} {name}"
        made = re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", _said_and_done(entry))
        assert made, f"{anchor} names {kind} {name} and never calls it"


def _said_and_done(entry: Entry) -> str:
    """Return the example of an entry with its lines for recipes and for the command line."""
    return "\n".join(
        [entry.code, *(line for line in entry.text.splitlines() if line.startswith(("- Recipe", "- Command")))]
    )


@pytest.mark.parametrize("anchor", ANCHORS)
def test_the_tests_of_an_entry_make_one_of_its_calls(anchor: str) -> None:
    entry = entries(ENGLISH)[anchor]
    assert entry.tests
    for name in entry.tests:
        text = (ROOT / "tests" / name).read_text(encoding="utf-8")
        assert "def test_" in text
    words = [word for _, name in entry.calls for word in (name, name.rpartition(".")[2])]
    texts = [(ROOT / "tests" / name).read_text(encoding="utf-8") for name in entry.tests]
    assert any(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) for word in words for text in texts)


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=lambda page: page.name)
@pytest.mark.parametrize("text", ["first", "second"])
def test_every_section_function_and_figure_of_the_texts_is_in_the_index(page: Path, text: str) -> None:
    mine = {anchor: entry for anchor, entry in entries(page).items() if anchor.startswith(text)}
    functions = [name for entry in mine.values() for name in re.findall(r"`(\w+)`", entry.thing)]
    assert functions == FUNCTIONS[text]
    figures = [name for entry in mine.values() for name in re.findall(r"(?:figure|图) ([\d.]+[a-d]?)", entry.thing)]
    assert figures == DRAWN[text]
    places = {anchor.split("-")[1] for anchor in mine}
    said = {number for entry in mine.values() for number in re.findall(r"\d\.\d(?:\.\d)?|\bA\b", entry.thing)}
    missing = [s for s in SECTIONS[text].split() if s not in places | said and s.rpartition(".")[0] not in places]
    assert missing == []


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=lambda page: page.name)
def test_links_inside_the_page_lead_to_entries(page: Path) -> None:
    targets = set(re.findall(r"\]\(#([^)]+)\)", page.read_text(encoding="utf-8")))
    assert targets == set(ANCHORS)


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=lambda page: page.name)
def test_every_line_for_recipes_is_one(page: Path, tmp_path: Path) -> None:
    head = {"version": 1, "model": "digits", "data": "digits"}
    for entry in entries(page).values():
        lines = re.findall(r"^- (?:Recipe: |剪枝配置：)(.*)$", entry.text, re.MULTILINE)
        keys = {
            key: value
            for line in lines
            for part in re.findall(r"`([^`]+)`", line)
            for key, value in yaml.safe_load(part).items()
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(head | keys), encoding="utf-8")
        assert load_recipe(path).version == 1, entry.anchor


def test_every_command_is_one() -> None:
    said = [
        re.findall(r"^- (?:Command: |命令行：)(.*)$", page.read_text(encoding="utf-8"), re.M)
        for page in (ENGLISH, CHINESE)
    ]
    assert said[0] == said[1] != []
    for command in {part for line in said[0] for part in re.findall(r"`([^`]+)`", line)}:
        program, *words = shlex.split(command)
        # With --help after it every option is still parsed, and nothing is done.
        result = CliRunner().invoke(app, [*words, "--help"])
        assert (program, result.exit_code) == ("prunus", 0), command


@cache
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("founding_figures", FIGURES / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_those_that_the_script_draws() -> None:
    drawn = drawing().figures()
    assert {path.name: path.read_text(encoding="utf-8") for path in FIGURES.glob("*.svg")} == drawn


def test_figures_are_small_hold_no_words_and_each_is_shown() -> None:
    shown = [name for entry in entries(ENGLISH).values() for name in images(entry.text)]
    assert sorted(shown) == sorted(path.name for path in FIGURES.glob("*.svg"))
    for name in shown:
        text = (FIGURES / name).read_text(encoding="utf-8")
        assert len(text.encode()) <= MOST_BYTES
        words = {
            word for label in re.findall(r"<text[^>]*>([^<]*)<", text) for word in re.findall(r"[A-Za-z]{3,}", label)
        }
        assert words <= {"MACs"}
