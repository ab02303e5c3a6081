"""`bench load`: the same arrivals for all, overloads that are said, searches, and parity of what was served."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backends import null
from backends.base import UnsupportedError
from backends.null import Null
from bench.machine import conditions
from bench.machine.conditions import FLOOR_SECONDS
from bench.process import serving
from bench.process.levels import KEPT, MISSED, UNJUDGED
from bench.process.serving import Server
from bench.report import console
from bench.run import search
from bench.run.experiment import measure
from bench.run.record import Record, Run, Turn
from bench.run.search import bracket
from bench.spec import Shape
from bench.traffic import Traffic
from bench.workloads import load as load_module
from bench.workloads.load import Load, LoadOptions, Rate
from bench.workloads.load_cell import LoadCell
from tests.in_process import here
from tests.made import QUIET, candidate, run_of

MS = 1_000_000
FOURS = Traffic({Shape(4, 8): 1.0}, "fours")


pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers in this process warn about themselves


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(serving, "WARMUP_SECONDS", 0.0)
    monkeypatch.setattr(load_module, "SECONDS_BESIDE", 0.1)
    with here():
        yield


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else runs on this machine, as far as verdicts know."""
    monkeypatch.setattr(conditions, "quiet", lambda turns: (True,) * len(turns))


@pytest.fixture
def own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock for queue and `null` that goes on by 10 µs with each reading: this machine's stalls are none of theirs."""
    readings = count(0, 10_000)

    def perf_counter_ns() -> int:
        return next(readings)

    own = SimpleNamespace(perf_counter_ns=perf_counter_ns, sleep=lambda seconds: None, monotonic=time.monotonic)
    monkeypatch.setattr(serving, "time", own)
    monkeypatch.setattr(null, "time", own)


def served(tmp_path: Path, backends: str, **options: Any) -> Run:
    defaults: dict[str, Any] = {
        "rate": 400, "duration": "0.1s", "rounds": 2, "device": "cpu", "threads": 1, "timeout": 60,
        "artifacts": str(tmp_path / "artifacts"), "output": str(tmp_path / "run.jsonl"), "model": "bert-tiny",
    }  # fmt: skip
    return measure(Load, LoadOptions.parsed({**defaults, "backends": backends, **options}))


def of(run: Run, record: Record) -> Any:
    assert isinstance(run.workload, Load)
    return run.workload.slices(record)


@pytest.mark.usefixtures("quiet", "own_clock")
def test_all_get_the_same_arrivals_and_an_overload_is_said(tmp_path: Path) -> None:
    run = served(tmp_path, "null:500us,null:50ms", slo="p50=20s", search=False, rate=100, duration="0.4s")
    fast, slow = run.records
    assert fast.rounds_ns("due")[0] == slow.rounds_ns("due")[0]
    # The second slice goes on where the first one ended, with what it has left; 500 µs leave at most the last one.
    first, second = (one.slices for one in (of(run, fast), of(run, slow)))
    assert len(first[0].due_ns) == len(second[0].due_ns) == 20
    assert len(first[0].latency_ns) > len(second[0].latency_ns)
    assert len(first[1].due_ns) == 40 - len(first[0].latency_ns)
    assert len(second[1].due_ns) == 40 - len(second[0].latency_ns) > 20
    assert second[1].due_ns[0] < 0
    assert second[1].due_ns[-1] + second[0].ended_ns() == first[1].due_ns[-1] + first[0].ended_ns()
    assert of(run, fast).unserved == 0
    assert min(of(run, fast).calls_ns) >= 500_000
    assert of(run, slow).unserved > 0  # 40 calls of 50 ms are two seconds, which slices of 200 ms may not last
    rows = {row["variant"]: row for row in run.rows()}
    assert (rows["50ms"]["slo"], rows["50ms"]["p50_ms"], rows["50ms"]["keeps_up"]) == (MISSED, None, False)
    assert (rows["500us"]["slo"], rows["500us"]["keeps_up"]) == (KEPT, True)
    assert run.exit_code == 0
    for words in ("--backends null:500us", "--rate 100", "--no-search"):
        assert words in run.repeat(fast)


