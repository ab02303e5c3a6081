"""The one run file and its reader: what is written is read again, and what was changed or lost is named."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError, UserError
from bench.files import LinesFile
from bench.run.file import read_run
from bench.run.record import SCHEMA, Run
from bench.spec import Shape
from tests.made import record, run_of, write


def a_run() -> Run:
    """Four cells; one of them failed."""
    small, large = Shape(1, 8), Shape(2, 8)
    failed = record("onnx", large, status="failed", reason="it crashed", failure={"exit_code": -11})
    eager = [record("eager", shape, verdict="original") for shape in (small, large)]
    return run_of([eager[0], record("onnx", small, ms=5), eager[1], failed])


def same(one: Run, other: Run) -> bool:
    return (one.options, one.model, one.candidates, one.records, one.notes) == (
        other.options, other.model, other.candidates, other.records, other.notes,
    )  # fmt: skip


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    run = a_run()
    found = read_run(write(run, tmp_path / "run.jsonl"))
    assert same(found, run)
    assert (found.integrity, found.is_complete, found.schema) == ("sealed", True, SCHEMA)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert kinds == ["run", *(["turn"] * 3 + ["record"]) * 3, "record", "seal"]


def test_a_cell_that_got_further_turns_is_read_with_its_last_record(tmp_path: Path) -> None:
    """Turns behind a record open the cell again; a second record closes it. Killed between, it is open."""
    lines = write(a_run(), tmp_path / "run.jsonl").read_text().splitlines(keepends=True)
    turn, closing = lines[3], lines[4].replace('"status":"ok"', '"status":"ok","reason":"again"')
    (tmp_path / "more.jsonl").write_text("".join([*lines[:5], turn, closing]))
    (found,) = read_run(tmp_path / "more.jsonl").records
    assert (len(found.turns), found.reason) == (4, "again")
    (tmp_path / "killed.jsonl").write_text("".join([*lines[:5], turn]))
    killed = read_run(tmp_path / "killed.jsonl")
    assert (killed.records, [len(turns) for turns in killed.turns.values()]) == ([], [4])


@pytest.mark.parametrize(
    ("label", "precision", "stored", "found"),
    [
        ("eager", "fp32", "exact", "original"), ("eager", "fp32", "equivalent", "original"),
        ("eager", "fp32", "broken", "broken"), ("eager", "bf16", "exact", "equivalent"),
        ("torchscript", "bf16", "exact", "equivalent"), ("torchscript", "fp32", "exact", "exact"),
        ("eager:sdpa", "fp32", "equivalent", "equivalent"), ("torchscript", "bf16", "lossy", "lossy"),
    ],
)  # fmt: skip
def test_older_files_have_the_verdicts_of_now(
    label: str, precision: str, stored: str, found: str, tmp_path: Path
) -> None:
    """They call eager exact by its own yardstick, at any precision."""
    parity = {
        "verdict": stored,
        "reason": "",
        "cases": {"timed": {"verdict": stored, "rmse": 1.0, "rms_reference": 4.0}},
    }
    run = run_of([record(label, precision=precision, parity=parity)])
    (read,) = read_run(write(run, tmp_path / "run.jsonl")).records
    assert (read.verdict, read.parity["cases"]["timed"]["verdict"], read.parity["loss"]) == (found, found, 0.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no run"),
        ("{}\n", "is no run of bench"),
        ("[]\n", "is no run of bench"),
        ('{"kind":"run"}\n', "has no schema number"),
        ('{"kind":"run","schema":99}\n', "has schema 99 and this bench reads up to 5; upgrade"),
        ('{"kind":"run","schema":4}\n', "has schema 4, of an older bench; run: python benchmarks/convert_runs.py"),
        ('{"kind":"run","schema":5}\n', "is damaged .header: Object missing required field"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        read_run(tmp_path / "a.jsonl")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"candidate":0', '"candidate":7'),
        ('"candidate":0', '"candidate":"eager"'),
        ('"calls_per_sample":1', '"calls_per_sample":0'),
        ("10000000", "-1"),
        ("10000000", "1.5"),
        ('"status":"ok"', '"status":"fine"'),
        ('"batch":1', '"batch":"one"'),
        ('"kind":"record"', '"kind":"song"'),
    ],
)
def test_a_line_that_no_measurement_writes_is_damage(tmp_path: Path, old: str, new: str) -> None:
    path = write(a_run(), tmp_path / "run.jsonl")
    header, *lines = path.read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if old in line)
    lines[place] = lines[place].replace(old, new, 1)
    path.write_text(header + "".join(lines))
    with pytest.raises(UserError, match="is damaged"):
        read_run(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_damage_to_a_file_passes_for_the_run(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A fuzz: whatever is cut out, put in or changed, the reader refuses it in one line or says that it is not whole."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    path.unlink(missing_ok=True)
    run = a_run()
    content = write(run, path).read_bytes()
    start = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.integers(0, 300))
    put = data.draw(
        st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"\n", b"0", b'"', b"{}", b"null", b"1e9"]))
    )
    damaged = content[:start] + put + content[start + length :]
    path.write_bytes(damaged)
    try:
        found = read_run(path)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert (found.integrity == "sealed") == (damaged == content)
    assert found.integrity != "sealed" or same(found, run)


def test_a_line_that_cannot_be_written_leaves_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later line, when there is room again, must not follow half of it."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BenchError, match=r"cannot be written .*; free some space, or give another --output"):
            LinesFile(path).create(b"{}")
        assert not path.exists()
    file = LinesFile(path)
    file.create(b"{}")
    checksum = file.checksum
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BenchError, match="go on with --resume"):
            file.append(b'{"kind":"turn"}')
    assert (path.read_bytes(), file.checksum) == (b"{}\n", checksum)


def test_a_file_that_exists_is_left_alone_and_a_full_disk_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("mine")
    with pytest.raises(UserError, match=r"a\.jsonl' exists; go on with --resume .*, or give another --output"):
        LinesFile(path).create(b"{}")
    assert path.read_text() == "mine"
    with pytest.raises(BenchError, match=r"cannot be written \(No space left on device\); free some space"):
        LinesFile(Path("/dev/full")).append(b"{}")
    with pytest.raises(BenchError, match=r"cannot be written \(.*\); free some space"):
        LinesFile(tmp_path / "no" / "a.jsonl").rewrite([b"{}"])
    assert [one.name for one in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("parent_cpu_share", "x"), ("parent_cpu_share", {}), ("warnings", 3), ("warnings", [1]), ("budget", ["a"]),
        ("peaks", 3), ("peaks", {"device": 3}), ("remarks", [{}]), ("artifacts", []), ("keys_and_values", {"layers": []}),
        ("spent_seconds", "1"), ("waited_seconds", []), ("preset", 3), ("bisections", [1]),
    ],
)  # fmt: skip
def test_a_note_of_a_wrong_type_is_damage_whatever_the_seal(tmp_path: Path, name: str, value: object) -> None:
    run = a_run()
    run.notes[name] = value
    with pytest.raises(UserError, match="is damaged"):
        read_run(write(run, tmp_path / "run.jsonl"))


@pytest.mark.parametrize("wrong", ["x", [], {"a": 1}])
def test_a_condition_of_a_wrong_type_is_damage(tmp_path: Path, wrong: object) -> None:
    run = run_of([record("eager", conditions={"other_cpu_seconds": wrong})])
    with pytest.raises(UserError, match=r"is damaged .*conditions"):
        read_run(write(run, tmp_path / "run.jsonl"))


@pytest.mark.parametrize("format", ["--markdown", "--json"])
def test_figures_that_make_no_sense_are_one_line_whatever_the_seal(cli_here, tmp_path: Path, format: str) -> None:
    """A sealed file may be forged, as a seal can be computed again."""
    run = run_of([record("eager", facts={"nodes_on_cpu": 1})])
    done = cli_here("report", str(write(run, tmp_path / "run.jsonl")), format)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert "is not as bench writes it" in done.stderr
