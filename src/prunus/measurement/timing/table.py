"""A cache of op times: one file for each program, machine and torch version."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunus.foundation.cache import cache_folder, cached_tensors
from prunus.graph.coupling import Coupling
from prunus.measurement.timing.sampling import Keep, OpTimes, timed_nodes
from prunus.plans import fingerprint

_VERSION = 4
"""Version of the file format; files of another version are not found."""


def kept_times(
    coupling: Coupling, keeps: Sequence[Keep], rounds: int, threads: int | None, measure: Callable[[], OpTimes]
) -> OpTimes:
    """Return the times of this program at these widths on this machine, measured now or in an earlier run.

    The file's name hashes the program with its shapes, the widths, the threads, the machine and torch's version, so a
    file of another machine or torch version is not found, and the ops are timed again.

    Args:
        coupling: the analysed program.
        keeps: the sets of widths.
        rounds: timed runs of each.
        threads: intra-op threads.
        measure: called where no file fits.
    """
    key = _key(coupling, keeps, (rounds, threads))
    fresh: list[OpTimes] = []

    def made() -> dict[str, torch.Tensor]:
        fresh.append(measure())
        return {
            "seconds": torch.from_numpy(fresh[0].seconds),
            "model_seconds": torch.tensor(fresh[0].model_seconds, dtype=torch.float64),
            "cut_ratios": torch.tensor(fresh[0].cut_ratios, dtype=torch.float64),
        }

    nodes = timed_nodes(coupling.graph)

    def fits(tensors: Mapping[str, torch.Tensor]) -> bool:
        dims = {name: t.ndim for name, t in tensors.items() if t.dtype == torch.float64}
        if dims != {"seconds": 2, "model_seconds": 0, "cut_ratios": 1}:
            return False
        seconds = tensors["seconds"]
        return seconds.shape[1] == len(nodes) and bool(seconds.isfinite().all() and tensors["model_seconds"].isfinite())

    tensors = cached_tensors(cache_folder() / "timing" / f"{key}.safetensors", made, "op times", fits)
    if fresh:
        return fresh[0]
    whole, ratios = float(tensors["model_seconds"]), tuple(tensors["cut_ratios"].tolist())
    return OpTimes(nodes, tensors["seconds"].numpy(), whole, ratios)


def machine() -> str:
    """Return an identifier of this machine: processor, cores, system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "flags"))]
    return f"{platform.machine()}|{platform.system()}|{os.cpu_count()}|{'|'.join(dict.fromkeys(names))}"


def _key(coupling: Coupling, keeps: Sequence[Keep], how: tuple[Any, ...]) -> str:
    digest = hashlib.sha256(f"{_VERSION}|{machine()}|{torch.__version__}|{fingerprint(coupling.graph)}|{how}".encode())
    for node in coupling.graph.nodes:
        digest.update(f"{node.name}{node.outputs}".encode())
    for keep in keeps:
        for axis in sorted(keep):
            digest.update(axis.encode() + np.packbits(keep[axis]).tobytes())
    return digest.hexdigest()[:24]
