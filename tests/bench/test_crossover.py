"""The crossover map: who wins where, by how much, with or without colour, in any width."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bench.report.crossover import COLOURS, render_map
from bench.run.leads import headline, leads
from bench.run.record import Run
from bench.spec import Shape
from tests import made

ESCAPES = re.compile("\x1b\\[[0-9;]*m")


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kind of terminal for all tests here: rich keeps a style's escapes from its first use on."""
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def run_of(names: list[str], ms: dict[Shape, list[float | None]]) -> Run:
    """Medians by shape in the order of `names`; None for a cell that failed."""
    return made.run_of(
        [
            made.record(name, shape, ms=[[time or 1] * 3] * 20, status="failed" if time is None else "ok")
            for shape, times in ms.items()
            for name, time in zip(names, times, strict=True)
        ]
    )


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({Shape(1, 16): [2.0, 1.0]}, "onnx is fastest, 2.00 times as fast as eager"),
        ({Shape(1, 16): [2.0, 2.0]}, "No candidate is faster than all others"),
        ({Shape(1, 16): [2.0, 1.0], Shape(1, 32): [2.0, 1.0]}, "onnx is fastest at 2 of 2 shapes"),
        ({Shape(1, 16): [2.0, 2.0], Shape(1, 32): [1.0, 2.0]}, "eager is fastest at 1 of 2 shapes"),
        ({Shape(1, 16): [2.0, 2.0], Shape(1, 32): [2.0, 2.0]}, "No candidate is faster than all others anywhere"),
        ({Shape(1, 16): [2.0, None]}, "1 of 2 cells measured"),
    ],
)
def test_the_headline_names_the_fastest(times: dict[Shape, list[float | None]], expected: str) -> None:
    assert headline(run_of(["eager", "onnx"], times)) == expected


def test_each_cell_names_the_fastest_and_its_lead() -> None:
    times = {
        Shape(1, 16): [2.0, 1.0], Shape(1, 128): [3.0, 3.0], Shape(8, 16): [4.0, None], Shape(8, 128): [None, None],
    }  # fmt: skip
    run = run_of(["eager", "onnx"], times)
    found = [
        (cell.text, *(one.candidate.backend if one else None for one in (cell.winner, cell.runner_up)))
        for cell in leads(run)
    ]
    assert found == [
        ("2.00×", "onnx", "eager"), ("same", "eager", "onnx"), ("alone", "eager", None), ("", None, None),
    ]  # fmt: skip
    assert render_map(run).splitlines()[1:] == [
        "batch           16         128",
        "    1   onnx 2.00×  eager same",
        "    8  eager alone           –",
        "same: another is as fast, within 3%; alone: no other was measured there as the",
        "  same model; –: none was",
    ]


def test_nobody_is_named_the_fastest_if_that_is_undecided() -> None:
    """Rounds of which eager wins half."""
    run = run_of(["eager", "onnx"], {Shape(1, length): [2.0, 2.0] for length in (16, 128)})
    swaying = [[time] * 3 for time in (1, 3, 1, 3, 1, 3, 1, 3)]
    run.records = [
        replace(one, turns=made.record("onnx", one.point, ms=swaying).turns) if one.candidate.backend == "onnx" else one
        for one in run.records
    ]
    assert [(cell.text, cell.is_decided) for cell in leads(run)] == [("undecided", False)] * 2
    assert headline(run) == "Undecided: which candidate is fastest is not known at 2 of 2 shapes"
    text = render_map(run)
    assert [line.split() for line in text.splitlines()[1:3]] == [["batch", "16", "128"], ["1", "?", "?"]]
    assert "?: undecided" in text and "onnx" not in text and "eager" not in text


