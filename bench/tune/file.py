"""The file of a search: one line of JSON, and a seal over it.

Schema history
1  (0.1.0)  Without a seal; candidates were called contestants.
2  (0.2.0)  Sealed.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec

from bench.errors import UserError
from bench.files import read_lines, write_all
from bench.parity.verdict import as_of_candidate
from bench.run.file import LONGEST_CAUSE, SealLine, integrity_of
from bench.tune.results import Tried, Tuning

SCHEMA = 2


def as_json(tuning: Tuning) -> dict[str, Any]:
    """A search as JSON types."""
    named = {one.name: getattr(tuning, one.name) for one in fields(tuning) if one.name != "path"}
    found: dict[str, Any] = msgspec.to_builtins(
        {"kind": "tuning", "schema": SCHEMA, **named, "exit_code": tuning.exit_code}
    )
    return found


def write_tuning(tuning: Tuning) -> None:
    """Write a search to its path, whole or not at all; raises BenchError if that fails."""
    assert tuning.path is not None
    line = msgspec.json.encode(as_json(tuning)) + b"\n"
    seal = msgspec.json.encode(SealLine(hashlib.sha256(line).hexdigest(), tuning.is_decided))
    write_all({tuning.path: line + seal + b"\n"})


def read_tuning(path: str | Path) -> Tuning:
    """The search in a file; raises UserError if it is none, damaged, altered, or of another schema."""
    path = Path(path)
    lines = read_lines(path)
    try:
        header = msgspec.json.decode(lines.lines[0]) if lines.lines else None
    except msgspec.DecodeError:
        header = None
    if not isinstance(header, dict) or header.get("kind") != "tuning":
        raise UserError(f"{str(path)!r} is no search of bench tune; give a file that it wrote")
    schema = header.get("schema")
    if schema != SCHEMA:
        is_later = isinstance(schema, int) and schema > SCHEMA
        remedy = "upgrade runtimebench" if is_later else "search again"
        raise UserError(f"{str(path)!r} has schema {schema}, and this bench reads {SCHEMA}; {remedy}")
    if integrity_of(lines) != "sealed":
        raise UserError(f"{str(path)!r} was altered or cut after it was written (by its seal); search again")
    try:
        found = msgspec.convert(header, Tuning)
    except msgspec.ValidationError as error:
        raise UserError(f"{str(path)!r} is damaged ({str(error)[:LONGEST_CAUSE]}); search again") from None
    found.path = path
    found.rungs = [[_read(tried) for tried in rung] for rung in found.rungs]
    return found


def _read(tried: Tried) -> Tried:
    """A trial with the verdict that its candidate gets now; older files say `exact` of eager."""
    verdict = as_of_candidate({"verdict": tried.outcome.verdict}, tried.trial.candidate)["verdict"]
    return replace(tried, outcome=replace(tried.outcome, verdict=verdict))
