"""`bench diff`: verdicts for any samples, every way that a cell can be lost, and what a user and a CI job see."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.diff import (
    VERDICTS,
    Cell,
    Comparison,
    change_of,
    changes,
    compare_runs,
)
from bench.errors import REGRESSION, UserError
from bench.machine.roofline import Peaks
from bench.run.alike import obstacles
from bench.run.record import Record, Run
from bench.spec import Shape
from bench.workloads.load import Load, Rate
from tests import made

MS = 1_000_000
AT = Shape(1, 16)
FINGERPRINT = {"cpus": 2, "versions": {"torch": "2.12.0"}}
BUSY = {"wall_seconds": 5.0, "cpu_seconds": 10.0, "other_cpu_seconds": 3.0}

rounds_of_samples = st.lists(
    st.lists(st.integers(min_value=1, max_value=10**12), min_size=1, max_size=4), min_size=1, max_size=12
)
#: Figures so close to each other and so few that ends of intervals meet the threshold exactly.
near_rounds = st.lists(
    st.lists(st.integers(min_value=95, max_value=105), min_size=1, max_size=2), min_size=2, max_size=12
)
thresholds = st.sampled_from([0, 1 / 99, 0.05, 5 / 96]) | st.floats(min_value=0, max_value=0.99, allow_nan=False)


def record(label: str = "eager", ms: float = 10.0, point: Shape = AT, **values) -> Record:
    """Ten rounds of about `ms`, or the `rounds` given."""
    rounds = values.pop("rounds", None) or [[ms * (1 + 0.001 * (at % 3))] * 3 for at in range(10)]
    return made.record(label, point, ms=rounds, **values)


def run_of(*records: Record, day: int = 1, planned: tuple[str, ...] = (), origin: str = "", **values) -> Run:
    """A run of a day in January, on two threads; `planned` are further candidates, without records."""
    model, checkpoint = values.pop("model", "bert"), values.pop("checkpoint", "c0ffee")
    run = made.run_of(records, **({"fingerprint": FINGERPRINT} | values))
    run.candidates = tuple(dict.fromkeys([*run.candidates, *map(made.candidate, planned)]))
    run.started = f"2026-01-{day:02}T00:00:00+00:00"
    run.model = replace(run.model, name=model, checkpoint=checkpoint, **({"origin": origin} if origin else {}))
    return run


def only_cell(*runs: Run, threshold: float = 0.05) -> Cell:
    (cell,) = compare_runs(runs, threshold).cells
    return cell


# Verdicts.


samples = rounds_of_samples | near_rounds


@given(samples, samples, thresholds, thresholds)
def test_verdicts_of_any_samples_agree(old: list[list[int]], new: list[list[int]], one: float, other: float) -> None:
    exchanged = {"slower": "faster", "faster": "slower", "same": "same", "undecided": "undecided"}
    change, small, large = change_of(old, new), min(one, other), max(one, other)
    strict, lenient = change.verdict(small), change.verdict(large)
    assert change_of(new, old).verdict(small) == exchanged[strict], "exchanging the runs exchanges slower and faster"
    assert change_of(old, old).verdict(small) in ("same", "undecided"), "a run is neither slower nor faster than itself"
    assert strict != "same" or lenient == "same", "a larger threshold lets more pass"
    assert lenient not in ("slower", "faster") or strict == lenient
    if min(len(old), len(new)) < 2:
        assert change.interval is change.inverse is None
        assert strict == "undecided"
        return
    assert change.interval is not None and change.inverse is not None
    assert change.value in change.interval
    if change.interval.low > 0 and math.isfinite(change.interval.high):
        assert change.inverse.high == pytest.approx(1 / change.interval.low)


@given(near_rounds.filter(lambda rounds: len(rounds) >= 8), st.integers(min_value=2, max_value=50))
def test_what_takes_many_times_longer_is_slower(rounds: list[list[int]], factor: int) -> None:
    change = change_of(rounds, [[1000 * factor * sample for sample in round_] for round_ in rounds])
    assert change.value == pytest.approx(1000 * factor)
    assert change.verdict(0.05) == "slower"


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        *(
            ({}, {"ms": ms}, verdict)
            for ms, verdict in ((12, "slower"), (8, "faster"), (10.1, "same"), (10.6, "slower"))
        ),
        ({}, {"ms": 10.49}, "undecided"),
        ({}, {"rounds": [[100] * 50]}, "undecided"),
        ({"verdict": "exact"}, {"ms": 20}, "slower"),
        ({"verdict": "lossy"}, {"verdict": "lossy", "ms": 20}, "slower"),
        ({"verdict": "unjudged"}, {"verdict": "unjudged", "ms": 20}, "slower"),
        ({"is_judged": False, "parity": {}}, {"is_judged": False, "parity": {}, "ms": 5}, "faster"),
        ({}, {"conditions": BUSY, "ms": 20}, "undecided"),
        ({}, {"is_interleaved": False}, "same"),
    ],
)
def test_verdicts_at_five_percent(old: dict[str, Any], new: dict[str, Any], verdict: str) -> None:
    """The change and the medians are those of the cells, and what a reader must know stands beside the verdict."""
    cell = only_cell(run_of(record(**old)), run_of(record(**new)))
    assert (cell.verdict, cell.is_regression) == (verdict, verdict == "slower")
    assert cell.change is not None
    assert cell.change.value == pytest.approx(new.get("ms", 100 if "rounds" in new else 10) / 10, rel=0.01)
    assert cell.medians_ns[0] == pytest.approx(10 * MS, rel=0.01)
    has_few = "rounds" in new or "conditions" in new
    assert (cell.change.interval is None, cell.rounds) == (has_few, (10, 1 if "rounds" in new else 10))
    assert cell.is_disturbed == (False, "conditions" in new)
    says = {
        "conditions": ["disturbed in NEW: over 20%", "only 0 quiet rounds of 10 in NEW, and 3 are needed"],
        "is_interleaved": ["not measured in turns with the others in NEW"],
        "rounds": ["only 1 quiet round in NEW, and 3 are needed"],
    }
    expected = [words for name, remarks in says.items() if name in new for words in remarks]
    assert [remark[: len(words)] for remark, words in zip(cell.remarks, expected, strict=True)] == expected


def test_requests_are_compared_by_their_latency() -> None:
    """`bench load` times no call on its own; its latencies are what a gate watches."""
    runs = [made.run_of([made.record("eager", Rate(0, 10.0), times={"latency": ms})], Load) for ms in (5, 10)]
    assert only_cell(*runs).verdict == "slower"
    assert only_cell(*runs).medians_ns == (5 * MS, 10 * MS)


# Cells that are not in both.


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ({"status": "failed", "reason": "killed by SIGKILL"}, "failed: killed by SIGKILL"),
        ({"status": "oom", "reason": "out of memory"}, "oom: out of memory"),
        ({"status": "unsupported", "reason": "no bf16"}, "unsupported: no bf16"),
        ({"status": "skipped"}, "skipped"),
        ({"parity": {"verdict": "broken", "reason": "another model"}}, "parity broken: another model"),
        ({"parity": {"verdict": "lossy"}}, "parity lossy (was equivalent)"),
        ({"parity": {"verdict": "unjudged"}}, "parity unjudged (was equivalent)"),
        ({"parity": {}}, "parity unjudged (was equivalent)"),
        ({"turns": ()}, "no time was measured"),
        (
            {"ms": 1, "operations": {"flops": 10**8, "weight_bytes": 1}},
            "implausible: the median lies below the roofline",
        ),
    ],
)
def test_a_cell_that_is_lost_is_gone_with_its_reason_and_a_regression(lost: dict[str, Any], reason: str) -> None:
    notes = {"peaks": Peaks("cpu", 2, {"fp32": 1e9}, ((1 << 30, 1e9),), "2026-01-01").to_json()}  # 10 ms are 1e7 FLOP
    there = run_of(record(operations={"flops": 10**6, "weight_bytes": 1}), notes=notes)
    compared = compare_runs([there, run_of(record(**lost), notes=notes)])
    (cell,) = compared.cells
    assert (cell.verdict, cell.is_regression, cell.reason) == ("gone", True, reason)
    assert (cell.medians_ns[1], cell.change, compared.exit_code) == (None, None, REGRESSION)
    back = compare_runs([run_of(record(**lost), notes=notes), there])
    (cell,) = back.cells
    assert (cell.verdict, cell.is_regression, back.exit_code) == ("new", False, 0)
    assert cell.reason == f"before: {reason.removesuffix(' (was equivalent)')}"


def test_what_is_not_planned_any_more_is_no_regression() -> None:
    both = run_of(record(), record("onnx"))
    compared = compare_runs([both, run_of(record())])
    gone = compared.cells[1]
    assert (gone.candidate.backend, gone.verdict, gone.is_regression) == ("onnx", "gone", False)
    assert (gone.reason, compared.exit_code) == ("not planned", 0)
    assert compare_runs([run_of(record()), both]).cells[1].verdict == "new"
    unfinished = run_of(record(), planned=("onnx",), is_complete=False)
    compared = compare_runs([both, unfinished])
    assert [cell.verdict for cell in compared.cells] == ["same", "gone"]
    assert "incomplete; bench compare --resume" in compared.cells[1].reason
    assert (compared.exit_code, compare_runs([unfinished, both]).exit_code) == (REGRESSION, 0)
    ended = record(point=Shape(2, 16), status="skipped", reason="beyond the last doubling: it gained little")
    auto = {"batches": "auto", "lengths": [16], "shapes": []}
    compared = compare_runs(
        [run_of(record(), record(point=Shape(2, 16)), **auto), run_of(record(), ended, day=2, **auto)]
    )
    assert [(cell.verdict, cell.reason) for cell in compared.cells] == [("same", ""), ("gone", "not planned")]
    assert compared.exit_code == 0


def test_what_neither_run_measured_has_no_verdict() -> None:
    broken, failed = record("onnx", verdict="broken"), record("onnx", status="failed")
    compared = compare_runs([run_of(record(), broken), run_of(record(), failed)])
    assert [cell.candidate.backend for cell in compared.cells] == ["eager"]
    assert [candidate.backend for _, candidate in compared.unmeasured] == ["onnx"]
    assert compared.exit_code == 0


def test_copies_variants_and_precisions_are_cells_of_their_own() -> None:
    def others(ms: float) -> list[Record]:
        return [record("eager@2", ms), record("eager:fused", ms), record("eager", ms, precision="bf16")]

    compared = compare_runs([run_of(record(), *others(10)), run_of(record(), *others(1))])
    assert [cell.verdict for cell in compared.cells] == ["same", "faster", "faster", "faster"]
    assert compared.counts == dict.fromkeys(VERDICTS, 0) | {"same": 1, "faster": 3}


# What forbids a comparison, and what explains a change.


def test_runs_that_cannot_be_compared_are_refused_in_one_line() -> None:
    load = made.run_of([made.record("eager", Rate(0, 10.0), times={"latency": 5})], Load)
    nothing, altered = run_of(record(turns=())), run_of(record(), day=2)
    altered.integrity = "altered"
    for one, other, message in (
        (run_of(record()), run_of(record("onnx")), r"no cell in common with .*; compare runs of the same backends"),
        (run_of(record()), load, "of bench compare and .* of bench load measured different things; compare runs of"),
        (nothing, nothing, "measures no times to compare"),
        (run_of(record()), altered, "was altered after it was written"),
    ):
        with pytest.raises(UserError, match=message) as refused:
            compare_runs([one, other])
        assert "\n" not in str(refused.value)


def other_run(**values: Any) -> Run:
    return run_of(record(ms=11), day=2, **values)


CACHED, DOWNLOADED = "pretrained, from the Hub cache (0123456789ab)", "pretrained, downloaded from a/b (0123456789ab)"
FOLDER = "pretrained, from the folder's safetensors"
LIBRARIES = {"torch": "2.13.0", "transformers": "5.23.0", "runtimebench": "0.1.0"}


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({}, {}, None),
        ({}, {"model": "gpt"}, "model (bert and gpt)"),
        ({}, {"device": "cuda"}, "device (cpu and cuda)"),
        ({}, {"threads": 4}, "threads (2 and 4)"),
        ({}, {"tf32": True}, "tf32 (False and True)"),
        ({}, {"boundary": "host"}, "boundary (device and host)"),
        ({}, {"fingerprint": {"cpu": "B", "gpus": [{}]}, "origin": "pretrained, x (abc1234)"},
         "machine (cpu: A CPU and B), weights (seeded random (seed 0) and pretrained, revision abc1234)"),
        ({"fingerprint": {"flags": "avx " * 99}}, {"fingerprint": {"flags": "sse " * 99}}, "machine (flags)"),
        ({"origin": "seeded random (seed 0); no pretrained ones are here"}, {"origin": "seeded random (seed 0)"}, None),
        ({"origin": "seeded random (seed 0)"}, {"origin": "seeded random (seed 1)"},
         "weights (seeded random (seed 0) and seeded random (seed 1))"),
        ({"origin": CACHED}, {"origin": DOWNLOADED}, None),
        ({"origin": CACHED}, {"origin": CACHED.replace("01", "76")},
         "weights (pretrained, revision 0123456789ab and pretrained, revision 7623456789ab)"),
        ({"origin": FOLDER}, {"origin": FOLDER}, None),
        ({"fingerprint": {"versions": LIBRARIES}}, {"fingerprint": {"versions": LIBRARIES}, "checkpoint": "decade"},
         "weights (checkpoint c0ffee and decade)"),
        ({"fingerprint": {"versions": LIBRARIES}},
         {"fingerprint": {"versions": LIBRARIES | {"torch": "2.14.0"}}, "checkpoint": "decade"}, None),
    ],
)  # fmt: skip
def test_what_differs_is_an_obstacle_and_named(one: dict[str, Any], other: dict[str, Any], message: str | None) -> None:
    found = obstacles([run_of(record(), **one), other_run(**other)])
    assert [line.partition(" differ in ")[2] for line in found] == ([message] if message else [])


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
    # An older bench did not ask for all versions: those are no change.
    new = other_run(fingerprint={"versions": {"torch": "2.13.0", "mkl": "2026.0"}, "environment": {}})
    assert changes(run_of(record(), fingerprint={"versions": {"torch": "2.12.0"}}), new) == ["torch 2.12.0 → 2.13.0"]


# Histories.


def history(*ms: float | None) -> Comparison:
    """Runs a day apart; None for a run in which the cell failed."""
    runs = [
        run_of(record(status="failed", reason="it died") if time is None else record(ms=time), day=day)
        for day, time in enumerate(ms, start=1)
    ]
    return compare_runs(runs[::-1])


def test_a_history_holds_the_last_against_the_first_and_keeps_every_median() -> None:
    compared = history(10, 11, 12)
    assert compared.labels == ("run 1", "run 2", "run 3")
    assert [round((median or 0) / MS) for median in compared.cells[0].medians_ns] == [10, 11, 12]
    assert compared.exit_code == REGRESSION
    for ms, verdict in (
        ((10, 11, 12), "slower"), ((12, 11, 10), "faster"), ((10, 99, 10), "same"), ((10, None, 10), "same"),
        ((None, 10, 20), "slower"), ((None, None, 10), "new"), ((10, 10, None), "gone"),
    ):  # fmt: skip
        cell = history(*ms).cells[0]
        assert (cell.verdict, cell.trend, cell.medians_ns[0] is None) == (verdict, None, ms[0] is None), ms
        assert cell.reason == {"gone": "failed: it died", "new": "before: failed: it died"}.get(verdict, "")


def test_a_trend_needs_six_runs_that_go_one_way() -> None:
    rising = history(*(10 + 0.05 * i for i in range(8))).cells[0]
    assert (rising.verdict, rising.trend) == ("same", pytest.approx(0.035, rel=0.05))
    assert history(*(10 + 0.05 * (i % 2) for i in range(8))).cells[0].trend is None
    assert history(10, 11, 12, 13, 14).cells[0].trend is None


def test_a_history_compares_the_best_standing_that_a_cell_ever_had() -> None:
    same, lossy = run_of(record()), run_of(record(verdict="lossy", ms=5))
    assert only_cell(lossy, same, run_of(record(ms=20))).verdict == "slower"
    assert only_cell(same, lossy, same).medians_ns[1] is None
    assert only_cell(same, lossy, lossy).reason == "parity lossy: a reason for lossy (was equivalent)"
    assert only_cell(lossy, lossy, same).reason == "before: parity lossy: a reason for lossy"


# The command.


def write(path: Path, *records: Record, **values: Any) -> str:
    """A run file; returns its name."""
    return made.write(run_of(*records, **values), path).name


@pytest.fixture
def old(tmp_path: Path) -> str:
    return write(tmp_path / "old.jsonl", *OLD)


@pytest.fixture
def diff(cli_here, tmp_path: Path, old: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`bench diff` of the old run and a newer one of the given records."""

    def run(records: Sequence[Record], *words: str, **values: Any) -> subprocess.CompletedProcess[str]:
        (tmp_path / "new.jsonl").unlink(missing_ok=True)
        return cli_here("diff", old, write(tmp_path / "new.jsonl", *records, **({"day": 2} | values)), *words)

    return run


