"""Places where prunus writes: symbolic links are never followed, and only what prunus wrote is ever replaced.

Each folder that is replaced whole holds `MANIFEST`, the list of the files that prunus wrote into it.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prunus.errors import OptionError

MANIFEST, _FORMAT = ".prunus-files", "prunus-files/1"
_LONGEST_LIST, _HEAD = 1 << 20, 4096  # bytes


def placed(path: Path | str, below: Path | str | None = None) -> Path:
    """Return the absolute path of a place for a file or folder; a symbolic link is refused.

    Folders above it may be links, as a home folder often is; those below ``below`` may not.

    Args:
        path: the place.
        below: a folder in which prunus makes the folders above ``path`` itself.

    Raises:
        OptionError: the place is a symbolic link, or a folder between ``below`` and it is one.
    """
    place = Path(path).absolute()
    if place.name in ("", ".."):
        return place.resolve()
    root = place.parent if below is None else Path(below).absolute()
    above = itertools.takewhile(lambda part: part != root, place.parents) if root in place.parents else ()
    for part in (place, *above):
        if part.is_symlink():
            raise OptionError(
                f"cannot write {str(path)!r}: {part.name!r} is a symbolic link to {str(part.readlink())!r}, and links "
                "are not followed; remove it, or give the path that it leads to."
            )
    return place.parent.resolve() / place.name


@dataclass(frozen=True, slots=True)
class Contents:
    """The allowed content of a kind of folder.

    Names may be patterns: ``model*.safetensors``.

    Attributes:
        mark: the file that every such folder holds.
        names: the names of all files that it may hold.
        text: a text near the beginning of ``mark``, by which a folder without a list is known as one of prunus.
    """

    mark: str
    names: frozenset[str]
    text: str = ""

    def foreign(self, folder: Path) -> str | None:
        """Return an entry that prunus did not write into such a folder; None where there is none."""
        listed = listed_files(folder)
        entries = [entry for entry in sorted(folder.iterdir()) if entry.name != MANIFEST or not _is_plain(entry)]
        for entry in entries:
            known = any(fnmatch.fnmatchcase(entry.name, name) for name in self.names)
            if not _is_plain(entry) or not known or (listed is not None and entry.name not in listed):
                return entry.name
        mark = folder / self.mark
        if entries and not mark.exists():
            return entries[0].name
        if entries and listed is None and self.text not in _head(mark):
            return self.mark
        return None


def listed_files(folder: Path) -> frozenset[str] | None:
    """Return the names that a folder's list holds; None where there is no list of prunus."""
    path = folder / MANIFEST
    if not _is_plain(path):
        return None
    with path.open(encoding="utf-8", errors="replace") as stream:
        first, *names = stream.read(_LONGEST_LIST).splitlines() or [""]
    return frozenset(names) if first == _FORMAT else None


def list_text(names: Iterable[str]) -> str:
    """Return the text of `MANIFEST`: its format, then one name a line."""
    return "".join(f"{line}\n" for line in (_FORMAT, *sorted(names)))


def check_replaceable(final: Path | str, contents: Contents | None = None) -> None:
    """Refuse to replace a folder that holds files of the user.

    Args:
        final: the folder that will be made or replaced whole.
        contents: its kind; an existing folder must be of that kind, or empty. None accepts any folder.

    Raises:
        OptionError: a file, a symbolic link, the working folder or one that holds it, or a folder with something else
            in it.
    """
    target = placed(final)
    if target.exists() and not target.is_dir():
        raise OptionError(f"cannot write folder {str(final)!r}: a file has that name; choose another name.")
    if Path.cwd().is_relative_to(target):
        raise OptionError(
            f"cannot write folder {str(final)!r}: it is the working folder or holds it, and would be replaced whole; "
            "name a new folder."
        )
    if contents is None or not target.is_dir():
        return
    with os_errors_named(target):
        found = contents.foreign(target)
    if found is not None:
        raise OptionError(
            f"cannot write folder {str(final)!r}: it contains {found!r}, which prunus did not write into such a "
            "folder, and all of it would be replaced whole; name a new folder, or empty this one."
        )


@contextmanager
def os_errors_named(path: Path) -> Iterator[None]:
    """Turn an error of the system into one line that names the place."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error.strerror or type(error).__name__) from error


def unwritable(path: Path, reason: str) -> OptionError:
    """Return the error for a place that cannot be written."""
    return OptionError(f"cannot write {str(path)!r}: {reason}; give a path that can be written.")


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _head(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(_HEAD)
