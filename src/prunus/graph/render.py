"""Rendering of a drawing to a file, through Graphviz where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from prunus.errors import OptionError
from prunus.foundation.atomic_files import write_bytes_atomic, write_text_atomic
from prunus.graph.coupling import Coupling
from prunus.graph.draw import dot_text

_PICTURES = (".svg", ".png", ".pdf")
_SECONDS = 60


def check_picture(path: Path) -> None:
    """Refuse a path that cannot become a drawing, before any work is done.

    Raises:
        OptionError: another ending than .svg, .png, .pdf or .dot, or the path is a folder.
    """
    if path.suffix not in (*_PICTURES, ".dot"):
        raise OptionError(f"--graph: got {str(path)!r}; allowed endings: {', '.join(_PICTURES)}, .dot. Change it.")
    if path.is_dir():
        raise OptionError(f"--graph: {str(path)!r} is a folder; give the name of a file in it.")


def draw_to(coupling: Coupling, path: Path, *, depth: int | None = None) -> str:
    """Draw a network to a file; `draw.dot_text` describes the drawing.

    Where Graphviz is missing or fails, its text is written beside ``path``, with the ending ``.dot``.

    Args:
        coupling: the analysed graph.
        path: the file to write; its ending selects the format.
        depth: modules at this level become one box.

    Returns:
        The written path; where it is not ``path``, also the reason and the remedy.

    Raises:
        OptionError: another ending, or the path cannot be written.
    """
    check_picture(path)
    text = dot_text(coupling, depth=depth)
    if path.suffix == ".dot":
        return str(write_text_atomic(path, text))
    source, kind = path.with_suffix(".dot"), path.suffix[1:]
    program = shutil.which("dot")
    if program is None:
        write_text_atomic(source, text)
        return f"{source} (Graphviz is not installed; install it, then: dot -T{kind} {source} -o {path})"
    try:
        done = subprocess.run(
            [program, f"-T{kind}"], input=text.encode(), capture_output=True, timeout=_SECONDS, check=True
        )
    except (subprocess.SubprocessError, OSError) as error:
        write_text_atomic(source, text)
        return f"{source} (Graphviz gave up: {type(error).__name__}; try a smaller --depth)"
    return str(write_bytes_atomic(path, done.stdout))
