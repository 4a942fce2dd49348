"""The ``prunus`` command: the one place where an error becomes a line on stderr and an exit code."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from prunus.cli.apply import apply
from prunus.cli.cite import cite
from prunus.cli.compare import compare
from prunus.cli.demo import demo
from prunus.cli.diff import diff
from prunus.cli.doctor import doctor
from prunus.cli.frontier import frontier
from prunus.cli.inspect import inspect
from prunus.cli.levels import levels
from prunus.cli.members import criteria, methods
from prunus.cli.plan import plan
from prunus.cli.prune import prune
from prunus.cli.report import report
from prunus.cli.train_workload import train_workload
from prunus.cli.verify import verify
from prunus.errors import PrunusError

_USAGE, _FAILED, _INTERRUPTED = 2, 1, 130

app = typer.Typer(
    name="prunus",
    help="Hierarchical pruning for any PyTorch network: smaller, faster, proved, explained.",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo)
app.command("compare")(compare)
app.command("frontier")(frontier)
app.command("inspect")(inspect)
app.command("prune")(prune)
app.command("levels")(levels)
app.command("plan")(plan)
app.command("diff")(diff)
app.command("apply")(apply)
app.command("verify")(verify)
app.command("report")(report)
app.command("methods")(methods)
app.command("criteria")(criteria)
app.command("doctor")(doctor)
app.command("cite")(cite)
app.command("train-workload")(train_workload)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"prunus {version('prunus')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hierarchical pruning for any PyTorch network: smaller, faster, proved, explained."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0 done, 1 not met, 2 wrong usage, 130 interrupted.

    Args:
        arguments: the words after ``prunus``; None takes those of the process.

    Raises:
        SystemExit: always.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(words, debug="--debug" in words))


def _run(words: list[str], debug: bool) -> int:
    try:
        with warnings.catch_warnings():
            if not debug:
                # Libraries warn about their callers' code, which a user of the command line cannot change.
                warnings.simplefilter("ignore")
            code = app(words, prog_name="prunus", standalone_mode=False)
        sys.stdout.flush()
        if code == _INTERRUPTED:
            _say("interrupted")
        return code if isinstance(code, int) else 0
    except PrunusError as error:
        return _refuse(error, str(error), error.exit_code, debug)
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has closed it; the flush at interpreter exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's usage errors; their class moves between its versions.
            message = str(error.format_message()).rstrip(".")
            return _refuse(error, f"{message}; in: prunus {shlex.join(words)}. See 'prunus --help'.", _USAGE, debug)
        hint = "" if debug else " Run again with --debug for the traceback."
        return _refuse(error, f"unexpected {type(error).__name__}: {error}.{hint}", _FAILED, debug)


def _refuse(error: BaseException, message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    _say(f"error: {message}")
    return code


def _say(text: str) -> None:
    sys.stderr.write(f"prunus: {' '.join(text.split())}\n")
    sys.stderr.flush()
