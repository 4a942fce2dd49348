"""Killed writers and failing disks: the old state or the new is whole, and the next call removes what was left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from faults import failing, killed_at
from prunus.errors import PrunusError
from prunus.foundation import atomic_files
from prunus.foundation.atomic_files import append_line, atomic_dir, check_writable, settle, write_bytes_atomic
from prunus.foundation.cache import read_summed, summed_bytes
from prunus.foundation.places import MANIFEST, Contents, listed_files

OURS = Contents("plan.json", frozenset({"plan.json", "weights"}))
FILE = atomic_files.__file__


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Leave the sync out: what a killed process has written is not lost with it."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_folder(place: Path, content: str) -> None:
    with atomic_dir(place, OURS) as folder:
        (folder / "plan.json").write_text(content)
        (folder / "weights").write_text(content)


def state(place: Path) -> tuple[str, ...]:
    if not place.exists():
        return ()
    assert listed_files(place) == set(names(place)) - {MANIFEST}
    return tuple(sorted(f"{p.name}={p.read_text()}" for p in place.iterdir() if p.name != MANIFEST))


def whole(content: str) -> tuple[str, ...]:
    return (f"plan.json={content}", f"weights={content}")


def bystanders(folder: Path) -> list[str]:
    """Files of the user whose names are close to those of temporary files."""
    names = [".out.tmp", ".out.old", ".out.1-00.tmp", ".other.1-0a0b0c0d.tmp", "out.1-0a0b0c0d.tmp"]
    for name in names:
        (folder / name).write_text("mine")
    return names


@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_old_or_new_after_a_kill_at_every_line(tmp_path, monkeypatch, old, exchange):
    if not exchange:
        monkeypatch.setattr(atomic_files, "_exchange", lambda one, other: False)
    place, seen = tmp_path / "out", set()
    mine = bystanders(tmp_path)
    for line in range(10_000):
        if place.exists():
            atomic_files.shutil.rmtree(place)
        if old is not None:
            write_folder(place, old)
        if not killed_at(line, FILE, lambda: write_folder(place, "new")):
            break
        settle(place)
        found = state(place)
        assert found in (() if old is None else whole("old"), whole("new")), line
        assert sorted(p.name for p in tmp_path.iterdir() if p != place) == sorted(mine), line
        seen.add(found)
    assert line > 50
    assert seen == {() if old is None else whole("old"), whole("new")}


@pytest.mark.parametrize("exchange", [True, False])
def test_the_next_write_cleans_up_after_a_kill(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(atomic_files, "_exchange", lambda one, other: False)
    place = tmp_path / "out"
    write_folder(place, "old")
    line, left = 0, 0
    while killed_at(line, FILE, lambda: write_folder(place, "new")):
        left += len(list(tmp_path.iterdir())) > 1
        write_folder(place, "old")
        assert names(tmp_path) == ["out"]
        assert state(place) == whole("old")
        line += 7
    assert left > 0


def test_a_file_is_old_or_new_after_a_kill_at_every_line(tmp_path):
    place, line, seen = tmp_path / "data", 0, set()
    write_bytes_atomic(place, b"old")
    while killed_at(line, FILE, lambda: write_bytes_atomic(place, b"new")):
        seen.add(place.read_bytes())
        write_bytes_atomic(place, b"old")
        assert names(tmp_path) == ["data"]
        line += 1
    assert seen == {b"old", b"new"}


def test_what_a_running_writer_has_is_left_alone(tmp_path):
    place = tmp_path / "out"
    with atomic_dir(place, OURS) as folder:
        (folder / "plan.json").write_text("slow")
        write_folder(place, "quick")
        settle(place)
        assert folder.is_dir()
        (folder / "weights").write_text("slow")
    assert state(place) == whole("slow")
    assert names(tmp_path) == ["out"]


def test_where_the_file_system_knows_no_locks_only_old_leftovers_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_files, "_lock", lambda handle, wait: None)
    young, old, link = (tmp_path / f".data.{n}-0a0b0c0d.tmp" for n in (1, 2, 3))
    young.write_text("half")
    old.write_text("half")
    os.utime(old, (0, 0))
    link.symlink_to(young)
    settle(tmp_path / "data")
    assert names(tmp_path) == [young.name, link.name]


def test_files_put_into_the_old_folder_meanwhile_are_kept(tmp_path):
    place = tmp_path / "out"
    write_folder(place, "old")

    def write() -> None:
        with atomic_dir(place, OURS) as folder:
            (folder / "plan.json").write_text("new")
            (place / "thesis.txt").write_text("mine")

    with pytest.raises(PrunusError, match="thesis"):
        write()
    assert (place / "thesis.txt").read_text() == "mine"
    assert (place / "plan.json").read_text() == "old"


def failure(work: Callable[[], object]) -> BaseException | None:
    try:
        work()
    except Exception as error:
        return error
    return None


def outcome() -> prunus.Outcome:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    return prunus.prune(model, torch.ones(2, 4), budget={"params": 0.6})


def content(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    return {p.name: p.read_bytes() for p in files}


CUT = outcome()
WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": lambda place: prunus.save(CUT, place),
    "plan": lambda place: CUT.plan.save(place),
    "pt2": lambda place: prunus.save(CUT, place.with_suffix(".pt2")),
    "file": lambda place: write_bytes_atomic(place, b"0" * 100_000),
}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "pt2"])
def test_an_error_of_the_disk_at_every_call_is_one_line_and_the_old_state_is_whole(tmp_path, writer, code):
    place = tmp_path / "out"
    WRITERS[writer](place)
    before = content(place)
    failed, n = set(), 0
    while True:
        with failing(tmp_path, code, n) as faults:
            error = failure(lambda: WRITERS[writer](place))
        if error is None:
            assert not faults.failed
            break
        assert isinstance(error, PrunusError), (n, faults.failed, repr(error))
        assert "cannot write" in str(error)
        assert "\n" not in str(error)
        failed.update(faults.failed[:1])
        assert content(place) == before
        settle(place)
        assert names(tmp_path) == [place.name]
        n += 1
    assert {"write", "fsync"} <= failed


@pytest.mark.parametrize("writer", list(WRITERS))
def test_a_full_disk_of_the_system_is_one_line(tmp_path, writer):
    """The limit on the size of a file stops writers that are no Python, too."""
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
from test_nothing_lost import WRITERS
place = Path({str(tmp_path / "out")!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
try:
    WRITERS[{writer!r}](place)
except Exception as error:
    print(type(error).__name__, error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert run.stdout.startswith("OptionError cannot write"), run.stderr[-500:]
    assert "File too large" in run.stdout
    assert len(run.stdout.splitlines()) == 1
    assert names(tmp_path) == []


def test_lines_are_appended_whole(tmp_path):
    for line in ("one", "two"):
        append_line(tmp_path / "a" / "log", line)
    assert (tmp_path / "a" / "log").read_text() == "one\ntwo\n"
    with failing(tmp_path, errno.ENOSPC, 1), pytest.raises(PrunusError, match="No space left"):
        append_line(tmp_path / "a" / "log", "three")


def test_a_place_is_probed_before_the_work(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert names(tmp_path) == []
    with failing(tmp_path, errno.EROFS, 0), pytest.raises(PrunusError, match="Read-only"):
        check_writable(tmp_path / "a" / "b")


def test_processes_share_one_cached_file(tmp_path):
    """Each writes its own content again and again; a reader never meets half of one."""
    place, children = tmp_path / "cached.safetensors", []
    for number in range(4):
        child = os.fork()
        if child == 0:
            try:
                for _ in range(25):
                    write_bytes_atomic(place, summed_bytes({"a": torch.full((2000,), float(number))}))
            finally:
                os._exit(0)
        children.append(child)
    read = 0
    while children:
        done, _ = os.waitpid(-1, os.WNOHANG)
        children = [child for child in children if child != done]
        if place.exists():
            assert read_summed(place) is not None
            read += 1
    assert read > 0
    assert names(tmp_path) == [place.name]
