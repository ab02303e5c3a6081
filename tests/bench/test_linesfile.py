"""A file of results: written line by line, never over another, and read again by its kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import BenchError, UserError
from bench.linesfile import LinesFile, kind_of, read_lines

HEADER = {"kind": "memory", "schema": 1}


def test_what_is_written_is_read_again_and_a_torn_last_line_is_not(tmp_path: Path) -> None:
    file = LinesFile(tmp_path / "new" / "a.jsonl")
    file.create(HEADER)
    file.append({"kind": "row", "label": "eager · ü"})
    with file.path.open("a") as torn:
        torn.write('{"kind": "ro')
    assert read_lines(file.path, "memory", 1, "bench memory") == [HEADER, {"kind": "row", "label": "eager · ü"}]
    assert kind_of(file.path, ["bench memory"]) == "memory"
    file.rewrite([HEADER])
    assert read_lines(file.path, "memory", 1, "bench memory") == [HEADER]
    assert [path.name for path in file.path.parent.iterdir()] == ["a.jsonl"]


def test_a_file_that_exists_stays_as_it_is_and_each_remedy_is_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("mine")
    with pytest.raises(UserError, match=r"a\.jsonl' exists; give another --output"):
        LinesFile(path).create(HEADER)
    with pytest.raises(UserError, match=r"a\.jsonl' exists; go on$"):
        LinesFile(path, when_it_exists="go on").create(HEADER)
    assert path.read_text() == "mine"
    with pytest.raises(BenchError, match=r"cannot be written \(.*\); free some space and call it again"):
        LinesFile(tmp_path).append(HEADER)
    with pytest.raises(BenchError, match=r"cannot be written \(.*\); wait"):
        LinesFile(tmp_path / "no" / "a.jsonl", when_it_is_full="wait").rewrite([HEADER])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is no run of bench memory; give a .jsonl file that it wrote"),
        ('{"kind": "run", "schema": 1}\n', "is no run of bench memory"),
        ('{"kind": "memory"}\n', "has no schema number"),
        ('{"kind": "memory", "schema": 2}\n', "has schema 2 and this bench reads up to 1"),
        ('{"kind": "memory", "schema": 1}\nx\n', "line 2 of .* is not JSON; give a file that bench memory wrote"),
        ('{"kind": "memory", "schema": 1}\n[]\n', "line 2 of .* is no JSON object"),
        ('{"kind": "memory", "schema": 99999999999999999999999999}\n', "beyond 64 bits"),
    ],
)
def test_another_or_a_damaged_file_is_refused_in_one_line(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=match):
        read_lines(path, "memory", 1, "bench memory")


def test_a_file_that_is_none_is_named_with_every_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give a file that bench compare or bench memory wrote"):
        kind_of(tmp_path / "missing", ["bench compare", "bench memory"])
    (tmp_path / "empty").write_text("")
    assert kind_of(tmp_path / "empty", ["bench compare"]) == ""
