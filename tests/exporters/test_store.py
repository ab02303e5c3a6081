"""The store: keys, checksums, half-written work, two processes at once, a disk that is full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exporters.store import MANIFEST, ArtifactStore, StoreError, _checksum

RECIPE = {"format": "onnx", "checkpoint": "c0ffee", "precision": "fp32"}


def write(folder: Path) -> dict[str, object]:
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "sub").mkdir()
    (folder / "sub" / "weights").write_bytes(b"0123456789")
    return {"inputs": ["input_ids"], "outputs": ["logits"]}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def test_an_artifact_is_made_once_and_found_again_whatever_the_recipes_order(store: ArtifactStore) -> None:
    made = store.make(RECIPE, write)
    assert made.bytes == 15
    assert made.metadata["outputs"] == ["logits"]
    assert store.damage(made.path) is None

    def never(folder: Path) -> dict[str, object]:
        raise AssertionError("made twice")

    assert store.make(dict(reversed(RECIPE.items())), never) == made == store.find(RECIPE)
    assert store.find(RECIPE | {"precision": "fp16"}) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "model.onnx").write_bytes(b"grapH"), "model.onnx fails its checksum"),
        (lambda path: (path / "model.onnx").write_bytes(b"graph+"), "model.onnx has 6 bytes instead of 5"),
        (lambda path: (path / "sub" / "weights").unlink(), "sub/weights is missing"),
        (lambda path: (path / MANIFEST).unlink(), "manifest is missing"),
        (lambda path: (path / MANIFEST).write_text("{"), "unreadable or altered"),
        (
            lambda path: (path / MANIFEST).write_text((path / MANIFEST).read_text().replace("c0ffee", "c0ffef")),
            "altered",
        ),
    ],
    ids=["flipped", "grown", "missing", "no manifest", "torn manifest", "stale"],
)
def test_damage_is_named(store: ArtifactStore, damage, message: str) -> None:
    path = store.make(RECIPE, write).path
    damage(path)
    assert message in str(store.damage(path))
    assert message in str(store.damages([path])[path])


@pytest.mark.parametrize(
    "values", [{"metadata": {"positions": 4}}, {"metadata": []}, {"files": []}, {"key": "../../zzz"}, {"recipe": []}]
)
def test_an_altered_manifest_is_damage(store: ArtifactStore, values: dict[str, object]) -> None:
    path = store.make(RECIPE, write).path
    (path / MANIFEST).write_text(json.dumps(json.loads((path / MANIFEST).read_text()) | values))
    assert store.find(RECIPE) is None
    assert list(store.drop_damaged([path]).values()) == ["its manifest is missing, unreadable or altered"]
    assert store.make(RECIPE, write).bytes == 15


@pytest.mark.parametrize("stand_in", [lambda path: path.write_text(""), lambda path: path.symlink_to("/tmp")])
def test_what_stands_in_an_artifacts_place_is_replaced(store: ArtifactStore, stand_in) -> None:
    store.prepare()
    path = store.path_of(RECIPE)
    stand_in(path)
    assert list(store.drop_damaged([path])) == [path]
    assert store.make(RECIPE, write).bytes == 15


def test_foreign_files_in_the_store_are_left_alone(store: ArtifactStore) -> None:
    store.prepare()
    (store.folder / "precious").mkdir()
    for name in (".making-probe-99999", ".making-x-99999999999999999999999"):
        (store.folder / name).touch()
    assert store.paths() == []
    for path in store.leftovers():
        store.remove(path)
    assert [path.name for path in store.folder.iterdir()] == ["precious"]


def test_one_process_at_a_time_writes_a_run(store: ArtifactStore, tmp_path: Path) -> None:
    store.prepare()
    with store.alone_with(tmp_path / "run.jsonl") as first, store.alone_with(tmp_path / "run.jsonl") as second:
        assert (first, second) == (True, False)
    with store.alone_with(tmp_path / "run.jsonl") as again, store.alone_with(tmp_path / "other.jsonl") as other:
        assert (again, other) == (True, True)


def test_a_failed_export_leaves_nothing(store: ArtifactStore) -> None:
    def fail(folder: Path) -> dict[str, object]:
        write(folder)
        raise RuntimeError("the exporter failed")

    def fill(folder: Path) -> dict[str, object]:
        write(folder)
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
        return {}

    with pytest.raises(RuntimeError, match="the exporter failed"):
        store.make(RECIPE, fail)
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\); free some space"):
        store.make(RECIPE, fill)
    assert store.paths() == store.leftovers() == []
    assert store.make(RECIPE, write).bytes == 15


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written .*use --artifacts"):
        ArtifactStore(tmp_path / "file").prepare()


KILLED = """
import os, signal, sys
from pathlib import Path
from exporters.store import ArtifactStore
def write(folder):
    (folder / "half").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
ArtifactStore(Path(sys.argv[1])).make({"format": "onnx", "checkpoint": "c0ffee", "precision": "fp32"}, write)
"""

SLOW = """
import sys, time
from pathlib import Path
from exporters.store import ArtifactStore
def write(folder):
    print("making", flush=True)
    time.sleep(1)
    (folder / "model").write_bytes(sys.argv[2].encode())
    return {}
store = ArtifactStore(Path(sys.argv[1]))
made = store.make({"format": "onnx", "checkpoint": "shared"}, write)
print((made.path / "model").read_text(), flush=True)
"""


def start(root: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_a_killed_process_leaves_nothing_under_a_key_and_holds_no_lock(root: Path, store: ArtifactStore) -> None:
    killed = start(root, KILLED, str(store.root))
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    assert store.find(RECIPE) is None
    assert len(store.leftovers()) == 1
    assert store.make(RECIPE, write).bytes == 15
    assert store.leftovers() == []


def test_two_processes_make_one_artifact(root: Path, store: ArtifactStore) -> None:
    both = [start(root, SLOW, str(store.root), name) for name in ("first", "second")]
    said = [process.communicate(timeout=60)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(words.count("making") for words in said) == 1
    assert said[0][-1] == said[1][-1]


def test_least_recently_used_first(store: ArtifactStore) -> None:
    first = store.make(RECIPE, write)
    second = store.make(RECIPE | {"precision": "fp16"}, write)
    os.utime(first.path, (time.time() - 100,) * 2)
    os.utime(second.path, (time.time() - 200,) * 2)
    assert store.paths() == [second.path, first.path]
    store.touch(second)
    assert store.paths() == [first.path, second.path]


@pytest.mark.parametrize(
    "change",
    [
        {"files": True}, {"files": {"m": -1}}, {"files": {"m": {"bytes": [1], "sha256": "a"}}}, {"recipe": 1.5},
        {"recipe": {"format": "onnx", "inputs": True}}, {"metadata": []}, {"format": 3}, {"export_seconds": "1"},
        {"files": {"../outside": {"bytes": 1, "sha256": "a"}}}, {"files": {"/etc/passwd": {"bytes": 1, "sha256": "a"}}},
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_of_wrong_types_is_damage_whatever_its_checksum(store: ArtifactStore, change: dict) -> None:
    made = store.make(RECIPE, write)
    manifest = json.loads((made.path / MANIFEST).read_text()) | change
    del manifest["checksum"]
    (made.path / MANIFEST).write_text(json.dumps(manifest | {"checksum": _checksum(manifest)}))
    assert store.read(made.path) is None
    assert store.damage(made.path) == "its manifest is missing, unreadable or altered"
