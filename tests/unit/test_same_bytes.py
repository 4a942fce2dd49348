"""Equal input gives equal bytes, whatever the hash seed, the locale and the folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from pathlib import Path
import torch, prunus
from torch import nn
from factories_results import make_results
from prunus.report import write_report
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 8), nn.Linear(8, 2))
x = torch.linspace(0, 1, 2 * 3 * 64).view(2, 3, 8, 8)
data = [(x, torch.tensor([0, 1]))] * 3
plan = prunus.plan(model, x, budget={{"params": .6}}, data=data, levels=("unit", "weight"), damage=True)
outcome = prunus.prune(model, x, budget={{"params": .6}}, data=data, repair="auto")
prunus.save(outcome, "small")
plan.save("plan")
Path("inspection.txt").write_text(str(prunus.inspect(model, x)), encoding="utf-8")
write_report(make_results(), Path("report.html"))
"""  # noqa: E501
LOCALES = ("C", "C.UTF-8")


def hashes(folder: Path, seed: str, locale: str) -> dict[str, str]:
    folder.mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "LANG": locale, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", CODE], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-800:]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def check(tmp_path: Path, settings: list[tuple[str, str]]) -> None:
    found = [hashes(tmp_path / f"{seed}-{locale}", seed, locale) for seed, locale in settings]
    assert {"small/plan.json", "small/weights.safetensors", "plan/plan.json", "report.html"} <= set(found[0])
    assert [one == found[0] for one in found] == [True] * len(settings)


def test_bytes_do_not_depend_on_hash_seed_locale_or_folder(tmp_path):
    check(tmp_path, [("0", "C"), ("7", "C.UTF-8"), ("random", "C")])


@pytest.mark.nightly
def test_bytes_do_not_depend_on_five_hash_seeds_and_two_locales(tmp_path):
    check(tmp_path, [(seed, locale) for seed in "12345" for locale in LOCALES])
