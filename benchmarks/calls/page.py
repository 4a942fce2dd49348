"""docs/calls.md: how many models take each call after a cut, and every call that one does not take any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prunus.outcome.calls import CALLS

Record = Mapping[str, Any]
COLUMNS = ("ok", "differs", "fails", "n/a", "not comparable")
UNKNOWN = "not comparable"

HEAD = """# The calls that a cut network takes

Every model of the zoo is cut to half of its removable parameters, random units, with every forward kept
(`prunus.analyse`, `realise`). Then `prunus.check_calls` makes every call below of the cut network and of the user's own
module under the plan's masks: removed slices at zero, averages over kept positions only, constants perturbed.

- *ok*: both agree: 1e-5 in float64, 1e-3 in float32 (training step, export, code that knows no other type, models
  above 100 million parameters), 2e-2 in bfloat16 or twice what the masked dense model itself rounds there, equal tokens
  for `generate`.
- *differs*, *fails*: the dense model takes the call, the cut one gives something else, or an error.
- *n/a*: the dense model does not take the call, or it is one of another kind of model.
- *not comparable*: the call averages over a cut axis in a way that the example call does not show, so that there is no
  reference; it counts as nothing.
"""


def summary(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Return call → verdict → the number of models."""
    found = {name: Counter[str]() for name in CALLS}
    for record in records:
        for name, verdict, _, reason in record.get("rows", ()):
            found.setdefault(name, Counter())[UNKNOWN if reason.startswith(UNKNOWN) else verdict] += 1
    return {name: {column: counts[column] for column in COLUMNS} for name, counts in found.items()}


def hours(records: Sequence[Record], weights: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Return the processor hours of what was run, and of the whole: others cost what a line through the known says."""
    spent = sum(r.get("cpu_seconds", 0.0) for r in records)
    rest = 0.0
    for zoo, models in weights.items():
        known = {r["model"]: r["cpu_seconds"] for r in records if r["zoo"] == zoo and "cpu_seconds" in r}
        missing = [w for name, w in models.items() if name not in known]
        own = [n for n in known if n in models]
        if not missing or not own:
            continue
        x, y = np.array([models[n] for n in own], float), np.array([known[n] for n in own])
        slope = max(0.0, float(np.polyfit(x, y, 1)[0])) if len(own) > 2 else 0.0
        rest += sum(max(float(y.mean()), float(y.mean()) + slope * (w - float(x.mean()))) for w in missing)
    return {"run": round(spent / 3600, 2), "whole": round((spent + rest) / 3600, 1)}


def failures(records: Sequence[Record]) -> list[str]:
    """Return a line for every call that differs or fails, and for every model without a table."""
    lines = []
    for record in records:
        name = f"{record['zoo']} {record['model']}"
        if "rows" not in record:
            lines.append(f"{name}: no table, {record.get('stage')}: {record.get('error', '')}")
        for call, verdict, error, reason in record.get("rows", ()):
            if verdict in ("differs", "fails"):
                number = "" if error is None else f" by {error:.1e}"
                lines.append(f"{name}: {call} {verdict}{number}: {reason}")
    return lines


def page(document: Mapping[str, Any]) -> str:
    """Return the page of the numbers."""
    time, about = document["hours"], document["about"]
    run, all_models = (sum(document[key].values()) for key in ("run", "models"))
    parts = [
        HEAD,
        f"{run} of {all_models} models were run ({_of(document)}), in {time['run']} processor hours, "
        f"one thread each (torch {about['torch']}, {about['cpu']}). The whole takes about {time['whole']} hours: "
        "`make bench-calls` runs half an hour of it, the smallest models of every zoo first, and goes on where it "
        "was; `python benchmarks/bench_calls.py --all` runs everything. "
        f"{document['rewritten']} forwards were rewritten.\n",
        "## Calls\n",
        _table(document["calls"]),
        "\n## What does not go on\n",
    ]
    lines = document["failures"]
    parts.append("\n".join(f"- {line}" for line in lines) if lines else "Nothing.")
    return "\n".join(parts) + "\n"


def _of(document: Mapping[str, Any]) -> str:
    return ", ".join(f"{zoo} {n} of {document['models'][zoo]}" for zoo, n in document["run"].items())


def _table(calls: Mapping[str, Mapping[str, int]]) -> str:
    lines = [f"| call | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    lines += [f"| {name} | {' | '.join(str(counts[c]) for c in COLUMNS)} |" for name, counts in calls.items()]
    total = [sum(counts[c] for counts in calls.values()) for c in COLUMNS]
    return "\n".join([*lines, f"| **all** | {' | '.join(map(str, total))} |"])
