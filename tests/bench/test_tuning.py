"""Tuning: the space, successive halving, parity as a gate, the budget, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import backends
from bench.errors import UserError
from bench.parity.verdict import as_of_candidate
from bench.report import tuning as report
from bench.run.listener import Listener
from bench.run.record import Record, Run
from bench.spec import Candidate, Shape, parse_candidates
from bench.traffic import Traffic
from bench.tune import api, promise
from bench.tune.file import as_json, read_tuning
from bench.tune.halving import RUNGS, Rung, survivors
from bench.tune.results import Goal, Outcome, Tuning, means, outcome_of
from bench.tune.space import Trial, asked_space, in_order, thread_counts, whole_space
from bench.workloads.forward import Forward, ForwardOptions
from tests import made

MS = 1_000_000
PARITY = {"verdict": "equivalent", "loss": 1e-6}
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
        values = {"parity": as_of_candidate(PARITY, candidate)} | self.values(candidate)
        return made.record(candidate.label, shape, ms=rounds, precision=candidate.precision, **values)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    times = {"eager": 20.0, "torchscript": 15.0, "onnx": 10.0, "compile": 30.0}
    found = Bench(lambda candidate, threads, shape: times.get(candidate.backend, 40.0) / threads)
    monkeypatch.setattr(api, "measure", found)
    monkeypatch.setattr("bench.machine.usable_cpus", lambda: 2)
    yield found


def shown(found: Tuning) -> str:
    return " ".join(report.render(found, "table").split())


def tuned(tmp_path: Path, **options: Any) -> Tuning:
    given = {"backends": "eager:default,onnx:default,torchscript:default", "artifacts": tmp_path / "artifacts"}
    return api.tune("bert-tiny", **(given | {"threads": 2, "lengths": 16, "device": "cpu"} | options))


# The space.


def test_the_whole_space_is_every_variant_that_would_be_deployed(tmp_path: Path) -> None:
    space = whole_space("cpu", ("fp32", "int8"), tmp_path)
    labels = [candidate.label for candidate in space.candidates if candidate.precision == "fp32"]
    assert {"eager", "onnx", "torchscript", "compile", "compile:max-autotune"} <= set(labels)
    assert not {"eager:grad", "null"} & set(labels)
    static = [backends.load_class(c.backend).spec.compiles_every_shape(c.variant) for c in space.candidates]
    assert static == sorted(static), "what compiles every shape comes last, where a budget may end"
    assert all(c.backend != "eager" for c in space.candidates if c.precision == "int8")


def test_a_backend_stands_for_its_variants_and_a_variant_for_itself(tmp_path: Path) -> None:
    assert len(asked_space(["compile"], "cpu", ("fp32",), tmp_path).candidates) >= 4
    assert [c.label for c in asked_space(["compile:default"], "cpu", ("fp32",), tmp_path).candidates] == ["compile"]
    with pytest.raises(UserError, match="nothing of --backends"):
        asked_space(["eager"], "cpu", ("int8",), tmp_path)


@pytest.mark.parametrize(("most", "counts"), [(1, (1,)), (2, (2, 1)), (12, (12, 6, 3, 1))])
def test_threads_are_halved(most: int, counts: tuple[int, ...]) -> None:
    assert thread_counts(most, "cpu") == counts
    assert thread_counts(most, "cuda") == (most,)


# Halving.


@pytest.mark.parametrize(
    ("scores", "left"),
    [
        ((10, 20, 30, 40), "ab"),
        ((10, 10.5, 10.9, 40), "abc"),
        ((10,) * 8, "abcd"),
        ((10,), "a"),
        ((), ""),
    ],
)
def test_the_better_half_goes_on_and_what_is_near(scores: tuple[float, ...], left: str) -> None:
    rung = Rung(1, 5, share_kept=0.5, least_kept=2, near=1.1, most_kept=4, until=1)
    assert survivors(dict(zip("abcdefgh", scores, strict=False)), rung) == list(left)
    assert [one.seconds_per_cell for one in RUNGS] == sorted(one.seconds_per_cell for one in RUNGS)
    assert all(one.until < 1 for one in RUNGS), "the last rung is reached within the budget"


def test_a_disturbed_round_drops_nothing_before_the_final() -> None:
    run = made.run_of([made.record("onnx", Shape(1, 16), ms=[[10] * 3, *[[160] * 3] * 4])])
    goal = Goal(((Shape(1, 16), 1.0),), "one")
    assert outcome_of(run, ONNX, goal, is_final=False).score_ns == 10 * MS
    assert outcome_of(run, ONNX, goal, is_final=True).score_ns == 160 * MS


def test_turns_apart_are_merged_by_their_median_and_one_failure_fails() -> None:
    one, other = Trial(EAGER, 2), Trial(ONNX, 2)
    turns = [{one: Outcome(10.0), other: Outcome(9.0)}, {one: Outcome(30.0), other: Outcome(reason="died")}]
    found = means([*turns, {one: Outcome(11.0), other: Outcome(8.0)}])
    assert found == {one: Outcome(11.0), other: Outcome(reason="died")}


# The search.


def test_the_fastest_is_found_with_its_threads_and_its_command(bench: Bench, tmp_path: Path, cli_here) -> None:
    said: list[str] = []
    found = tuned(tmp_path, listener=api.TuneListener(said.append))
    assert (found.winner, found.runner_up) == (Trial(ONNX, 2), Trial(TORCHSCRIPT, 2))
    assert found.is_decided and found.exit_code == 0
    assert found.ratio is not None and found.ratio.value == pytest.approx(1.5)
    assert found.ratio.interval is not None, "the finalists took turns in one comparison"
    for words in ("--backends onnx", "--threads 2", f"--artifacts {tmp_path / 'artifacts'}"):
        assert words in found.reproduce
    assert [{trial.threads for trial in rung} for rung in found.outcomes()[:2]] == [{2}, {1, 2}]
    assert [kind.has_roofline for kind, _ in bench.calls] == [False] * (len(bench.calls) - 2) + [True] * 2
    assert said[:2] == ["bert-tiny on cpu, for 1×16 alone", "space: 3 candidates, then threads; within 600s"]
    assert any(line.startswith("[rung 3] onnx fp32, 2 threads") and "5.0" in line for line in said)
    assert "take onnx fp32, 2 threads: 1.50× (1.50–1.50) as fast as torchscript fp32" in shown(found)
    table = report.render(found, "table")
    assert all(len(line) <= 80 for line in table.splitlines() if not line.startswith("reproduce"))
    assert found.path is not None
    assert read_tuning(found.path) == found
    assert cli_here("report", str(found.path)).stdout == table
    short = api.tune("bert-tiny", backends="eager:default", threads=2, lengths=16, device="cpu")
    assert "--artifacts" not in short.reproduce


def test_a_search_that_is_none_any_more_is_refused_in_one_line(bench: Bench, tmp_path: Path) -> None:
    found = tuned(tmp_path, output=tmp_path / "tuning.json")
    assert found.path is not None
    seal = found.path.read_text().splitlines()[1]
    for change, said in (
        ({"schema": 99}, "upgrade runtimebench"),
        ({"schema": 1}, "search again"),
        ({"kind": "run"}, "is no search of bench tune"),
        ({"seconds": 1.0}, "was altered or cut"),
    ):
        found.path.write_text(json.dumps(as_json(found) | change) + f"\n{seal}\n")
        with pytest.raises(UserError, match=said) as refused:
            read_tuning(found.path)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="exists; give another --output"):
        tuned(tmp_path, output=found.path)


def test_fewer_threads_win_where_they_are_faster_and_take_turns_by_groups(bench: Bench, tmp_path: Path) -> None:
    bench.ms = lambda candidate, threads, shape: {"onnx": 10.0, "eager": 10.5}.get(candidate.backend, 30.0) * threads
    assert tuned(tmp_path).winner == Trial(ONNX, 1)
    bench.calls.clear()
    bench.ms = lambda candidate, threads, shape: 10.0 + 0.1 * threads
    found = tuned(tmp_path)
    finals = [options.threads for kind, options in bench.calls if kind.has_roofline]
    assert finals[:6] in ([1, 2, 2, 1, 1, 2], [2, 1, 1, 2, 2, 1])
    assert found.ratio is not None and found.winner is not None and found.winner.threads == 1
    assert found.ratio.interval is not None, "turns apart are rounds"


def test_what_is_not_the_same_model_is_out_however_fast(bench: Bench, tmp_path: Path) -> None:
    lossy = {"verdict": "lossy", "loss": 0.01}
    bench.values = lambda candidate: {"parity": lossy} if candidate == ONNX else {}
    for options, winner, said in (
        ({}, TORCHSCRIPT, "onnx fp32, 2 threads: parity is lossy; --max-loss lets a lossy one in"),
        ({"max_loss": "2%", "precisions": "fp32"}, ONNX, "at most 0.02 of the output's RMS may be lost"),
        ({"max_loss": 0.005, "precisions": "fp32"}, TORCHSCRIPT, "it loses 0.01, --max-loss is 0.005"),
    ):
        found = tuned(tmp_path, **options)
        assert found.winner is not None and found.winner.candidate == winner
        assert said in shown(found)


def test_nothing_that_qualifies_is_exit_code_5(bench: Bench, tmp_path: Path) -> None:
    bench.values = lambda candidate: {"status": "failed", "reason": "it died"}
    found = tuned(tmp_path)
    assert (found.winner, found.exit_code) == (None, 5)
    assert "take none: nothing that was tried qualifies" in shown(found)
    assert "1×16 failed: it died" in shown(found)


def test_what_the_budget_has_no_time_for_is_said(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api._Search, "_spent", lambda self: 0.1 * len(bench.calls) + 0.55)
    found = tuned(tmp_path)
    assert len(found.rungs[0]) == 1
    assert len([reason for reason in found.not_tried.values() if "--budget 600s had no time" in reason]) >= 2
    assert found.winner is not None


@pytest.mark.parametrize(("flags", "is_missed"), [(["amx_bf16"], True), (["avx2"], False)])
def test_an_untried_family_that_could_win_is_said_last_and_is_exit_code_6(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], is_missed: bool
) -> None:
    """Time for eager in fp32 alone; whether bf16 could be faster depends on the machine's units."""
    monkeypatch.setattr("bench.machine.host.flags", lambda *args: flags)
    monkeypatch.setattr(api._Search, "_spent", lambda self: 0.1 * len(bench.calls) + 0.55)
    options = {"backends": "eager:default", "precisions": "fp32,bf16", "max_loss": "2%"}
    found = tuned(tmp_path, **options)
    assert (found.tried, found.known, found.exit_code) == (1, 2, 6 if is_missed else 0)
    last = report.render(found, "table").splitlines()[-1]
    said = "INCOMPLETE: 1 of 2 tried; with a longer --budget, may be faster: eager bf16"
    assert (last == said) is is_missed
    assert found.path is not None
    assert read_tuning(found.path) == found