def test_the_printed_order_is_that_of_the_paired_ratios() -> None:
    """Two rounds stall for both: by medians of all samples eager would lead, and onnx is faster in every round."""
    shared = [1.0, 1.0, 8.0, 8.0, 8.0, 1.0, 1.0, 8.0]
    records = [
        made.record("eager", Shape(1, 16), ms=[[one] * (3 if one < 2 else 1) for one in shared]),
        made.record("onnx", Shape(1, 16), ms=[[one / 1.2] * (1 if one < 2 else 3) for one in shared]),
    ]
    (cell,) = leads(made.run_of(records))
    assert [one.candidate.backend for one in cell.order] == ["onnx", "eager"]
    assert (cell.text, cell.is_decided) == ("1.20×", True)


def test_another_model_wins_nothing() -> None:
    """A broken backend is the fastest of all, and no figure of it may stand in the map."""
    run = run_of(["eager", "onnx", "compile"], {Shape(1, 16): [2.0, 1.0, 0.1], Shape(1, 128): [2.0, 1.0, 0.1]})
    for at, entry in enumerate(run.records):
        if entry.candidate.backend == "compile":
            run.records[at] = replace(entry, parity={"verdict": "broken"})
    assert {cell.winner.candidate.backend for cell in leads(run) if cell.winner} == {"onnx"}
    assert "compile" not in render_map(run)


def test_rounds_that_disagree_give_no_middle() -> None:
    run = run_of(["eager", "onnx"], {Shape(1, 16): [9.0, 1.0], Shape(1, 128): [9.0, 1.0]})
    wild = [[times] * 3 for times in (4, 40, 5, 50, 6, 60)]
    run.records = [
        made.record("eager", entry.point, ms=wild) if entry.candidate.backend == "eager" else entry
        for entry in run.records
    ]
    assert [cell.text for cell in leads(run)] == ["faster", "faster"]
    assert "onnx faster" in render_map(run)


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("colour", [False, True])
def test_many_lengths_and_long_names_stay_within_the_width(width: int, colour: bool) -> None:
    """A table that is wider than the terminal is no map."""
    names = ["eager", "compile:max-autotune-no-cudagraphs", "onnx:fused-attention", "torchscript"]
    times = {
        Shape(batch, length): [4.0 + (i % 4 != who) * (1 + i) for who in range(4)]
        for batch in (1, 8, 1024)
        for i, length in enumerate([8, 16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512])
    }
    plain = ESCAPES.sub("", render_map(run_of(names, times), width, colour))
    assert max(map(len, plain.splitlines())) <= width
    for name in names:
        assert name in plain.replace("\n  ", " ")
    tables = [line for line in plain.splitlines() if line.startswith("batch")]
    assert [int(size) for line in tables for size in line.split()[1:]] == sorted({shape.length for shape in times})
    assert len(tables) > 1
    assert plain.count("A ") + plain.count("B ") >= 6


def test_colour_adds_nothing_but_colour() -> None:
    run = run_of(["eager", "onnx"], {Shape(1, 16): [2.0, 1.0], Shape(1, 128): [3.0, 3.0]})
    plain, coloured = render_map(run), render_map(run, colour=True)
    assert "\x1b" not in plain
    assert ESCAPES.sub("", coloured) == plain
    backgrounds = re.findall(r"\x1b\[[0-9;]*48;2;(\d+;\d+;\d+)m(?: *)(\w+)", coloured)
    assert backgrounds == [("230;159;0", "onnx")]  # what is the same has none


@pytest.mark.parametrize("times", [{Shape(1, 16): [2.0, 1.0]}, {Shape(1, 16): [None, None], Shape(1, 8): [None, None]}])
def test_there_is_no_map_of_fewer_than_two_winners(times: dict) -> None:
    assert render_map(run_of(["eager", "onnx"], times)) == ""


@pytest.mark.parametrize("colours", COLOURS)
def test_every_colour_lets_its_letters_be_read(colours: tuple[str, str]) -> None:
    def luminance(red: int, green: int, blue: int) -> float:
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    fill, ink = colours
    back = luminance(*bytes.fromhex(fill[1:]))
    front = {"black": 0.0, "white": 1.0}[ink]
    assert (max(back, front) + 0.05) / (min(back, front) + 0.05) >= 4.5  # WCAG 2.1, level AA
