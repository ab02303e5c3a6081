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
from bench.choose.grid import INTERPOLATED, MEASURED, ROUNDED_UP, place
from bench.choose.mixture import Mixture
from bench.cli import main
from bench.errors import UserError
from bench.report.choice import render as report_text
from bench.run.record import Once, Record, Run
from bench.spec import Candidate, Shape
from bench.traffic import Traffic, even, even_in_time, parse_slo, read_traffic
from bench.workloads.load import Load, Rate
from tests import made

MS = 1_000_000
ROUNDS = 10


def cell(
    label: str,
    batch: int,
    length: int,
    ms: float = 1,
    jitter: float = 0.0,
    rounds: Sequence[Sequence[float]] | None = None,
    load_seconds: float | None = 0.0,
    first_call_ms: float | None = None,
    calls_per_sample: int = 1,
    **values: Any,
) -> Record:
    """A cell of ten rounds of 20 calls within `jitter` of `ms`, high and low in turn, or of `rounds` in ms."""
    found = rounds or [[ms * (1 + jitter * (-1) ** index)] * 20 for index in range(ROUNDS)]
    first_ns = round((ms if first_call_ms is None else first_call_ms) * MS)
    once = Once(load_seconds=load_seconds, first_call_ns=first_ns, calls_per_sample=calls_per_sample)
    memory = {"loaded": {"process_bytes": 500_000_000}, "peak": {"peak_process_bytes": 600_000_000}}
    return made.record(label, Shape(batch, length), ms=found, **({"once": once, "memory": memory} | values))


def run_of(*records: Record, cpu: str = "test", **values: Any) -> Run:
    return replace(made.run_of(records, fingerprint={"cpu": cpu}), started=f"2026-01-01 {cpu}", **values)


def traffic(counts: Mapping[tuple[int, int], float]) -> Traffic:
    return Traffic({Shape(*shape): count for shape, count in counts.items()}, "test")


def of(choice: Choice, label: str) -> Weighed:
    return next(candidate for candidate in choice.candidates if candidate.label == label)


def crossing(**values: Any) -> Run:
    """onnx wins short lengths, eager long ones."""
    return run_of(
        cell("eager", 1, 16, 10), cell("onnx", 1, 16, 5),
        cell("eager", 1, 512, 100), cell("onnx", 1, 512, 140), **values,
    )  # fmt: skip


# Where a shape lies.


def test_a_measured_shape_is_itself() -> None:
    found = place(Shape(1, 16), [Shape(1, 16), Shape(8, 16)])
    assert found is not None
    assert (found.basis, found.cells) == (MEASURED, ((Shape(1, 16), 1.0),))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(16, 512), st.tuples(*[st.floats(0.1, 10)] * 4))
def test_within_the_grid_what_is_bilinear_is_read_off_exactly(batch: int, length: int, c: tuple[float, ...]) -> None:
    def f(shape: Shape) -> float:
        return c[0] + c[1] * shape.batch + c[2] * shape.length + c[3] * shape.batch * shape.length

    grid = [Shape(b, n) for b in (1, 8) for n in (16, 512)]
    found = place(Shape(batch, length), grid)
    assert found is not None
    assert math.fsum(share for _, share in found.cells) == pytest.approx(1)
    assert math.fsum(share * f(at) for at, share in found.cells) == pytest.approx(f(Shape(batch, length)))
    assert found.basis == (MEASURED if Shape(batch, length) in grid else INTERPOLATED)


def test_what_is_smaller_than_all_is_rounded_up_and_what_is_larger_is_unknown() -> None:
    grid = [Shape(2, 16), Shape(2, 64), Shape(8, 16), Shape(8, 64)]
    small = place(Shape(1, 4), grid)
    assert small is not None
    assert (small.basis, small.cells) == (ROUNDED_UP, ((Shape(2, 16), 1.0),))
    partly = place(Shape(5, 4), grid)
    assert partly is not None
    assert (partly.basis, dict(partly.cells)) == (ROUNDED_UP, {Shape(2, 16): 0.5, Shape(8, 16): 0.5})
    assert place(Shape(9, 16), grid) is None
    assert place(Shape(2, 65), grid) is None


def test_a_grid_with_holes_is_read_off_its_rows_that_reach() -> None:
    grid = [Shape(1, 16), Shape(1, 512), Shape(4, 16), Shape(8, 16), Shape(8, 512)]
    found = place(Shape(4, 264), grid)
    assert found is not None
    assert {at.batch for at, _ in found.cells} == {1, 8}
    assert math.fsum(share * at.batch for at, share in found.cells) == pytest.approx(4)
    assert place(Shape(8, 512), [Shape(1, 512), Shape(8, 16)]) is None


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
def test_traffic_that_is_none_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "traffic.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_traffic(path)


def test_traffic_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_traffic(tmp_path / "missing.csv")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00batch")
    with pytest.raises(UserError, match="not text"):
        read_traffic(tmp_path / "binary")


