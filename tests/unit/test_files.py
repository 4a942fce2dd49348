"""Atomic writing: the old content or the new, never a half."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunus.errors import OptionError
from prunus.foundation import atomic_files
from prunus.foundation.atomic_files import Contents, atomic_dir, write_bytes_atomic, write_text_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_as_utf8_and_parents_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "note.txt"
    assert write_text_atomic(path, "prüne 剪枝\n") == path
    assert path.read_bytes() == "prüne 剪枝\n".encode()
    assert names(path.parent) == ["note.txt"]


def test_failed_rename_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.bin"
    write_bytes_atomic(path, b"old")

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OptionError, match="No space left"):
        write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["data.bin"]


def test_unencodable_text_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(path, "\ud800")
    assert path.read_text() == "old"


def test_a_file_in_the_place_of_a_parent_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OptionError) as caught:
        write_text_atomic(tmp_path / "file" / "note.txt", "y")
    assert "note.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    real = tmp_path / "real.txt"
    real.write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    write_text_atomic(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    final = tmp_path / "small"
    for name in ("first", "second"):
        with atomic_dir(final) as folder:
            (folder / name).write_text("1")
    assert names(final) == ["second"]
    assert names(tmp_path) == ["small"]


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt()])
def test_exception_in_the_block_keeps_the_old_folder(tmp_path: Path, error: BaseException) -> None:
    final = tmp_path / "small"
    with atomic_dir(final) as folder:
        (folder / "kept").write_text("1")

    def fill_and_fail() -> None:
        with atomic_dir(final) as folder:
            (folder / "half").write_text("2")
            raise error

    with pytest.raises(type(error)):
        fill_and_fail()
    assert names(final) == ["kept"]
    assert names(tmp_path) == ["small"]


def test_failed_swap_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_files, "_exchange", lambda one, other: False)
    final = tmp_path / "small"
    final.mkdir()
    (final / "kept").write_text("1")
    rename = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(OptionError, match="Permission denied"), atomic_dir(final) as folder:
        (folder / "new").write_text("2")
    assert names(final) == ["kept"]
    assert names(tmp_path) == ["small"]


def test_a_file_of_that_name_is_refused_before_work_starts(tmp_path: Path) -> None:
    (tmp_path / "small").write_text("x")
    with pytest.raises(OptionError, match="a file has that name"), atomic_dir(tmp_path / "small"):
        pytest.fail("the block must not run")


def test_temporary_names_differ(tmp_path: Path) -> None:
    assert atomic_files._sibling(tmp_path / "a", "tmp") != atomic_files._sibling(tmp_path / "a", "tmp")


@pytest.mark.parametrize("name", [".", "", ".."])
def test_the_working_folder_is_never_replaced(name, tmp_path, monkeypatch):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "mine.txt").write_text("mine")
    monkeypatch.chdir(inner)
    with pytest.raises(OptionError, match="working folder"), atomic_dir(name):
        pass
    assert (inner / "mine.txt").read_text() == "mine"


OURS = Contents("plan.json", frozenset({"plan.json", "model*.safetensors"}))


@pytest.mark.parametrize(
    "held", [("thesis.txt",), ("thesis.txt", "plan.json"), ("src/", "plan.json"), ("model.safetensors",)]
)
def test_a_folder_with_something_else_in_it_is_never_replaced(held, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    for name in held:
        (precious / name).mkdir() if name.endswith("/") else (precious / name).write_text("mine")
    with pytest.raises(OptionError, match=held[0].strip("/")), atomic_dir(precious, OURS):
        pytest.fail("the block must not run")
    assert names(precious) == sorted(name.strip("/") for name in held)


def test_an_empty_folder_and_one_of_ours_are_replaced(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    for content in ("1", "2"):
        with atomic_dir(place, OURS) as folder:
            (folder / "plan.json").write_text(content)
            (folder / "model-1.safetensors").write_text(content)
    assert (place / "plan.json").read_text() == "2"


def test_permissions_are_those_of_the_umask(tmp_path):
    with atomic_dir(tmp_path / "out") as folder:
        (folder / "own.txt").write_text("1")
        (folder / "own.txt").chmod(0o600)
    (tmp_path / "usual.txt").write_text("1")
    assert (tmp_path / "out" / "own.txt").stat().st_mode == (tmp_path / "usual.txt").stat().st_mode
