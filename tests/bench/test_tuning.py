"""Tuning: the space, successive halving, parity as a gate, the budget, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import backends
from bench.errors import UserError
from bench.report import tuning as report
from bench.run.listener import Listener
from bench.run.record import Record, Run
from bench.spec import Candidate, Shape, parse_candidates
from bench.traffic import Traffic
from bench.tune import api
from bench.tune.file import as_json, read_tuning
from bench.tune.halving import RUNGS, Rung, survivors
from bench.tune.results import (
    Goal,
    Outcome,
    Tuning,
    means,
    outcome_of,
)
from bench.tune.space import Trial, asked_space, thread_counts, whole_space
from bench.workloads.forward import Forward, ForwardOptions
from tests import made

MS = 1_000_000
PARITY = {"verdict": "equivalent", "cases": {"timed": [{"rms_reference": 1.0, "rmse": 1e-6}]}}
EAGER, ONNX, TORCHSCRIPT = (Candidate(name, "default", "fp32") for name in ("eager", "onnx", "torchscript"))


class Bench:
    """Stands in for `measure`: times come from `ms`, and the options of every call are kept."""

    def __init__(self, ms: Callable[[Candidate, int, Shape], float]) -> None:
        self.ms = ms
        self.calls: list[tuple[type[Forward], ForwardOptions]] = []
        self.values: Callable[[Candidate], dict[str, Any]] = lambda candidate: {}

    def __call__(self, workload: type[Forward], options: ForwardOptions, listener: Listener | None = None) -> Run:
        self.calls.append((workload, options))
        candidates = parse_candidates(options.backends, options.precisions)
        shapes = [Shape(*pair) for pair in options.shapes]
        records = [
            self.record(candidate, options.settled_threads, shape) for shape in shapes for candidate in candidates
        ]
        run = made.run_of(records)
        run.workload = workload(options)
        run.path = Path(str(options.output))
        made.write(run, run.path)
        return run

    def record(self, candidate: Candidate, threads: int, shape: Shape) -> Record:
        ms = self.ms(candidate, threads, shape)
        rounds = [[ms * (1 + 0.001 * number)] * 5 for number in range(6)]
        values = {"parity": PARITY} | self.values(candidate)
        return made.record(candidate.label, shape, ms=rounds, precision=candidate.precision, **values)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    times = {"eager": 20.0, "torchscript": 15.0, "onnx": 10.0, "compile": 30.0}
    found = Bench(lambda candidate, threads, shape: times.get(candidate.backend, 40.0) / threads)
    monkeypatch.setattr(api, "measure", found)
    monkeypatch.setattr("bench.machine.usable_cpus", lambda: 2)
    yield found


def tuned(tmp_path: Path, **options: Any) -> Tuning:
    given = {"backends": "eager:default,onnx:default,torchscript:default", "threads": 2, "lengths": 16}
    return api.tune("bert-tiny", artifacts=tmp_path / "artifacts", device="cpu", **(given | options))


# The space.


def test_the_whole_space_is_every_variant_that_would_be_deployed(tmp_path: Path) -> None:
    space = whole_space("cpu", ("fp32",), tmp_path)
    labels = [candidate.label for candidate in space.candidates]
    assert {"eager", "onnx", "torchscript", "compile", "compile:max-autotune"} <= set(labels)
    assert not {"eager:grad", "null"} & set(labels)
    static = [backends.load_class(c.backend).spec.compiles_every_shape(c.variant) for c in space.candidates]
    assert static == sorted(static), "what compiles every shape comes last, where a budget may end"


def test_what_cannot_run_is_left_out_with_its_reason(tmp_path: Path) -> None:
    space = whole_space("cpu", ("fp32", "int8"), tmp_path)
    assert all(c.backend != "eager" for c in space.candidates if c.precision == "int8")
    assert any(name == "eager" and "no int8 on cpu" in reason for name, reason in space.left_out)


def test_a_backend_stands_for_its_variants_and_a_variant_for_itself(tmp_path: Path) -> None:
    every = asked_space(["compile"], "cpu", ("fp32",), tmp_path).candidates
    assert len(every) >= 4
    assert [c.label for c in asked_space(["compile:default"], "cpu", ("fp32",), tmp_path).candidates] == ["compile"]
    with pytest.raises(UserError, match="did you mean 'onnx'"):
        asked_space(["onxx"], "cpu", ("fp32",), tmp_path)
    with pytest.raises(UserError, match="computes no model"):
        asked_space(["null"], "cpu", ("fp32",), tmp_path)
    with pytest.raises(UserError, match="nothing of --backends"):
        asked_space(["eager"], "cpu", ("int8",), tmp_path)


@pytest.mark.parametrize(("most", "counts"), [(1, (1,)), (2, (2, 1)), (12, (12, 6, 3, 1))])
def test_threads_are_halved(most: int, counts: tuple[int, ...]) -> None:
    assert thread_counts(most, "cpu") == counts
    assert thread_counts(most, "cuda") == (most,)


# Halving.


def test_the_better_half_goes_on_and_what_is_near() -> None:
    rung = Rung(1, 5, share_kept=0.5, least_kept=2, near=1.1, most_kept=4, until=1)
    assert survivors({"a": 10.0, "b": 20.0, "c": 30.0, "d": 40.0}, rung) == ["a", "b"]
    assert survivors({"a": 10.0, "b": 10.5, "c": 10.9, "d": 40.0}, rung) == ["a", "b", "c"]
    assert survivors(dict.fromkeys("abcdefgh", 10.0), rung) == ["a", "b", "c", "d"]
    assert survivors({"a": 10.0}, rung) == ["a"]
    assert survivors({}, rung) == []


def test_a_disturbed_round_drops_nothing_before_the_final() -> None:
    run = made.run_of([made.record("onnx", Shape(1, 16), ms=[[10] * 3, *[[160] * 3] * 4])])
    goal = Goal(((Shape(1, 16), 1.0),), "one")
    assert outcome_of(run, ONNX, goal, is_final=False).score_ns == 10 * MS
    assert outcome_of(run, ONNX, goal, is_final=True).score_ns == 160 * MS


def test_turns_apart_are_merged_by_their_median_and_one_failure_fails() -> None:
    one, other = (Trial(Candidate(name, "default", "fp32"), 2) for name in ("eager", "onnx"))
    turns = [{one: Outcome(10.0), other: Outcome(9.0)}, {one: Outcome(30.0), other: Outcome(reason="died")}]
    found = means([*turns, {one: Outcome(11.0), other: Outcome(8.0)}])
    assert found[one].score_ns == 11.0
    assert found[other] == Outcome(reason="died")


# The search.


def test_the_fastest_is_found_with_its_threads_and_its_command(bench: Bench, tmp_path: Path) -> None:
    found = tuned(tmp_path)
    assert found.winner == Trial(ONNX, 2)
    assert found.runner_up == Trial(TORCHSCRIPT, 2)
    assert found.is_decided and found.exit_code == 0
    assert found.ratio is not None and found.ratio.value == pytest.approx(1.5)
    assert found.ratio.interval is not None, "the finalists took turns in one comparison"
    assert "--backends onnx" in found.reproduce and "--threads 2" in found.reproduce
    assert {trial.threads for trial in found.outcomes()[0]} == {2}
    assert {trial.threads for trial in found.outcomes()[1]} == {1, 2}
    assert [kind.has_roofline for kind, _ in bench.calls] == [False] * (len(bench.calls) - 1) + [True]
    assert found.path is not None
    written = json.loads(found.path.read_text().splitlines()[0])
    assert written["winner"]["candidate"]["backend"] == "onnx"
    assert [len(rung) for rung in written["rungs"]] == [len(rung) for rung in found.rungs]
    table = report.render(found, "table")
    assert "take onnx fp32, 2 threads: 1.50× (1.50–1.50) as fast as torchscript fp32" in " ".join(table.split())
    assert all(len(line) <= 80 for line in table.splitlines() if not line.startswith("reproduce"))


def test_a_search_is_read_as_it_was_written_and_printed_again(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.cli import report as command

    found = tuned(tmp_path)
    assert found.path is not None
    assert read_tuning(found.path) == found
    command.command([found.path])
    assert capsys.readouterr().out == report.render(found, "table")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 99}, "upgrade runtimebench"),
        ({"schema": 1}, "search again"),
        ({"kind": "run"}, "is no search of bench tune"),
        ({"seconds": 1.0}, "was altered or cut"),
    ],
)
def test_a_search_that_is_none_any_more_is_refused_in_one_line(
    change: dict[str, Any], said: str, bench: Bench, tmp_path: Path
) -> None:
    found = tuned(tmp_path)
    assert found.path is not None
    seal = found.path.read_text().splitlines()[1]
    found.path.write_text(json.dumps(as_json(found) | change) + f"\n{seal}\n")
    with pytest.raises(UserError, match=said) as refused:
        read_tuning(found.path)
    assert "\n" not in str(refused.value)


def test_fewer_threads_win_where_they_are_faster(bench: Bench, tmp_path: Path) -> None:
    bench.ms = lambda candidate, threads, shape: {"onnx": 10.0, "eager": 10.5}.get(candidate.backend, 30.0) * threads
    found = tuned(tmp_path)
    assert found.winner == Trial(ONNX, 1)


def test_finalists_of_several_thread_counts_take_turns_by_groups(bench: Bench, tmp_path: Path) -> None:
    bench.ms = lambda candidate, threads, shape: 10.0 + 0.1 * threads
    found = tuned(tmp_path)
    finals = [options.threads for kind, options in bench.calls if kind.has_roofline]
    assert finals == [1, 2, 2, 1, 1, 2] or finals == [2, 1, 1, 2, 2, 1]
    assert found.ratio is not None and found.winner is not None and found.winner.threads == 1


def test_what_is_not_the_same_model_is_out_however_fast(bench: Bench, tmp_path: Path) -> None:
    lossy = {"verdict": "lossy", "cases": {"timed": [{"rms_reference": 2.0, "rmse": 0.02}]}}
    bench.values = lambda candidate: {"parity": lossy} if candidate == ONNX else {}
    found = tuned(tmp_path)
    assert found.winner is not None and found.winner.candidate.backend == "torchscript"
    assert "lossy" in next(o.reason for t, o in found.outcomes()[0].items() if t.candidate.backend == "onnx")
    assert "onnx fp32, 2 threads: parity is lossy" in " ".join(report.render(found, "table").split())
    allowed = tuned(tmp_path, max_loss="2%", precisions="fp32")
    assert allowed.winner is not None and allowed.winner.candidate.backend == "onnx"
    strict = tuned(tmp_path, max_loss=0.005, precisions="fp32")
    assert strict.winner is not None and strict.winner.candidate.backend == "torchscript"


def test_nothing_that_qualifies_is_exit_code_5(bench: Bench, tmp_path: Path) -> None:
    bench.values = lambda candidate: {"status": "failed", "reason": "it died"}
    found = tuned(tmp_path)
    assert (found.winner, found.exit_code) == (None, 5)
    assert "take none: nothing that was tried qualifies" in report.render(found, "table")
    assert "1×16 failed: it died" in " ".join(report.render(found, "table").split())


def test_what_the_budget_has_no_time_for_is_said(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api._Search, "_spent", lambda self: 0.1 * len(bench.calls) + 0.55)
    found = tuned(tmp_path)
    assert len(found.rungs[0]) == 1
    assert len([reason for reason in found.not_tried.values() if "--budget 600s had no time" in reason]) >= 2
    assert found.winner is not None


def test_the_command_names_a_store_that_is_not_the_default_one(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"--artifacts {tmp_path / 'artifacts'}" in str(tuned(tmp_path).reproduce)
    monkeypatch.chdir(tmp_path)
    found = api.tune("bert-tiny", backends="eager:default", threads=2, lengths=16, device="cpu")
    assert "--artifacts" not in str(found.reproduce)


@pytest.mark.parametrize("place", ["output", "artifacts"])
def test_what_cannot_be_written_is_refused_before_the_search(bench: Bench, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    beyond = {place: tmp_path / "file" / ("t.json" if place == "output" else "")}
    with pytest.raises(UserError, match=rf"{'output file' if place == 'output' else 'artifact folder'} .*written|made"):
        api.tune(
            "bert-tiny", **{"artifacts": tmp_path / "artifacts", "backends": "eager:default", "device": "cpu", **beyond}
        )
    assert bench.calls == []


def test_a_traffic_is_its_shapes_mean(bench: Bench, tmp_path: Path) -> None:
    def ms(candidate: Candidate, threads: int, shape: Shape) -> float:
        return (1.0 if shape.length == 8 else 100.0) if candidate.backend == "onnx" else 10.0

    bench.ms = ms
    short, long = Shape(1, 8), Shape(2, 16)
    mostly_short = tuned(tmp_path, traffic=Traffic({short: 99.0, long: 1.0}, "test"))
    assert mostly_short.winner is not None and mostly_short.winner.candidate.backend == "onnx"
    assert mostly_short.outcomes()[-1][mostly_short.winner].score_ns == pytest.approx(1.99 * MS, rel=0.01)
    mostly_long = tuned(tmp_path, traffic=Traffic({short: 1.0, long: 99.0}, "test"))
    assert mostly_long.winner is not None and mostly_long.winner.candidate.backend != "onnx"


def test_a_traffic_of_many_shapes_is_stood_for_by_six() -> None:
    many = Traffic({Shape(1, length): 1.0 for length in range(1, 101)}, "test")
    shares = api.representatives(many)
    assert len(shares) == api.MOST_SHAPES
    assert sum(share for _, share in shares) == pytest.approx(1)
    mean = sum(share * shape.length for shape, share in shares)
    assert mean == pytest.approx(50.5, rel=0.15)
    few = Traffic({Shape(1, 8): 3.0, Shape(2, 8): 1.0}, "test")
    assert api.representatives(few) == ((Shape(1, 8), 0.75), (Shape(2, 8), 0.25))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"budget": "soon"}, "--budget 'soon' is not a duration"),
        ({"max_loss": "150%"}, "--max-loss 150% is not above 0 and below 100%"),
        ({"max_loss": "much"}, "--max-loss 'much' is no share"),
        ({"precisions": "fp99"}, "unknown precision 'fp99'"),
        ({"lengths": 100_000}, "exceeds the"),
        ({"lengths": 0}, "--lengths 0 is below 1"),
        ({"batches": 0}, "--batches 0 is below 1"),
        ({"backends": "onxx"}, "unknown backend 'onxx'"),
        ({"traffic": "nowhere.csv"}, "cannot be read"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_a_mistake_ends_before_anything_is_measured(
    bench: Bench, tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        tuned(tmp_path, **options)
    assert not bench.calls
    assert not list(tmp_path.rglob("tuning.json"))


def test_a_search_is_not_written_over(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "tuning.json").write_text("mine")
    with pytest.raises(UserError, match="exists; give another --output"):
        tuned(tmp_path, output=tmp_path / "tuning.json")
    assert (tmp_path / "tuning.json").read_text() == "mine"


def test_a_search_that_is_stopped_keeps_what_it_measured(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: Any, **named: Any) -> Run:
        if len(bench.calls) == 2:
            raise KeyboardInterrupt
        return bench(*args, **named)

    monkeypatch.setattr(api, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path, output=tmp_path / "search.json")
    kept = json.loads((tmp_path / "search.json").read_text().splitlines()[0])
    assert len(kept["rungs"][0]) == 2
    assert kept["winner"] is None


def test_the_rungs_get_longer_and_the_last_is_reached_within_the_budget() -> None:
    assert [rung.seconds_per_cell for rung in RUNGS] == sorted(rung.seconds_per_cell for rung in RUNGS)
    assert all(rung.until < 1 for rung in RUNGS)


@pytest.mark.slow
def test_a_real_search_from_the_command_line(cli, tmp_path: Path, artifacts: Path) -> None:
    options = ["--model", "bert-tiny", "--length", "16", "--backends", "onnx:default,eager:default", "--budget", "40s"]
    done = cli("tune", *options, "--artifacts", str(artifacts), "--output", "t.json", timeout=400)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads((tmp_path / "t.json").read_text().splitlines()[0])
    assert found["is_decided"]
    assert found["winner"]["candidate"]["backend"] in ("onnx", "eager")
    assert "reproduce: bench compare" in done.stdout
    assert "--length is now --lengths" in done.stderr