def test_drawn_requests_follow_the_shares_and_the_seed() -> None:
    shapes = traffic({(1, 16): 3, (8, 16): 1})
    drawn = shapes.draw(random.Random(1), 4000)
    assert drawn == shapes.draw(random.Random(1), 4000)
    assert drawn.count(Shape(1, 16)) / 4000 == pytest.approx(0.75, abs=0.03)


def test_without_traffic_every_shape_counts_alike_in_time() -> None:
    assert even([Shape(1, 1), Shape(2, 1)]).shares() == [(Shape(1, 1), 0.5), (Shape(2, 1), 0.5)]
    shares = dict(even_in_time({Shape(1, 1): 1.0, Shape(2, 1): 3.0}).shares())
    assert shares[Shape(1, 1)] * 1.0 == pytest.approx(shares[Shape(2, 1)] * 3.0)


# The choice.


def test_the_traffic_decides() -> None:
    run = crossing()
    assert choose(run, traffic=traffic({(1, 16): 1})).chosen.label == "onnx"  # type: ignore[union-attr]
    assert choose(run, traffic=traffic({(1, 512): 1})).chosen.label == "eager"  # type: ignore[union-attr]
    # 5 ms are lost on each short request and 40 ms won on each long one: level at 8 short ones a long one.
    assert choose(run, traffic=traffic({(1, 16): 9, (1, 512): 1})).chosen.label == "onnx"  # type: ignore[union-attr]
    assert choose(run, traffic=traffic({(1, 16): 7, (1, 512): 1})).chosen.label == "eager"  # type: ignore[union-attr]


def test_the_mean_is_that_of_the_traffic_with_what_is_between_interpolated() -> None:
    found = choose(crossing(), traffic=traffic({(1, 16): 1, (1, 264): 1}))
    assert of(found, "eager").mean_ns == pytest.approx((10 + 55) / 2 * MS)
    assert of(found, "onnx").mean_ns == pytest.approx((5 + 72.5) / 2 * MS)
    assert of(found, "eager").demand.share_of(INTERPOLATED) == pytest.approx(0.5)
    assert any("50% of the calls lie between measured shapes" in line for line in report.not_measured(found))
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx((5 + 72.5) / (10 + 55))


def test_what_lies_beyond_the_grid_is_told_and_counts_for_nothing() -> None:
    found = choose(crossing(), traffic=traffic({(1, 16): 3, (4, 1024): 1}))
    assert found.outside == ((Shape(4, 1024), 0.25),)
    assert of(found, "onnx").mean_ns == pytest.approx(5 * MS)
    line = next(line for line in report.not_measured(found) if "beyond" in line)
    assert "25% of the requests" in line
    assert "--batches 1,4 --lengths 16,512,1024" in line
    with pytest.raises(UserError, match="no request of the traffic lies within what was measured"):
        choose(crossing(), traffic=traffic({(4, 1024): 1}))


def test_a_tie_goes_to_the_simpler_runtime_and_says_so() -> None:
    run = run_of(cell("torchscript", 1, 16, 10.0), cell("onnx", 1, 16, 10.05), cell("eager", 1, 16, 10.04))
    found = choose(run)
    assert found.best is not None and found.chosen is not None and found.runner_up is not None
    assert (found.chosen.label, found.best.label, found.runner_up.label) == ("eager", "torchscript", "torchscript")
    assert {candidate.label for candidate in found.tied} == {"eager", "onnx"}
    assert report.headline(found) == "take eager: it ties with torchscript and onnx, and is the simplest of them"
    assert any(
        line.startswith("a tie:") and "eager, onnx, openvino, compile, aoti, torchscript" in line
        for line in report.lines(found)
    )


def test_rounds_that_scatter_tie_and_rounds_that_agree_do_not() -> None:
    """10 % apart in the medians: told apart by rounds that agree on it, not by ones that scatter by 30 %."""

    def scattered(backend: str, ms: float, jitter: float) -> Record:
        factors = [1 + jitter * sign for sign in (0, 1, -1, 0.9, -0.9, 0.8, -0.8, 0.7, -0.7, 0)]
        return cell(backend, 1, 16, rounds=[[ms * factor] * 20 for factor in factors])

    noisy = run_of(scattered("eager", 11, 0.0), scattered("onnx", 10, 0.3))
    assert choose(noisy).is_tie
    quiet = run_of(scattered("eager", 11, 0.0), scattered("onnx", 10, 0.01))
    assert not choose(quiet).is_tie
    both = run_of(scattered("eager", 11, 0.3), scattered("onnx", 10, 0.3))
    assert not choose(both).is_tie, "what both shared within each round cancels"


