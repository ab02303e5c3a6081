"""The arithmetic of benchmarks/growth.py: grids of a size, and the line through their wall times."""

from __future__ import annotations

import os
from collections import Counter
from types import ModuleType

import pytest

SCRIPT = "growth"


@pytest.mark.parametrize("shapes", [1, 2, 7, 16, 64])
def test_a_grid_has_as_many_shapes_as_were_asked_for(script: ModuleType, shapes: int) -> None:
    _, batches, _, lengths = script.axes(shapes)
    assert len(batches.split(",")) * len(lengths.split(",")) == shapes


def test_the_line_is_found_and_what_is_off_it_told(script: ModuleType) -> None:
    start, each, off = script.line_through([1, 4, 16], [2.5, 4.0, 10.0])
    assert (start, each, off) == (pytest.approx(2.0), pytest.approx(0.5), pytest.approx(0.0, abs=1e-9))
    assert script.line_through([1, 4, 16], [2.5, 4.0, 20.0])[2] > 0.1


def test_the_peak_of_a_process_is_read_and_that_of_none_is_nothing(script: ModuleType) -> None:
    assert script.resident_peak_bytes(os.getpid()) > 2**20
    assert script.resident_peak_bytes(2**22 + 1) == 0


@pytest.mark.parametrize(
    ("last", "said"), [(1, "2, the same whatever the grid"), (3, "2, 2 to 4")], ids=["once", "again"]
)
def test_an_export_that_is_made_again_is_seen(
    script: ModuleType, last: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        script.Grown(cells, 2 + 0.5 * cells, 2**25, 10**6, 10**4, Counter(checkpoint=1, onnx=onnx, reference=cells))
        for cells, onnx in ((1, 1), (4, 1), (16, 1), (64, last))
    ]
    script.print_table("eager,onnx", rows)
    out = capsys.readouterr().out
    assert f"exports: {said}" in out
    assert "2.0 s + 0.50 s a cell; the worst grid is 0% off" in out
    assert all(len(line) <= 80 for line in out.splitlines())
