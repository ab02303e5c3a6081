"""`bench diff`: verdicts for any samples, every way that a cell can be lost, and what a user and a CI job see."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.diff import (
    REGRESSION_EXIT_CODE,
    THRESHOLD,
    VERDICTS,
    Cell,
    Comparison,
    change_of,
    changes,
    compare_runs,
    in_order,
    labels,
)
from bench.errors import UserError
from bench.machine.roofline import Peaks
from bench.run.alike import obstacles, weights_of
from bench.run.record import Record, Run
from bench.spec import Shape
from bench.testing import HEAVY
from bench.workloads.load import Load, Rate
from tests import made

MS = 1_000_000
AT = Shape(1, 16)
FINGERPRINT = {"cpus": 2, "versions": {"torch": "2.12.0"}}

rounds_of_samples = st.lists(
    st.lists(st.integers(min_value=1, max_value=10**12), min_size=1, max_size=4), min_size=1, max_size=12
)
#: Figures so close to each other and so few that ends of intervals meet the threshold exactly.
near_rounds = st.lists(
    st.lists(st.integers(min_value=95, max_value=105), min_size=1, max_size=2), min_size=2, max_size=12
)
thresholds = st.floats(min_value=0, max_value=0.99, allow_nan=False)


def record(label: str = "eager", ms: float = 10.0, point: Shape = AT, **values) -> Record:
    """Ten rounds of about `ms`, or the `rounds` given."""
    rounds = values.pop("rounds", None) or [[ms * (1 + 0.001 * (at % 3))] * 3 for at in range(10)]
    return made.record(label, point, ms=rounds, **values)


def run_of(*records: Record, day: int = 1, planned: tuple[str, ...] = (), origin: str = "", **values) -> Run:
    """A run of a day in January, on two threads; `planned` are further candidates, without records."""
    model = values.pop("model", "bert")
    values = {"fingerprint": FINGERPRINT} | values
    run = made.run_of(records, **values)
    run.candidates = tuple(dict.fromkeys([*run.candidates, *map(made.candidate, planned)]))
    run.started = f"2026-01-{day:02}T00:00:00+00:00"
    run.model = replace(run.model, name=model, **({"origin": origin} if origin else {}))
    return run


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
    change = change_of(rounds, [[1000 * factor * sample for sample in round_] for round_ in rounds])
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


def test_one_round_has_a_change_and_no_verdict() -> None:
    cell = only_cell(run_of(record()), run_of(record(rounds=[[100] * 50])))
    assert (cell.verdict, cell.is_regression, cell.rounds) == ("ambiguous", False, (10, 1))
    assert cell.change is not None
    assert cell.change.value == pytest.approx(10, rel=0.01)
    assert cell.change.interval is None


def test_requests_are_compared_by_their_latency() -> None:
    """`bench load` times no call on its own; its latencies are what a gate watches."""
    runs = [made.run_of([made.record("eager", Rate(0, 10.0), times={"latency": ms})], Load) for ms in (5, 10)]
    assert only_cell(*runs).verdict == "slower"
    assert only_cell(*runs).medians_ns == (5 * MS, 10 * MS)


# Cells that are not in both.


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (record(status="failed", reason="killed by SIGKILL"), "failed: killed by SIGKILL"),
        (record(status="oom", reason="out of memory"), "oom: out of memory"),
        (record(status="unsupported", reason="no bf16"), "unsupported: no bf16"),
        (record(status="skipped"), "skipped"),
        (record(parity={"verdict": "broken", "reason": "another model"}), "parity broken: another model"),
        (record(parity={"verdict": "lossy"}), "parity lossy (was equivalent)"),
        (record(parity={"verdict": "unjudged"}), "parity unjudged (was equivalent)"),
        (record(parity={}), "parity unjudged (was equivalent)"),
        (record(turns=()), "no time was measured"),
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
    assert (gone.candidate.backend, gone.verdict, gone.is_regression, gone.reason) == (
        "onnx", "gone", False, "not planned",
    )  # fmt: skip
    assert compared.exit_code == 0
    assert compare_runs([run_of(record()), run_of(record(), record("onnx"))]).cells[1].verdict == "new"


def test_a_planned_cell_without_record_of_an_incomplete_run_does_not_pass() -> None:
    unfinished = run_of(record(), planned=("onnx",), is_complete=False)
    compared = compare_runs([run_of(record(), record("onnx")), unfinished])
    assert [cell.verdict for cell in compared.cells] == ["same", "gone"]
    assert "incomplete; bench compare --resume" in compared.cells[1].reason
    assert compared.exit_code == REGRESSION_EXIT_CODE
    assert compare_runs([unfinished, run_of(record(), record("onnx"))]).exit_code == 0


def test_a_batch_beyond_the_last_doubling_is_not_planned() -> None:
    ended = record(point=Shape(2, 16), status="skipped", reason="beyond the last doubling: it gained little")
    auto = {"batches": "auto", "lengths": [16], "shapes": []}
    compared = compare_runs(
        [run_of(record(), record(point=Shape(2, 16)), **auto), run_of(record(), ended, day=2, **auto)]
    )
    assert [(cell.verdict, cell.reason) for cell in compared.cells] == [("same", ""), ("gone", "not planned")]
    assert compared.exit_code == 0


@pytest.mark.parametrize("verdict", ["lossy", "unjudged"])
def test_equal_standings_are_compared(verdict: str) -> None:
    assert only_cell(run_of(record(verdict=verdict)), run_of(record(verdict=verdict, ms=20))).verdict == "slower"


def test_exact_and_equivalent_are_the_same_model_and_null_is_compared_with_itself() -> None:
    assert only_cell(run_of(record(verdict="exact")), run_of(record(ms=20))).verdict == "slower"
    nothing = {"is_judged": False, "parity": {}}
    assert only_cell(run_of(record(**nothing)), run_of(record(ms=5, **nothing))).verdict == "faster"


def test_what_neither_run_measured_has_no_verdict() -> None:
    broken, failed = record("onnx", verdict="broken"), record("onnx", status="failed")
    compared = compare_runs([run_of(record(), broken), run_of(record(), failed)])
    assert [cell.candidate.backend for cell in compared.cells] == ["eager"]
    assert [candidate.backend for _, candidate in compared.unmeasured] == ["onnx"]
    assert compared.exit_code == 0


def test_an_implausible_time_is_no_measurement() -> None:
    notes = {"peaks": Peaks("cpu", 2, {"fp32": 1e9}, ((1 << 30, 1e9),), "2026-01-01").to_json()}  # 10 ms are 1e7 FLOP
    plausible = run_of(record(operations={"flops": 10**6, "weight_bytes": 1}), notes=notes)
    impossible = run_of(record(ms=1, operations={"flops": 10**8, "weight_bytes": 1}), notes=notes)
    lost = only_cell(plausible, impossible)
    assert (lost.verdict, lost.is_regression) == ("gone", True)
    assert "implausible" in lost.reason
    assert only_cell(impossible, plausible).verdict == "new"
    assert compare_runs([impossible, impossible]).cells == ()


def test_a_disturbed_cell_keeps_its_verdict_and_is_marked() -> None:
    names = ("steal_seconds", "thermal_events", "throttled_periods", "quota_periods")
    busy = {"wall_seconds": 5.0, "cpu_seconds": 10.0, "other_cpu_seconds": 3.0, **dict.fromkeys(names)}
    disturbed = record(ms=20, conditions=busy)
    cell = only_cell(run_of(record()), run_of(disturbed))
    assert (cell.verdict, cell.is_regression, cell.is_disturbed) == ("slower", True, (False, True))
    assert [remark.startswith("disturbed in NEW: over 20%") for remark in cell.remarks] == [True]


def test_a_cell_that_was_measured_alone_once_says_so() -> None:
    cell = only_cell(run_of(record()), run_of(record(is_interleaved=False)))
    assert cell.verdict == "same"
    assert [remark for remark in cell.remarks if "not measured in turns with the others in NEW" in remark]


def test_copies_variants_and_precisions_are_cells_of_their_own() -> None:
    def others(ms: float) -> list[Record]:
        return [record("eager@2", ms), record("eager:fused", ms), record("eager", ms, precision="bf16")]

    compared = compare_runs([run_of(record(), *others(10)), run_of(record(), *others(1))])
    assert [cell.verdict for cell in compared.cells] == ["same", "faster", "faster", "faster"]
    assert compared.counts == dict.fromkeys(VERDICTS, 0) | {"same": 1, "faster": 3}


# What forbids a comparison, and what explains a change.


def altered() -> Run:
    run = run_of(record(), day=2)
    run.integrity = "altered"
    return run


def test_runs_that_cannot_be_compared_are_refused_in_one_line() -> None:
    load = made.run_of([made.record("eager", Rate(0, 10.0), times={"latency": 5})], Load)
    nothing = run_of(record(turns=()))
    for one, other, message in (
        (run_of(record()), run_of(record("onnx")), r"no cell in common with .*; compare runs of the same backends"),
        (run_of(record()), load, "of bench compare and .* of bench load measured different things; compare runs of"),
        (nothing, nothing, "measures no times to compare"),
        (run_of(record()), altered(), "was altered after it was written"),
    ):
        with pytest.raises(UserError, match=message) as refused:
            compare_runs([one, other])
        assert "\n" not in str(refused.value)


def other_run(**values) -> Run:
    return run_of(record(ms=11), day=2, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "gpt"}, "model (bert and gpt)"),
        ({"device": "cuda"}, "device (cpu and cuda)"),
        ({"threads": 4}, "threads (2 and 4)"),
        ({"tf32": True}, "tf32 (False and True)"),
        ({"boundary": "host"}, "boundary (device and host)"),
        ({"fingerprint": {"cpu": "B", "gpus": [{}]}, "origin": "pretrained, x (abc1234)"},
         "machine (cpu: A CPU and B), weights (seeded random (seed 0) and pretrained, revision abc1234)"),
    ],
)  # fmt: skip
def test_what_differs_is_an_obstacle_and_named(values: dict, message: str) -> None:
    assert obstacles([run_of(record()), other_run()]) == []
    (line,) = obstacles([run_of(record()), other_run(**values)])
    assert line.endswith(f" differ in {message}")


def test_long_facts_of_another_machine_are_named_alone() -> None:
    one, other = run_of(record(), fingerprint={"flags": "avx " * 99}), other_run(fingerprint={"flags": "sse " * 99})
    assert obstacles([one, other])[0].endswith("differ in machine (flags)")


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
    runs = run_of(record(), origin=one), other_run(origin=other)
    assert (weights_of(runs[0]) == weights_of(runs[1])) is is_same
    assert bool(obstacles(runs)) is not is_same


def test_another_checkpoint_of_the_same_libraries_is_other_weights() -> None:
    versions = {"torch": "2.13.0", "transformers": "5.23.0", "runtimebench": "0.1.0"}

    def retrained(versions: dict[str, str]) -> Run:
        run = other_run(fingerprint={"versions": versions})
        run.model = replace(run.model, checkpoint="decade")
        return run

    one = run_of(record(), fingerprint={"versions": versions})
    assert obstacles([one, retrained(versions)])[0].endswith("differ in weights (checkpoint c0ffee and decade)")
    assert obstacles([one, retrained(versions | {"torch": "2.14.0"})]) == []


def test_what_may_explain_a_change_is_listed() -> None:
    fingerprint = {
        "versions": {"torch": "2.12.0", "onnx": "1.23"}, "python": "3.11.7", "governor": None, "commit": "a" * 40, "environment": {},
    }  # fmt: skip
    later = fingerprint | {
        "versions": {"torch": "2.13.0", "mkl": "2026.0"}, "governor": "performance", "commit": "b" * 40,
        "environment": {"OMP_NUM_THREADS": "2"},
    }  # fmt: skip
    old, new = run_of(record(), fingerprint=fingerprint), other_run(fingerprint=later, rounds=20, warmup="1s")
    assert changes(old, new) == [
        "torch 2.12.0 → 2.13.0", "onnx 1.23 → none", "mkl none → 2026.0", "OMP_NUM_THREADS none → 2",
        "commit aaaaaaaaaaaa… → bbbbbbbbbbbb…", "rounds 3 → 20", "warmup 0.3s → 1s",
    ]  # fmt: skip


def test_versions_that_an_older_bench_did_not_ask_for_are_no_change() -> None:
    old = run_of(record(), fingerprint={"versions": {"torch": "2.12.0"}})
    new = other_run(fingerprint={"versions": {"torch": "2.13.0", "mkl": "2026.0"}, "environment": {}})
    assert changes(old, new) == ["torch 2.12.0 → 2.13.0"]


# Histories.


def history(*ms: float | None, **values) -> Comparison:
    """Runs a day apart; None for a run in which the cell failed."""
    runs = [
        run_of(record(status="failed", reason="it died") if time is None else record(ms=time), day=day)
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
    assert only_cell(same, lossy, lossy).reason == "parity lossy: a reason for lossy (was equivalent)"
    assert only_cell(lossy, lossy, same).reason == "before: parity lossy: a reason for lossy"


# The command.


def write(path: Path, *records: Record, is_sealed: bool = True, **values) -> str:
    """A run file; returns its name."""
    return made.write(run_of(*records, **values), path, is_sealed=is_sealed).name


@pytest.fixture
def old(tmp_path: Path) -> str:
    return write(tmp_path / "old.jsonl", record(), record("onnx", ms=5), record("compile", 4, Shape(1, 128)))


def new_run(tmp_path: Path, *records: Record, **values) -> str:
    return write(tmp_path / "new.jsonl", *records, **({"day": 2} | values))


def test_a_regression_is_exit_code_4_unless_the_threshold_allows_it(cli_here, tmp_path: Path, old: str) -> None:
    new = new_run(tmp_path, record(ms=11), record("onnx", ms=3), record("compile", 4, Shape(1, 128)))
    done = cli_here("diff", old, new)
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.splitlines()[-1] == "1 slower, 1 faster, 1 same (1 regression)"
    row = next(line for line in done.stdout.splitlines() if line.startswith("eager"))
    assert row.split()[:5] == ["eager", "1×16", "10.01", "11.01", "+10.0%"]
    for allowed, code in (("8%", 4), ("0.12", 0), ("12%", 0)):
        assert cli_here("diff", old, new, "--threshold", allowed).returncode == code


def test_regressions_come_first_and_say_why(cli_here, tmp_path: Path, old: str) -> None:
    failed = record("compile", 4, Shape(1, 128), status="failed", reason="the worker was killed by SIGKILL")
    done = cli_here("diff", old, new_run(tmp_path, record(ms=8), record("onnx", ms=10), failed))
    assert done.returncode == 4
    lines = done.stdout.splitlines()
    rows = [line.split()[0] for line in lines if line.split() and line.split()[-1] in VERDICTS]
    assert rows == ["onnx", "compile", "eager"]
    at = lines.index("Gone, though planned")
    assert lines[at + 1] == "- compile at 1×128: failed: the worker was killed by SIGKILL"
    assert lines[-1] == "1 slower, 1 faster, 1 gone (2 regressions)"


def test_a_file_that_was_cut_says_so_and_one_that_was_altered_is_refused(cli_here, tmp_path: Path, old: str) -> None:
    new = new_run(tmp_path, record(), record("onnx", ms=5), record("compile", 4, Shape(1, 128)))
    text = (tmp_path / new).read_text()
    (tmp_path / "cut.jsonl").write_text("".join(text.splitlines(keepends=True)[:12]) + '{"kind":"tu')
    done = cli_here("diff", old, "cut.jsonl")
    assert done.returncode == 4
    shown = " ".join(done.stdout.split())
    for part in ("NEW: CUT: this file has no seal", "NEW is incomplete: 1 of 6 cells have a record", "no record, as"):
        assert part in shown
    (tmp_path / "altered.jsonl").write_text(text.replace("10010000", "90010000", 1))
    for files in ((old, "altered.jsonl"), ("altered.jsonl", old)):
        done = cli_here("diff", *files, "--force")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "'altered.jsonl' was altered after it was written" in done.stderr


def test_runs_that_differ_are_refused_unless_told_otherwise(cli_here, tmp_path: Path, old: str) -> None:
    new = new_run(tmp_path, record(ms=20), threads=1)
    done = cli_here("diff", old, new)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "'old.jsonl' and 'new.jsonl' differ in threads (2 and 1); compare runs that agree, or use" in done.stderr
    forced = cli_here("diff", old, new, "--force")
    assert forced.returncode == 4
    assert "compared anyway: 'old.jsonl' and 'new.jsonl' differ in threads (2 and 1)" in " ".join(forced.stdout.split())
    older = cli_here("diff", old, new, "--anyway")
    assert (older.returncode, older.stdout) == (4, forced.stdout)
    assert older.stderr == "bench: --anyway is now --force; it ends with 0.3.0\n"


def test_an_upgrade_is_information_and_no_obstacle(cli_here, tmp_path: Path, old: str) -> None:
    fingerprint = {"cpus": 2, "versions": {"torch": "2.13.0"}}
    done = cli_here("diff", old, new_run(tmp_path, record(), fingerprint=fingerprint, rounds=20))
    assert done.returncode == 0
    text = done.stdout[done.stdout.index("What else differs") :]
    assert "- torch 2.12.0 → 2.13.0" in text
    assert "- rounds 3 → 20" in text


def test_the_same_file_twice_is_refused(cli_here, tmp_path: Path, old: str) -> None:
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / old).read_bytes())
    for again in (old, "./old.jsonl", "copy.jsonl"):
        done = cli_here("diff", old, again)
        assert (done.returncode, done.stdout) == (2, "")
        assert "are the same run; compare runs that agree, or use --force" in done.stderr
    assert "are the same run (and 2 more such pairs)" in cli_here("diff", old, old, old).stderr
    done = cli_here("diff", old, old, "--force")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "3 same")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["old.jsonl"], "Missing argument 'NEW'"),
        (["old.jsonl", "missing.jsonl"], "'missing.jsonl' cannot be read (No such file or directory)"),
        (["old.jsonl", "notes.txt"], "'notes.txt' is no run of bench"),
        (["old.jsonl", "old.jsonl", "--format", "tabel"], "unknown format 'tabel'; did you mean 'table'?"),
        (
            ["old.jsonl", "new.jsonl", "--threshold", "much"],
            "--threshold 'much' is no share; write e.g. --threshold 2%",
        ),
        (["old.jsonl", "new.jsonl", "--threshold", "5"], "--threshold 500% is not above 0 and below 100%"),
        (["old.jsonl", "new.jsonl"], "'new.jsonl' has no cell in common with 'old.jsonl'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    cli_here, tmp_path: Path, old: str, arguments: list[str], message: str
) -> None:
    new_run(tmp_path, record("torchscript", 10, Shape(8, 16)))
    (tmp_path / "notes.txt").write_text("figures of last week\nfast\n")
    done = cli_here("diff", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_nothing_measured_anywhere_says_so(cli_here, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", record(status="failed", reason="it died"))
    done = cli_here("diff", one, new_run(tmp_path, record(status="oom", reason="full")))
    assert done.returncode == 0
    assert "eager at 1×16: not measured by any run" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing to compare: no run measured any cell"


def test_a_history_is_in_the_order_of_time(cli_here, tmp_path: Path) -> None:
    names = [write(tmp_path / f"{day}.jsonl", record(ms=10 + 0.1 * day), day=day) for day in range(1, 8)]
    done = cli_here("diff", *reversed(names))
    assert done.returncode == 4
    lines = done.stdout.splitlines()
    assert [line.split()[2] for line in lines if line.startswith("run ")] == [f"{name}," for name in names]
    assert "10.11 10.21" in done.stdout
    assert "+5.9%" in done.stdout
    assert "NEW" not in done.stdout
    assert lines[-1] == "1 slower (1 regression)"


@pytest.mark.parametrize("runs", [2, 3, 12])
def test_the_table_fits_80_columns(cli_here, tmp_path: Path, runs: int) -> None:
    names, at = [], Shape(128, 1024)
    for day in range(1, runs + 1):
        records = [
            record(label, 12000 + 1000 * day, at, precision=precision)
            for label in ("eager", "compile:max-autotune-no-cudagraphs")
            for precision in ("fp32", "bf16")
        ]
        wild = record("torchscript", point=at, rounds=[[day], [day * 900]])
        lost = record("onnx", 1, at, **({} if day == 1 else {"status": "failed", "reason": "it died " * 20}))
        names.append(write(tmp_path / f"{day}.jsonl", *records, wild, lost, day=day))
    done = cli_here("diff", *names)
    assert done.returncode == 4
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    for part in ("128×1024", "13013", "slower", "gone", "ambiguous", "fp32", "bf16", "it died it died"):
        assert part in done.stdout, part


def test_the_json_says_the_same(cli_here, tmp_path: Path, old: str) -> None:
    one_round = record("compile", point=Shape(1, 128), rounds=[[4]])
    new = new_run(tmp_path, record(ms=20), record("onnx", status="oom", reason="full"), one_round)
    done = cli_here("diff", old, new, "--format", "json")
    assert (done.returncode, done.stderr) == (4, "")
    document = json.loads(done.stdout)
    assert (document["exit_code"], document["regressions"], document["threshold"]) == (4, 2, THRESHOLD)
    assert document["counts"] == dict.fromkeys(VERDICTS, 0) | {"slower": 1, "gone": 1, "ambiguous": 1}
    assert [(run["path"], run["integrity"]) for run in document["runs"]] == [(old, "sealed"), (new, "sealed")]
    cells = {cell["backend"]: cell for cell in document["cells"]}
    assert (cells["eager"]["verdict"], cells["eager"]["batch"], cells["eager"]["length"]) == ("slower", 1, 16)
    assert cells["eager"]["time_ratio"] == pytest.approx(2, rel=0.01)
    assert cells["eager"]["time_ratio_low"] <= cells["eager"]["time_ratio"] <= cells["eager"]["time_ratio_high"]
    assert (cells["onnx"]["reason"], cells["onnx"]["is_regression"], cells["onnx"]["time_ratio"]) == (
        "oom: full", True, None,
    )  # fmt: skip
    assert cells["onnx"]["median_ms"] == [pytest.approx(5, rel=0.01), None]
    assert (cells["compile"]["time_ratio_low"], cells["compile"]["rounds"]) == (None, [10, 1])


def test_a_change_of_any_width_is_json(cli_here, tmp_path: Path) -> None:
    names = [write(tmp_path / f"{day}.jsonl", record(rounds=[[1e-6], [1e6 * day]]), day=day) for day in (1, 2)]
    done = cli_here("diff", *names, "--format", "json")
    document = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["cells"][0]["verdict"] == "ambiguous"
    assert document["cells"][0]["time_ratio_high"] is None
    assert ">+999%" in cli_here("diff", *names).stdout


def test_committed_runs_can_be_compared(cli_here, root: Path) -> None:
    """Three and five rounds, and neither conditions nor peaks."""
    folder = root / "artifacts" / "reference"
    one, other = (str(folder / f"epyc2-20261123-{name}.jsonl") for name in ("bert-default-grid", "seed-bert-1"))
    done = cli_here("diff", one, other, "--format", "json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["counts"]
    assert (counts["slower"], counts["ambiguous"], counts["new"], counts["gone"]) == (0, 3, 5, 15)
    done = cli_here("diff", one, str(folder / "epyc2-20261123-seed-gpt.jsonl"))
    assert done.returncode == 2
    assert "differ in model (bert and gpt)" in done.stderr


def test_a_comparison_loads_no_heavy_package(root: Path, tmp_path: Path, old: str) -> None:
    new = new_run(tmp_path, record())
    arguments = ["bench", "diff", str(tmp_path / old), str(tmp_path / new)]
    code = f"import sys; sys.argv = {arguments!r}\nfrom bench.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert "1 same" in done.stdout
    assert done.stdout.splitlines()[-1] == "LOADED []"
