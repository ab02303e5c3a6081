"""Compiled code in the store: what is not as bench left it is dropped before a worker starts, with one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporters.store import ArtifactStore

SO, OTHER, ENGINE = "inductor/ab/kernel.so", "inductor/cd/other.py", "tensorrt/one.engine"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """A store whose last session left two files of torch and an engine."""
    store = ArtifactStore(tmp_path / "artifacts")
    store.prepare()
    with store.in_use(print):
        for name in (SO, OTHER, ENGINE):
            write(store, name, name.encode())
    return store


def write(store: ArtifactStore, name: str, content: bytes) -> None:
    path = store.root / "cache" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def held(store: ArtifactStore) -> set[str]:
    cache = store.root / "cache"
    return {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()} - {"checksums.json"}


def used(store: ArtifactStore) -> tuple[set[str], list[str]]:
    """What a session finds in the cache, and the lines that it begins with."""
    lines: list[str] = []
    with store.in_use(lines.append):
        found = held(store)
    return found, lines


def test_what_bench_left_stays(store: ArtifactStore) -> None:
    assert used(store) == ({SO, OTHER, ENGINE}, [])
    write(store, "inductor/locks/a.lock", b"")
    assert used(store) == ({SO, OTHER, ENGINE, "inductor/locks/a.lock"}, [])


def test_a_changed_file_of_torch_drops_its_folder_as_its_files_name_each_other(store: ArtifactStore) -> None:
    write(store, SO, SO.upper().encode())
    found, (line,) = used(store)
    assert found == {ENGINE}
    assert line == f"compiled code: {SO} was changed since it was last used; dropped, and compiled again"
    assert used(store) == ({ENGINE}, [])


def test_a_changed_engine_goes_alone(store: ArtifactStore) -> None:
    write(store, ENGINE, b"evil")
    assert used(store)[0] == {SO, OTHER}


def test_a_file_that_no_session_noted_goes_alone(store: ArtifactStore, tmp_path: Path) -> None:
    """A killed session's, or another program's; links too, wherever they lead."""
    write(store, "inductor/ef/new.so", b"new")
    (store.root / "cache/tensorrt/link.engine").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.so").write_bytes(b"a")
    (store.root / "cache/inductor/gh").symlink_to(tmp_path / "folder")
    found, (line,) = used(store)
    assert found == {SO, OTHER, ENGINE}
    assert line == "compiled code: 3 files are of a killed run or another program; dropped, and compiled again"
    assert (tmp_path / "folder/a.so").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b'{"inductor/ab/kernel.so": 3}'])
def test_without_a_sound_list_nothing_is_loaded(store: ArtifactStore, content: bytes) -> None:
    (store.root / "cache/checksums.json").write_bytes(content)
    found, lines = used(store)
    assert (found, len(lines)) == (set(), 1)
    assert used(store) == (set(), [])


def test_the_folder_itself_may_not_be_a_link(store: ArtifactStore, tmp_path: Path) -> None:
    (store.root / "cache").rename(tmp_path / "moved")
    (store.root / "cache").symlink_to(tmp_path / "moved")
    assert len(used(store)[1]) == 1
    assert not (store.root / "cache").exists()
    assert (tmp_path / "moved" / SO).exists()


def test_beside_a_running_session_nothing_is_dropped_and_the_last_one_notes(store: ArtifactStore) -> None:
    other = store.folder / f".user-{os.getppid()}"
    other.touch()
    write(store, "inductor/ef/new.so", b"compiled by the other")
    found, lines = used(store)
    assert ("inductor/ef/new.so" in found, lines) == (True, [])
    other.unlink()
    assert "inductor/ef/new.so" not in used(store)[0], "the other was killed, as it noted nothing"
