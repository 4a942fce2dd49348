"""Atomic writing: the old content or the new, never a half."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunus.errors import OptionError
from prunus.foundation import atomic_files
from prunus.foundation.atomic_files import (
    append_line,
    atomic_dir,
    check_writable,
    list_written,
    write_bytes_atomic,
    write_text_atomic,
)
from prunus.foundation.places import MANIFEST, Contents, check_replaceable, listed_files, placed


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


@pytest.mark.parametrize("exchange", [True, False])
def test_failed_sync_of_the_folder_brings_the_old_file_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    write_bytes_atomic(tmp_path / "data.bin", b"old")
    monkeypatch.setattr(atomic_files, "_sync_folder", refuse)
    if not exchange:
        monkeypatch.setattr(atomic_files, "_exchange", lambda one, other: False)
    for name in ("data.bin", "new.bin"):
        with pytest.raises(OptionError, match="Input/output error"):
            write_bytes_atomic(tmp_path / name, b"new")
    assert (tmp_path / "data.bin").read_bytes() == b"old"
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


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    for write in (
        lambda: write_text_atomic(link, "new"),
        lambda: append_line(link, "new"),
        lambda: check_writable(link),
    ):
        with pytest.raises(OptionError, match=r"'link.txt' is a symbolic link to .*real.txt', and links") as caught:
            write()
        assert "\n" not in str(caught.value)
    assert real.read_text() == "old"
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="symbolic link"):
        write_text_atomic(link, "new")
    assert names(tmp_path) == ["link.txt", "real.txt"]


def test_a_link_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "plan.json").write_text("mine")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OptionError, match="'link' is a symbolic link to 'real'"), atomic_dir(tmp_path / "link"):
        pytest.fail("the block must not run")
    with pytest.raises(OptionError, match="symbolic link"):
        check_replaceable(tmp_path / "link")
    assert (tmp_path / "real" / "plan.json").read_text() == "mine"


def test_a_link_above_is_followed_unless_prunus_makes_that_folder(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").symlink_to("home")
    write_text_atomic(tmp_path / "here" / "note.txt", "1")
    assert (tmp_path / "home" / "note.txt").read_text() == "1"
    (tmp_path / "home" / "unfinished").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OptionError, match="'unfinished' is a symbolic link"):
        placed(tmp_path / "here" / "unfinished" / "a" / "runs.jsonl", below=tmp_path / "here")
    assert placed(tmp_path / "here" / "a" / "b", below=tmp_path / "here") == tmp_path / "home" / "a" / "b"


def test_a_link_at_a_temporary_name_is_never_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr(atomic_files.os, "getpid", lambda: 7)
    monkeypatch.setattr(atomic_files.secrets, "token_hex", lambda size: "0a0b0c0d")
    # What a dead writer left is removed first; these stand there as if they came right after.
    monkeypatch.setattr(atomic_files, "settle", lambda path: None)
    (tmp_path / ".note.txt.7-0a0b0c0d.tmp").symlink_to(target)
    (tmp_path / ".out.7-0a0b0c0d.tmp").symlink_to(folder)
    with pytest.raises(OptionError, match="File exists"):
        write_text_atomic(tmp_path / "note.txt", "new")
    with pytest.raises(OptionError, match="File exists"), atomic_dir(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert target.read_text() == "mine"
    assert names(folder) == []


def test_a_link_that_looks_like_a_retired_folder_takes_no_place(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".out.1-0a0b0c0d.old").symlink_to("elsewhere")
    atomic_files.settle(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "elsewhere").is_dir()


MARKED = Contents("plan.json", frozenset({"plan.json", "report.html"}), '"format": "prunus-plan/')


def test_only_listed_files_are_replaced(tmp_path: Path) -> None:
    place = tmp_path / "small"
    with atomic_dir(place, MARKED) as folder:
        (folder / "plan.json").write_text('{"format": "prunus-plan/1"}')
    assert listed_files(place) == {"plan.json"}
    (place / "report.html").write_text("mine")  # a name that prunus uses, and a file of the user's
    with pytest.raises(OptionError, match=r"contains 'report.html', which prunus did not write"):
        check_replaceable(place, MARKED)
    assert (place / "report.html").read_text() == "mine"
    list_written(place, "report.html")
    check_replaceable(place, MARKED)
    assert listed_files(place) == {"plan.json", "report.html"}


@pytest.mark.parametrize("listed", ["", "prunus-files/1\nplan.json\nthesis.txt\n", "prunus-files/1\n", "\0\xff"])
def test_a_made_up_list_frees_no_file(tmp_path: Path, listed: str) -> None:
    (tmp_path / MANIFEST).write_text(listed)
    (tmp_path / "plan.json").write_text('{"format": "prunus-plan/1"}')
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OptionError, match="which prunus did not write"):
        check_replaceable(tmp_path, MARKED)


def test_a_folder_without_a_list_is_known_by_its_mark(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"days": ["monday"]}')
    with pytest.raises(OptionError, match=r"contains 'plan.json', which prunus did not write"):
        check_replaceable(tmp_path, MARKED)
    (tmp_path / "plan.json").write_text('{\n "format": "prunus-plan/1",\n "axes": {}}')
    check_replaceable(tmp_path, MARKED)


def test_the_list_itself_may_be_no_link(tmp_path: Path) -> None:
    place = tmp_path / "small"
    with atomic_dir(place, MARKED) as folder:
        (folder / "plan.json").write_text('{"format": "prunus-plan/1"}')
    (place / MANIFEST).rename(tmp_path / "list")
    (place / MANIFEST).symlink_to(tmp_path / "list")
    with pytest.raises(OptionError, match="which prunus did not write"):
        check_replaceable(place, MARKED)
