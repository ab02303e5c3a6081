"""The choice: traffic against measured cells, constraints, ties, one-time costs, machines."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import choose, statistics
from bench.choose import lines as report
from bench.choose.candidates import Weighed
from bench.choose.choice import Choice
from bench.choose.demand import Demand, Mixture
from bench.errors import UserError
from bench.grid import INTERPOLATED, MEASURED, ROUNDED_UP, Place, place
from bench.machine.roofline import Peaks
from bench.report.choice import render
from bench.run.record import Once, Record, Run
from bench.spec import Candidate, Shape
from bench.traffic import Traffic, even, parse_slo, read_traffic
from bench.workloads.load import Load, Rate
from tests import made

MS = 1_000_000
ROUNDS = 10
BUSY = {"wall_seconds": 5.0, "cpu_seconds": 10.0, "other_cpu_seconds": 3.0}
PEAKS = {"peaks": Peaks("cpu", 2, {"fp32": 1e9}, ((1 << 30, 1e9),), "2026-01-01").to_json()}  # 10 ms are 1e7 FLOP
LOSSY = {"ms": 5, "parity": {"verdict": "lossy", "max_abs_error": 3e-3}}


def cell(
    label: str,
    batch: int,
    length: int,
    ms: float | Sequence[Sequence[float]] = 1,
    load: float | None = 0.0,
    first_call_ms: float | None = None,
    calls_per_sample: int = 1,
    **values: Any,
) -> Record:
    """A cell of ten rounds of 20 calls of `ms`, or of those rounds; it holds 0.6 GB."""
    first_ms = first_call_ms if first_call_ms is not None else ms if isinstance(ms, int | float) else 0
    once = Once(load_seconds=load, first_call_ns=round(first_ms * MS), calls_per_sample=calls_per_sample)
    memory = {"loaded": {"process_bytes": 500_000_000}, "peak": {"peak_process_bytes": 600_000_000}}
    rounds = [[ms] * 20] * ROUNDS if isinstance(ms, int | float) else ms
    return made.record(label, Shape(batch, length), ms=rounds, **({"once": once, "memory": memory} | values))


def cells(**of: Mapping[Any, Any]) -> list[Record]:
    """Cells by backend, then by length or (batch, length): milliseconds, rounds, or further values."""
    return [
        cell(
            label, *(at if isinstance(at, tuple) else (1, at)), **(value if isinstance(value, dict) else {"ms": value})
        )
        for label, found in of.items()
        for at, value in found.items()
    ]


def run_of(records: Sequence[Record] = (), cpu: str = "test", notes: Any = None, **of: Mapping[Any, Any]) -> Run:
    run = made.run_of([*records, *cells(**of)], fingerprint={"cpu": cpu}, notes=notes)
    return replace(run, started=f"2026-01-01 {cpu}")


def rounds(ms: float, *factors: float, samples: int = 20) -> list[list[float]]:
    return [[ms * factor] * samples for factor in factors]


def traffic(counts: Mapping[Any, float]) -> Traffic:
    """Requests by length or (batch, length)."""
    shapes = {Shape(*at) if isinstance(at, tuple) else Shape(1, at): count for at, count in counts.items()}
    return Traffic(shapes, "test")


def of(choice: Choice, label: str) -> Weighed:
    return next(candidate for candidate in choice.candidates if candidate.label == label)


def told(choice: Choice) -> list[str]:
    """Everything that is said of a choice."""
    lines, unknown = report.lines(choice), report.not_measured(choice)
    return [report.headline(choice), *lines, *report.failures(choice), *unknown]


#: onnx wins short lengths, eager long ones.
CROSSING = {"eager": {16: 10, 512: 100}, "onnx": {16: 5, 512: 140}}
#: eager does best one by one, onnx in batches of 8, where it gets more through.
BATCHED = {"eager": {16: 10, (8, 16): 88}, "onnx": {16: 12, (8, 16): 64}}
SWING = (0, 1, -1, 0.9, -0.9, 0.8, -0.8, 0.7, -0.7, 0)
NOISY, SCATTERED, NEARLY = (tuple(1 + width * swing for swing in SWING) for width in (0.3, 0.1, 0.01))
LEVEL, WIDE = (1, 1, 1, 1, 1), (1.3, 0.7, 1, 1.2, 0.8)


# Where a shape lies.


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(16, 512), st.tuples(*[st.floats(0.1, 10)] * 4))
def test_within_the_grid_what_is_bilinear_is_read_off_exactly(batch: int, length: int, c: tuple[float, ...]) -> None:
    def f(shape: Shape) -> float:
        return c[0] + c[1] * shape.batch + c[2] * shape.length + c[3] * shape.batch * shape.length

    grid = [Shape(b, n) for b in (1, 8) for n in (16, 512)]
    found = place(Shape(batch, length), grid)
    assert found is not None
    assert math.fsum(found.cells.values()) == pytest.approx(1)
    assert math.fsum(share * f(at) for at, share in found.cells.items()) == pytest.approx(f(Shape(batch, length)))
    assert found.basis == (MEASURED if Shape(batch, length) in grid else INTERPOLATED)


FULL = [(2, 16), (2, 64), (8, 16), (8, 64)]
HOLES = [(1, 16), (1, 512), (4, 16), (8, 16), (8, 512)]
THINNED = [(1, 8), (1, 64), (1, 512), (2, 256), (8, 8), (8, 64)]


@pytest.mark.parametrize(
    ("shape", "grid", "basis", "shares"),
    [
        ((2, 16), FULL, MEASURED, {(2, 16): 1.0}),
        ((1, 4), FULL, ROUNDED_UP, {(2, 16): 1.0}),
        ((5, 4), FULL, ROUNDED_UP, {(2, 16): 0.5, (8, 16): 0.5}),
        ((9, 16), FULL, None, {}),
        ((2, 65), FULL, None, {}),
        ((4, 264), HOLES, INTERPOLATED, {(1, 16): 2 / 7, (1, 512): 2 / 7, (8, 16): 1.5 / 7, (8, 512): 1.5 / 7}),
        ((2, 64), THINNED, INTERPOLATED, {(1, 64): 6 / 7, (8, 64): 1 / 7}),
        ((4, 128), THINNED, None, {}),
        ((8, 512), [(1, 512), (8, 16)], None, {}),
    ],
)
def test_a_shape_is_read_off_the_rows_around_it(
    shape: tuple[int, int], grid: list[tuple[int, int]], basis: str | None, shares: dict[tuple[int, int], float]
) -> None:
    found = place(Shape(*shape), [Shape(*one) for one in grid])
    assert (found and found.basis) == basis
    assert (found.cells if found else {}) == pytest.approx({Shape(*at): share for at, share in shares.items()})


# Traffic.


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("batch,length\n1,16\n1,16\n8,128\n", {(1, 16): 2, (8, 128): 1}),
        ("length, Batch ,count,when\n16,1,2.5,monday\n128,8,0,x\n", {(1, 16): 2.5}),
        ('{"batch": 1, "length": 16}\n\n{"batch": 1, "length": 16, "user": 3}\n', {(1, 16): 2}),
        ("\ufeffbatch,length,count\r\n1,16,3\r\n", {(1, 16): 3}),
    ],
)
def test_logs_and_histograms_are_read(tmp_path: Path, text: str, counts: dict[tuple[int, int], float]) -> None:
    path = tmp_path / "traffic.csv"
    path.write_text(text)
    found = read_traffic(path)
    assert found.counts == {Shape(*shape): count for shape, count in counts.items()}
    assert found.source.startswith("traffic.csv (")
    assert math.fsum(share for _, share in found.shares()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00batch", "not text"),
        ("", "has no column 'batch'"),
        ("batch,length\n", "has no requests"),
        ("batch,length,count\n1,16,0\n", "all counts"),
        ("batch,count\n1,2\n", "has no column 'length'"),
        ("batch,length\n1,x\n", "length 'x' in line 2 of traffic"),
        ("batch,length\n1\n", "length 'None' in line 2"),
        ("batch,length\n0,16\n", "batch 0 in line 2"),
        ("batch,length\n1,99999999999\n", "length 99999999999 in line 2"),
        ("batch,length,count\n1,16,-1\n", "count '-1' in line 2"),
        ("batch,length,count\n1,16,nan\n", "count 'nan' in line 2"),
        ("batch,length,count\n1,16,\n", "count '' in line 2"),
        ('{"batch": 1, "length": 16}\n[1]\n', "line 2 of traffic"),
        ('{"batch": 1.5, "length": 16}\n', "batch '1.5' in line 1"),
    ],
)
def test_traffic_that_is_none_is_named(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    path = tmp_path / "traffic.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        read_traffic(path)


def test_drawn_requests_follow_the_shares_and_the_seed() -> None:
    shapes = traffic({16: 3, (8, 16): 1})
    drawn = shapes.draw(random.Random(1), 4000)
    assert drawn == shapes.draw(random.Random(1), 4000)
    assert drawn.count(Shape(1, 16)) / 4000 == pytest.approx(0.75, abs=0.03)


def test_without_traffic_the_answer_is_a_geometric_mean_and_no_time() -> None:
    assert even([Shape(1, 1), Shape(2, 1)]).shares() == [(Shape(1, 1), 0.5), (Shape(2, 1), 0.5)]
    # 10/5 and 100/140: the geometric mean is 1.195, whatever the shapes take.
    found = choose(run_of(**CROSSING))
    assert report.headline(found) == (
        "take onnx: 1.20× as fast as eager, the next (1.20–1.20×, 95%, geometric mean of all shapes)"
    )
    assert found.regrets["eager"].expected == pytest.approx((2 * 100 / 140) ** 0.5 - 1)
    assert not any(" ms a request" in line for line in told(found))
    assert "ms/req" not in render(found) and "tokens/s" not in render(found)
    shown = json.loads(render(found, "json"))["candidates"][0]
    assert not {"ns_per_request", "tokens_per_second", "tokens_per_dollar"} & set(shown)
    # A cell of ten times the time counts no more.
    longer = {name: {16: of[16], 512: of[512] * 10} for name, of in CROSSING.items()}
    assert choose(run_of(**longer)).regrets["eager"].bound == pytest.approx(found.regrets["eager"].bound)


def test_throughput_without_traffic_is_the_mean_over_lengths_in_the_best_batches() -> None:
    found = choose(run_of(**BATCHED), objective="throughput")
    assert (found.chosen and found.chosen.label, dict(of(found, "onnx").batches)) == ("onnx", {16: 8})
    assert found.regrets["eager"].expected == pytest.approx(10 / (64 / 8) - 1)


def test_runs_without_a_common_shape_need_traffic() -> None:
    runs = [run_of(eager={(1, 16): 5}, cpu="a"), run_of(eager={(2, 32): 5}, cpu="b")]
    with pytest.raises(UserError, match="share no shape, so only traffic can weigh them; give --traffic FILE"):
        choose(runs, device_map=True)


# The choice: a run, the options, who is chosen, and sentences that are said.

UNDECIDED = "undecided"

CHOICES = {
    "short requests": (CROSSING, {"traffic": {16: 1}}, "onnx"),
    "long requests": (CROSSING, {"traffic": {512: 1}}, "eager"),
    # 5 ms are lost on each short request and 40 ms won on each long one: level at 8 short ones a long one.
    "more short ones": (CROSSING, {"traffic": {16: 12, 512: 1}}, "onnx"),
    "more long ones": (CROSSING, {"traffic": {16: 7, 512: 1}}, "eager"),
    "between cells": (
        CROSSING, {"traffic": {16: 1, 264: 1}}, "eager", "take eager: 1.19× as fast as onnx, the next",
        "32.50 ms a request in the mean (95% interval 32.50–32.50 ms)", "50% of the calls lie between measured shapes",
    ),
    "beyond the grid": (
        CROSSING, {"traffic": {16: 3, (4, 1024): 1}}, "onnx", "5.000 ms a request in the mean",
        "25% of the requests lie beyond the measured grid or in a hole of it, and count for nothing in the time here: "
        "4×1024; measure with --batches 1,4 --lengths 16,512,1024",
    ),
    "three that are alike": (
        {"compile": {16: 10.0}, "onnx": {16: 10.05}, "eager": {16: 10.04}}, {}, "eager",
        "take eager: within 3% of the best, as compile and onnx are, and the simplest of them",
        "eager, onnx, openvino, compile, aoti, torchscript",
    ),
    "rounds that scatter": (
        {"eager": {16: 10.5}, "onnx": {16: rounds(10, *NOISY)}}, {}, UNDECIDED,
        "undecided: onnx leads; 1.1× as fast as eager, the next (", "at 1×16, about", "settle onnx within 3%",
    ),
    "rounds that agree": ({"eager": {16: 11}, "onnx": {16: rounds(10, *NEARLY)}}, {}, "onnx", "1.10× as fast as"),
    "what both share within a round cancels": (
        {"eager": {16: rounds(11, *NOISY)}, "onnx": {16: rounds(10, *NOISY)}}, {}, "onnx", "1.10× as fast as eager",
    ),
    "no turns are paired that were none": (
        {name: {16: {"ms": rounds(ms, *NOISY), "is_interleaved": False}} for name, ms in (("eager", 11), ("onnx", 10))},
        {}, UNDECIDED, "undecided: onnx leads",
    ),
    "3 percent are given up for simplicity": ({"onnx": {16: 10}, "eager": {16: 10.2}}, {}, "eager"),
    "and no more": ({"onnx": {16: 10}, "eager": {16: 10.4}}, {}, "onnx", "take onnx: 1.04× as fast as eager"),
    "and none that is not known": (
        {"onnx": {16: rounds(10, *WIDE)}, "eager": {16: rounds(10.2, *LEVEL)}}, {}, UNDECIDED, "onnx leads",
    ),
    "the simplest within 3 percent": (
        {"onnx": {16: 10}, "eager": {16: 10.4}, "compile": {16: 9.9}}, {}, "onnx",
        "take onnx: within 3% of the best, as compile is, and the simplest of them",
    ),
    # Five rounds whose ratios scatter so that 1 lies within the 99 % interval and outside that of 95 %.
    "regret is told at 95 percent": (
        {"eager": {16: rounds(10, 1.05, 1.02, 1.10, 1.13, 1.08, samples=1)}, "onnx": {16: rounds(10, *LEVEL, samples=1)}},
        {}, "onnx", "take onnx: 1.1× as fast as eager, the next",
    ),
    "a larger regret is accepted": (
        {"onnx": {16: rounds(10, *SCATTERED)}, "eager": {16: 10.1}}, {"max_regret": "30%"}, "onnx", "take onnx: at most ",
    ),
    "and not unasked": (
        {"onnx": {16: rounds(10, *SCATTERED)}, "eager": {16: 10.1}}, {}, UNDECIDED, "undecided: onnx leads",
    ),
    "a wide interval": (
        {"eager": {16: rounds(10, 4, 2, 9, 3, 12, 5, 3, 8, samples=1)}, "onnx": {16: rounds(10, *[1] * 8, samples=1)}},
        {}, "onnx", "take onnx: 2.", "× as fast as eager, the next (95%)",
    ),
    "a single round": (
        {"eager": {16: [[100]]}, "onnx": {16: [[10]]}}, {}, UNDECIDED,
        "undecided: onnx leads; fewer than 3 rounds were taken at 1 of 1 shape", "at least 2 rounds at 1×16 are lacking",
    ),
    "two rounds": ({"eager": {16: [[100], [100]]}, "onnx": {16: [[10], [10]]}}, {}, UNDECIDED, "onnx leads"),
    "one candidate alone": ({"eager": {16: [[100]]}}, {}, "eager", "take eager: no other runtime qualifies"),
    "copies and null are none": (
        {"eager": {16: 10}, "eager@2": {16: 9}, "null": {16: 0.1}}, {}, "eager",
        "take eager: no other runtime qualifies",
    ),
    "a disturbed machine": (
        {"eager": {16: 10}, "onnx": {16: {"ms": 5, "conditions": BUSY}}}, {}, UNDECIDED,
        "undecided: onnx leads; the machine was disturbed at 1 of 1 shape", "at least 3 rounds at 1×16 are lacking",
        "fewer than 3 quiet rounds of two runtimes decide nothing (100% of the weight)",
    ),
    "a fifth of the weight is disturbed": (
        {name: dict.fromkeys(range(1, 5), ms) | {5: {"ms": ms, "conditions": BUSY}}
         for name, ms in (("eager", 10), ("onnx", 5))},
        {}, "onnx", "fewer than 3 quiet rounds of two runtimes count for nothing (20% of the weight)",
    ),
    "more than a fifth is": (
        {name: dict.fromkeys(range(1, 4), ms) | {5: {"ms": ms, "conditions": BUSY}}
         for name, ms in (("eager", 10), ("onnx", 5))},
        {}, UNDECIDED, "undecided: onnx leads; the machine was disturbed at 1 of 4 shapes",
    ),
    # 2 × 1 × 1 × 1 × 0.25: quiet rounds alone would say eager.
    "nobody is taken against what was disturbed": (
        {"eager": {**dict.fromkeys(range(1, 5), 9), 5: {"ms": 40, "conditions": BUSY}},
         "onnx": dict.fromkeys(range(1, 6), 10)},
        {}, UNDECIDED, "undecided: onnx leads",
    ),
    "a deprecated format": (
        {"eager": {16: 10}, "torchscript": {16: 5}}, {}, "eager", "take eager: no other runtime qualifies",
        "leaving out torchscript, which is deprecated, costs 100% (at most 100%, 95%)",
        "torchscript: deprecated upstream; --allow-deprecated lets it in",
    ),
    "a deprecated format that is slower": (
        {"eager": {16: 5}, "torchscript": {16: 10}}, {}, "eager",
        "leaving out torchscript, which is deprecated, costs nothing",
    ),
    "a deprecated format as asked": (
        {"eager": {16: 10}, "torchscript": {16: 5}}, {"allow_deprecated": True}, "torchscript",
        "TorchScript is deprecated upstream",
    ),
    # Constraints.
    "lossy": (
        {"eager": {16: 10}, "onnx": {16: LOSSY}}, {}, "eager",
        "onnx: parity lossy at 1×16, max |Δ| 3.0e-03 at 1×16; equivalent is asked",
    ),
    "lossy as asked": ({"eager": {16: 10}, "onnx": {16: LOSSY}}, {"min_parity": "lossy"}, "onnx", "not the same model"),
    "exact is asked": ({"eager": {16: 10}, "onnx": {16: LOSSY}}, {"min_parity": "exact"}, None),
    **{
        f"{verdict or 'no verdict'} never qualifies": (
            {"eager": {16: {"ms": 10, "parity": {"verdict": verdict} if verdict else {}}}}, {"min_parity": "lossy"},
            None, "take none: no runtime keeps what is asked",
        )
        for verdict in ("broken", "unjudged", "")
    },
    "implausible": (
        {"eager": {16: 10}, "onnx": {16: {"ms": 5, "operations": {"flops": 10**8, "weight_bytes": 1}}}}, {}, "eager",
        "onnx: implausible at 1×16: faster than this machine can be",
    ),
    "too much memory": (
        {"eager": {16: 10}, "onnx": {16: {"ms": 5, "memory": {"peak": {"peak_process_bytes": 2_500_000_000}}}}},
        {"max_memory": "2GB"}, "eager", "onnx: memory 2.33 GiB: 25% above 1.86 GiB (2GB)",
    ),
    "unknown memory": (
        {"eager": {16: {"ms": 10, "memory": {}}}}, {"max_memory": "2GB"}, None,
        "eager: memory not known: the peak of some call was not noted",
    ),
    # 9 of 10 requests take 5 ms and one 140 ms: p90 5 ms, p95 140 ms.
    "a level is kept": (CROSSING, {"traffic": {16: 91, 512: 9}, "slo": "p90=20ms"}, "onnx"),
    "a level is missed": (
        CROSSING, {"traffic": {16: 91, 512: 9}, "slo": "p95=110ms"}, "eager", "onnx: p95 140 ms: 27% above 110 ms",
    ),
    "a level needs its calls": (
        {"eager": {16: 10}, "onnx": {16: [[5] * 4] * 10}}, {"slo": "p95=20ms"}, "eager",
        "onnx: p95 not known (about 5 ms): 40 calls where 130 are needed; more --max-seconds-per-cell",
    ),
    "a level that half the calls miss": (
        {"onnx": {16: [[5] * 4] * 10}}, {"slo": "p95=2ms"}, None, "onnx: p50 5 ms: 150% above 2 ms",
    ),
    "what is not known is no failure": (
        {"onnx": {16: [[5] * 4] * 10}}, {"slo": "p95=20ms"}, None,
        "take none: whether any runtime keeps what is asked is not known",
    ),
    "means of calls that cannot have missed": (
        {"onnx": {16: {"ms": 0.5, "calls_per_sample": 10}}}, {"slo": "p95=5ms"}, "onnx",
    ),
    "means of calls that can": (
        {"onnx": {16: {"ms": 0.5, "calls_per_sample": 10}}}, {"slo": "p95=4ms"}, None, "were timed several at once",
    ),
    "a level on two calls": (
        {"onnx": {16: [[10] * 650] * 2, 512: [[30], [31]]}}, {"traffic": {16: 97, 512: 3}, "slo": "p99=40ms"}, None,
        "p99 not known (about 3",
    ),
    "off the grid, p90": (CROSSING, {"traffic": {16: 96, 1024: 4}, "slo": "p90=20ms"}, "onnx"),
    "off the grid, p95": (CROSSING, {"traffic": {16: 96, 1024: 4}, "slo": "p95=20ms"}, "onnx"),
    "off the grid, p99": (
        CROSSING, {"traffic": {16: 96, 1024: 4}, "slo": "p99=20ms", "max_memory": "2GB"}, None,
        "eager, onnx: p99 not known: 4% of the requests lie off the measured grid; "
        "memory not known for 4% of the requests, off the grid",
    ),
    "every failure": (
        {"eager": {16: 10}, "onnx": {16: LOSSY}}, {"slo": "p50=1ms", "max_memory": "0.1GB"}, None,
        "eager: p50 10 ms: 900% above 1 ms; memory 572 MiB: 500% above 95 MiB (0.1GB)",
        "onnx: parity lossy at 1×16, max |Δ| 3.0e-03 at 1×16; equivalent is asked; p50 5 ms: 400% above 1 ms; memory",
    ),
    # Throughput.
    "one by one": (BATCHED, {"traffic": {16: 1}}, "eager"),
    "in its best batches": (
        BATCHED, {"traffic": {16: 1}, "objective": "throughput"}, "onnx", "8.000 ms a sequence in the mean",
        "its best batches: 8 at length 16",
    ),
    "a batch off the grid": (
        BATCHED, {"traffic": {(64, 16): 1}, "objective": "throughput"}, "onnx", "8.000 ms a sequence in the mean",
    ),
    "a level bounds the batch": (
        BATCHED, {"traffic": {16: 1}, "objective": "throughput", "slo": "p50=50ms"}, "eager",
    ),
    **{
        f"a batch that {name} is none": (
            {"onnx": {16: 5, (8, 16): {"ms": 15} | changed}}, {"traffic": {16: 1}, "objective": "throughput"} | options,
            "onnx", f"its best batches: {batch} at length 16",
        )
        for name, changed, options, batch in (
            ("keeps everything", {}, {}, 8),
            # One call in ten takes twice as long.
            ("misses p95", {"ms": [[15.0] * 18 + [30] * 2] * ROUNDS}, {"slo": "p95=20ms"}, 1),
            ("is lossy", {"parity": {"verdict": "lossy"}}, {}, 1),
            ("holds too much", {"memory": {"peak": {"peak_process_bytes": 5 * 10**9}}}, {"max_memory": "2GB"}, 1),
            ("has no known memory", {"memory": {"loaded": {"process_bytes": 10**10}}}, {"max_memory": "2GB"}, 1),
        )
    },
    # Starts.
    "a start pays back": (
        {"eager": {16: {"ms": 10, "load": 0.5}}, "onnx": {16: {"ms": 8, "load": 2.0, "first_call_ms": 508}}}, {}, "onnx",
        "starts in 2.5 s (loading and its first call): pays back after 1,000 requests against eager (0.5 s)",
    ),
    "not between two restarts": (
        {"eager": {16: {"ms": 10, "load": 0.5}}, "onnx": {16: {"ms": 8, "load": 2.0, "first_call_ms": 508}}},
        {"requests_per_restart": 500}, "eager", "1.18× as fast as onnx",  # 8 + 2500 / 500 = 13 over 10 + 1
    ),
    "between two restarts": (
        {"eager": {16: {"ms": 10, "load": 0.5}}, "onnx": {16: {"ms": 8, "load": 2.0, "first_call_ms": 508}}},
        {"requests_per_restart": 5000}, "onnx",
    ),
    "a start that was not timed": ({"eager": {16: 10}, "onnx": {16: {"ms": 5, "load": None}}}, {}, "onnx"),
    "a start that was not timed cannot be spread": (
        {"eager": {16: 10}, "onnx": {16: {"ms": 5, "load": None}}}, {"requests_per_restart": 1}, "eager",
        "onnx: its start was not timed, so --requests-per-restart cannot count it",
    ),
    "a restart is shared by sequences": (
        {"eager": {16: {"ms": 10, "load": 4.0}, (8, 16): {"ms": 80, "load": 4.0}}},
        {"traffic": {(4, 16): 1}, "objective": "throughput", "requests_per_restart": 100}, "eager",
        "20.00 ms a sequence in the mean",  # 10 + 4000 / 400
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "options", "chosen", "said"), [(a, b, c, d) for a, b, c, *d in CHOICES.values()], ids=CHOICES
)
def test_a_choice_and_what_is_said_of_it(
    cells: dict[str, Any], options: dict[str, Any], chosen: str | None, said: list[str]
) -> None:
    requests = {"traffic": traffic(options["traffic"])} if "traffic" in options else {}
    found = choose(run_of(**cells, notes=PEAKS), **(options | requests))
    expected = {UNDECIDED: (None, 6), None: (None, 5)}.get(chosen, (chosen, 0))
    assert (found.chosen and found.chosen.label, found.exit_code) == expected
    for words in said:
        assert any(words in line for line in told(found)), (words, told(found))


def test_less_data_never_gives_a_firmer_choice() -> None:
    draw = random.Random(0)
    samples = {
        name: [ms * math.exp(draw.gauss(0, 0.03)) for _ in range(60)] for name, ms in (("eager", 11), ("onnx", 10))
    }
    found = [
        choose(run_of(**{name: {16: [[one] for one in of[:n]]} for name, of in samples.items()})) for n in (1, 2, 3, 60)
    ]
    assert [found[0].exit_code, found[1].exit_code, found[3].exit_code] == [6, 6, 0]
    bounds = [one.regrets["eager"].bound for one in found]
    assert bounds[0] == bounds[1] == math.inf > bounds[2] > bounds[3] > 0.03


def test_the_figure_lies_within_its_interval_and_is_that_of_the_ranks() -> None:
    """One stalled round in ten moves the mean of the rounds, and the interval with it."""
    found = choose(run_of(eager={16: rounds(10, *[1] * 9, 3)}, onnx={16: 10.5}), traffic=traffic({16: 1}))
    eager = of(found, "eager")
    interval = found.interval_ns(eager)
    assert eager.mean_ns == pytest.approx(12 * MS)
    assert interval is not None and interval.low < 12 * MS < interval.high
    assert math.sqrt(interval.low * interval.high) == pytest.approx(12 * MS)
    assert [one.label for one in found.order] == ["onnx", "eager"]


def test_below_fp32_nothing_is_taken_unless_its_loss_may_be_lost() -> None:
    def run(**loss: float) -> Run:
        parity = {"verdict": "lossy", "max_abs_error": 1e-2} | loss
        return run_of([cell("eager", 1, 16, 4, precision="bf16", parity=parity)], eager={16: 10})

    for loss, options, chosen, said in (
        ({"loss": 0.004}, {}, "eager fp32", "below fp32, of which nothing is taken without --max-loss"),
        ({"loss": 0.004}, {"min_parity": "lossy"}, "eager fp32", "below fp32"),
        ({"loss": 0.004}, {"max_loss": "1%"}, "eager bf16", ""),
        ({"loss": 0.004}, {"max_loss": "1%", "min_parity": "equivalent"}, "eager fp32", "parity lossy"),
        ({"loss": 0.02}, {"max_loss": "1%"}, "eager fp32", "it loses 2.00% of the output's RMS, and --max-loss is 1"),
        ({}, {"max_loss": "1%"}, "eager fp32", "what it loses is not known, as its run does not say; measure it again"),
    ):
        found = choose(run(**loss), **options)  # type: ignore[arg-type]
        assert found.chosen is not None and found.chosen.label == chosen, (loss, options)
        assert any(said in line for line in told(found)), (said, told(found))


def test_what_no_choice_can_rest_on_is_refused(tmp_path: Path) -> None:
    load = made.run_of([made.record("eager", Rate(1, 10.0))], Load, rate="10")
    one, other = (run_of(eager={16: 10}, cpu=cpu) for cpu in "ab")
    for runs, options, message in (
        ([], {}, "no run was given"),
        (run_of(null={16: 0.1}), {}, "no runtime that computes the model"),
        (load, {}, "is a run of bench load, which does not time one call at each shape; give a run of bench compare"),
        (run_of(**CROSSING), {"traffic": traffic({(4, 1024): 1})}, "no request of the traffic lies within what was"),
        ([one, one], {}, "are the same run"),
        ([one, one], {"device_map": True}, "are the same run"),
        ([one, other], {}, "--device-map chooses among machines"),
        *(
            ([one, replace(other, model=replace(other.model, **change))], {"device_map": True}, f"differ in {name}")
            for name, change in (("weights", {"origin": "x (seed 1)"}), ("model", {"name": "gpt2"}), ("task", {"task": "lm"}))
        ),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            choose(runs, **options)  # type: ignore[arg-type]
    path = made.write(run_of(**CROSSING), tmp_path / "run.jsonl")
    whole = path.read_text()
    path.write_text(whole.replace("10000000", "10000001", 1))
    with pytest.raises(UserError, match="was altered after it was written"):
        choose(path)
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    cut = choose(path)
    assert "CUT: this file has no seal" in render(cut)
    assert json.loads(render(cut, "json"))["runs"][0]["integrity"] == "cut"


def test_what_was_not_measured_disqualifies_for_the_traffic_that_needs_it() -> None:
    at = [(b, n) for b in (1, 8) for n in (16, 512)]
    oom = {"status": "oom", "reason": "out of memory"}
    run = run_of(eager=dict.fromkeys(at, 10), onnx=dict.fromkeys(at[:-1], 5) | {(8, 512): oom})
    needs = choose(run, traffic=traffic({16: 3, (8, 512): 1}))
    assert report.failures(needs) == ["onnx: 8×512 oom: out of memory (25% of the calls rest on it)"]
    assert (needs.chosen and needs.chosen.label, of(needs, "onnx").mean_ns) == ("eager", None)
    spared = choose(run, traffic=traffic({16: 3, 512: 1}))
    assert spared.chosen is not None and spared.chosen.label == "onnx"
    cut = run_of(**CROSSING)
    cut.records.pop()
    cut.is_complete, cut.path = False, Path("run.jsonl")
    found = choose(cut)
    assert [f.constraint for f in of(found, "onnx").failures] == ["measured"]
    assert any("--resume" in line for line in told(found))


def test_what_a_budget_left_out_is_no_failure() -> None:
    run = run_of(**CROSSING)
    kept = replace(run, notes={"budget": [0]}, records=[one for one in run.records if one.point == Shape(1, 16)])
    assert choose(kept, traffic=traffic({16: 1, 512: 1})).outside == ((Shape(1, 512), 0.5),)
    refused = {128: {"status": "skipped", "reason": "left out by --budget 1200s"}}
    run = run_of(cells(eager=refused, onnx=refused), notes={"budget": [0, 2, 1]}, **CROSSING)
    found = choose(run, traffic=traffic({64: 1}))
    assert (found.exit_code, set(of(found, "onnx").records)) == (0, {Shape(1, 16), Shape(1, 512)})


def test_a_runtime_that_compiles_every_shape_pays_for_the_shapes_that_come() -> None:
    compiled = {length: {"ms": 5, "load": 1.0, "first_call_ms": 30_005} for length in (16, 512)}
    run = run_of(compile=compiled, eager={16: 10, 512: 10})
    for lengths, seconds in (((16, 512), 61), ((16, 100, 200, 300), 121)):
        found = choose(run, traffic=traffic(dict.fromkeys(lengths, 1)))
        assert of(found, "compile").one_time_seconds == pytest.approx(seconds)
        assert of(found, "eager").one_time_seconds == 0
    rare = choose(run, traffic=traffic({16: 999_999, 512: 1}), requests_per_restart=1000)
    assert of(rare, "compile").mean_ns == pytest.approx((5 + 31_030 / 1000) * MS, rel=1e-3)


def test_cost_weighs_machines_by_their_price() -> None:
    runs = [run_of(eager={16: ms}, cpu=cpu) for cpu, ms in (("fast", 5), ("slow", 20))]
    for objective, price, headline in (
        ("latency", "1.0,0.1", "take eager (run 1): 4.0× as fast as eager (run 2), the next"),
        ("throughput", "1.0,0.1", "take eager (run 1): 4.0× as fast as eager (run 2), the next"),
        ("cost", "1.0,0.1", "take eager (run 2): 2.5× as cheap as eager (run 1), the next"),
        ("cost", "1.0,0.25", "take eager (run 1): within 3% of the best, as eager (run 2) is, and the simplest"),
    ):
        found = choose(runs, device_map=True, objective=objective, price=price)
        assert report.headline(found).startswith(headline)
        assert found.candidates[1].tokens_per_dollar == pytest.approx(16 / 0.020 * 3600 / float(price[4:]))
    second = replace(run_of(onnx={16: 5}), started="2026-01-02T00:00:00+00:00")
    assert choose([run_of(eager={16: 10}), second]).chosen.label == "onnx (run 2)"  # type: ignore[union-attr]


def test_a_candidate_is_labelled_with_its_precision_if_there_are_several() -> None:
    found = choose(run_of([cell("eager", 1, 16, 4, precision="bf16")], eager={16: 10}))
    assert [candidate.label for candidate in found.candidates] == ["eager bf16", "eager fp32"]
    assert found.chosen is not None and found.chosen.candidate == Candidate("eager", "default", "fp32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slo": "p95=20"}, "--slo 'p95=20' is no service level"),
        ({"slo": "p42=20ms"}, "--slo p42 is none of"),
        ({"slo": "p95=0ms"}, "is not above 0"),
        ({"max_memory": "0"}, "must be positive"),
        ({"price": "0.4,1"}, "--price names 2 prices for 1 run"),
        ({"price": "-1"}, "--price '-1' is not a price"),
        ({"price": "0"}, "--price '0' is not a price"),
    ],
)
def test_wrong_constraints_are_named(options: dict[str, Any], message: str) -> None:
    """Beside those of the golden exit codes."""
    with pytest.raises(UserError, match=message):
        choose(run_of(**CROSSING), **options)


def test_service_levels_are_read() -> None:
    assert [(slo.rank, slo.limit_ns) for slo in parse_slo("p95=20ms, p50<=350us")] == [(95, 20e6), (50, 350e3)]


# Percentiles of all calls.


def mixture(*of: tuple[float, Sequence[float]]) -> Mixture:
    """Calls of shapes 1×1, 1×2, … with these weights and samples in ms."""
    records = {Shape(1, n): cell("eager", 1, n, [samples]) for n, (_, samples) in enumerate(of, start=1)}
    calls = [(at, weight, Place(MEASURED, {at: 1.0})) for at, (weight, _) in zip(records, of, strict=True)]
    return Mixture(Demand(tuple(calls), records))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_percentile_of_one_shape_is_that_of_its_calls(seed: int) -> None:
    draw = random.Random(seed)
    samples = [10 * math.exp(draw.gauss(0, 0.5)) for _ in range(2000)]
    of_one = mixture((1, samples))
    for rank in (50, 90, 95, 99):
        exact = statistics.percentile([round(ms * MS) for ms in samples], rank)
        assert of_one.percentile_ns(rank) == pytest.approx(exact, rel=0.005)
        assert of_one.effective_samples(rank) == 2000


def test_the_percentile_of_a_mixture_is_that_of_calls_in_those_shares() -> None:
    tail = mixture((1, [10] * 988 + [100] * 12))  # just above a percent
    assert (tail.percentile_ns(98), tail.percentile_ns(99)) == (10 * MS, 100 * MS)
    draw = random.Random(3)
    fast, slow = [draw.uniform(5, 15) for _ in range(900)], [draw.uniform(20, 90) for _ in range(300)]
    both, alike = mixture((9, fast), (1, slow)), sorted(fast + slow[:100])
    for rank in (50, 80, 95, 99):
        assert both.percentile_ns(rank) == pytest.approx(alike[rank * 10 - 1] * MS, rel=0.06)


def test_calls_that_a_percentile_rests_on_are_those_of_the_cell_that_it_lies_in() -> None:
    lopsided = mixture((97, [10] * 1300), (3, [30, 31]))
    assert lopsided.effective_samples(99) < 200 < lopsided.effective_samples(50)
    samples = [float(one) for one in range(1, 201)]
    assert mixture((1, samples), (1, samples)).effective_samples(95) == 400
