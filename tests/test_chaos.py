"""benchmarks/chaos.py: its short form finds nothing, and its checker finds what is planted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import chaos_files as files
from benchmarks import chaos_rules as rules
from benchmarks.chaos_rules import Ended
from tests import made

SCRIPT = rules.ROOT / "benchmarks" / "chaos.py"


@pytest.mark.parametrize("parts", ["kills,signals,stops,two-runs", "bytes,types,nonsense,disk,limits"])
def test_the_short_form_finds_nothing(parts: str, tmp_path: Path) -> None:
    output = tmp_path / "chaos.jsonl"
    words = ["--short", "--part", parts, "--folder", str(tmp_path / "chaos"), "--output", str(output)]
    environment = rules.surroundings("short")
    ended = subprocess.run([sys.executable, SCRIPT, *words], env=environment, capture_output=True, text=True)
    assert (ended.stderr, ended.returncode) == ("", 0)
    lines = list(rules.json_lines(output))
    assert {line["part"] for line in lines} == set(parts.split(","))
    assert not [line for line in lines if line["faults"]]


def ended(code: int = 0, errors: str = "", **more: Any) -> Ended:
    return Ended(("report",), code, "", errors, 1.0, **more)


def test_what_no_call_may_do_is_found(tmp_path: Path) -> None:
    assert rules.faults_of(ended(2, "bench: no such file")) == []
    assert rules.faults_of(ended(-9)) == ["exit code -9"]
    assert rules.faults_of(ended(-9), signals=(9,)) == []
    traceback = "Traceback (most recent call last)"
    assert rules.faults_of(ended(1, f"{traceback}:\n  …\nKeyError: 'x'\n")) == [f"{traceback}: KeyError: 'x'"]
    assert rules.faults_of(ended(1, "bench: a mistake of bench's own (KeyError: 'x')"))[0].startswith("a mistake")
    assert rules.faults_of(ended(left=("python -m bench.worker",))) == ["orphan: python -m bench.worker"]
    assert rules.faults_of(ended(-9, is_late=True)) == ["it hung: killed after 1 s"]
    assert rules.faults_of(ended(2, "bench: no \x1b[31m")) == ["an escape sequence was printed"]
    assert rules.faults_of(ended(2, "x" * 5000)) == ["a line of 5000 characters on standard error"]
    place = rules.world(tmp_path)
    (place.canaries / "pickle").touch()
    assert rules.faults_of(ended(), place) == ["executed: pickle"]


def test_a_process_that_is_left_is_found_and_ended() -> None:
    """One that starts another and ends, as a driver would that leaves its worker."""
    sleeper = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60) # left'])"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "GRACE_SECONDS", 0.2)
        subprocess.run([sys.executable, "-c", sleeper], env=rules.surroundings("orphan-test"), check=True)
        (found,) = rules.left("orphan-test")
    assert found.endswith("# left")
    end = time.monotonic() + 10
    while rules._with("orphan-test") and time.monotonic() < end:
        time.sleep(0.05)
    assert rules.left("orphan-test") == ()


def test_a_doubled_a_missing_and_a_torn_record_are_found(tmp_path: Path) -> None:
    path = made.write(made.run_of([made.record("eager"), made.record("onnx")]), tmp_path / "run.jsonl")
    assert rules.faults_of_run(path, 2) == []
    lines = path.read_bytes().splitlines(keepends=True)
    records = [at for at, line in enumerate(lines) if json.loads(line)["kind"] == "record"]

    def faults(changed: list[bytes], cells: int | None = 2) -> str:
        path.write_bytes(b"".join(changed))
        return "; ".join(rules.faults_of_run(path, cells))

    doubled = [*lines[: records[0] + 1], *lines[records[0] :]]
    assert "doubled record" in faults(doubled) and "the seal does not fit" in faults(doubled)
    missing = lines[: records[-1]] + lines[records[-1] + 1 :]
    assert "1 of 2 cells have a record" in faults(missing)
    assert faults(lines[:-1]) == "no seal of a complete run"
    assert "the last line is torn" in faults([*lines[:-1], lines[-1][:20]])
    assert faults([*lines[:-1], lines[-1][:20]], None) == ""  # what a kill leaves, and may
    assert "follows the seal" in faults([*lines, lines[records[0]]])


def test_a_file_that_would_be_taken_for_sound_is_found() -> None:
    assert files._is_told("run", ["report"], ended(0, "ALTERED: the lines do not match"))
    assert not files._is_told("run", ["report"], ended(0))
    assert files._is_told("bundle", ["verify"], ended(3))
    assert not files._is_told("bundle", ["verify"], ended(3, rules.STARTED))
    assert not files._is_told("certificate", ["verify"], ended(0, rules.STARTED))
    assert not files._is_told("artifact", ["artifacts", "verify"], ended(0))


def test_what_is_planted_in_files_would_leave_a_canary(tmp_path: Path) -> None:
    place = rules.world(tmp_path)
    files.wrong_values(place)
    for name, command in {
        "script": [str(tmp_path / "evil.sh")],
        "module": [sys.executable, str(tmp_path / "evil.py")],
        "pickle": [sys.executable, "-c", f"import pickle; pickle.load(open({str(tmp_path / 'evil.pkl')!r}, 'rb'))"],
    }.items():
        subprocess.run(command, check=True)
        assert place.hits() == [name]


def test_a_fork_is_a_call_and_starts_no_worker(tmp_path: Path) -> None:
    """In a process of its own: one with threads is not forked."""
    code = (
        "from pathlib import Path; from benchmarks.chaos_rules import fork\n"
        "for words in ('--version', 'report nothing.jsonl', 'compare --model bert-tiny --backends null'):\n"
        f"    e = fork(words.split(), Path({str(tmp_path)!r})); print(e.code, e.output[:12], *e.errors.splitlines()[-1:])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env=rules.surroundings("fork"), capture_output=True, text=True, check=True
    )
    first, second, third = found.stdout.splitlines()
    assert first.startswith("0 runtimebench")
    assert second.startswith("2 ")
    assert third.startswith("0 ") and third.endswith(rules.STARTED)


def test_every_test_that_security_names_is_there() -> None:
    rows = [line for line in (rules.ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("|")][2:]
    assert rows
    for row in rows:
        source = ""
        named = re.findall(r"`([^`]+)`", row.split("|")[2])
        assert sum(name.startswith("test_") for name in named) > 0, row
        for name in named:
            if name.endswith(".py"):
                source = (rules.ROOT / name).read_text()
            else:
                assert f"def {name}(" in source, name
