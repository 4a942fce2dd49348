"""``prunus report FOLDER``: a plan, or the results of a comparison, as one HTML page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.console import shown_progress
from prunus.cli.options import DebugOption, TrustOption
from prunus.cli.work import check_out

_RESULTS = "results.json"


def report(
    folder: Annotated[Path, typer.Argument(help="What prunus plan, prune, compare or demo wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file.")] = Path("report.html"),
    pay: Annotated[bool, typer.Option(help="Predict the time on this machine, and say where it will not pay.")] = True,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a plan (price, forecast, picture, every decision) or results as one page that needs no network."""
    check_out(out.parent)
    if (folder / _RESULTS).is_file():
        from prunus.report import write_report
        from prunus.report.results import Results

        write_report(Results.load(folder / _RESULTS), out)
    else:
        from prunus.foundation.atomic_files import write_text_atomic

        write_text_atomic(out, _plan_page(folder, pay, trust))
    sys.stderr.write(f"report: {out}\n")


def _plan_page(folder: Path, pay: bool, trust: bool) -> str:
    from prunus.analysis.input_size import of_plan
    from prunus.experiments.commands import read_plan_folder, review_folder
    from prunus.measurement.forecast import forecast
    from prunus.report.plan_page import PlanAbout, render_plan_page

    given = read_plan_folder(folder, trust=trust)
    with shown_progress() as progress:
        trained, settled = review_folder(given, progress)
        analysis, recipe, found = of_plan(trained.analysis, settled.plan), trained.recipe, None
        # A forecast compares with the network of the analysis, which here has the bridges already.
        if pay and not settled.plan.bridges:
            found = forecast(
                analysis.model,
                analysis.coupling,
                analysis.example_inputs,
                settled.plan,
                batch=trained.samples,
                threads=recipe.compare.latency.threads,
                progress=progress,
            )
    title = f"plan for {recipe.model} on {recipe.data}"
    about = PlanAbout(title, settled.edits, found)
    return render_plan_page(analysis.coupling, settled.plan, about)
