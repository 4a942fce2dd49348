"""The source text of the standard library, and the division of its files into splits."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunus.errors import DataError

# Packages that every full installation has and that have enough files for four splits.
PACKAGES = ("asyncio", "email", "encodings", "importlib", "multiprocessing", "unittest", "xml")
MODULES = "modules"  # the group of the single modules: argparse.py, zipfile.py and so on
SHARES = {"train": 0.6, "calibration": 0.08, "selection": 0.12, "test": 0.2}  # shares of the bytes
LONGEST = 32_768  # bytes; the rest of a longer file is left out, so that no package consists of one file
_TESTS = ("test", "tests")


@dataclass(frozen=True, slots=True)
class TextFile:
    """One file of the corpus; ``path`` is relative to the standard library, with slashes."""

    package: str
    path: str
    content: bytes


def read_corpus(root: Path | None = None, least: int = 1) -> tuple[TextFile, ...]:
    """Return the text files of PACKAGES, without their tests, and the modules beside them, sorted by path.

    Args:
        root: The standard library; None takes the running interpreter's.
        least: The least length; shorter files are left out.

    Raises:
        DataError: a package has no readable source text, as in an installation stripped to byte code.
    """
    folder = Path(sysconfig.get_path("stdlib")) if root is None else root
    groups = {package: (folder / package).rglob("*.py") for package in PACKAGES} | {MODULES: folder.glob("*.py")}
    files = []
    for package, paths in groups.items():
        found = [file for file in _read(folder, package, paths) if len(file.content) >= least]
        if not found:
            raise DataError(
                f"workload 'text' finds no Python text of {package!r} in {str(folder)!r}; "
                "needed: the standard library as .py files. Install Python with its library sources."
            )
        files += found
    return tuple(sorted(files, key=lambda file: file.path))


def share_out(files: Sequence[TextFile], seed: int = 0) -> dict[str, tuple[TextFile, ...]]:
    """Return the files of each split; a file is in one split only, and every package is in all of them.

    In an order that depends on the seed, each file of a package goes to the split that lacks most of its share of the
    package's bytes. A file larger than half such a share goes to train, so that no held-out split depends on a single
    file; the last files go to splits that have none yet.

    Raises:
        DataError: a package has too few files for four splits.
    """
    shared: dict[str, list[TextFile]] = {name: [] for name in SHARES}
    for package in dict.fromkeys(file.package for file in files):
        own = sorted((file for file in files if file.package == package), key=lambda file: _draw(file.path, seed))
        if len(own) < len(SHARES):
            raise DataError(
                f"workload 'text': package {package!r} has {len(own)} files; needed: {len(SHARES)}, one a split. "
                "Install the whole standard library."
            )
        share = {name: part * sum(len(file.content) for file in own) for name, part in SHARES.items()}
        room = dict(share)
        for number, file in enumerate(own):
            size = len(file.content)
            fitting = [name for name in SHARES if name == "train" or size <= share[name] / 2]
            empty = [name for name in SHARES if room[name] == share[name]]
            name = max(empty if len(empty) == len(own) - number else fitting, key=room.__getitem__)
            room[name] -= size
            shared[name].append(file)
    return {name: tuple(found) for name, found in shared.items()}


def digest(files: Sequence[TextFile]) -> str:
    """Return the SHA-256 of all paths and contents."""
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.package} {file.path} {len(file.content)};".encode())
        found.update(file.content)
    return found.hexdigest()


def _read(root: Path, package: str, paths: Iterator[Path]) -> Iterator[TextFile]:
    for path in paths:
        inside = path.relative_to(root)
        if any(part in _TESTS for part in inside.parts[:-1]):
            continue
        try:
            content = path.read_bytes()[:LONGEST]
        except OSError as error:
            raise DataError(
                f"workload 'text' cannot read {str(path)!r}: {error.strerror or type(error).__name__}; "
                "make it readable."
            ) from error
        yield TextFile(package, inside.as_posix(), content)


def _draw(path: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{path}".encode()).digest()
