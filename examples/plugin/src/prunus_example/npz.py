"""An exporter: the values of the cut model as a NumPy archive, for programs without torch."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prunus.exporters import Exporter
from prunus.exporters.parts import Pruned, check_metadata, parts
from prunus.foundation.atomic_files import write_bytes_atomic


def _write(result: Pruned, path: Path | str, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write every parameter and buffer by its state-dict name, the plan as JSON under ``plan``, metadata likewise.

    Raises:
        UsageError: a plain model without its plan.
        OptionError: metadata without a JSON form, or a path that cannot be written.
    """
    model, plan, _ = parts(result)
    check_metadata(metadata)
    arrays = {name: value.detach().float().cpu().numpy() for name, value in model.state_dict().items()}
    texts = {"plan": json.dumps(plan.describe()), "metadata": json.dumps(dict(metadata or {}))}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **{name: np.array(text) for name, text in texts.items()})  # type: ignore[arg-type]
    return write_bytes_atomic(path, buffer.getvalue())


NPZ = Exporter("npz", "a NumPy archive of the values, for programs without torch", _write, ("metadata",), suffix=".npz")