def test_a_tie_gives_up_3_percent_for_simplicity_and_no_more() -> None:
    def scattered(backend: str, ms: float, is_best: bool = False) -> Record:
        factors = [1.3, 0.7, 1, 1.2, 0.8] if is_best else [1, 1, 1, 1, 1]
        return cell(backend, 1, 16, rounds=[[ms * factor] * 20 for factor in factors])

    far = choose(run_of(scattered("onnx", 10, True), scattered("eager", 10.4)))
    assert far.is_tie and not far.is_simplest
    assert far.chosen is not None and far.chosen.label == "onnx"
    assert report.headline(far) == "take onnx: fastest, in a tie with eager"
    near = choose(run_of(scattered("onnx", 10, True), scattered("eager", 10.2)))
    assert near.chosen is not None and near.chosen.label == "eager"
    run = run_of(scattered("onnx", 10), scattered("eager", 10.4), scattered("compile", 9.9, True))
    between = choose(run)
    assert between.chosen is not None and between.chosen.label == "onnx"
    told = report.headline(between)
    assert told == "take onnx: it ties with compile and eager, and is the simplest within 3% of the best"


def test_cells_that_took_no_turns_are_not_paired_by_round() -> None:
    def swinging(backend: str, ms: float, **values: Any) -> Record:
        return cell(backend, 1, 16, ms, jitter=0.3, **values)

    paired = run_of(swinging("eager", 11), swinging("onnx", 10))
    assert not choose(paired).is_tie
    apart = run_of(swinging("eager", 11, is_interleaved=False), swinging("onnx", 10, is_interleaved=False))
    assert choose(apart).is_tie


def test_a_single_round_decides_by_its_figure_and_says_that_nothing_backs_it() -> None:
    records = [cell(label, 1, 16, rounds=[[ms]]) for label, ms in (("eager", 100), ("onnx", 10))]
    found = choose(run_of(*records))
    assert not found.is_tie
    assert found.chosen is not None and found.chosen.label == "onnx"
    assert any("a single round says so" in line for line in report.lines(found))


def test_second_copies_and_what_computes_nothing_are_no_candidates() -> None:
    run = run_of(cell("eager", 1, 16, 10), cell("eager@2", 1, 16, 9), cell("null", 1, 16, 0.1))
    found = choose(run)
    assert [candidate.label for candidate in found.candidates] == ["eager"]
    assert report.headline(found) == "take eager: no other runtime qualifies"
    with pytest.raises(UserError, match="no runtime that computes the model"):
        choose(run_of(cell("null", 1, 16, 0.1)))


# Constraints.


def test_parity_is_a_constraint() -> None:
    run = run_of(cell("eager", 1, 16, 10), cell("onnx", 1, 16, 5, parity={"verdict": "lossy", "max_abs_error": 3e-3}))
    found = choose(run)
    assert found.chosen is not None and found.chosen.label == "eager"
    assert report.failures(found) == ["onnx: parity lossy at 1×16, max |Δ| 3.0e-03 at 1×16; equivalent is asked"]
    lossy = choose(run, min_parity="lossy")
    assert lossy.chosen is not None and lossy.chosen.label == "onnx"
    strict = choose(run, min_parity="exact")
    assert (strict.chosen, strict.exit_code) == (None, 5)


@pytest.mark.parametrize("verdict", ["broken", "unjudged", ""])
def test_what_is_no_model_any_more_never_qualifies(verdict: str) -> None:
    run = run_of(cell("eager", 1, 16, 10, parity={"verdict": verdict} if verdict else {}))
    found = choose(run, min_parity="lossy")
    assert found.chosen is None
    assert found.exit_code == 5
    assert report.headline(found) == "take none: no runtime keeps what is asked"


def test_a_cell_that_failed_disqualifies_for_the_traffic_that_needs_it() -> None:
    failed = cell("onnx", 8, 512, status="oom", reason="out of memory")
    run = run_of(
        *(cell("eager", b, n, 10) for b in (1, 8) for n in (16, 512)),
        *(cell("onnx", b, n, 5) for b in (1, 8) for n in (16, 512) if (b, n) != (8, 512)), failed,
    )  # fmt: skip
    needs = choose(run, traffic=traffic({(1, 16): 3, (8, 512): 1}))
    assert needs.chosen is not None and needs.chosen.label == "eager"
    assert report.failures(needs) == ["onnx: 8×512 oom: out of memory (25% of the calls rest on it)"]
    assert of(needs, "onnx").mean_ns is None
    spared = choose(run, traffic=traffic({(1, 16): 3, (1, 512): 1}))
    assert spared.chosen is not None and spared.chosen.label == "onnx"


def test_an_incomplete_run_disqualifies_where_records_are_missing() -> None:
    run = crossing()
    run.records.pop()
    run.is_complete, run.path = False, Path("run.jsonl")
    found = choose(run)
    assert [f.constraint for f in of(found, "onnx").failures] == ["measured"]
    assert any("--resume" in line for line in report.not_measured(found))


def test_what_a_budget_left_out_is_outside() -> None:
    run = crossing()
    kept = [record for record in run.records if record.point == Shape(1, 16)]
    run = replace(run, notes={"budget": [0]}, records=kept)
    assert choose(run, traffic=traffic({(1, 16): 1, (1, 512): 1})).outside == ((Shape(1, 512), 0.5),)


