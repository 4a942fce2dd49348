"""`compare`: the same model, data, recovery and measurement for every method of a recipe."""

from __future__ import annotations

import itertools
import multiprocessing
import platform
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from prunus.errors import BudgetError, OptionError, PrunusError
from prunus.experiments.compared_methods import compared_methods
from prunus.experiments.finished_runs import FAILED, RESULTS, FinishedRuns, digest_of, processor
from prunus.experiments.recipe import Recipe, load_recipe
from prunus.experiments.trial import Trial, dense_row, enter, prepare
from prunus.foundation.atomic_files import check_writable, list_written
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.foundation.places import placed
from prunus.foundation.progress import Progress, Silent, tell
from prunus.foundation.version import VERSION
from prunus.methods import METHODS, Method
from prunus.report.results import Environment, Origin, Results, Row, Skipped, named

_DENSE = ("dense", 1.0)
"""The place of the dense row of a seed."""
_LONGEST_FIRST = ("multi-scale", "smaller-dense", "layer-wise", "key-path", "modular")


@in_ordinary_mode
def compare(recipe: Recipe | Path | str, *, progress: Progress | None = None, out: Path | str | None = None) -> Results:
    """Prune one trained model by every method of a recipe and measure all of them in the same way.

    Each method plans on calibration and selection data, is cut, verified, recovered with the same steps and seed, and
    scored on the test split, once. Latency is the ratio to the dense network, interleaved in one process. With
    ``workers`` above 1 in the recipe, methods run in parallel processes.

    A run that fails is listed among the skipped ones with its reason, and the others go on. With ``out``, every
    finished run is kept at once in ``unfinished`` there; a comparison that was interrupted goes on from them when it
    is called again with the same recipe and folder, and gives the same results apart from times. Runs that stand in
    ``results.json`` there are taken from it, so that only new methods, kept fractions, repairs and seeds, and runs that
    failed, are made; delete the file to start anew. ``progress`` is told how many runs are taken.

    Args:
        recipe: the recipe, or the path of its file. ``compare: {save: true}`` stores the network of every run
            as a checkpoint below ``networks`` in ``out``.
        progress: reports every step.
        out: the folder for ``results.json`` and ``report.html``; None writes nothing.

    Raises:
        BudgetError: no method could be run at any of the kept fractions.
        PrunusError: any refusal of the model or the data, and a folder that cannot be written.
    """
    shown = progress or Silent()
    if isinstance(recipe, str | Path):
        recipe = load_recipe(Path(recipe))
    methods = _methods(recipe)
    networks = _networks(recipe, out)
    if out is not None:
        check_writable(Path(out) / "results.json")
        check_own_results(Path(out))
    finished = FinishedRuns.of(recipe, None if out is None else Path(out))
    runs = _runs(recipe, methods)
    _tell_taken(finished, runs, recipe, out, shown)
    dense_runs: list[Row] = []
    rows: list[Row] = []
    skipped: dict[tuple[str, float], Skipped] = {}
    weights: dict[str, str] = {}
    with threads_of(recipe.threads):
        for offset in range(recipe.compare.seeds):
            seed = recipe.seed + offset
            digest, dense, entries = _seed(recipe, seed, runs, shown, networks, finished)
            weights[str(seed)] = digest
            dense_runs.append(dense)
            for found in entries:
                if isinstance(found, Skipped):
                    skipped[found.method, found.kept_fraction] = found
                else:
                    rows.append(found)
    if skipped and not rows:
        first = next(iter(skipped.values()))
        raise BudgetError(f"No method could be run; {first.method} at {first.kept_fraction:g} kept: {first.reason}")
    names = [named(method.name, repair) for method in methods for repair in recipe.compare.repair]
    # A method that cannot reach a kept fraction with one seed is left out; one that failed keeps its other seeds.
    out_of_reach = {at for at, entry in skipped.items() if not entry.reason.startswith(FAILED)}
    ordered = _in_order([r for r in rows if (r.method, r.kept_fraction) not in out_of_reach], names)
    origin = Origin(digest_of(recipe), weights)
    results = results_of(recipe, "Pruning methods compared", dense_runs, ordered, skipped.values(), origin)
    if finished.earlier is not None and results == replace(finished.earlier, created=results.created):
        results = finished.earlier  # nothing is new, not even its time
    if out is not None:
        write_results(results, Path(out), shown)
        finished.remove()
    return results


