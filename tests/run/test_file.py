"""The one run file and its reader: what is written is read again, and what was changed or lost is named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError, UserError
from bench.files import LinesFile
from bench.run.file import RunFile, read_run
from bench.run.record import SCHEMA, Run, Turn
from bench.spec import Shape
from bench.workloads.load import Load, Rate
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


@pytest.mark.parametrize(
    ("kind", "within", "value"),
    [
        ("turn", ("turn", "figures", "batch"), None),
        ("record", ("parity", "max_abs_error"), []),
        ("record", ("parity", "reason"), 1),
        ("record", ("memory", "loaded"), 3),
    ],
)
def test_a_value_of_another_type_is_damage_though_the_seal_fits(
    tmp_path: Path, kind: str, within: tuple[str, ...], value: Any
) -> None:
    """In the dictionaries whose names are open; what plugins write there under other names is theirs."""
    path = write(a_run(), tmp_path / "run.jsonl")
    assert read_run(path).integrity == "sealed"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    changed = next(line for line in lines if line["kind"] == kind)
    for name in within[:-1]:
        changed = changed.setdefault(name, {})
    changed[within[-1]] = value
    whole = "".join(json.dumps(line) + "\n" for line in lines[:-1]).encode()
    seal = lines[-1] | {"sha256": hashlib.sha256(whole).hexdigest()}
    path.write_bytes(whole + json.dumps(seal, separators=(",", ":")).encode() + b"\n")
    with pytest.raises(UserError, match=rf"is damaged \(ValueError: {within[-1]}"):
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("strikes", ["turn", "record", "go_on"])
def test_a_signal_while_a_line_is_written_leaves_a_seal_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, strikes: str
) -> None:
    """It came between a line and its checksum: the file was ALTERED, and could not be gone on with."""
    run = a_run()
    run.path = tmp_path / "run.jsonl"
    file, (first, *_) = RunFile(run), run.records
    file.create()

    def stop(received: int, frame: object) -> None:
        raise SystemExit(128 + received)

    before = signal.signal(number, stop)
    name, real = ("replace", Path.replace) if strikes == "go_on" else ("fsync", os.fsync)
    owner = Path if strikes == "go_on" else os

    def strike(*arguments: Any) -> None:
        real(*arguments)
        monkeypatch.setattr(owner, name, real)
        os.kill(os.getpid(), number)

    try:
        monkeypatch.setattr(owner, name, strike)
        with pytest.raises(SystemExit):
            match strikes:
                case "turn":
                    file.turn(first.point, first.candidate, first.turns[0])
                case "record":
                    file.record(first)
                case "go_on":
                    file.go_on()
    finally:
        signal.signal(number, before)
    file.seal()
    assert read_run(run.path).integrity == "sealed"


def test_a_moment_may_lie_before_its_turn_and_a_duration_may_not(tmp_path: Path) -> None:
    """Requests that waited already when a turn of `bench load` began are due before it."""
    one = record("null", Rate(0, 100.0), ms=[])
    times = {"due": [-5, 5], "waits": [6, 1], "latency": [9, 3]}
    turn = Turn(0, times)
    path = write(run_of([replace(one, turns=(turn,))], Load), tmp_path / "run.jsonl")
    assert read_run(path).records[0].turns[0].times_ns == times
    write(run_of([replace(one, turns=(replace(turn, times_ns=times | {"waits": [-1, 1]}),))], Load), tmp_path / "b")
    with pytest.raises(UserError, match="times below 0"):
        read_run(tmp_path / "b")


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
