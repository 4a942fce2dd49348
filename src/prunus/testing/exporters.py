"""The contract of exporters: `save` writes a complete file with the model's values, which can be read back."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.analysis.score import make_plan
from prunus.errors import PrunusError
from prunus.exporters import EXPORTERS, load, save
from prunus.exporters.exporter import Exporter
from prunus.exporters.parts import Pruned
from prunus.foundation.arguments import door
from prunus.plans import Plan
from prunus.surgery.cut import cut_with_record
from prunus.surgery.proving.proof_run import output_tensors, relative_error
from prunus.surgery.record import Surgery
from prunus.testing.cases import example_analysis, state_of
from prunus.testing.suite import Suite, check_member, suite_for

CLOSE = 1e-5


@dataclass(frozen=True, slots=True)
class Saved:
    """A cut network in the form that `save` takes.

    Attributes:
        model, plan, surgery: of the cut.
        example_inputs: one call.
        fresh: makes an instance of the original class with the original shapes.
    """

    model: nn.Module
    plan: Plan
    surgery: Surgery
    example_inputs: Any
    fresh: Callable[[], nn.Module]


def example_result() -> Saved:
    """Return a small convolutional network without a third of every axis."""
    analysis = example_analysis()
    keep = {name: np.arange(axis.size) % 3 > 0 for name, axis in analysis.coupling.axes.items()}
    plan = make_plan(analysis.coupling, keep)
    model, surgery = cut_with_record(analysis.model, analysis.coupling, plan, analysis.example_inputs)
    return Saved(model, plan, surgery, torch.rand(2, 1, 8, 8), lambda: type(analysis.model)())


@dataclass(frozen=True, slots=True)
class ExporterCase:
    """An exporter, and the function that makes the result to save."""

    exporter: str | Exporter
    result: Callable[[], Saved]

    @property
    def member(self) -> Exporter:
        """The exporter itself."""
        return EXPORTERS.get(self.exporter) if isinstance(self.exporter, str) else self.exporter

    @contextlib.contextmanager
    def enrolled(self) -> Iterator[Path]:
        """Enrol the exporter for the time of a block, if no package has, and yield an empty folder."""
        known = isinstance(self.exporter, str)
        lent = contextlib.nullcontext() if known else EXPORTERS.lent(self.member.name, self.member)
        with lent, tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


class ExporterSuite(Suite):
    """The promises of an exporter."""

    role = "exporter"
    case: ExporterCase

    def test_its_record_is_sound(self) -> None:
        """The record has the enrolled name, and the description is one line."""
        member = self.case.member
        self.expect_record(member, self.case.exporter, "Say in one line what is written, and for whom.")

    def test_something_is_written_where_it_was_asked_for(self) -> None:
        """`save` returns the path and writes a file or folder with content there, and nothing else beside it."""
        with self.case.enrolled() as folder:
            path = self._path(folder)
            returned = self._save(self._result(), path)
            self.expect(
                isinstance(returned, Path) and returned == path,
                "it returns another path",
                repr(returned),
                "the path that was given, as a Path",
                "End with return Path(path).",
            )
            self.expect(_size(path) > 0, "nothing is written", "no file, or an empty one", "content", "Write it.")
            beside = sorted(p.name for p in folder.iterdir() if p != path)
            self.expect(
                not beside,
                "it leaves other files beside the path",
                beside[:3],
                "none",
                "Write through prunus.foundation.atomic_files.write_bytes_atomic or atomic_dir.",
            )

    def test_an_older_one_is_replaced(self) -> None:
        """`save` replaces an older file or folder completely."""
        with self.case.enrolled() as folder:
            old, new = self._path(folder), self._path(folder / "new")
            self._save(self._result(), old)
            changed = self._trained()
            self._save(changed, old)
            self._save(changed, new)
            self.expect(
                _digest(old) == _digest(new),
                "an older file is not replaced by what is written into an empty place",
                "other content",
                "the same content",
                "Write through prunus.foundation.atomic_files, and put no dates into the file.",
            )

    def test_the_values_of_the_model_are_written(self) -> None:
        """A model with other values gives another file."""
        with self.case.enrolled() as folder:
            one, other = self._path(folder / "one"), self._path(folder / "other")
            self._save(self._result(), one)
            self._save(self._trained(), other)
            self.expect(
                _digest(one) != _digest(other),
                "other values of the model give the same file",
                "no difference",
                "the values of result.model",
                "Write result.model as it is now.",
            )

    def test_what_is_read_back_computes_the_same(self) -> None:
        """`load` returns a network with the outputs of the saved one."""
        result = self._trained()
        with self.case.enrolled() as folder:
            path = self._path(folder)
            self._save(result, path)
            back = self.attempt("it cannot be read back", lambda: self._loaded(path, result))
            self.expect(
                isinstance(back, nn.Module),
                "load gives no module",
                type(back).__name__,
                "a torch.nn.Module",
                "Return the network from read.",
            )
            with torch.no_grad():
                expected, got = (output_tensors(net.eval()(result.example_inputs)) for net in (result.model, back))
            error = relative_error(got, expected)
        self.expect(
            error <= CLOSE,
            "what is read back computes something else",
            f"a relative difference of {error:.1e}",
            f"{CLOSE:g}",
            "Write and read every parameter and buffer.",
        )

    def test_the_result_stays(self) -> None:
        """The saved model is unchanged."""
        result = self._result()
        before, plan = state_of(result.model), result.plan.describe()
        with self.case.enrolled() as folder:
            self._save(result, self._path(folder))
        self.expect_unchanged(result.model, before)
        self.expect(result.plan.describe() == plan, "it changes the plan", "another plan", "no change", "Read it only.")

    def test_a_bare_model_is_refused(self) -> None:
        """A model without its plan is refused in one line (`PrunusError`), and nothing is written."""
        bare: Any = self._result().model
        with self.case.enrolled() as folder:
            path = self._path(folder)
            self.refused(
                "a bare model is not refused",
                lambda: save(bare, path, format=self.case.member.name),
                PrunusError,
                "Begin with model, plan, surgery = prunus.exporters.parts.parts(result).",
            )
            self.expect(not path.exists(), "a bare model is written all the same", path.name, "nothing", "Check first.")

    def _result(self) -> Saved:
        return self.once("result", self.case.result)

    def _trained(self) -> Saved:
        def make() -> Saved:
            result = self.case.result()
            draw = torch.Generator().manual_seed(3)
            with torch.no_grad():
                for parameter in result.model.parameters():
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw).to(parameter))
            return result

        return self.once("trained", make)

    def _path(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        return folder / f"small{self.case.member.suffix}"

    def _save(self, result: Pruned, path: Path) -> Any:
        name = self.case.member.name
        return self.attempt("it does not write a cut convolutional network", lambda: save(result, path, format=name))

    def _loaded(self, path: Path, result: Saved) -> nn.Module:
        fresh = result.fresh() if path.is_dir() else None
        return load(path, fresh, format=self.case.member.name)


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())


def _digest(path: Path) -> str:
    files = sorted(p for p in [path, *path.rglob("*")] if p.is_file())
    content = [f"{p.relative_to(path)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files]
    return "\n".join(content)


@door()
def exporter_suite(exporter: str | Exporter, *, result: Callable[[], Saved] = example_result) -> Any:
    """Return the contract suite of an exporter, for pytest to collect.

    The file is read back if the exporter has ``read``.

    Args:
        exporter: its name, or the `Exporter` itself.
        result: makes the result to save; by default a cut convolutional network.

    Example:
        ``TestMine = prunus.testing.exporter_suite("my-format")``
    """
    check_member("exporter", exporter, Exporter)
    case = ExporterCase(exporter, result)
    leave_out = ("test_what_is_read_back_computes_the_same",) if case.member.read is None else ()
    return suite_for(ExporterSuite, case.member.name, case, leave_out)
