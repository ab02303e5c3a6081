"""Verdicts of `bench diff`: properties that hold for any samples, and every way that a cell can be lost."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.comparison import (
    REGRESSION_EXIT_CODE,
    VERDICTS,
    Cell,
    Comparison,
    change_of,
    changes,
    compare_runs,
    in_order,
    labels,
    obstacles,
    weights_of,
)
from bench.errors import UserError
from bench.machine.roofline import Peaks
from bench.records import Record, Run
from bench.spec import Candidate, Grid, Shape, TimingPlan

MS = 1_000_000
STARTED = "2026-01-01T00:00:00+00:00"

rounds_of_samples = st.lists(
    st.lists(st.integers(min_value=1, max_value=10**12), min_size=1, max_size=4), min_size=1, max_size=12
)
#: Figures so close to each other and so few that ends of intervals meet the threshold exactly.
near_rounds = st.lists(
    st.lists(st.integers(min_value=95, max_value=105), min_size=1, max_size=2), min_size=2, max_size=12
)
thresholds = st.floats(min_value=0, max_value=0.99, allow_nan=False)


def record(
    backend: str = "eager", ms: float = 10.0, verdict: str = "equivalent", status: str = "ok", **values
) -> Record:
    rounds = [[round(ms * MS * (1 + 0.001 * (i % 3)))] * 3 for i in range(10)] if status == "ok" else []
    fields = {
        "model": "bert", "backend": backend, "variant": "default", "precision": "fp32", "device": "cpu", "batch": 1, "length": 16,
        "status": status, "rounds": rounds, "parity": {"verdict": verdict} if status == "ok" else {},
    }  # fmt: skip
    return Record(**(fields | values))


def run_of(*records: Record, planned: tuple[str, ...] = ("eager",), started: str = STARTED, **values) -> Run:
    contestants = dict.fromkeys([*(Candidate(name, "default", "fp32") for name in planned)])
    contestants |= dict.fromkeys(entry.contestant for entry in records)
    grid = Grid("bert", tuple(contestants), (Shape(1, 16),), "cpu", 2)
    made = Run(
        grid, TimingPlan(), {"cpu": "A CPU", "cpus": 2, "versions": {}}, "seeded random (seed 0)", "c0ffee", "bench compare",
        started, list(records),
    )  # fmt: skip
    made.is_complete = True
    return replace(made, **values)


def only_cell(*runs: Run, threshold: float = 0.05) -> Cell:
    (cell,) = compare_runs(runs, threshold).cells
    return cell


# Verdicts.


@given(rounds_of_samples, thresholds)
def test_a_run_against_itself_is_never_slower_or_faster(rounds: list[list[int]], threshold: float) -> None:
    assert change_of(rounds, rounds).verdict(threshold) in ("same", "ambiguous")
    assert change_of(rounds, rounds).value == 1


@pytest.mark.parametrize("strategy", [rounds_of_samples, near_rounds], ids=["any", "near"])
def test_exchanging_the_runs_exchanges_slower_and_faster(strategy) -> None:
    exchanged = {"slower": "faster", "faster": "slower", "same": "same", "ambiguous": "ambiguous"}

    @given(strategy, strategy, st.sampled_from([0, 1 / 99, 0.05, 5 / 96]) | thresholds)
    def holds(old: list[list[int]], new: list[list[int]], threshold: float) -> None:
        assert change_of(new, old).verdict(threshold) == exchanged[change_of(old, new).verdict(threshold)]

    holds()


@given(rounds_of_samples | near_rounds, rounds_of_samples | near_rounds, thresholds, thresholds)
def test_a_larger_threshold_lets_more_pass(old, new, one: float, other: float) -> None:
    change, small, large = change_of(old, new), min(one, other), max(one, other)
    strict, lenient = change.verdict(small), change.verdict(large)
    if strict == "same":
        assert lenient == "same"
    if lenient in ("slower", "faster"):
        assert strict == lenient


@given(rounds_of_samples, rounds_of_samples)
def test_a_change_lies_in_its_interval_and_its_inverse_in_the_other(old, new) -> None:
    change = change_of(old, new)
    if min(len(old), len(new)) < 2:
        assert change.interval is change.inverse is None
        assert change.verdict(0.05) == "ambiguous"
        return
    assert change.interval is not None
    assert change.inverse is not None
    assert change.value in change.interval
    if change.interval.low > 0 and math.isfinite(change.interval.high):
        assert change.inverse.high == pytest.approx(1 / change.interval.low)


@given(near_rounds.filter(lambda rounds: len(rounds) >= 8), st.integers(min_value=2, max_value=50))
def test_what_takes_many_times_longer_is_slower(rounds: list[list[int]], factor: int) -> None:
    long = [[1000 * factor * sample for sample in round_] for round_ in rounds]
    change = change_of(rounds, long)
    assert change.value == pytest.approx(1000 * factor)
    assert change.verdict(0.05) == "slower"


@pytest.mark.parametrize(
    ("ms", "verdict"), [(12, "slower"), (8, "faster"), (10.1, "same"), (10.49, "ambiguous"), (10.6, "slower")]
)
def test_verdicts_at_five_percent(ms: float, verdict: str) -> None:
    cell = only_cell(run_of(record()), run_of(record(ms=ms)))
    assert (cell.verdict, cell.is_regression) == (verdict, verdict == "slower")
    assert cell.change is not None
    assert cell.change.value == pytest.approx(ms / 10, rel=0.01)
    assert cell.medians_ns[0] == pytest.approx(10 * MS, rel=0.01)


def test_a_larger_threshold_forgives() -> None:
    runs = run_of(record()), run_of(record(ms=12))
    assert only_cell(*runs, threshold=0.3).verdict == "same"
    assert compare_runs(runs, 0.05).exit_code == REGRESSION_EXIT_CODE
    assert compare_runs(runs, 0.3).exit_code == 0


def test_one_round_has_a_change_and_no_verdict() -> None:
    cell = only_cell(run_of(record()), run_of(record(rounds=[[100 * MS] * 50])))
    assert (cell.verdict, cell.is_regression, cell.rounds) == ("ambiguous", False, (10, 1))
    assert cell.change is not None
    assert cell.change.value == pytest.approx(10, rel=0.01)
    assert cell.change.interval is None


# Cells that are not in both.


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (record(status="failed", reason="killed by SIGKILL"), "failed: killed by SIGKILL"),
        (record(status="oom", reason="out of memory"), "oom: out of memory"),
        (record(status="timeout", reason="silent for 9 s"), "timeout: silent for 9 s"),
        (record(status="unsupported", reason="no bf16"), "unsupported: no bf16"),
        (record(status="skipped"), "skipped"),
        (record(parity={"verdict": "broken", "reason": "another model"}), "parity broken: another model"),
        (record(verdict="lossy"), "parity lossy (was equivalent)"),
        (record(verdict="unjudged"), "parity unjudged (was equivalent)"),
        (record(parity={}), "parity unjudged (was equivalent)"),
    ],
    ids=lambda value: f"{value.status} {value.verdict}".strip() if isinstance(value, Record) else "",
)
def test_a_cell_that_is_lost_is_gone_with_its_reason_and_a_regression(lost: Record, reason: str) -> None:
    compared = compare_runs([run_of(record()), run_of(lost)])
    (cell,) = compared.cells
    assert (cell.verdict, cell.is_regression, cell.reason) == ("gone", True, reason)
    assert cell.medians_ns[1] is None
    assert cell.change is None
    assert compared.exit_code == REGRESSION_EXIT_CODE
    back = compare_runs([run_of(lost), run_of(record())])
    (cell,) = back.cells
    assert (cell.verdict, cell.is_regression, back.exit_code) == ("new", False, 0)
    assert cell.reason == f"before: {reason.removesuffix(' (was equivalent)')}"


def test_a_cell_that_is_not_planned_any_more_is_gone_and_no_regression() -> None:
    compared = compare_runs([run_of(record(), record("onnx")), run_of(record())])
    gone = compared.cells[1]
    assert (gone.contestant.backend, gone.verdict, gone.is_regression, gone.reason) == (
        "onnx", "gone", False, "not planned",
    )  # fmt: skip
    assert compared.exit_code == 0
    assert compare_runs([run_of(record()), run_of(record(), record("onnx"))]).cells[1].verdict == "new"


def test_a_planned_cell_without_record_of_an_incomplete_run_does_not_pass() -> None:
    unfinished = run_of(record(), planned=("eager", "onnx"), is_complete=False)
    compared = compare_runs([run_of(record(), record("onnx")), unfinished])
    assert [cell.verdict for cell in compared.cells] == ["same", "gone"]
    assert "incomplete" in compared.cells[1].reason
    assert "--resume" in compared.cells[1].reason
    assert compared.exit_code == REGRESSION_EXIT_CODE
    assert compare_runs([unfinished, run_of(record(), record("onnx"))]).exit_code == 0


@pytest.mark.parametrize("verdict", ["lossy", "unjudged"])
def test_equal_standings_are_compared(verdict: str) -> None:
    assert only_cell(run_of(record(verdict=verdict)), run_of(record(verdict=verdict, ms=20))).verdict == "slower"


def test_exact_and_equivalent_are_the_same_model_and_null_is_compared_with_itself() -> None:
    assert only_cell(run_of(record(verdict="exact")), run_of(record(ms=20))).verdict == "slower"
    nothing = {"judged": False, "parity": {}}
    assert only_cell(run_of(record(**nothing)), run_of(record(ms=5, **nothing))).verdict == "faster"


def test_what_neither_run_measured_has_no_verdict() -> None:
    broken, failed = record("onnx", verdict="broken"), record("onnx", status="failed")
    compared = compare_runs([run_of(record(), broken), run_of(record(), failed)])
    assert [cell.contestant.backend for cell in compared.cells] == ["eager"]
    assert [contestant.backend for _, contestant in compared.unmeasured] == ["onnx"]
    assert compared.exit_code == 0


def test_an_implausible_time_is_no_measurement() -> None:
    peaks = Peaks("cpu", 2, {"fp32": 1e9}, ((1 << 30, 1e9),), STARTED)  # 10 ms are 1e7 operations
    plausible = run_of(record(operations={"flops": 10**6, "weight_bytes": 1}), peaks=peaks)
    impossible = run_of(record(ms=1, operations={"flops": 10**8, "weight_bytes": 1}), peaks=peaks)
    lost = only_cell(plausible, impossible)
    assert (lost.verdict, lost.is_regression) == ("gone", True)
    assert "implausible" in lost.reason
    assert only_cell(impossible, plausible).verdict == "new"
    assert compare_runs([impossible, impossible]).cells == ()


def test_a_tainted_cell_keeps_its_verdict_and_is_marked() -> None:
    disturbed = record(ms=20, conditions={"other_cpu_share": 0.3, "other_cpu_seconds": 3.0})
    cell = only_cell(run_of(record()), run_of(disturbed))
    assert (cell.verdict, cell.is_regression, cell.is_tainted) == ("slower", True, (False, True))
    assert [remark.startswith("tainted in NEW: over 20%") for remark in cell.remarks] == [True]


def test_a_cell_that_was_measured_alone_once_says_so() -> None:
    cell = only_cell(run_of(record()), run_of(record(turns="sequential")))
    assert cell.verdict == "same"
    assert [remark for remark in cell.remarks if "not measured in turns with the others in NEW" in remark]


def test_copies_variants_and_precisions_are_cells_of_their_own() -> None:
    others = [record(copy=2), record(variant="fused"), record(precision="bf16")]
    compared = compare_runs(
        [run_of(record(), *others), run_of(record(), *(replace(r, rounds=[[1]] * 9) for r in others))]
    )
    assert [cell.verdict for cell in compared.cells] == ["same", "faster", "faster", "faster"]
    assert compared.counts == dict.fromkeys(VERDICTS, 0) | {"same": 1, "faster": 3}


def test_runs_without_a_common_cell_are_refused() -> None:
    old, new = run_of(record()), run_of(record("onnx"))
    new.grid = replace(new.grid, contestants=(record("onnx").contestant,))
    with pytest.raises(UserError, match=r"no cell in common with .*; compare runs of the same backends"):
        compare_runs([old, new])


# What forbids a comparison, and what explains a change.


def other_run(**values) -> Run:
    return run_of(record(ms=11), started="2026-01-02T00:00:00+00:00", **values)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", "gpt", r"model \(bert and gpt\)"),
        ("task", "lm", r"task \(base and lm\)"),
        ("device", "cuda", r"device \(cpu and cuda\)"),
        ("threads", 4, r"threads \(2 and 4\)"),
        ("boundary", "host", r"boundary \(device and host\)"),
    ],
)
def test_a_grid_that_differs_is_an_obstacle_and_named(field: str, value: object, message: str) -> None:
    other = other_run()
    assert obstacles([run_of(record()), other]) == []
    other.grid = replace(other.grid, **{field: value})
    (line,) = obstacles([run_of(record()), other])
    assert "differ in " in line
    assert re.search(message, line)


def test_another_machine_is_an_obstacle_and_its_facts_are_named() -> None:
    facts = {"cpu": "Another CPU", "cpus": 2, "flags": "sse " * 99}
    one = run_of(record())
    one.fingerprint["flags"] = "avx " * 99
    (line,) = obstacles([one, other_run(fingerprint=facts)])
    assert line.endswith("differ in machine (cpu: A CPU and Another CPU, flags)")
    (line,) = obstacles([one, other_run(fingerprint={"gpus": [{}], "cpu": "B"}, origin="pretrained, x (abc1234)")])
    assert "machine (cpu: A CPU and B)" in line
    assert "weights (seeded random (seed 0) and pretrained, revision abc1234)" in line


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("seeded random (seed 0); no pretrained ones are on this machine", "seeded random (seed 0)", True),
        ("seeded random (seed 0)", "seeded random (seed 1)", False),
        ("pretrained, from the Hub cache (0123456789ab)", "pretrained, downloaded from a/b (0123456789ab)", True),
        ("pretrained, from the Hub cache (0123456789ab)", "pretrained, from the Hub cache (ba9876543210)", False),
        ("pretrained, from the folder's safetensors", "pretrained, from the folder's safetensors", True),
    ],
)
def test_weights_are_told_apart_by_what_they_are(one: str, other: str, is_same: bool) -> None:
    assert (weights_of(run_of(origin=one)) == weights_of(run_of(origin=other))) is is_same
    assert bool(obstacles([run_of(record(), origin=one), other_run(origin=other)])) is not is_same


def test_another_checkpoint_of_the_same_libraries_is_other_weights() -> None:
    versions = {"torch": "2.13.0", "transformers": "5.23.0", "runtimebench": "0.1.0"}
    one = run_of(record(), fingerprint={"versions": versions})
    retrained = other_run(fingerprint={"versions": versions}, checkpoint="decade")
    assert obstacles([one, retrained])[0].endswith("differ in weights (checkpoint c0ffee and decade)")
    upgraded = other_run(fingerprint={"versions": versions | {"torch": "2.14.0"}}, checkpoint="decade")
    assert obstacles([one, upgraded]) == []


def test_a_run_and_its_copy_are_an_obstacle() -> None:
    (line,) = obstacles([run_of(record()), run_of(record())])
    assert line.endswith("are the same run")
    assert len(obstacles([run_of(record()), run_of(record()), run_of(record())])) == 3
    assert obstacles([run_of(record()), run_of(record(ms=11))]) == []


def test_what_may_explain_a_change_is_listed() -> None:
    fingerprint = {
        "versions": {"torch": "2.12.0", "onnx": "1.23"}, "python": "3.11.7", "governor": None, "commit": "a" * 40, "environment": {},
    }  # fmt: skip
    later = fingerprint | {
        "versions": {"torch": "2.13.0", "mkl": "2026.0"}, "governor": "performance", "commit": "b" * 40,
        "environment": {"OMP_NUM_THREADS": "2"},
    }  # fmt: skip
    new = other_run(fingerprint=later, plan=TimingPlan(rounds=20))
    assert changes(run_of(record(), fingerprint=fingerprint), new) == [
        "torch 2.12.0 → 2.13.0", "onnx 1.23 → none", "mkl none → 2026.0", "OMP_NUM_THREADS none → 2",
        "commit aaaaaaaaaaaa… → bbbbbbbbbbbb…", "rounds 10 → 20",
    ]  # fmt: skip


def test_versions_that_an_older_bench_did_not_ask_for_are_no_change() -> None:
    old = run_of(record(), fingerprint={"versions": {"torch": "2.12.0"}})
    new = other_run(fingerprint={"versions": {"torch": "2.13.0", "mkl": "2026.0"}, "environment": {}})
    assert changes(old, new) == ["torch 2.12.0 → 2.13.0"]


# Histories.


def history(*ms: float | None, **values) -> Comparison:
    """Runs a day apart; None for a run in which the cell failed."""
    runs = [
        run_of(
            record(status="failed", reason="it died") if time is None else record(ms=time),
            started=f"2026-01-{day:02}T00:00:00+00:00",
        )
        for day, time in enumerate(ms, start=1)
    ]
    return compare_runs(in_order(runs[::-1]), **values)


def test_a_history_holds_the_last_against_the_first_and_keeps_every_median() -> None:
    compared = history(10, 11, 12)
    (cell,) = compared.cells
    assert labels(3) == compared.labels == ("run 1", "run 2", "run 3")
    assert [round((median or 0) / MS) for median in cell.medians_ns] == [10, 11, 12]
    assert (cell.verdict, cell.trend, compared.exit_code) == ("slower", None, REGRESSION_EXIT_CODE)
    assert history(12, 11, 10).cells[0].verdict == "faster"
    assert history(10, 99, 10).exit_code == 0


def test_a_trend_needs_six_runs_that_go_one_way() -> None:
    rising = history(*(10 + 0.05 * i for i in range(8))).cells[0]
    assert rising.verdict == "same"
    assert rising.trend == pytest.approx(0.035, rel=0.05)
    assert history(*(10 + 0.05 * (i % 2) for i in range(8))).cells[0].trend is None
    assert history(10, 11, 12, 13, 14).cells[0].trend is None


def test_a_history_starts_where_a_cell_was_first_measured_and_ends_with_the_last_run() -> None:
    late = history(None, 10, 20)
    assert (late.cells[0].verdict, late.cells[0].medians_ns[0]) == ("slower", None)
    assert history(None, None, 10).cells[0].verdict == "new"
    lost = history(10, 10, None)
    assert (lost.cells[0].verdict, lost.cells[0].reason, lost.exit_code) == (
        "gone", "failed: it died", REGRESSION_EXIT_CODE,
    )  # fmt: skip
    assert history(10, None, 10).cells[0].verdict == "same"


def test_a_history_compares_the_best_standing_that_a_cell_ever_had() -> None:
    same, lossy = run_of(record()), run_of(record(verdict="lossy", ms=5))
    assert only_cell(lossy, same, run_of(record(ms=20))).verdict == "slower"
    assert only_cell(same, lossy, same).medians_ns[1] is None
    assert only_cell(same, lossy, lossy).reason == "parity lossy (was equivalent)"
    assert only_cell(lossy, lossy, same).reason == "before: parity lossy"