@pytest.mark.usefixtures("quiet")
def test_a_search_is_recorded_rate_by_rate_and_then_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates are doubled, or on a busy machine halved, until one misses, and bisected; rates around that one are tested
    on other draws, in slices.
    """
    monkeypatch.setattr(search, "DISTANCES", (1.5, 4.0))
    monkeypatch.setattr(search, "RESOLUTION", 1.5)
    run = served(tmp_path, "null:5ms", rate=60, slo="p50=30ms", search_requests=20)
    points = [record.point for record in run.records]
    assert [point.step for point in points] == [*range(len(points))]
    assert points[1].rate in (30, 120)
    picked, tests = ([one for one in run.records[1:] if bool(one.point.fresh) is is_test] for is_test in (False, True))
    assert run.records == [run.records[0], *picked, *tests]
    assert {len(one.turns) for one in picked} == {1}
    assert tests and {len(one.turns) for one in tests} == {2}
    gaps = {tuple(round(ns * one.point.rate / 1e9) for ns in one.rounds_ns("due")[0][:6]) for one in run.records}
    assert len(gaps) > len(tests)  # other draws each
    (found,) = run.workload.found(run).values()  # type: ignore[attr-defined]
    assert set(found.tested) == {60, *(one.point.rate for one in tests)}
    assert {trial.rate for trial in found.trials} <= {60, *(one.point.rate for one in picked)}
    assert "Largest rate" in console.render(run)
    assert run.workload.answer(run) == "1 of 1 cell measured"  # null computes nothing
    (plot,) = next(section.plots for section in run.workload.sections(run) if section.title == "Largest rate")
    percentiles = {one.point.rate: of(run, one).percentile(50) for one in run.records}
    assert {mark.x: mark.y * MS for mark in plot.marks} == pytest.approx({x: ns for x, ns in percentiles.items() if ns})


@pytest.mark.usefixtures("quiet")
def test_a_rate_that_no_lower_one_would_mend_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rate keeps a microsecond, which the rate that was asked for shows already."""
    monkeypatch.setattr(search, "DISTANCES", ())
    run = served(tmp_path, "null,null:oom", traffic=FOURS, slo="p50=1us", search_requests=20, duration="0.05s")
    assert {record.point.rate for record in run.records} == {400}
    ((candidate, found),) = run.workload.found(run).items()  # type: ignore[attr-defined]
    assert (candidate.label, found.kept, bracket(found.trials).is_settled) == ("null", None, True)


# Parity of what was served.