def test_eager_is_first_and_then_what_is_worth_most_a_second() -> None:
    tried = [Candidate(backend, "default", one) for backend in ("onnx", "compile", "eager") for one in ("fp32", "bf16")]
    with_units = in_order(tried, promise.Machine("cpu", ["amx_bf16"]), 1)
    assert [(one.backend, one.precision) for one in with_units[:2]] == [("eager", "fp32"), ("eager", "bf16")]
    assert with_units[-1].backend == "compile"
    without = in_order(tried, promise.Machine("cpu", ["avx2"]), 1)
    assert [(one.backend, one.precision) for one in without[:2]] == [("eager", "fp32"), ("onnx", "fp32")]
    measured = promise.Machine("cpu", ["amx_bf16"], {"fp32": 2e11, "bf16": 1e11})
    assert promise.speed(tried[5], measured) == 0.5, "what was measured goes before what flags promise"


def test_the_figure_of_the_winner_is_of_rounds_that_did_not_select_it(bench: Bench, tmp_path: Path) -> None:
    """Of two alike, the final flatters the one; the fresh rounds have the true time."""

    def ms(candidate: Candidate, threads: int, shape: Shape) -> float:
        is_final = "final" in str(bench.calls[-1][1].output)
        return (9.0 if is_final and candidate == ONNX else 10.0) / threads

    bench.ms = ms
    found = tuned(tmp_path)
    assert found.is_fresh and found.winner is not None and found.winner.candidate == ONNX
    assert found.outcomes()[-1][found.winner].score_ns == pytest.approx(5.0 * MS, rel=0.01)
    assert found.ratio is not None and found.ratio.value == pytest.approx(1.0, abs=0.001)
    assert "fresh ms" in report.render(found, "table")


