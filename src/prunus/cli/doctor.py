"""``prunus doctor``: what prunus finds on this machine, and what each missing package would bring."""

from __future__ import annotations

import json as json_module
import os
import platform
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from prunus.cli.options import DebugOption

_BRINGS = {
    "onnx": "export to ONNX, predicted times of ONNX Runtime",
    "vision": "networks of torchvision and timm",
    "text": "networks of transformers, Hugging Face folders",
    "report": "report.html and pictures",
    "train": "the built-in workloads and the demo",
    "bench": "the benchmarks beside Torch-Pruning",
}
_GIB = 2**30


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show versions, extras, processor, threads, free memory and disk, and what to do where something lacks."""
    facts = {
        "versions": _versions(),
        "extras": _extras(),
        "processor": _processor(),
        "memory": _memory(),
        "disk": _disk(),
    }
    advice = list(_advice(facts))
    if json:
        sys.stdout.write(json_module.dumps({**facts, "advice": advice}, indent=1) + "\n")
        return
    for section, found in facts.items():
        sys.stdout.write(f"{section}\n")
        for key, value in found.items():
            sys.stdout.write(f"  {key:<14} {value}\n")
    for line in advice or ["nothing to mend"]:
        sys.stdout.write(f"{line}\n")


def _versions() -> dict[str, str]:
    import torch

    from prunus.foundation.version import VERSION

    found = {"prunus": VERSION, "python": platform.python_version(), "torch": str(torch.__version__)}
    return {**found, "system": f"{platform.system()} {platform.machine()}"}


def _extras() -> dict[str, str]:
    """Return extra → its packages with their versions, or what is missing."""
    wanted: dict[str, list[str]] = {extra: [] for extra in _BRINGS}
    for line in _requirements():
        match = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if match and match[1] in wanted:
            wanted[match[1]].append(re.split(r"[\s<>=!~;\[(]", line, maxsplit=1)[0])
    found = {}
    for extra, packages in wanted.items():
        versions = {name: _version(name) for name in packages}
        missing = [name for name, version in versions.items() if version is None]
        listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
        found[extra] = f"missing {', '.join(missing)}: no {_BRINGS[extra]}" if missing else listed
    return found


def _requirements() -> list[str]:
    try:
        return metadata.requires("prunus") or []
    except metadata.PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> dict[str, Any]:
    import torch

    from prunus.foundation.memory_format import onednn_is_unsafe

    found: dict[str, Any] = {
        "name": _processor_name(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if onednn_is_unsafe():
        found["channels last"] = "gradients of narrow layers are kept out of this format, where oneDNN damages memory"
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found[f"cuda:{i}"] = torch.cuda.get_device_name(i)
    return found


def _processor_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return platform.processor() or "unknown"
    match = re.search(r"model name\s*:\s*(.+)", text)
    return match[1] if match else platform.processor() or "unknown"


def _memory() -> dict[str, str]:
    from prunus.foundation.free_memory import default_memory, free_bytes

    taken = f"{default_memory() / _GIB:.0f} GiB"
    return {"free": f"{free_bytes() / _GIB:.1f} GiB", "default limit": f"{taken} for samples and their statistics"}


def _disk() -> dict[str, str]:
    from prunus.foundation.cache import cache_folder

    return {"working folder": _room(Path.cwd()), "cache": f"{_room(cache_folder())} in {cache_folder()}"}


def _room(place: Path) -> str:
    while not place.exists() and place != place.parent:
        place = place.parent
    writable = "" if os.access(place, os.W_OK) else ", not writable"
    return f"{shutil.disk_usage(place).free / _GIB:.1f} GiB free{writable}"


def _advice(facts: dict[str, dict[str, Any]]) -> list[str]:
    """Return what to do, a line each; empty where nothing lacks."""
    lines = []
    missing = [extra for extra, text in facts["extras"].items() if text.startswith("missing") and extra != "bench"]
    if missing:
        lines.append(f"install what is missing: pip install 'prunus[{','.join(missing)}]'")
    if facts["processor"]["threads"] > facts["processor"]["cores"]:
        lines.append(
            f"torch uses {facts['processor']['threads']} threads on {facts['processor']['cores']} cores, which is "
            f"slower; set OMP_NUM_THREADS={facts['processor']['cores']}"
        )
    lines += [
        f"{key} is not writable; choose another with PRUNUS_CACHE" for key in ("cache",) if "not" in facts["disk"][key]
    ]
    if "dev" in facts["versions"]["torch"]:
        lines.append("torch is a development version, on which prunus is not tested")
    return lines
