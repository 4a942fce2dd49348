"""What `import prunus` gives, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

import prunus

SURFACE = {
    "Analysis",
    "Outcome",
    "Plan",
    "Pruner",
    "PrunerOptions",
    "PrunusError",
    "Recipe",
    "analyse",
    "apply",
    "capture",
    "check_calls",
    "cite",
    "compare",
    "couple",
    "export",
    "frontier",
    "grow_tree",
    "inspect",
    "load",
    "load_recipe",
    "measure",
    "plan",
    "prune",
    "realise",
    "recover",
    "recover_",
    "repair",
    "repair_",
    "save",
    "shrink",
    "splits",
    "undo",
    "verify",
}
HEAVY = {"matplotlib", "sklearn", "typer", "jinja2", "scipy", "PIL", "transformers", "torchvision", "timm"}
SECONDS_BEYOND_TORCH = 0.1

_PROBE = """
import json, sys, time
import torch
before = set(sys.modules)
began = time.perf_counter()
import prunus
seconds = time.perf_counter() - began
added = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
print(json.dumps({"seconds": seconds, "added": added}))
"""


def test_public_names_are_these_and_no_others() -> None:
    assert set(prunus.__all__) == SURFACE
    for name in prunus.__all__:
        assert callable(getattr(prunus, name))


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_no_module_has_the_name_of_a_public_function(name: str) -> None:
    assert find_spec(f"prunus.{name}") is None


def test_import_is_light() -> None:
    probes = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=True)
        probes.append(json.loads(done.stdout))
    added = set(probes[0]["added"])
    assert not added & HEAVY, f"import prunus pulls in {sorted(added & HEAVY)}"
    # The least of them: what else the machine does can only add to it.
    assert min(probe["seconds"] for probe in probes) <= SECONDS_BEYOND_TORCH