def test_nothing_that_needs_another_device_or_precision_is_listed_as_left_out(tmp_path: Path) -> None:
    space = whole_space("cpu", ("fp32", "fp16", "int8"), tmp_path)
    named = {name.split()[0].partition(":")[0] for name, _ in space.left_out}
    assert "tensorrt" not in named
    assert "eager" not in named  # it has no int8 here, and its other precisions run


def test_a_traffic_is_its_shapes_mean(bench: Bench, tmp_path: Path) -> None:
    bench.ms = lambda one, threads, shape: (1.0 if shape.length == 8 else 100.0) if one.backend == "onnx" else 10.0
    short, long = Shape(1, 8), Shape(2, 16)
    found = tuned(tmp_path, traffic=Traffic({short: 99.0, long: 1.0}, "test"))
    assert found.winner is not None and found.winner.candidate == ONNX
    assert found.outcomes()[-1][found.winner].score_ns == pytest.approx(1.99 * MS, rel=0.01)
    assert "--shapes 1x8,2x16" in found.reproduce
    found = tuned(tmp_path, traffic=Traffic({short: 1.0, long: 99.0}, "test"))
    assert found.winner is not None and found.winner.candidate != ONNX


def test_a_traffic_of_many_shapes_is_stood_for_by_six() -> None:
    shares = api.representatives(Traffic({Shape(1, length): 1.0 for length in range(1, 101)}, "test"))
    assert len(shares) == api.MOST_SHAPES
    assert sum(share for _, share in shares) == pytest.approx(1)
    assert sum(share * shape.length for shape, share in shares) == pytest.approx(50.5, rel=0.15)
    few = Traffic({Shape(1, 8): 3.0, Shape(2, 8): 1.0}, "test")
    assert api.representatives(few) == ((Shape(1, 8), 0.75), (Shape(2, 8), 0.25))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_loss": "150%"}, "--max-loss 150% is not above 0 and below 100%"),
        ({"lengths": 100_000}, "exceeds the"),
        ({"traffic": "nowhere.csv"}, "cannot be read"),
        ({"seed": -1}, "--seed -1"),
        ({"output": "/dev/null/t.json"}, "output file '/dev/null/t.json' cannot be made"),
        ({"artifacts": "/dev/null"}, "artifact folder '/dev/null' cannot be written"),
    ],
)
def test_a_mistake_ends_before_anything_is_measured(
    bench: Bench, tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    """Beside those of the golden exit codes."""
    with pytest.raises(UserError, match=match):
        tuned(tmp_path, **options)
    assert not bench.calls
    assert not list(tmp_path.rglob("tuning.json"))


def test_a_search_that_is_stopped_keeps_what_it_measured(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_here
) -> None:
    def stopped(*args: Any, **named: Any) -> Run:
        if len(bench.calls) == limit:
            raise KeyboardInterrupt
        return bench(*args, **named)

    monkeypatch.setattr(api, "measure", stopped)
    options = ("--model", "bert-tiny", "--backends", "eager:default,onnx:default,torchscript:default", "--quiet")
    for limit, said in ((2, "what was measured is kept in search.json"), (0, "before anything was measured")):
        bench.calls.clear()
        done = cli_here("tune", *options, "--output", "search.json" if limit else "none.json")
        assert (done.returncode, done.stdout, said in done.stderr) == (130, "", True), done.stderr
    kept = json.loads((tmp_path / "search.json").read_text().splitlines()[0])
    assert (len(kept["rungs"][0]), kept["winner"]) == (2, None)


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_a_real_search_from_the_command_line(cli_here, tmp_path: Path, artifacts: Path) -> None:
    options = ["--model", "bert-tiny", "--length", "16", "--backends", "onnx:default,eager:default", "--budget", "20s"]
    done = cli_here("tune", *options, "--artifacts", str(artifacts), "--output", "t.json")
    assert done.returncode in (0, 6), done.stderr + done.stdout  # 6 on a busy machine: no quiet rounds
    found = json.loads((tmp_path / "t.json").read_text().splitlines()[0])
    assert found["is_decided"]
    assert found["winner"]["candidate"]["backend"] in ("onnx", "eager")
    assert "reproduce: bench compare" in done.stdout
    assert "--length is now --lengths" in done.stderr