def _tell_taken(
    finished: FinishedRuns, runs: Sequence[Run], recipe: Recipe, out: Path | str | None, progress: Progress
) -> None:
    places = [run.place for run in runs]
    taken = sum(finished.count(recipe.seed + offset, places) for offset in range(recipe.compare.seeds))
    if taken and out is not None:
        total = recipe.compare.seeds * len(runs)
        sources = [Path(out) / RESULTS] if finished.earlier is not None else []
        sources += [finished.folder] if finished.folder is not None and finished.folder.is_dir() else []
        names = " and ".join(str(path) for path in sources)
        tell(
            progress,
            f"{taken} of {total} runs taken from {names}; delete {'it' if len(sources) == 1 else 'both'} to "
            "start anew.",
        )


def _seed(
    recipe: Recipe, seed: int, runs: Sequence[Run], shown: Progress, networks: Path | None, finished: FinishedRuns
) -> tuple[str, Row, Iterable[Row | Skipped]]:
    """Return the digest of the dense weights of a seed, its dense row, and the entries of its runs, made as needed."""
    places = [_DENSE, *(run.place for run in runs)]
    digest = finished.weights_of(seed, places)
    if digest is not None:
        dense, *entries = (finished.get(digest, (seed, *place)) for place in places)
        if isinstance(dense, Row):
            return digest, dense, [entry for entry in entries if entry is not None]
    trial = _trial(recipe, seed, shown, networks, finished)
    return trial.trained.digest, _dense_row(trial, finished), _entries(trial, runs, shown, finished)


def _trial(recipe: Recipe, seed: int, shown: Progress, networks: Path | None, finished: FinishedRuns) -> Trial:
    """Prepare a seed; dense weights that an interrupted comparison trained are not trained again."""
    weights = finished.weights(seed)
    trial = prepare(recipe, seed, shown, weights, networks)
    if weights is None and trial.trained.trained_here:
        finished.keep_weights(seed, trial.dense.state_dict())
    return trial


def _dense_row(trial: Trial, finished: FinishedRuns) -> Row:
    digest, place = trial.trained.digest, (trial.seed, *_DENSE)
    entry = finished.get(digest, place)
    if not isinstance(entry, Row):
        entry = dense_row(trial)
        finished.add(digest, place, entry)
    return entry


def results_of(
    recipe: Recipe,
    title: str,
    dense_runs: Iterable[Row],
    rows: Iterable[Row],
    skipped: Iterable[Skipped] = (),
    origin: Origin | None = None,
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
        origin=origin,
    )


def _networks(recipe: Recipe, out: Path | str | None) -> Path | None:
    if not recipe.compare.save:
        return None
    if out is None:
        raise OptionError("compare.save keeps networks in the folder of the results; give out.")
    return placed(Path(out) / "networks")  # a link would lead the networks elsewhere


def _methods(recipe: Recipe) -> list[Method]:
    return [METHODS.get(name) for name in compared_methods(recipe.compare.methods)]


def _runs(recipe: Recipe, methods: Iterable[Method]) -> list[Run]:
    section = recipe.compare
    return [Run(m.name, kept, repair) for m in methods for kept in section.kept for repair in section.repair]


def _entries(trial: Trial, runs: Sequence[Run], progress: Progress, finished: FinishedRuns) -> Iterator[Row | Skipped]:
    """Yield the entry of every run, finished ones first; each new one is kept at once unless it failed."""
    recipe, digest = trial.recipe, trial.trained.digest
    task = f"compare (seed {trial.seed})"
    progress.start(task, len(runs))
    left = []
    for run in runs:
        entry = finished.get(digest, (trial.seed, *run.place))
        if entry is None:
            left.append(run)
        else:
            yield entry
            progress.advance(task)
    ended = ((run, entered(trial, run)) for run in left) if recipe.workers == 1 else _in_processes(trial, left)
    for run, entry in ended:
        if isinstance(entry, Row) or not entry.reason.startswith(FAILED):
            finished.add(digest, (trial.seed, *run.place), entry)
        yield entry
        progress.advance(task)
    progress.finish(task)


