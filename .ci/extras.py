"""Install prunus with each extra alone and use what the extra is for; without any, use what needs none.

Makes an environment for each in a folder of its own, which is removed again. Usage: python .ci/extras.py [EXTRA …]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BARE = """
import torch, prunus
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
x = torch.randn(2, 8)
assert prunus.prune(model, x, budget={"params": 0.5}).after.params <= 0.5 * sum(p.numel() for p in model.parameters())
"""
USES = {
    "": BARE,
    "train": "from prunus.experiments.workloads import train_workload; train_workload('digits', epochs=1)",
    "report": "import jinja2, matplotlib",
    "onnx": "import onnx, onnxruntime",
    "vision": "from prunus.experiments.sources import resolve_model; resolve_model('torchvision:resnet18');"
    "resolve_model('timm:test_resnet')",
    "text": "from transformers import BertConfig, BertForSequenceClassification as Bert; from pathlib import Path;"
    "Bert(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))"
    ".save_pretrained('bert'); from prunus.experiments.sources import resolve_model; resolve_model('hf:bert')",
}


def used(extra: str, folder: Path) -> bool:
    """Install one extra and use it; return whether that went well."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    for wanted in (["hatchling", "editables"], ["--no-build-isolation", f"{ROOT}[{extra}]" if extra else ROOT]):
        if subprocess.run([*pip, *wanted]).returncode:
            return False
    codes = [BARE] if extra == "" else [BARE, USES[extra]]
    return all(subprocess.run([python, "-c", code], cwd=folder).returncode == 0 for code in codes)


def main(extras: list[str]) -> int:
    """Go through the extras; say of each how it went."""
    failed = []
    for extra in extras or list(USES):
        with tempfile.TemporaryDirectory(prefix="prunus-extra-") as folder:
            well = used(extra, Path(folder))
        print(f"{extra or 'no extra'}: {'works' if well else 'FAILED'}", flush=True)
        failed += [] if well else [extra]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
