"""How much memory this process has held at most, above what it holds after imports."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

GIGABYTE = 2**30


def resident_bytes() -> int:
    """Return what the process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Return what the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def model_bytes(model: nn.Module) -> int:
    """Return the size of the parameters and buffers, each storage once."""
    held = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*model.parameters(), *model.buffers())
    }
    return sum(held.values())


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the process held before the model was built."""

    held: int

    @classmethod
    def now(cls) -> Baseline:
        """Measure it."""
        return cls(resident_bytes())

    def describe(self, model: nn.Module) -> dict[str, Any]:
        """Return peak and model size, and the share of the allowance 3 × model + 1 GB that was used."""
        size, peak = model_bytes(model), max(0, peak_bytes() - self.held)
        return {
            "model_bytes": size,
            "peak_bytes": peak,
            "share_of_allowed_memory": round(peak / (3 * size + GIGABYTE), 4),
        }
