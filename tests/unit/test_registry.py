"""Members of installed packages: found by name, listed, left alone at import, and never in the way of others."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus.criteria import UNIT_CRITERIA
from prunus.errors import OptionError
from prunus.foundation.plugins import PluginWarning
from prunus.foundation.registry import Registry

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put packages with entry points where Python finds them; every module notes its import in a file."""
    monkeypatch.setenv("PRUNUS_PLUGINS", "on")
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(package: str, group: str, points: dict[str, str], code: str) -> str:
        module = package.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(
            f"with open({str(tmp_path / 'imported')!r}, 'a') as stream:\n    stream.write('{module}\\n')\n{code}"
        )
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {module}:{attribute}" for name, attribute in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
        monkeypatch.delitem(sys.modules, module, raising=False)
        return module

    return put


@pytest.fixture
def imported(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: (tmp_path / "imported").read_text().split() if (tmp_path / "imported").exists() else []


def test_members_of_a_package_are_found_by_name(install: Install, imported: Callable[[], list[str]]) -> None:
    install("numbers-of-mine", "prunus.numbers", {"tau": "TAU"}, "TAU = 6.28")
    numbers = Registry[float]("number")
    numbers.register("pi")(3.14)
    assert numbers.get("pi") == 3.14
    assert "tau" in numbers
    assert "e" not in numbers
    assert imported() == [], "asking whether a name is there imports nothing"
    with pytest.raises(OptionError, match=r"Unknown number 'tao'. Did you mean 'tau'\? Known: pi, tau\."):
        numbers.get("tao")
    assert imported() == []
    assert numbers.get("tau") == 6.28
    assert numbers.find("tau") == 6.28
    assert numbers.find("e") is None
    assert numbers.names() == list(numbers) == ["pi", "tau"]
    assert imported() == ["numbers_of_mine"]


def test_a_member_can_be_lent() -> None:
    numbers = Registry[float]("number")
    with numbers.lent("tau", 6.28):
        assert numbers.get("tau") == 6.28
        with pytest.raises(OptionError, match="'tau' is registered already"), numbers.lent("tau", 6.29):
            pass
    assert numbers.names() == []


def test_packages_can_be_switched_off(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("numbers-of-mine", "prunus.numbers", {"tau": "TAU"}, "TAU = 6.28")
    monkeypatch.setenv("PRUNUS_PLUGINS", "off")
    assert Registry[float]("number").names() == []


def test_one_that_cannot_be_imported_is_named_and_leaves_the_others(install: Install) -> None:
    install("broken", "prunus.numbers", {"bad": "X"}, "import no_such_module_anywhere")
    install("sound", "prunus.numbers", {"good": "X"}, "X = 1.0")
    numbers = Registry[float]("number")
    line = (
        r"^number 'bad' cannot be imported \(package 'broken', entry point 'prunus\.numbers: bad = broken:X'\): "
        r"ModuleNotFoundError: No module named 'no_such_module_anywhere'\. Repair that package, or uninstall it\.$"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numbers.get("good") == 1.0
    for _ in range(2):
        with pytest.raises(OptionError, match=line):
            numbers.get("bad")
    with pytest.warns(PluginWarning, match=line):
        assert numbers.names() == ["good"]
    with pytest.warns(PluginWarning, match=line):
        assert numbers.find("bad") is None


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "def X(:", "Y = 1"])
def test_whatever_an_import_does_it_is_one_line(install: Install, code: str) -> None:
    install("broken", "prunus.numbers", {"bad": "X"}, code)
    with pytest.raises(OptionError, match=r"^number 'bad' cannot be imported \(package 'broken'[^\n]*$"):
        Registry[float]("number").get("bad")


def test_the_name_of_a_built_in_member_is_refused(install: Install) -> None:
    install("greedy", "prunus.numbers", {"pi": "X", "tau": "Y"}, "X = 4.0\nY = 6.28")
    numbers = Registry[float]("number")
    numbers.register("pi")(3.14)
    line = r"number 'pi' of package 'greedy'.*: pi = greedy:X' is left out: 'pi' is the name of a member that is enrol"
    with pytest.warns(PluginWarning, match=line):
        assert numbers.names() == ["pi", "tau"]
    assert numbers.get("pi") == 3.14


def test_a_built_in_member_that_comes_late_takes_its_name_back(install: Install) -> None:
    install("greedy", "prunus.numbers", {"pi": "X"}, "X = 4.0")
    numbers = Registry[float]("number")
    assert numbers.get("pi") == 4.0
    with pytest.warns(PluginWarning, match="number 'pi' of an outside package is left out"):
        numbers.register("pi")(3.14)
    assert numbers.get("pi") == 3.14
    with pytest.raises(OptionError, match="registered twice"):
        numbers.register("pi")(3.15)


def test_a_name_of_two_packages_is_nobodys(install: Install) -> None:
    install("one", "prunus.numbers", {"tau": "X"}, "X = 6.28")
    install("two", "prunus.numbers", {"tau": "X", "e": "X"}, "X = 6.29")
    numbers = Registry[float]("number")
    assert numbers.get("e") == 6.29
    line = "number 'tau' comes from package '(one|two)',.* and from package '(one|two)',.*; neither is taken. Rename"
    with pytest.raises(OptionError, match=line):
        numbers.get("tau")
    with pytest.warns(PluginWarning, match=line):
        assert numbers.names() == ["e"]


def test_a_member_of_another_kind_is_refused(install: Install) -> None:
    install("mistaken", "prunus.numbers", {"tau": "X"}, "X = '6.28'")
    line = r"number 'tau' is a str \(package 'mistaken'.*\); allowed: a prunus float\. Let the entry point name the"
    with pytest.raises(OptionError, match=line):
        Registry[float]("number", kind=float).get("tau")


def test_a_package_may_enrol_its_members_itself_too(install: Install) -> None:
    code = "from prunus.criteria import unit_rule\n@unit_rule('own-norm')\ndef norm(evidence):\n    return {}\n"
    module = install("thorough", "prunus.criteria", {"own-norm": "norm"}, code)
    read = "from prunus.criteria import UNIT_CRITERIA as U; U.names(); print(type(U.get('own-norm')).__name__)"
    for before in ("", f"import {module}; "):
        assert run(before + read) == ("UnitRule", "")


def run(code: str) -> tuple[str, str]:
    """Return what a fresh interpreter prints, and what it complains of."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout.strip(), done.stderr


def test_what_a_member_imports_may_list_all_members(install: Install) -> None:
    code = "from prunus.criteria import UNIT_CRITERIA\nNAMES = UNIT_CRITERIA.names()\ndef norm(evidence): return {}\n"
    install("curious", "prunus.criteria", {"curious-norm": "norm"}, code)
    read = "from prunus.criteria import UNIT_CRITERIA as U; print('curious-norm' in U.names())"
    assert run(read) == ("True", "")


def test_importing_prunus_imports_no_package(install: Install, imported: Callable[[], list[str]]) -> None:
    groups = ("criteria", "weight_criteria", "methods", "allocators", "rules", "repairs", "schedules", "exporters")
    for number, group in enumerate(groups):
        install(f"plug{number}", f"prunus.{group}", {"mine": "X"}, "def X(*_): return {}")
    rooms = ("experiments.commands", "cli.main", "pipeline", "experiments.recipe", "report", "pruner", "exporters")
    modules = ", ".join(f"prunus.{room}" for room in rooms)
    assert run(f"import {modules}") == ("", "")
    assert imported() == []


def test_a_criterion_of_a_package_can_be_asked_for(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from prunus.criteria.unit_norm import unit_l1 as norm"
    install("outside", "prunus.criteria", {"outside-norm": "norm"}, code)
    monkeypatch.setattr(UNIT_CRITERIA, "_waiting", None)
    monkeypatch.setattr(UNIT_CRITERIA, "_members", dict(UNIT_CRITERIA._members))
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(2, 6)
    found, wanted = (
        prunus.plan(model, x, budget={"params": 0.6}, criterion=name).axes for name in ("outside-norm", "l1")
    )
    assert found.keys() == wanted.keys()
    assert all((found[axis] == wanted[axis]).all() for axis in wanted)