def test_memory_is_a_constraint_by_how_much() -> None:
    heavy = {"loaded": {"process_bytes": 2_000_000_000}, "peak": {"peak_process_bytes": 2_500_000_000}}
    run = run_of(cell("eager", 1, 16, 10), cell("onnx", 1, 16, 5, memory=heavy))
    found = choose(run, max_memory="2GB")
    assert found.chosen is not None and found.chosen.label == "eager"
    assert report.failures(found) == ["onnx: memory 2.50 GB: 25% above 2.00 GB"]
    unknown = choose(run_of(cell("eager", 1, 16, 10, memory={})), max_memory="2GB")
    assert report.failures(unknown) == ["eager: memory not known: the peak of some call was not noted"]


def test_a_service_level_is_judged_by_the_percentile_of_all_calls() -> None:
    """9 of 10 requests take 5 ms and one 140 ms: p90 5 ms, p95 140 ms."""
    shapes = traffic({(1, 16): 91, (1, 512): 9})
    kept = choose(crossing(), traffic=shapes, slo="p90=20ms")
    assert kept.chosen is not None and kept.chosen.label == "onnx"
    missed = choose(crossing(), traffic=shapes, slo="p95=110ms")
    assert missed.chosen is not None and missed.chosen.label == "eager"
    assert report.failures(missed) == ["onnx: p95 140 ms: 27% above 110 ms"]


def test_a_percentile_needs_its_calls_and_fails_without_them() -> None:
    few = cell("onnx", 1, 16, rounds=[[5] * 4] * 10)
    found = choose(run_of(cell("eager", 1, 16, 10), few), slo="p95=20ms")
    assert found.chosen is not None and found.chosen.label == "eager"
    assert report.failures(found) == [
        "onnx: p95 not known (about 5 ms): 40 calls where 130 are needed; more --max-seconds-per-cell"
    ]
    slow = choose(run_of(few), slo="p95=2ms")
    assert report.failures(slow) == ["onnx: p50 5 ms: 150% above 2 ms"]


def test_means_of_several_calls_keep_a_level_only_where_none_of_them_can_have_missed_it() -> None:
    looped = cell("onnx", 1, 16, 0.5, calls_per_sample=10)
    assert choose(run_of(looped), slo="p95=5ms").exit_code == 0
    unknown = choose(run_of(looped), slo="p95=4ms")
    assert unknown.exit_code == 5
    assert "timed several at once" in report.failures(unknown)[0]


def test_every_failure_of_every_runtime_is_told() -> None:
    run = run_of(cell("eager", 1, 16, 10), cell("onnx", 1, 16, 5, parity={"verdict": "lossy"}))
    found = choose(run, slo="p50=1ms", max_memory="0.1GB")
    assert [len(candidate.failures) for candidate in found.candidates] == [2, 3]


@pytest.mark.parametrize("rank", [50, 90, 95, 99])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_percentile_of_one_shape_is_that_of_its_calls(rank: int, seed: int) -> None:
    draw = random.Random(seed)
    samples = [round(10 * MS * math.exp(draw.gauss(0, 0.5))) for _ in range(2000)]
    of_one = mixture((1, samples))
    assert of_one.percentile_ns(rank) == pytest.approx(statistics.percentile(samples, rank), rel=0.005)
    assert of_one.effective_samples(rank) == 2000


def test_a_tail_just_above_a_percent_fails_a_p99() -> None:
    of_one = mixture((1, [10 * MS] * 988 + [100 * MS] * 12))
    assert of_one.percentile_ns(99) == 100 * MS
    assert of_one.percentile_ns(98) == 10 * MS


def test_the_percentile_of_a_mixture_is_that_of_calls_in_those_shares() -> None:
    draw = random.Random(3)
    fast = [round(draw.uniform(5, 15) * MS) for _ in range(900)]
    slow = [round(draw.uniform(20, 90) * MS) for _ in range(300)]
    both = mixture((9, fast), (1, slow))
    alike = sorted(fast + slow[:100])
    for rank in (50, 80, 95, 99):
        assert both.percentile_ns(rank) == pytest.approx(alike[rank * 10 - 1], rel=0.06)


def test_calls_that_a_percentile_rests_on_are_those_of_the_cell_that_it_lies_in() -> None:
    lopsided = mixture((97, [10 * MS] * 1300), (3, [30 * MS, 31 * MS]))
    assert lopsided.effective_samples(99) < 200
    assert lopsided.effective_samples(50) > 200
    alike = mixture((1, list(range(1, 201))), (1, list(range(1, 201))))
    assert alike.effective_samples(95) == 400


def test_a_level_that_rests_on_two_calls_is_not_known() -> None:
    rare = cell("onnx", 1, 512, rounds=[[30], [31]])
    often = cell("onnx", 1, 16, rounds=[[10] * 650] * 2)
    found = choose(run_of(often, rare), traffic=traffic({(1, 16): 97, (1, 512): 3}), slo="p99=40ms")
    assert found.exit_code == 5
    assert "p99 not known (about 3" in report.failures(found)[0]


