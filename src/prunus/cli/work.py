"""The common steps of ``demo`` and ``compare``: check the output folder, run the comparison, show the results."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from prunus.cli.console import shown_progress
from prunus.errors import OptionError
from prunus.foundation.places import Contents, check_replaceable

if TYPE_CHECKING:
    from prunus.experiments.recipe import Recipe


def carry_out(recipe: Recipe, out: Path, *, as_json: bool) -> None:
    """Run the comparison; stdout gets the table or the JSON alone, stderr the progress and the report's path.

    Raises:
        PrunusError: any refusal of the comparison, and a folder that cannot be written.
    """
    check_out(out)
    from prunus.experiments.comparison import compare

    with shown_progress() as progress:
        results = compare(recipe, progress=progress, out=out)
    if as_json:
        sys.stdout.write(results.to_json())
    else:
        from prunus.report.table import print_table

        print_table(results)
    sys.stderr.write(f"report: {out / 'report.html'}\n")


def show_plan(recipe: Recipe, out: Path, *, as_json: bool) -> None:
    """Build the model, read the data, and print the runs of the recipe with the least time that they take.

    A copy of the model is trained for a few steps to measure that time; no run is done.

    Raises:
        PrunusError: the model, the data or the folder cannot be used.
    """
    check_out(out)
    from prunus.experiments.sources import resolve_data, resolve_model
    from prunus.experiments.sources.noise import NOISE, noise_splits

    model = resolve_model(recipe.model, recipe.model_args, recipe.base_dir, recipe.checkpoint, seed=recipe.seed)
    if recipe.data == NOISE:
        data = noise_splits(recipe.model, model, recipe.data_args, recipe.seed)
    else:
        data = resolve_data(recipe.data, recipe.data_args, recipe.base_dir)
    from prunus.experiments.compared_methods import compared_methods
    from prunus.report.results import named

    methods = compared_methods(recipe.compare.methods)
    seeds = [recipe.seed + offset for offset in range(recipe.compare.seeds)]
    runs = [
        {"method": named(method, repair), "kept_fraction": kept, "seed": seed}
        for seed in seeds
        for method in methods
        for kept in recipe.compare.kept
        for repair in recipe.compare.repair
    ]
    from prunus.experiments.estimate import estimate

    found = estimate(recipe, methods, model, data)
    params = sum(parameter.numel() for parameter in model.parameters())
    if as_json:
        plan = {"model": recipe.model, "params": params, "data": recipe.data, "out": str(out)}
        plan |= {"least_minutes": found.minutes, "trainings": found.trainings, "steps": found.steps, "runs": runs}
        sys.stdout.write(json.dumps(plan, indent=1) + "\n")
        return
    sys.stdout.write(
        f"model    {recipe.model} ({params:,} parameters)\n"
        f"data     {recipe.data}\n"
        f"out      {out}\n"
        f"runs     {len(runs)}: {len(methods)} methods, {len(recipe.compare.kept)} kept fractions, {len(seeds)} seeds\n"
        f"time     {found}\n"
    )
    for run in runs:
        sys.stdout.write(f"  seed {run['seed']}  kept {run['kept_fraction']:<5}  {run['method']}\n")


def check_out(out: Path, replaced: Contents | None = None) -> None:
    """Refuse a folder that cannot be written, before minutes of work.

    Args:
        out: the folder.
        replaced: the kind of folder, if it is replaced whole and not only written into.
    """
    place = out.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise OptionError(f"--out: {str(place)!r} is a file; give a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OptionError(f"--out: {str(place)!r} may not be written; give another folder.")
    if replaced is not None:
        check_replaceable(out, replaced)
