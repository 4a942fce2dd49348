"""Write files and folders so that a reader sees the old content or the new, never a half."""

from __future__ import annotations

import fnmatch
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prunus.errors import OptionError


def write_text_atomic(path: Path | str, text: str) -> Path:
    """Write ``text`` as UTF-8 to ``path``; see `write_bytes_atomic`."""
    return write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: Path | str, data: bytes) -> Path:
    """Write ``data`` to ``path`` through a temporary sibling, fsync and rename.

    Args:
        path: where to write; missing parent folders are made. A symbolic link is followed.
        data: the whole content.

    Returns:
        The path that was written.

    Raises:
        OptionError: the path cannot be written. The old content, if any, is then untouched.
    """
    final = Path(path).resolve()
    with _os_errors_named(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = _sibling(final, "tmp")
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(final.parent)
    return Path(path)


@dataclass(frozen=True, slots=True)
class Contents:
    """The allowed content of a kind of folder: the file that marks it, and the names of all files that it may hold.

    Names may be patterns: ``model*.safetensors``.
    """

    mark: str
    names: frozenset[str]

    def foreign(self, folder: Path) -> str | None:
        """Return an entry that does not belong into such a folder; None where there is none."""
        entries = sorted(folder.iterdir())
        for entry in entries:
            if not entry.is_file() or not any(fnmatch.fnmatchcase(entry.name, name) for name in self.names):
                return entry.name
        return entries[0].name if entries and not (folder / self.mark).exists() else None


def check_replaceable(final: Path | str, contents: Contents | None = None) -> None:
    """Refuse to replace a folder that holds files of the user.

    Args:
        final: the folder that will be made or replaced whole.
        contents: its kind; an existing folder must be of that kind, or empty. None accepts any folder.

    Raises:
        OptionError: a file, the working folder or one that holds it, or a folder with something else in it.
    """
    target = Path(final).resolve()
    if target.exists() and not target.is_dir():
        raise OptionError(f"cannot write folder {str(final)!r}: a file has that name; choose another name.")
    if Path.cwd().is_relative_to(target):
        raise OptionError(
            f"cannot write folder {str(final)!r}: it is the working folder or holds it, and would be replaced whole; "
            "name a new folder."
        )
    if contents is None or not target.is_dir():
        return
    with _os_errors_named(target):
        found = contents.foreign(target)
    if found is not None:
        raise OptionError(
            f"cannot write folder {str(final)!r}: it contains {found!r}, which prunus did not write, and the folder "
            "would be replaced whole; name a new folder, or empty this one."
        )


@contextmanager
def atomic_dir(final: Path | str, contents: Contents | None = None) -> Iterator[Path]:
    """Yield an empty sibling folder that replaces ``final`` when the block ends without an error.

    Leaving the block with an exception removes the sibling and keeps the old ``final``.

    Args:
        final: the folder to make or replace.
        contents: as in `check_replaceable`.

    Raises:
        OptionError: the folder cannot be written, or may not be replaced; see `check_replaceable`.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "out"
        >>> with atomic_dir(place) as folder:
        ...     _ = (folder / "a.txt").write_text("done")
        >>> (place / "a.txt").read_text()
        'done'
    """
    check_replaceable(final, contents)
    target = Path(final).resolve()
    temporary = _sibling(target, "tmp")
    with _os_errors_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    try:
        yield temporary
        with _os_errors_named(target):
            _open_as_usual(temporary)
            _sync_tree(temporary)
            _swap_in(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open_as_usual(folder: Path) -> None:
    """Set the permissions of every file by the umask: some writers make files that only their owner can read."""
    probe = _sibling(folder / "probe", "tmp")
    probe.touch()
    usual = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(usual)


def _swap_in(temporary: Path, target: Path) -> None:
    """Rename ``temporary`` to ``target``; restore an older ``target`` if that fails."""
    retired = _sibling(target, "old")
    had_old = target.exists()
    if had_old:
        target.rename(retired)
    try:
        temporary.rename(target)
    except BaseException:
        if had_old:
            retired.rename(target)
        raise
    _sync_folder(target.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _sibling(path: Path, ending: str) -> Path:
    # Same folder, so that the rename stays inside one file system and is atomic.
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.{ending}")


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _os_errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OptionError(f"cannot write {str(path)!r}: {reason}; give a path that can be written.") from error