def test_requests_off_the_grid_count_against_a_level_and_leave_memory_unknown() -> None:
    shapes = traffic({(1, 16): 96, (1, 1024): 4})
    assert choose(crossing(), traffic=shapes, slo="p90=20ms").exit_code == 0
    assert choose(crossing(), traffic=shapes, slo="p95=20ms").exit_code == 0
    unknown = choose(crossing(), traffic=shapes, slo="p99=20ms", max_memory="2GB")
    assert unknown.exit_code == 5
    assert report.failures(unknown)[0] == (
        "eager: p99 not known: 4% of the requests lie off the measured grid; "
        "memory not known for 4% of the requests, off the grid"
    )


def test_an_implausible_cell_disqualifies(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(cell("eager", 1, 16, 10), cell("onnx", 1, 16, 5))
    assert choose(run).chosen.label == "onnx"  # type: ignore[union-attr]
    monkeypatch.setattr(Run, "is_implausible", lambda run, record: record.candidate.backend == "onnx")
    found = choose(run)
    assert found.chosen is not None and found.chosen.label == "eager"
    assert report.failures(found) == ["onnx: implausible at 1×16: faster than this machine can be"]


def mixture(*cells: tuple[float, list[int]]) -> Mixture:
    """Calls of shapes 1×1, 1×2, … with these weights and samples."""
    records, calls = {}, []
    for length, (weight, samples) in enumerate(cells, start=1):
        shape = Shape(1, length)
        records[shape] = cell("eager", 1, length, rounds=[[sample / MS for sample in samples]])
        found = place(shape, [shape])
        assert found is not None
        calls.append((shape, weight, found))
    return Mixture(calls, records)


# Throughput, cost, one-time costs, machines.


def batched() -> Run:
    """eager does best one by one, onnx in batches of 8, where it gets more through."""
    return run_of(
        cell("eager", 1, 16, 10), cell("onnx", 1, 16, 12),
        cell("eager", 8, 16, 88), cell("onnx", 8, 16, 64),
    )  # fmt: skip


def test_throughput_takes_each_runtime_at_its_best_batch() -> None:
    ones = traffic({(1, 16): 1})
    assert choose(batched(), traffic=ones).chosen.label == "eager"  # type: ignore[union-attr]
    found = choose(batched(), traffic=ones, objective="throughput")
    assert found.chosen is not None and found.chosen.label == "onnx"
    assert (dict(of(found, "eager").batches), dict(of(found, "onnx").batches)) == ({16: 1}, {16: 8})
    assert of(found, "onnx").mean_ns == pytest.approx(8 * MS)
    assert of(found, "onnx").sequences_per_second == pytest.approx(125)
    assert of(found, "onnx").tokens_per_second == pytest.approx(2000)


def test_a_service_level_and_memory_bound_the_batch() -> None:
    found = choose(batched(), traffic=traffic({(1, 16): 1}), objective="throughput", slo="p50=50ms")
    assert found.chosen is not None and found.chosen.label == "eager"
    assert dict(of(found, "onnx").batches) == {16: 1}
    run = batched()
    run.records[3] = replace(run.records[3], memory={"loaded": {"process_bytes": 10**10}})
    bounded = choose(run, traffic=traffic({(1, 16): 1}), objective="throughput", max_memory="2GB")
    assert bounded.chosen is not None and bounded.chosen.label == "eager"
    assert dict(of(bounded, "onnx").batches) == {16: 1}


def test_one_time_costs_pay_back_after_so_many_requests() -> None:
    run = run_of(
        cell("eager", 1, 16, 10, load_seconds=0.5),
        cell("onnx", 1, 16, 8, load_seconds=2.0, first_call_ms=508),
    )  # fmt: skip
    found = choose(run)
    assert found.chosen is not None and found.chosen.label == "onnx"
    assert of(found, "onnx").one_time_seconds == pytest.approx(2.5)
    assert found.pays_back_after(of(found, "eager")) == pytest.approx(1000)
    assert any("pays back after 1,000 requests against eager (0.5 s)" in line for line in report.lines(found))
    often = choose(run, requests_per_restart=500)
    assert often.chosen is not None and often.chosen.label == "eager"
    assert of(often, "onnx").mean_ns == pytest.approx((8 + 2500 / 500) * MS)
    assert choose(run, requests_per_restart=5000).chosen.label == "onnx"  # type: ignore[union-attr]


def test_a_runtime_that_compiles_every_shape_pays_for_every_shape() -> None:
    def compiled(length: int, ms: float) -> Record:
        return cell("compile", 1, length, ms, load_seconds=1.0, first_call_ms=30_000 + ms)

    run = run_of(compiled(16, 5), compiled(512, 50), cell("eager", 1, 16, 10), cell("eager", 1, 512, 100))
    two = choose(run, traffic=traffic({(1, 16): 1, (1, 512): 1}))
    assert of(two, "compile").one_time_seconds == pytest.approx(61)
    between = choose(run, traffic=traffic({(1, length): 1 for length in (16, 100, 200, 300)}))
    assert of(between, "compile").one_time_seconds == pytest.approx(121)
    assert of(between, "eager").one_time_seconds == 0


def test_cost_weighs_machines_by_their_price() -> None:
    fast = run_of(cell("eager", 1, 16, 5), cpu="fast")
    slow = run_of(cell("eager", 1, 16, 20), cpu="slow")
    with pytest.raises(UserError, match="--device-map chooses among machines"):
        choose([fast, slow])
    for objective in ("latency", "throughput"):
        found = choose([fast, slow], device_map=True, objective=objective, price="1.0,0.1")
        assert found.chosen is not None and found.chosen.run is fast
        assert "4.00× as fast as eager (run 2)" in report.headline(found)
    cheap = choose([fast, slow], device_map=True, objective="cost", price="1.0,0.1")
    assert cheap.chosen is not None and cheap.chosen.run is slow
    assert cheap.chosen.tokens_per_dollar == pytest.approx(16 / 0.020 * 3600 / 0.1)
    assert cheap.ratio is not None
    assert cheap.ratio.value == pytest.approx(2.5)
    assert report.headline(cheap) == "take eager (run 2): 2.50× as cheap as eager (run 1), the next"
    level = choose([fast, slow], device_map=True, objective="cost", price="1.0,0.25")
    assert level.is_tie


def test_runs_of_one_machine_are_chosen_among_together() -> None:
    one = run_of(cell("eager", 1, 16, 10))
    other = replace(run_of(cell("onnx", 1, 16, 5)), started="2026-01-02T00:00:00+00:00")
    found = choose([one, other])
    assert found.chosen is not None and found.chosen.label == "onnx (run 2)"
    for is_map in (False, True):
        with pytest.raises(UserError, match="are the same run"):
            choose([one, one], device_map=is_map)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"origin": "seeded random (seed 1)"}, "differ in weights"),
        ({"name": "gpt2"}, "differ in model"),
        ({"task": "lm"}, "differ in task"),
    ],
)
def test_a_device_map_is_of_one_model(model: dict[str, str], message: str) -> None:
    one, other = (run_of(cell("eager", 1, 16, 10), cpu=cpu) for cpu in "ab")
    with pytest.raises(UserError, match=message):
        choose([one, replace(other, model=replace(other.model, **model))], device_map=True)


