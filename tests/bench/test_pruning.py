"""Pruning: what grows beside the artifacts counts and goes, results stay, and a lock that is held is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from bench import pruning
from exporters.store import ArtifactStore


def file(path: Path, size: int, age: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (1e9 - age,) * 2)
    return path


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """An artifact of 1000 bytes, used at age 50; compiled code of 300 and 200 bytes; an engine older, one newer."""
    store = ArtifactStore(tmp_path / "root")

    def write(folder: Path) -> dict[str, object]:
        (folder / "model").write_bytes(bytes(1000))
        return {}

    made = store.make({"format": "onnx"}, write)
    os.utime(made.path, (1e9 - 50,) * 2)
    file(store.root / "cache/inductor/fxgraph/aa/one", 300, 500)
    file(store.root / "cache/inductor/bb/two.so", 200, 40)
    file(store.root / "cache/tensorrt/old.engine", 70, 100)
    file(store.root / "cache/tensorrt/new.engine", 30, 10)
    file(store.root / "runs/run.jsonl", 5000, 1000)
    file(store.root / "environments/optimum/lib.so", 9000, 1000)
    return store


def files(root: Path) -> set[str]:
    """Files by name, but for those of artifacts."""
    return {path.name for path in root.rglob("*") if path.is_file() and "store" not in path.parts}


def test_compiled_code_counts_and_goes_in_the_order_of_its_last_use(store: ArtifactStore) -> None:
    done = pruning.prune(store, 1600)
    assert (done.kept_bytes, len(done.removed)) == (1600, 1)
    done = pruning.prune(store, 1599)
    assert done.removed[0] == "cache/tensorrt/old.engine: least recently used"
    assert (done.kept_bytes, len(store.paths())) == (1530, 1)
    done = pruning.prune(store, 700)
    assert [line.partition(":")[2] for line in done.removed] == [" least recently used"]
    assert (done.kept_bytes, store.paths()) == (530, [])
    done = pruning.prune(store, 30)
    assert done.removed == ["cache/inductor: least recently used"]
    assert files(store.root) == {"new.engine", "run.jsonl", "lib.so"}


def test_without_a_size_nothing_sound_goes_and_results_stay_whatever_is_asked(store: ArtifactStore) -> None:
    (store.folder / ".making-x-99999999").mkdir()
    before = files(store.root)
    done = pruning.prune(store, None)
    assert done.removed[0] == ".making-x-99999999: left over by a killed process"
    assert done.kept_bytes == 1600
    assert files(store.root) == before
    pruning.prune(store, 0)
    assert files(store.root) == {"run.jsonl", "lib.so"}
    assert pruning.untouched(store.root) == {"runs": 5000, "environments": 9000}


def test_locks_that_nobody_holds_are_removed_and_a_held_one_stays(store: ArtifactStore) -> None:
    for name in ("one", "two"):
        with FileLock(store.folder / f".lock-{name}"):
            pass
    (store.root / "machine").mkdir()
    with FileLock(store.root / "machine" / ".lock-limits"):
        pass
    held = store.folder / ".lock-held"
    code = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    done = pruning.prune(store, None)
    assert done.removed == ["lock files that nobody holds: 4"]  # one of them the artifact's own
    assert [path.name for path in store.root.rglob(".lock-*")] == [".lock-held"]
    other.communicate()
    assert pruning.clear_locks(store.folder) == 1
    with store.alone_with(store.root / "runs/run.jsonl") as is_alone:
        assert is_alone


def test_who_waits_for_a_lock_that_is_removed_gets_the_new_one(store: ArtifactStore) -> None:
    """Two processes must never hold one lock, each on a file of its own."""
    path = store.folder / ".lock-wanted"
    first = FileLock(path)
    first.acquire()
    path.unlink()
    first.release()
    with FileLock(path, timeout=0):
        assert path.exists()
        with pytest.raises(TimeoutError):
            FileLock(path, timeout=0).acquire()


def test_the_command_says_what_it_removed_kept_and_left(cli_here, store: ArtifactStore, tmp_path: Path) -> None:
    done = pruning.prune(ArtifactStore(tmp_path / "nowhere"), 0)
    assert (done.removed, done.kept_bytes, (tmp_path / "nowhere").exists()) == ([], 0, False)
    listed = cli_here("artifacts", "list", "--artifacts", str(store.root)).stdout
    assert "compiled code, 0.0 MiB" in listed
    done = cli_here("artifacts", "prune", "--keep", "1100", "--artifacts", str(store.root))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "removed cache/tensorrt/old.engine: least recently used",
        f"removed {'onnx-' + done.stdout.split('onnx-')[1][:16]}: least recently used",
        "removed lock files that nobody holds: 1",
        "0.0 MiB kept",
        "not touched: runs, 0.0 MiB (results)",
        "not touched: environments, 0.0 MiB (`bench env remove` removes one)",
    ]


def test_references_of_every_command_are_listed(cli_here, tmp_path: Path) -> None:
    for inputs, shown in (
        ({"batch": 2, "length": 8}, "2×8"),
        ({"load_version": 1, "inputs": {"batch": 1, "length": 16}}, "1×16"),
        ({"of": "a plugin"}, "of 0"),
    ):
        store = ArtifactStore(tmp_path / shown)
        recipe = {"format": "reference", "precision": "fp64", "device": "cpu", "checkpoint": "0", "inputs": inputs}
        store.make(recipe, lambda folder: {"size": (folder / "outputs.npz").write_text("o")})
        done = cli_here("artifacts", "list", "--artifacts", str(store.root))
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout.splitlines()[0]


def test_what_cannot_be_removed_is_not_said_to_be(cli_here, store: ArtifactStore, monkeypatch) -> None:
    """As on a read-only store: the command names it and fails."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    before = files(store.root)
    for name in ("unlink", "rmdir"):
        monkeypatch.setattr(os, name, refuse)
    done = cli_here("artifacts", "prune", "--artifacts", str(store.root), "--keep", "1")
    assert done.returncode == 1
    assert "removed" not in done.stdout
    assert "0.0 MiB kept" in done.stdout
    assert done.stderr.startswith(f"bench: 4 entries of {str(store.root)!r} cannot be removed (first '")
    assert files(store.root) == before