def test_served_outputs_are_judged(tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of three shapes are joined."""
    traffic = Traffic({Shape(1, 16): 2, Shape(2, 11): 1, Shape(5, 16): 1}, "three shapes")
    options: dict[str, Any] = {
        "traffic": traffic, "batching": "dynamic:4:2ms", "rate": 100, "duration": "0.2s",
        "artifacts": str(artifacts),
    }  # fmt: skip
    monkeypatch.setattr(load_module, "SECONDS_BESIDE", 60.0)  # a pause of the machine ends no slice
    run = served(tmp_path, "eager,onnx", **options)
    assert [record.is_comparable for record in run.records] == [True, True]
    assert run.exit_code == 0
    for record in run.records:
        assert set(record.parity["cases"]) == {"last", "joined"}
        assert all(case["compared"] > 0 for case in record.parity["cases"].values())
        assert record.facts["judged_by_further_calls"] == 1  # the joined one; the last was judged as it was served
        assert record.figures == {"shapes": 9, "warmed": 9}


def test_a_last_request_that_was_not_served_is_judged_by_a_call_of_its_own(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call lasts longer than a slice may, so that only the first request of each is served."""
    call = Server.call
    monkeypatch.setattr(load_module, "SECONDS_BESIDE", -9.0)

    def slow(self: Any, batch: Any) -> Any:
        time.sleep(0.3)
        return call(self, batch)

    monkeypatch.setattr(Server, "call", slow)
    traffic = Traffic({Shape(1, 16): 1}, "one")
    run = served(tmp_path, "eager", traffic=traffic, rate=100, search=False, artifacts=str(artifacts))
    (record,) = run.records
    assert of(run, record).unserved > 0
    assert record.is_comparable
    assert record.facts["judged_by_further_calls"] == 3  # the last, the longest and the shortest


@pytest.mark.parametrize("fault", ["mask", "order"])
def test_a_server_that_pads_or_returns_wrongly_is_broken(
    fault: str, tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: padding is not masked, or rows come back in another order."""
    join = Server.joined

    def wrong(self: Any, sequences: Any) -> Any:
        batch = join(self, sequences)
        if fault == "mask":
            return batch | {"attention_mask": np.ones_like(batch["attention_mask"])}
        return {name: array[::-1].copy() for name, array in batch.items()}

    monkeypatch.setattr(Server, "joined", wrong)
    traffic = Traffic({Shape(1, 16): 1, Shape(1, 11): 1}, "two lengths")
    run = served(tmp_path, "eager", artifacts=str(artifacts), traffic=traffic, batching="dynamic:4:2ms", rate=100)
    assert run.records[0].verdict == "broken"


# Shapes that are compiled one by one.


class Static(Null):
    """Compiles every shape anew; notes what is called, and for how many shapes it was told to have room."""

    has_static_shapes = True

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[int, ...]] = []
        self.kept: list[int] = []
        self.load(None, device="cpu", precision="fp32", threads=1, options={"seconds": 0.0})

    def keep_shapes(self, count: int) -> None:
        self.kept.append(count)

    def prepare(self, batch: Any) -> Any:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert ids.shape == mask.shape
        assert mask.any(axis=1).all(), "a row without any token is NaN in some runtimes"
        self.called.append(ids.shape)
        return ids


def begun(backend: Null, max_shapes: int = 16) -> tuple[LoadCell, dict[str, Any]]:
    """A cell that has taken in sequences of lengths 3 and 5, joined up to 6 rows, after one of another rate."""
    args = argparse.Namespace(precision="fp32", device="cpu")
    counts = (range(1, 7), (1, 2, 4, 6))
    both = [[[rows, length] for length in (8, 4) for rows in reversed(one)] for one in counts]
    ids = {"3": [[1] * 3] * 3, "5": [[2] * 5] * 3}
    for _ in range(2):
        cell = LoadCell(backend, args)
        reply = cell.begin(ids, *both, {"most_rows": 6, "most_delay_ns": MS}, {"3": 4, "5": 8}, 0, max_shapes)
    return cell, reply["figures"]


def test_a_runtime_of_static_shapes_meets_none_that_was_not_warmed_up() -> None:
    backend = Static()
    cell, figures = begun(backend)
    met = set(backend.called)
    assert met == {(rows, length) for rows in (1, 2, 4, 6) for length in (4, 8)}
    assert figures == {"shapes": 8, "warmed": 8}
    assert backend.kept == [8]  # once: what was compiled for the same requests stays
    backend.called.clear()
    shapes = [[1, 3], [1, 5], [1, 3], *[[2, 3]] * 3, [1, 5], [1, 5], [1, 3]]
    reply = cell.turn([0] * 9, shapes, 5_000 * MS, 0)
    assert len(reply["times_ns"]["latency"]) == 9
    assert set(backend.called) <= met
    assert sum(rows for rows, _ in backend.called) >= 12
    with pytest.raises(UnsupportedError, match=r"null would compile 8 shapes, above --max-shapes 7; .*--bucket 16"):
        begun(Static(), max_shapes=7)


def test_warming_up_stops_after_a_while_if_any_shape_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST_WARMUP_SECONDS", -1.0)
    backend = Static()
    backend.has_static_shapes = False
    _, figures = begun(backend)
    assert figures == {"shapes": 12, "warmed": 1}  # the first is always met


# What records say.


def record(
    label: str, step: int, rate: float, service_ns: int, requests: int = 200, *, verdict: str = "equivalent",
    is_disturbed: bool = False, fresh: int = 0, status: Any = "ok",
) -> Record:  # fmt: skip
    """One slice of requests that come evenly, each served alone."""
    gap = round(1e9 / rate)
    due, free, waits, latencies = [gap * place for place in range(1, requests + 1)], 0, [], []
    for at in due:
        start = max(at, free)
        free = start + service_ns
        waits.append(start - at)
        latencies.append(free - at)
    others = 10 * FLOOR_SECONDS if is_disturbed else 0.0
    during = QUIET | {"other_cpu_seconds": others}
    turn = Turn(0, {"due": due, "waits": waits, "latency": latencies}, conditions=during)
    parity = {"verdict": verdict, "max_abs_error": 1e-6}
    turns = (turn,) if status == "ok" else ()
    return Record(Rate(step, rate, fresh), candidate(label), status, turns=turns, parity=parity)


def run_with(*records: Record, slo: str = "p95=20ms", **options: Any) -> Run:
    defaults: dict[str, Any] = {
        "rate": 100, "duration": 2.0, "rounds": 1, "slo": slo, "search_requests": 200, "traffic": None,
    }  # fmt: skip
    return run_of(records, Load, **(defaults | options))


def test_a_broken_model_keeps_no_service_level() -> None:
    run = run_with(record("onnx", 0, 100, MS, verdict="broken"))
    assert run.exit_code == 3
    assert run.workload.found(run) == {}  # type: ignore[attr-defined]
    table = next(section.table for section in run.workload.sections(run) if section.table is not None)
    assert table.rows[0][1:5] == ("broken", "1.0e-06", "yes", "–")


FAST, SLOW, CLOSE = MS, 25 * MS, 95 * MS // 10


@pytest.mark.parametrize(
    ("records", "options", "code"),
    [
        ([("onnx", FAST)], {}, 0),
        ([("onnx", SLOW)], {}, 5),
        ([("onnx", CLOSE)], {}, 6),  # so near to what can be served that a few hundred requests tell nothing
        ([("onnx", FAST), ("eager", CLOSE)], {}, 6),
        ([("onnx", FAST), ("eager", SLOW)], {}, 0),
        ([("onnx", CLOSE), ("eager", SLOW)], {}, 6),
        ([("onnx", FAST)], {"rate": 100, "slo": None}, 0),
        ([("onnx", FAST), ("eager", FAST, "broken")], {}, 3),
        ([("onnx", CLOSE), ("eager", FAST, "broken")], {}, 3),
        ([("onnx", SLOW), ("eager", FAST, "broken")], {}, 3),
        ([("onnx", FAST), ("eager", FAST, "", "failed")], {}, 1),
        ([("onnx", CLOSE), ("eager", FAST, "", "failed")], {}, 1),
        ([("onnx", SLOW), ("eager", FAST, "", "failed")], {}, 5),
    ],
)  # fmt: skip
def test_exit_codes_in_their_order(records: list[Any], options: dict[str, Any], code: int) -> None:
    """Broken before nothing qualifies, before a failure, before undecided."""
    made = [
        record(label, 0, 100, service, verdict=(*more, "equivalent")[0], status=(*more, "", "ok")[1] or "ok")
        for label, service, *more in records
    ]
    assert run_with(*made, **({"search": False, "search_requests": None} | options)).exit_code == code


def test_the_largest_rate_is_a_range_of_tests() -> None:
    """What the search picked, 200/s here, is in no range."""
    rates = [(0, 100, FAST, 0), (1, 200, FAST, 0), (2, 400, 9 * MS, 0), (3, 180, FAST, 200), (4, 300, 9 * MS, 200)]
    run = run_with(*(record("onnx", step, rate, service, fresh=fresh) for step, rate, service, fresh in rates))
    (found,) = run.workload.found(run).values()  # type: ignore[attr-defined]
    assert (found.kept, found.missed, found.is_decided, run.exit_code) == (180, 300, True, 0)
    text = console.render(run)
    assert "180–300/s" in text
    assert "180/s keeps p95 20 ms, 300/s misses it (5 rates tried)" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert run.workload.answer(run) == "onnx serves at least 180 requests/s within p95 20 ms"
    open_ = run_with(*run.records[:4])
    assert (open_.exit_code, "≥ 180/s" in console.render(open_)) == (6, True)


def test_who_serves_most_is_said_only_if_it_is_known() -> None:
    onnx = [record("onnx", 0, 100, FAST), record("onnx", 1, 180, FAST, fresh=200)]
    slower = [record("eager", 0, 100, FAST), record("eager", 1, 150, 9 * MS, fresh=200)]
    assert run_with(*onnx, *slower).workload.answer(run_with(*onnx, *slower)).endswith("20 ms, the most of all")
    run = run_with(*onnx, slower[0])
    assert run.workload.answer(run) == "onnx serves at least 180 requests/s within p95 20 ms; others may serve as many"


def test_a_miss_on_a_disturbed_machine_is_tried_once_more_and_proves_nothing() -> None:
    missed = record("onnx", 1, 200, 9 * MS, is_disturbed=True)
    run = run_with(record("onnx", 0, 100, MS), missed)
    for records, rates in ((run.records, [100]), ([*run.records, missed], [100, 200])):
        (found,) = run.workload.found(run_with(*records)).values()  # type: ignore[attr-defined]
        assert [trial.rate for trial in found.trials] == rates
        assert found.missed is None
    disturbed = run_with(record("onnx", 0, 100, SLOW, is_disturbed=True))
    assert disturbed.exit_code == 6
    assert [row["slo"] for row in disturbed.rows()] == [UNJUDGED]
    assert "missed while other work disturbed the machine, which proves nothing" in " ".join(
        console.render(disturbed).split()
    )


def test_what_is_lacking_is_said_with_its_option() -> None:
    """At 10/s calls of 2 ms tell 90 requests for as many; 50 are too few, and 41 more are 9.1 s in all."""
    run = run_with(record("onnx", 0, 10, 2 * MS, 50), rate=10, duration=5.0)
    (said,) = [one for one in run.workload.warnings(run, run.records[0]) if "judged" in one]
    assert said == "p95 20 ms cannot be judged: 0 of 50 requests took longer; 44 more may do: use --duration 10s"
    longer = run_with(record("onnx", 0, 10, 2 * MS, 100), rate=10, duration=10.0)
    assert [row["slo"] for row in longer.rows()] == [KEPT]
