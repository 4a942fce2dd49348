"""Write files and folders so that a reader sees the old content or the new, never a half.

A writer works in a temporary sibling, ``.NAME.PID-TOKEN.tmp``, and holds a lock on it that the system frees when the
writer dies. The next call to the same place removes unlocked siblings; `settle` describes what it does after a kill.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prunus.foundation.places import (
    MANIFEST,
    Contents,
    check_replaceable,
    list_text,
    listed_files,
    os_errors_named,
    placed,
    unwritable,
)

_AT_CWD, _EXCHANGE = -100, 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EPERM)
# Errors of a disk or a network drive; a program meets the other ones for other reasons too.
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENXIO, errno.ENODEV)
_LONGEST_WRITING = 3600.0  # seconds


def write_text_atomic(path: Path | str, text: str) -> Path:
    """Write ``text`` as UTF-8 to ``path``; see `write_bytes_atomic`."""
    return write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: Path | str, data: bytes) -> Path:
    """Write ``data`` to ``path`` through a temporary sibling, fsync and rename.

    Args:
        path: where to write; missing parent folders are made.
        data: the whole content.

    Returns:
        The path that was written.

    Raises:
        OptionError: the path cannot be written, or is a symbolic link. The old content, if any, is then untouched.
    """
    final = placed(path)
    with os_errors_named(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        settle(final)
        temporary, handle = _claimed(final, _make_file)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
                _replace_file(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)
    return Path(path)


def _replace_file(temporary: Path, final: Path) -> None:
    """Put a file in the place of an older one, which comes back if the folder cannot be synced."""
    retired = temporary.with_suffix(".old")
    existed = os.path.lexists(final)
    with suppress(OSError):  # some file systems know no second name for a file
        os.link(final, retired)
    try:
        temporary.replace(final)
        try:
            _sync_folder(final.parent)
        except BaseException:
            if not existed:
                final.unlink(missing_ok=True)
            elif retired.exists() and not _exchange(retired, final):
                retired.replace(final)
            raise
    finally:
        retired.unlink(missing_ok=True)


def append_line(path: Path | str, text: str) -> None:
    """Append one line to a text file and wait until it is on the disk; a kill leaves at most an unfinished last line.

    Raises:
        OptionError: the file cannot be written, or is a symbolic link.
    """
    final = placed(path)
    with os_errors_named(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        with final.open("ab") as stream:
            stream.write(text.encode("utf-8") + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def check_writable(path: Path | str) -> None:
    """Refuse a place where no file can be made, before the work whose results go there; nothing is left behind.

    Raises:
        OptionError: neither the folder of ``path`` nor, where it is missing, the nearest one above can be written; or
            ``path`` is a symbolic link.
    """
    above = placed(path).parent
    while not above.exists() and above != above.parent:
        above = above.parent
    with os_errors_named(Path(path)):
        probe = _sibling(above / "probe", "tmp")
        with probe.open("xb"):
            pass
        probe.unlink()


def list_written(folder: Path | str, *names: str) -> None:
    """Add files to the list of those that prunus wrote into a folder; call it before they are written.

    Raises:
        OptionError: the folder cannot be written.
    """
    place = Path(folder)
    with os_errors_named(place):
        listed = (listed_files(place) or frozenset()) if place.is_dir() else frozenset()
    if not listed.issuperset(names):
        write_text_atomic(place / MANIFEST, list_text(listed.union(names)))


@contextmanager
def atomic_dir(final: Path | str, contents: Contents | None = None) -> Iterator[Path]:
    """Yield an empty sibling folder that replaces ``final`` when the block ends without an error.

    Leaving the block with an exception removes the sibling and keeps the old ``final``.

    Args:
        final: the folder to make or replace.
        contents: as in `check_replaceable`; where it is given, the folder gets a list of its files.

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
    target = placed(final)
    settle(target)
    check_replaceable(final, contents)
    with os_errors_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, handle = _claimed(target, _make_folder)
    try:
        with _writing_errors_named(target, temporary):
            yield temporary
            if contents is not None:
                names = [path.name for path in temporary.iterdir()]
                (temporary / MANIFEST).write_text(list_text(names), encoding="utf-8")
        check_replaceable(final, contents)
        with os_errors_named(target):
            _open_as_usual(temporary)
            _sync_tree(temporary)
            _swap_in(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def settle(path: Path | str) -> None:
    """Bring a file or folder whose writer was killed into its old or its new state, and remove what the writer left.

    Where a system cannot exchange two folders, a writer moves the old folder aside before it moves the new one in. If
    it was killed in between, the new folder, complete by then, takes its place; if that is missing, the old one does.
    Siblings of a running writer and files with other names are not touched. Errors are ignored: a write to the same
    place meets them again.
    """
    target = Path(path).parent.resolve() / Path(path).name
    form = re.compile(re.escape(f".{target.name}.") + r"(\d+-[0-9a-f]{8})\.(?:tmp|old)")
    with suppress(OSError):
        tokens = {found[1] for entry in target.parent.iterdir() if (found := form.fullmatch(entry.name))}
        for token in sorted(tokens):
            _settle(target, target.with_name(f".{target.name}.{token}.tmp"))


def _settle(target: Path, temporary: Path) -> None:
    retired = temporary.with_suffix(".old")
    with _abandoned(temporary if os.path.lexists(temporary) else retired) as abandoned:
        if not abandoned:
            return
        if _is_folder(retired) and not os.path.lexists(target):
            (temporary if _is_folder(temporary) else retired).rename(target)
            _sync_folder(target.parent)
        for left in (temporary, retired):
            _remove(left)


@contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Yield True, and lock ``path``, if no running writer has it locked."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        locked = _lock(handle, wait=False)
        old = time.time() - os.fstat(handle).st_mtime > _LONGEST_WRITING
        yield old if locked is None else locked
    finally:
        os.close(handle)


def _lock(handle: int, *, wait: bool) -> bool | None:
    """Return True if the lock was taken, False if another writer holds it, None if the file system knows no locks."""
    try:
        import fcntl
    except ImportError:  # a system without POSIX locks; temporary files are then judged by their age
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _claimed(target: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Make a locked temporary sibling; return its path and its open handle, which holds the lock."""
    while True:
        path = _sibling(target, "tmp")
        handle = make(path)
        _lock(handle, wait=True)
        # Another writer may have removed it before it was locked.
        if os.path.lexists(path):
            return path, handle
        os.close(handle)


def _make_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def _make_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
    """Put ``temporary`` in the place of ``target``; an older ``target`` is restored if that fails, removed if not."""
    if not target.exists():
        temporary.rename(target)
        _sync_folder(target.parent)
    elif _exchange(temporary, target):
        try:
            _sync_folder(target.parent)
        except BaseException:
            _exchange(temporary, target)
            raise
    else:
        _swap_by_journal(temporary, target)


def _swap_by_journal(temporary: Path, target: Path) -> None:
    """Move ``target`` aside and ``temporary`` in; the names are the journal that `settle` reads after a kill."""
    retired = temporary.with_suffix(".old")
    target.rename(retired)
    try:
        _sync_folder(target.parent)
        temporary.rename(target)
    except BaseException:
        if not target.exists():
            retired.rename(target)
        raise
    _sync_folder(target.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; return False where the system or the file system cannot."""
    rename = _renameat2()
    if rename is None:
        return False
    if rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(other))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """Return the call of the system's library, or None if it has none."""
    try:
        found = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    found.restype = ctypes.c_int
    return found


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
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems sync no folders
            raise
    finally:
        os.close(handle)


@contextmanager
def _writing_errors_named(target: Path, temporary: Path) -> Iterator[None]:
    """Name the failed write of a caller in ``temporary``; other errors of the caller pass."""
    try:
        yield
    except OSError as error:
        elsewhere = error.filename is not None and not str(error.filename).startswith(str(temporary))
        if elsewhere or (error.filename is None and error.errno not in _OF_DISKS):
            raise
        raise unwritable(target, error.strerror or type(error).__name__) from error
    except Exception as error:
        # Libraries in Rust raise errors of their own, which end with the number of the system's error.
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None or type(error).__name__ != "SafetensorError":
            raise
        raise unwritable(target, os.strerror(int(code[1]))) from error