# What no choice can rest on.


def test_a_run_of_another_workload_is_refused() -> None:
    run = made.run_of([made.record("eager", Rate(1, 10.0))], Load, rate="10")
    with pytest.raises(UserError, match="is a run of bench load, which does not time one call at each shape") as told:
        choose(run)
    assert "give a run of bench compare" in str(told.value)


def test_an_altered_run_is_refused_and_a_cut_one_says_so(tmp_path: Path) -> None:
    path = made.write(crossing(), tmp_path / "run.jsonl")
    assert choose(path).exit_code == 0
    whole = path.read_text()
    path.write_text(whole.replace("10000000", "10000001", 1))
    with pytest.raises(UserError, match="was altered after it was written"):
        choose(path)
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    found = choose(path)
    assert any(line.startswith("CUT: this file has no seal") for line in report.not_measured(found))
    assert "CUT: this file has no seal" in report_text(found)
    assert json.loads(report_text(found, "json"))["runs"][0]["integrity"] == "cut"


def test_the_deprecated_format_is_called_so() -> None:
    found = choose(run_of(cell("eager", 1, 16, 10), cell("torchscript", 1, 16, 5)))
    assert found.chosen is not None and found.chosen.label == "torchscript"
    assert any("deprecated upstream" in line for line in report.lines(found))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "speed"}, "--objective 'speed' is not known"),
        ({"min_parity": "equal"}, "--min-parity 'equal' is not known"),
        ({"slo": "fast"}, "--slo 'fast' is no service level"),
        ({"slo": "p95=20"}, "--slo 'p95=20' is no service level"),
        ({"slo": "p42=20ms"}, "--slo p42 is none of"),
        ({"slo": "p95=0ms"}, "is not above 0"),
        ({"max_memory": "big"}, "--max-memory 'big' is no size"),
        ({"max_memory": "0"}, "must be positive"),
        ({"requests_per_restart": 0}, "--requests-per-restart 0 is below 1"),
        ({"objective": "cost"}, "--objective cost needs"),
        ({"price": "0.4,1"}, "--price names 2 prices for 1 run"),
        ({"price": "-1"}, "--price '-1' is not a price"),
        ({"price": "0"}, "--price '0' is not a price"),
    ],
)
def test_wrong_constraints_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(crossing(), **options)


def test_service_levels_are_read() -> None:
    assert [(slo.rank, slo.limit_ns) for slo in parse_slo("p95=20ms, p50<=350us")] == [(95, 20e6), (50, 350e3)]


