"""`compare`: the same model, data, recovery and measurement for every method of a recipe."""

from __future__ import annotations

import multiprocessing
import platform
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from prunus.errors import BudgetError, OptionError
from prunus.experiments.recipe import Recipe, load_recipe
from prunus.experiments.trial import Trial, dense_row, entries, prepare
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.foundation.progress import Progress, Silent
from prunus.foundation.version import VERSION
from prunus.methods import METHODS, Method
from prunus.report.results import Environment, Results, Row, Skipped, named

_LONGEST_FIRST = ("multi-scale", "smaller-dense", "layer-wise", "key-path", "modular")


@in_ordinary_mode
def compare(recipe: Recipe | Path | str, *, progress: Progress | None = None, out: Path | str | None = None) -> Results:
    """Prune one trained model by every method of a recipe and measure all of them in the same way.

    Each method plans on calibration and selection data, is cut, verified, recovered with the same steps and seed, and
    scored on the test split, once. Latency is the ratio to the dense network, interleaved in one process. With
    ``workers`` above 1 in the recipe, methods run in parallel processes.

    Args:
        recipe: the recipe, or the path of its file. ``compare: {save: true}`` stores the network of every run
            as a checkpoint below ``networks`` in ``out``.
        progress: reports every step.
        out: the folder for ``results.json`` and ``report.html``; None writes nothing.

    Raises:
        BudgetError: no method reaches any of the kept fractions.
        PrunusError: any refusal of the model, the data or the methods; nothing half-written is left.
    """
    shown = progress or Silent()
    if isinstance(recipe, str | Path):
        recipe = load_recipe(Path(recipe))
    methods = _methods(recipe)
    networks = _networks(recipe, out)
    dense_runs: list[Row] = []
    rows: list[Row] = []
    skipped: dict[tuple[str, float], Skipped] = {}
    with threads_of(recipe.threads):
        for offset in range(recipe.compare.seeds):
            trial = prepare(recipe, recipe.seed + offset, shown, networks=networks)
            dense_runs.append(dense_row(trial))
            for found in _rows(trial, methods, shown):
                if isinstance(found, Skipped):
                    skipped[found.method, found.kept_fraction] = found
                else:
                    rows.append(found)
    if skipped and not rows:
        first = next(iter(skipped.values()))
        raise BudgetError(f"No method could be run; {first.method} at {first.kept_fraction:g} kept: {first.reason}")
    names = [named(method.name, repair) for method in methods for repair in recipe.compare.repair]
    ordered = _in_order([r for r in rows if (r.method, r.kept_fraction) not in skipped], names)
    results = results_of(recipe, "Pruning methods compared", dense_runs, ordered, skipped.values())
    if out is not None:
        write_results(results, Path(out), shown)
    return results


def results_of(
    recipe: Recipe, title: str, dense_runs: Iterable[Row], rows: Iterable[Row], skipped: Iterable[Skipped] = ()
) -> Results:
    """Make results of measured rows, with the recipe and the environment of this machine."""
    return Results.make(
        dense_runs=dense_runs,
        runs=rows,
        skipped=skipped,
        title=title,
        workload=recipe.data,
        model=recipe.model,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=VERSION,
        environment=_environment(recipe),
        recipe=recipe.model_dump(mode="json"),
    )


def _networks(recipe: Recipe, out: Path | str | None) -> Path | None:
    if not recipe.compare.save:
        return None
    if out is None:
        raise OptionError("compare.save keeps networks in the folder of the results; give out.")
    return Path(out) / "networks"


def _methods(recipe: Recipe) -> list[Method]:
    chosen = named_methods() if recipe.compare.methods == "all" else recipe.compare.methods
    return [METHODS.get(name) for name in chosen]


def _rows(trial: Trial, methods: list[Method], progress: Progress) -> Iterator[Row | Skipped]:
    recipe = trial.recipe
    task = f"compare (seed {trial.seed})"
    progress.start(task, len(methods) * len(recipe.compare.kept))
    if recipe.workers == 1:
        for method in methods:
            for kept in recipe.compare.kept:
                yield from entries(trial, method, kept)
                progress.advance(task)
    else:
        for found in _in_processes(trial, methods):
            yield from found
            progress.advance(task, len(found))
    progress.finish(task)


def named_methods() -> list[str]:
    """Return the names behind ``all``: every method without options."""
    return [name for name in METHODS.names() if not METHODS.get(name).options]


def _in_processes(trial: Trial, methods: list[Method]) -> Iterator[list[Row | Skipped]]:
    """Run one job per method, the longest first; every process loads the same trained weights."""
    names = sorted((m.name for m in methods), key=lambda n: (n not in _LONGEST_FIRST, n))
    weights = {k: v.detach().clone() for k, v in trial.dense.state_dict().items()}
    start = (trial.recipe, trial.recipe.base_dir, trial.seed, weights, trial.networks)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(trial.recipe.workers, context, initializer=_begin, initargs=start) as pool:
        jobs = [pool.submit(_job, name) for name in names]
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_TRIAL: list[Trial] = []  # the trial of this worker process; set once by its initializer


def _begin(recipe: Recipe, base_dir: Path, seed: int, weights: dict[str, Tensor], networks: Path | None) -> None:
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    _TRIAL.append(prepare(recipe.located(base_dir), seed, Silent(), weights, networks))


def _job(name: str) -> list[Row | Skipped]:
    trial = _TRIAL[0]
    method, kept = METHODS.get(name), trial.recipe.compare.kept
    return [found for share in kept for found in entries(trial, method, share)]


def _in_order(rows: list[Row], names: list[str]) -> list[Row]:
    place = {name: i for i, name in enumerate(names)}
    return sorted(rows, key=lambda r: (r.seed, -r.kept_fraction, place[r.method]))


@contextmanager
def threads_of(count: int | None) -> Iterator[None]:
    """Set the number of torch threads inside the block; None leaves torch's own choice."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _environment(recipe: Recipe) -> Environment:
    latency = recipe.compare.latency
    return Environment(torch.__version__, platform.python_version(), _processor(), latency.threads, latency.batch)


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_results(results: Results, out: Path, progress: Progress) -> None:
    """Write ``results.json`` and ``report.html`` into a folder."""
    from prunus.report import write_report

    progress.start("report", 1)
    results.save(out / "results.json")
    write_report(results, out / "report.html")
    progress.finish("report")
