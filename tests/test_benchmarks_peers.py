"""benchmarks/peers.py: which way round its ratio is, what counts, and what its verdict says."""

from __future__ import annotations

from types import ModuleType

import pytest

from bench.run.record import Record
from bench.spec import Candidate, Shape
from tests import made

SCRIPT = "peers"


def record(name: str, ms: float, verdict: str = "equivalent", length: int = 8) -> Record:
    rounds = [[ms * (1 + 0.001 * (i % 3))] * 3 for i in range(10)]
    return made.record(name, Shape(1, length), ms=rounds, verdict=verdict)


def lines(script: ModuleType, *records: Record) -> list[str]:
    return list(script.lines(made.run_of(records)))


@pytest.mark.parametrize(
    ("ms", "length", "said"),
    [
        (7.0, 8, "0.70 0.70–0.70  goal 0.75 reached"),
        (9.0, 8, "0.90 0.90–0.90  goal 0.75 missed"),
        (9.0, 512, "0.90 0.90–0.90  goal 1 reached"),
        (12.0, 512, "1.20 1.20–1.20  goal 1 missed"),
    ],
)
def test_below_one_ours_is_faster(script: ModuleType, ms: float, length: int, said: str) -> None:
    (line,) = lines(
        script,
        record("openvino", 10, length=length),
        record("eager", 30, length=length),
        record("aoti", ms, length=length),
    )
    assert said in line
    label, time, *peer = line.split()[2:6]
    assert (label, peer) == ("aoti", ["openvino", "10.0"])
    assert float(time) == pytest.approx(ms, rel=0.002)


def test_what_is_another_model_is_not_ours_to_win_with(script: ModuleType) -> None:
    (line,) = lines(script, record("onnx", 10), record("aoti", 2, verdict="broken"), record("torchscript", 9))
    assert line.split()[2] == "torchscript"


def test_a_shape_without_a_cell_of_ours_says_so(script: ModuleType) -> None:
    assert lines(script, record("onnx", 10)) == ["bert      1×8  no cell of ours was measured"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_name_of_both_sides_is_a_variant_of_this_version(script: ModuleType, device: str) -> None:
    names = [*script.PEERS, *script.OURS[device]]
    assert script.known(names) == (names, [])
    assert script.known(["eager", "nonsense", "eager:nonsense"]) == (["eager"], ["nonsense", "eager:nonsense"])
    assert Candidate("optimum", "O2", "fp32").label in script.PEERS
    assert Shape(1, 8) in script.GOAL_SHAPES
