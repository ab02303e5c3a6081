"""Reports, help texts and exit codes are those of the golden files, made from committed runs; see tests/golden/README.md."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import pytest

from tests.golden.calls import HERE
from tests.golden.make import KEPT, goldens

GOLDENS = goldens()
REMEDY = "if this is meant: python -m tests.golden.make, and list the difference in an ADR"


@pytest.mark.parametrize(("name", "make"), GOLDENS.items(), ids=GOLDENS)
def test_output_is_that_of_the_golden_file(name: str, make: Callable[[], str]) -> None:
    path = HERE / name
    assert path.is_file(), f"{name} is missing; {REMEDY}"
    expected, found = path.read_bytes().decode(), make()
    if found != expected:
        lines = difflib.unified_diff(
            expected.splitlines(keepends=True), found.splitlines(keepends=True), f"golden/{name}", "today", n=2
        )
        pytest.fail(f"{REMEDY}\n{''.join(lines)}", pytrace=False)


def test_every_file_is_made_by_something() -> None:
    present = {path.relative_to(HERE).as_posix() for path in HERE.rglob("*") if path.is_file()}
    assert {name for name in present if not KEPT.match(name)} == set(GOLDENS)