def test_a_broken_runtime_does_not_weigh_the_shapes() -> None:
    broken = {"verdict": "broken", "max_abs_error": 1.0}
    alone = choose(crossing())
    beside = run_of(*crossing().records, cell("compile", 1, 16, 1000, parity=broken), cell("compile", 1, 512, 0.001, parity=broken))  # fmt: skip
    assert choose(beside).traffic.shares() == alone.traffic.shares()


def test_throughput_takes_the_largest_batch_that_keeps_everything() -> None:
    """Batch 8 misses p95 (one call in ten takes twice as long), is lossy or holds too much: batch 1 is taken."""
    slow_tail = [[15.0] * 18 + [30] * 2] * ROUNDS
    ones = traffic({(1, 16): 1})
    for changed, options in (
        ({"rounds": slow_tail}, {"slo": "p95=20ms"}),
        ({"parity": {"verdict": "lossy"}}, {}),
        ({"memory": {"peak": {"peak_process_bytes": 5 * 10**9}}}, {"max_memory": "2GB"}),
    ):
        run = run_of(cell("onnx", 1, 16, 5), cell("onnx", 8, 16, 15, **changed))
        assert dict(of(choose(run_of(cell("onnx", 1, 16, 5), cell("onnx", 8, 16, 15)), traffic=ones, objective="throughput"), "onnx").batches) == {16: 8}  # fmt: skip
        found = choose(run, traffic=ones, objective="throughput", **options)  # type: ignore[arg-type]
        assert found.exit_code == 0
        assert dict(of(found, "onnx").batches) == {16: 1}


def test_for_throughput_a_requests_own_batch_need_not_be_on_the_grid() -> None:
    found = choose(batched(), traffic=traffic({(64, 16): 1}), objective="throughput")
    assert found.outside == ()
    assert of(found, "onnx").mean_ns == pytest.approx(8 * MS)


def test_a_thinned_grid_is_read_off_the_rows_around_and_its_holes_are_unknown() -> None:
    grid = [Shape(1, 8), Shape(1, 64), Shape(1, 512), Shape(2, 256), Shape(8, 8), Shape(8, 64)]
    found = place(Shape(2, 64), grid)
    assert found is not None
    assert found.basis == INTERPOLATED
    assert dict(found.cells) == {Shape(1, 64): pytest.approx(6 / 7), Shape(8, 64): pytest.approx(1 / 7)}
    assert place(Shape(4, 128), grid) is None


def test_a_shape_that_a_budget_refused_on_the_way_is_no_failure() -> None:
    reason = "left out by --budget 1200s"
    refused = [cell(label, 1, 128, status="skipped", reason=reason) for label in ("eager", "onnx")]
    run = run_of(*crossing().records, *refused, notes={"budget": [0, 2, 1]})
    found = choose(run, traffic=traffic({(1, 64): 1}))
    assert found.exit_code == 0
    assert set(of(found, "onnx").records) == {Shape(1, 16), Shape(1, 512)}


def test_a_start_that_was_not_timed_cannot_be_spread() -> None:
    run = run_of(cell("eager", 1, 16, 10), cell("onnx", 1, 16, 5, load_seconds=None))
    assert choose(run).chosen.label == "onnx"  # type: ignore[union-attr]
    found = choose(run, requests_per_restart=1)
    assert found.chosen is not None and found.chosen.label == "eager"
    assert [failure.constraint for failure in of(found, "onnx").failures] == ["start"]


def test_rare_shapes_are_compiled_at_few_starts() -> None:
    def compiled(length: int) -> Record:
        return cell("compile", 1, length, 5, load_seconds=1.0, first_call_ms=10_005)

    run = run_of(compiled(16), compiled(512), cell("eager", 1, 16, 10), cell("eager", 1, 512, 10))
    shapes = traffic({(1, 16): 999_999, (1, 512): 1})
    found = choose(run, traffic=shapes, requests_per_restart=1000)
    assert of(found, "compile").mean_ns == pytest.approx((5 + 11_010 / 1000) * MS, rel=1e-3)
    assert of(found, "compile").one_time_seconds == pytest.approx(21)


def test_a_restarts_share_is_of_sequences_where_those_are_counted() -> None:
    run = run_of(cell("eager", 1, 16, 10, load_seconds=4.0), cell("eager", 8, 16, 80, load_seconds=4.0))
    found = choose(run, traffic=traffic({(4, 16): 1}), objective="throughput", requests_per_restart=100)
    assert of(found, "eager").mean_ns == pytest.approx((10 + 4000 / 400) * MS)