OLD = (record(), record("onnx", ms=5), record("compile", 4, Shape(1, 128)))


def test_a_regression_is_exit_code_4_and_comes_first(diff) -> None:
    changed = [record(ms=11), record("onnx", ms=3), OLD[2]]
    done = diff(changed)
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.splitlines()[-1] == "1 slower, 1 faster, 1 same (1 regression)"
    row = next(line for line in done.stdout.splitlines() if line.startswith("eager"))
    assert row.split()[:5] == ["eager", "1×16", "10.01", "11.01", "+10.0%"]
    for allowed, code in (("8%", 4), ("0.12", 0), ("12%", 0)):
        assert diff(changed, "--threshold", allowed).returncode == code
    failed = record("compile", 4, Shape(1, 128), status="failed", reason="the worker was killed by SIGKILL")
    later = {"fingerprint": {"cpus": 2, "versions": {"torch": "2.13.0"}}, "rounds": 20}
    done = diff([record(ms=8), record("onnx", ms=10), failed], **later)
    lines = done.stdout.splitlines()
    rows = [line.split()[0] for line in lines if line.split() and line.split()[-1] in VERDICTS]
    assert (done.returncode, rows) == (4, ["onnx", "compile", "eager"])
    at = lines.index("Gone, though planned")
    assert lines[at + 1] == "- compile at 1×128: failed: the worker was killed by SIGKILL"
    assert lines[-1] == "1 slower, 1 faster, 1 gone (2 regressions)"
    at = lines.index("What else differs")  # information, and no obstacle
    assert lines[at + 1 : at + 3] == ["- torch 2.12.0 → 2.13.0", "- rounds 3 → 20"]


