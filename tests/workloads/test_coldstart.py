"""`bench coldstart`: a process a start, its parts, an evicted page cache, and nothing said of it anywhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bench.machine import pagecache
from bench.report import console, documents
from bench.run.experiment import measure, resume
from bench.run.file import read_run
from bench.run.record import Run, Turn
from bench.workloads.coldstart import ColdStart, ColdStartOptions, Start
from tests.made import record, run_of


def started(tmp_path: Path, **options: Any) -> Run:
    given = {
        "model": "bert-tiny", "backends": "null", "device": "cpu", "threads": 1, "rounds": 2, "timeout": 60,
        "artifacts": str(tmp_path / "artifacts"), "output": str(tmp_path / "run.jsonl"),
    }  # fmt: skip
    return measure(ColdStart, ColdStartOptions.parsed({**given, **options}))


def test_every_start_has_its_parts_and_both_caches_their_row(tmp_path: Path) -> None:
    run = started(tmp_path)
    assert [record.point for record in run.records] == [Start("warm"), Start("evicted")]
    for one in run.records:
        assert len(one.turns) == 2
        for turn in one.turns:
            whole, *parts = (turn.times_ns[kind][0] for kind in ("wall", "import", "load", "first"))
            assert sum(parts) <= whole
            assert min(parts) >= 0
    assert read_run(tmp_path / "run.jsonl").records == run.records
    text = console.render(run)
    assert max(len(line) for line in text.splitlines() if not line.startswith("records: ")) <= 80
    assert "warm page cache" in text
    assert '"import_ms"' in documents.as_json(run)
    assert resume(tmp_path / "run.jsonl", artifacts=tmp_path / "artifacts").is_complete


def test_files_leave_the_page_cache_and_it_is_counted_what_stays(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"x" * 2**20)
    with file.open("rb") as opened:
        opened.read()
        assert pagecache.cached_bytes(opened.fileno(), 2**20) == 2**20
    found = pagecache.evict([tmp_path])
    assert found["file_bytes"] == 2**20
    assert 0 <= found["cached_bytes"] <= 2**20
    assert pagecache.evict([tmp_path / "nothing"]) == {"file_bytes": 0, "cached_bytes": 0}


def test_what_stayed_in_the_cache_is_a_warning() -> None:
    turn = Turn(0, {"wall": [10**9]}, {"file_bytes": 1000, "cached_bytes": 400})
    run = run_of([record("onnx", Start("evicted"), turns=(turn,))], ColdStart, rounds=1)
    assert "40.0% of the evicted files stayed cached" in " ".join(console.render(run).split())


def test_no_file_outside_workloads_asks_for_a_workload_by_name(root: Path) -> None:
    """A comparison with a workload's name means that the interface lacks something."""
    pattern = re.compile(
        r"workload(_class)?\.name\s*(==|!=|in\b|not in\b)|\bworkload\s*[!=]=\s*\w+\.name|\bisinstance\([^)]*\.workload, "
    )
    paths = [path for path in (root / "bench").rglob("*.py") if "workloads" not in path.parts]
    assert len(paths) > 50
    assert [str(path) for path in paths if pattern.search(path.read_text())] == []
    assert len((root / "bench" / "workloads" / "coldstart.py").read_text().splitlines()) <= 150