def test_what_a_mistake_would_cost_is_told_from_the_right_end() -> None:
    found = choose(run_of(cell("eager", 1, 16, 10.0), cell("onnx", 1, 16, 9.0)))
    line = next(line for line in report.lines(found) if "mistake" in line)
    assert "this choice at worst no more than eager; eager in its place up to 11% more" in line
    tie = choose(run_of(cell("eager", 1, 16, 10.0, jitter=0.02), cell("onnx", 1, 16, 9.95, is_interleaved=False)))
    assert tie.is_tie
    assert tie.ratio is not None and tie.ratio.interval is not None
    line = next(line for line in report.lines(tie) if "mistake" in line)
    assert f"this choice at worst up to {1 / tie.ratio.interval.low - 1:.0%} more than onnx" in line


def test_a_choice_ties_at_95_percent_and_not_at_99() -> None:
    """Five rounds whose ratios scatter so that 1 lies within the 99 % interval and outside that of 95 %."""
    ratios = [1.05, 1.02, 1.10, 1.13, 1.08]
    slow = cell("eager", 1, 16, rounds=[[10 * ratio] for ratio in ratios])
    fast = cell("onnx", 1, 16, rounds=[[10]] * 5)
    wide = statistics.ratio_interval(ratios, 0.99)
    assert wide is not None and wide.low < 1 + statistics.TIE_MARGIN
    found = choose(run_of(slow, fast))
    assert not found.is_tie
    assert found.chosen is not None and found.chosen.label == "onnx"


def test_a_lead_whose_interval_is_wide_is_told_by_its_ends() -> None:
    ratios = [4, 2, 9, 3, 12, 5, 3, 8]
    slow = cell("eager", 1, 16, rounds=[[10 * ratio] for ratio in ratios])
    fast = cell("onnx", 1, 16, rounds=[[10]] * len(ratios))
    found = choose(run_of(slow, fast))
    assert found.ratio is not None and found.ratio.interval is not None
    assert found.ratio.interval.high > 2 * found.ratio.interval.low
    assert report.headline(found).startswith("take onnx: faster than eager, the next (")


def test_what_is_not_known_is_not_called_a_failure() -> None:
    few = cell("onnx", 1, 16, rounds=[[5] * 4] * 10)
    found = choose(run_of(few), slo="p95=20ms")
    assert report.headline(found) == "take none: whether any runtime keeps what is asked is not known"
    assert found.exit_code == 5


def test_a_disturbed_measurement_is_said_in_the_headline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "disturbances", lambda run, record: ["other work"])
    found = choose(run_of(cell("eager", 1, 16, 10), cell("onnx", 1, 16, 5)))
    assert report.headline(found) == "take onnx: 2.00× as fast as eager, the next, on a disturbed machine"


def test_deprecated_runtimes_are_marked_wherever_they_stand() -> None:
    text = report_text(choose(run_of(cell("eager", 1, 16, 5), cell("torchscript", 1, 16, 10))))
    assert "torchscript †" in text
    assert "† TorchScript is deprecated upstream" in text


# The command.


def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["bench", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    code = stopped.value.code
    return (code if isinstance(code, int) else 0), out, err


def test_the_command_prints_chooses_and_exits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(made.write(crossing(), tmp_path / "run.jsonl"))
    requests = tmp_path / "traffic.csv"
    requests.write_text("batch,length,count\n1,16,9\n1,512,1\n")
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = bench(monkeypatch, capsys, "choose", run, "--traffic", str(requests))
    assert code == 0
    assert "take onnx: 1.03× as fast as eager, the next" in out
    assert "traffic.csv (10 requests, 2 shapes)" in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = bench(monkeypatch, capsys, "choose", run, "--slo", "p95=1ms", "--format", "json")
    found = json.loads(out)
    assert (code, found["exit_code"], found["chosen"]) == (5, 5, None)
    assert [candidate["failures"][0]["constraint"] for candidate in found["candidates"]] == ["p95", "p95"]
    code, _, err = bench(monkeypatch, capsys, "choose", run, "--objective", "fast")
    assert code == 2
    assert err.count("\n") == 1


def test_statistics_of_two_runs_at_the_choices_confidence_are_narrower() -> None:
    one, other = [[10.0 + index % 3] for index in range(12)], [[20.0 + index * 0.1] for index in range(12)]
    wide, narrow = (statistics.ratio_of_runs(other, one, confidence) for confidence in (0.99, 0.95))
    assert wide is not None and narrow is not None and wide.interval is not None and narrow.interval is not None
    assert wide.interval.low <= narrow.interval.low <= narrow.value <= narrow.interval.high <= wide.interval.high
    assert (wide.interval.low, wide.interval.high) != (narrow.interval.low, narrow.interval.high)
    few = statistics.ratio_of_runs(other[:3], one[:3], 0.95)
    assert few is not None and few.interval is not None


def test_a_candidate_is_labelled_with_its_precision_if_there_are_several() -> None:
    half = cell("eager", 1, 16, 4, precision="bf16")
    found = choose(run_of(cell("eager", 1, 16, 10), half))
    assert [candidate.label for candidate in found.candidates] == ["eager fp32", "eager bf16"]
    assert found.chosen is not None and found.chosen.candidate == Candidate("eager", "default", "bf16")