@dataclass(frozen=True, slots=True)
class Run:
    """One method at one kept fraction with one repair."""

    method: str
    kept: float
    repair: str

    @property
    def place(self) -> tuple[str, float]:
        """The name of the method with its repair, and the kept fraction, as in rows."""
        return named(self.method, self.repair), self.kept


def entered(trial: Trial, run: Run) -> Row | Skipped:
    """Carry out one run; one that fails is an entry with the reason."""
    try:
        return enter(trial, METHODS.get(run.method), run.kept, run.repair)
    except Exception as error:  # the other runs go on, whatever this one met
        kind = "" if isinstance(error, PrunusError) else f"{type(error).__name__}: "
        lines = str(error).strip().splitlines()
        return _failed(trial, run, f"{kind}{lines[0] if lines else 'no reason given'}")


def _failed(trial: Trial, run: Run, reason: str) -> Skipped:
    return Skipped(*run.place, f"{FAILED}{trial.seed}: {reason}")


def _in_processes(trial: Trial, runs: list[Run]) -> Iterator[tuple[Run, Row | Skipped]]:
    """Run methods in parallel, the longest first; every process loads the same trained weights.

    Where a process dies, all runs that had not ended are carried out again, each in a process of its own, so that only
    the one which ends it fails.
    """
    waiting = sorted(runs, key=lambda r: (r.method not in _LONGEST_FIRST, r.method))
    # The repairs of one method at one fraction share its plan, so one process takes them all.
    groups = [list(group) for _, group in itertools.groupby(waiting, key=lambda r: (r.method, r.kept))]
    broken: list[Run] = []
    yield from _pooled(trial, groups, trial.recipe.workers, broken)
    for run in broken:
        died: list[Run] = []
        yield from _pooled(trial, [[run]], 1, died)
        if died:
            yield run, _failed(trial, run, "its process ended without an error; memory may have run out")


def _pooled(
    trial: Trial, groups: list[list[Run]], workers: int, broken: list[Run]
) -> Iterator[tuple[Run, Row | Skipped]]:
    """Yield the entries of runs in worker processes; those that no process ended are added to ``broken``."""
    if not groups:
        return
    weights = {k: v.detach().clone() for k, v in trial.dense.state_dict().items()}
    start = (trial.recipe, trial.recipe.base_dir, trial.seed, weights, trial.networks)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=start) as pool:
        jobs = {pool.submit(_job, group): group for group in groups}
        try:
            for job in as_completed(jobs):
                try:
                    entries = job.result()
                except BrokenProcessPool:
                    broken += jobs[job]
                    continue
                yield from zip(jobs[job], entries, strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_TRIAL: list[Trial] = []  # the trial of this worker process; set once by its initializer


def _begin(recipe: Recipe, base_dir: Path, seed: int, weights: dict[str, Tensor], networks: Path | None) -> None:
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    _TRIAL.append(prepare(recipe.located(base_dir), seed, Silent(), weights, networks))


def _job(runs: list[Run]) -> list[Row | Skipped]:
    return [entered(_TRIAL[0], run) for run in runs]


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
    return Environment(torch.__version__, platform.python_version(), processor(), latency.threads, latency.batch)


def check_own_results(out: Path) -> None:
    """Refuse a folder in which a file of the user's has the name of a result; earlier results are replaced."""
    for name, mark in (("results.json", '"schema": "prunus-results/'), ("report.html", 'content="prunus"')):
        file = out / name
        if not file.exists():
            continue
        head = ""
        if file.is_file():
            with file.open(encoding="utf-8", errors="replace") as stream:
                head = stream.read(2000)
        if mark not in head:
            raise OptionError(
                f"cannot write the results to {str(out)!r}: its {name!r} was not written by prunus, and would be "
                "replaced; name another folder, or move that file."
            )


def write_results(results: Results, out: Path, progress: Progress) -> None:
    """Write ``results.json`` and ``report.html`` into a folder."""
    from prunus.report import write_report

    progress.start("report", 1)
    list_written(out, "results.json", "report.html")
    results.save(out / "results.json")
    write_report(results, out / "report.html")
    progress.finish("report")