def test_runs_that_differ_are_refused_unless_told_otherwise(diff, cli_here, tmp_path: Path) -> None:
    slow = [record(ms=20)]
    done = diff(slow, threads=1)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "'old.jsonl' and 'new.jsonl' differ in threads (2 and 1); compare runs that agree, or use" in done.stderr
    forced = diff(slow, "--force", threads=1)
    assert forced.returncode == 4
    assert "compared anyway: 'old.jsonl' and 'new.jsonl' differ in threads (2 and 1)" in " ".join(forced.stdout.split())
    older = diff(slow, "--anyway", threads=1)
    assert (older.returncode, older.stdout) == (4, forced.stdout)
    assert older.stderr == "bench: --anyway is now --force; it ends with 0.3.0\n"
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / "old.jsonl").read_bytes())
    assert "are the same run; compare runs" in cli_here("diff", "old.jsonl", "copy.jsonl").stderr
    assert "are the same run (and 2 more such pairs)" in cli_here("diff", *["old.jsonl"] * 3).stderr
    altered = (tmp_path / "old.jsonl").read_text().replace("10010000", "90010000", 1)
    (tmp_path / "altered.jsonl").write_text(altered)
    for files in (("old.jsonl", "altered.jsonl"), ("altered.jsonl", "old.jsonl")):
        done = cli_here("diff", *files, "--force")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "'altered.jsonl' was altered after it was written" in done.stderr


def test_nothing_measured_anywhere_says_so(cli_here, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", record(status="failed", reason="it died"))
    other = write(tmp_path / "other.jsonl", record(status="oom", reason="full"), day=2)
    done = cli_here("diff", one, other)
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
    for part in ("128×1024", "13013", "slower", "gone", "undecided", "fp32", "bf16", "it died it died"):
        assert part in done.stdout, part


def test_a_change_of_any_width_is_json(cli_here, tmp_path: Path) -> None:
    rounds = [[1e-6], [1e6], [1e6]]
    names = [
        write(tmp_path / f"{day}.jsonl", record(rounds=[[day * ms] for (ms,) in rounds]), day=day) for day in (1, 2)
    ]
    done = cli_here("diff", *names, "--json")
    document = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["cells"][0]["verdict"] == "undecided"
    assert document["cells"][0]["time_ratio_high"] > 1e100
    assert ">+999%" in cli_here("diff", *names).stdout
