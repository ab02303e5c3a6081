"""Every turn's outputs count: those of a middle turn, those of eager, and those that went with a process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.parity import judging
from bench.parity.distinct import MOST_KEPT, Distinct
from bench.parity.inputs import InputPlan
from bench.process import timing
from bench.report import documents
from bench.run import registry
from bench.run.columns import bit_identical
from bench.run.experiment import measure, resume
from bench.run.file import read_run
from bench.run.record import Run
from bench.run.schedule import Enough, Grid, State
from bench.workloads.corpus import CorpusCell
from bench.workloads.forward import Forward, ForwardCell
from bench.workloads.generate import GenerateCell
from tests.in_process import here

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers in this process warn about themselves
TIMED = {"max_seconds_per_cell": "50ms", "warmup": "1ms", "max_warmup": "5ms"}
PASSES = {"synthetic": 5, "batches": "2", "orders": "unsorted", "warmup": "1ms"}
TOKENS = {**TIMED, "model": "gpt2-tiny", "prompt_length": 4, "new_tokens": 3, "batches": "1"}
CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "forward": (ForwardCell, {**TIMED, "shapes": "5x8", "backends": "eager,eager:sdpa"}),
    "corpus": (CorpusCell, {**PASSES, "backends": "eager,eager:sdpa"}),
    "generate": (GenerateCell, {**TOKENS, "backends": "eager,eager:static"}),
}


@pytest.fixture(scope="module", autouse=True)
def _in_this_process() -> Iterator[None]:
    with here(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "SETTLE_NS", 0)
        patch.setattr(Forward, "tells_early", False)  # a turn before the first round would be counted
        yield


def run_of(name: str, folder: Path, artifacts: Path, **more: Any) -> Run:
    given = {"model": "bert-tiny", "device": "cpu", "threads": 1, "timeout": 60, "rounds": 3}
    given |= {"output": str(folder / "run.jsonl"), "artifacts": str(artifacts), **CELLS[name][1], **more}
    workload = registry.load_class(name)
    return measure(workload, workload.Options.parsed(given))


def go_wrong(monkeypatch: pytest.MonkeyPatch, cell: Any, in_turns: set[int]) -> None:
    """Have the second candidate compute with other weights in some of its turns; after them it is right again."""
    import torch

    turn, taken = cell.turn, list[int]()

    def scaled(module: Any, factor: float) -> None:
        with torch.no_grad():
            for weights in module.parameters():
                weights *= factor

    def turn_wrongly(self: Any, **request: Any) -> dict[str, Any]:
        is_wrong = self.args.variant != "default" and len(taken) in in_turns
        if self.args.variant != "default":
            taken.append(len(taken))
        if not is_wrong:
            return turn(self, **request)  # type: ignore[no-any-return]
        scaled(self.backend.module, 4.0)
        try:
            return turn(self, **request)  # type: ignore[no-any-return]
        finally:
            scaled(self.backend.module, 0.25)  # by a power of two, so that the weights are what they were

    monkeypatch.setattr(cell, "turn", turn_wrongly)


@pytest.mark.parametrize(
    ("name", "wrong"), [("forward", 0), ("forward", 1), ("forward", 2), ("corpus", 1), ("generate", 1)]
)
def test_what_is_wrong_in_a_single_turn_is_broken(
    name: str, wrong: int, tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last call's outputs alone would call it sound, unless it is wrong in the last."""
    go_wrong(monkeypatch, CELLS[name][0], {wrong})
    found = run_of(name, tmp_path, artifacts)
    for eager, other in [records for _, records in found.by_point()]:
        assert (eager.verdict, other.verdict) == ("original", "broken")
        assert (bit_identical(eager), bit_identical(other)) == ((3, 3), (2, 3))
        assert found.ratio(other) is None
    assert found.exit_code == 3
    told = documents.as_json(found)
    assert '"bit_identical": "2 of 3"' in told
    assert "outputs differ between turns: 2 of 3 are bit-identical" in told + documents.as_markdown(found)


def test_what_is_right_in_every_turn_is_sound(tmp_path: Path, artifacts: Path) -> None:
    found = run_of("forward", tmp_path, artifacts)
    assert found.exit_code == 0
    assert {bit_identical(one) for one in found.records} == {(3, 3)}


def test_outputs_outlive_a_cell_that_is_let_go_and_begun_again(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule that goes back to earlier points lets cells go; what they gave is judged all the same."""
    from bench.run import driver

    class InTurn(Grid):
        def next_turns(self, state: State) -> Any:
            left = [(point, one) for point in state.points for one in state.left(point)]
            least = min((len(state.cell(*cell).turns) for cell in left), default=0)
            return next(([cell] for cell in left if len(state.cell(*cell).turns) == least), [])

        def is_open(self, state: State, point: Any, candidate: Any) -> bool:
            return len(state.cell(point, candidate).turns) < 3

    monkeypatch.setattr(driver, "MOST_BEGUN", 1)
    monkeypatch.setattr(Forward, "schedule", lambda self: InTurn(lambda point: Enough(3)))
    go_wrong(monkeypatch, ForwardCell, {0})
    found = run_of("forward", tmp_path, artifacts, shapes="1x4,1x8")
    verdicts = {(str(one.point), one.candidate.variant): one.verdict for one in found.records}
    assert verdicts == {
        ("1×4", "default"): "original", ("1×4", "sdpa"): "broken", ("1×8", "default"): "original",
        ("1×8", "sdpa"): verdicts["1×8", "sdpa"],
    }  # fmt: skip
    assert verdicts["1×8", "sdpa"] in ("exact", "equivalent")


def test_outputs_that_went_with_their_process_are_said_to_be_unjudged(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_wrong(monkeypatch, ForwardCell, {0})
    whole = run_of("forward", tmp_path, artifacts)
    path = tmp_path / "run.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    turns = [number for number, line in enumerate(lines) if json.loads(line)["kind"] == "turn"]
    path.write_text("".join(lines[: turns[3] + 1]))  # two turns of each, in which the second was wrong once
    monkeypatch.undo()
    with here():
        found = resume(path, artifacts=artifacts)
    other = found.records[-1]
    assert bit_identical(other) == (2, 3)
    assert other.parity["unjudged_turns"] == 1
    assert other.verdict == "equivalent"
    assert "outputs of 1 turns went with their process" in documents.as_markdown(found)
    assert whole.records[-1].verdict == "broken"


# Held against eager's own calls.


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored outputs of eager that are not those of its timed calls, as on fewer rows sums may be in another order."""
    evaluate = judging.evaluate

    def evaluate_strangely(backend: Any, plan: InputPlan, folder: Path, *rest: Any) -> None:
        evaluate(backend, plan, folder, *rest)
        for case in plan.cases:
            file = judging.outputs_file(folder, case)
            with np.load(file) as stored:
                arrays = {name: np.nextafter(array, np.float32(9)) for name, array in stored.items()}
            if all(array.dtype == np.float32 for array in arrays.values()):
                np.savez(file, **arrays)

    monkeypatch.setattr(judging, "evaluate", evaluate_strangely)


@pytest.mark.usefixtures("strange")
@pytest.mark.parametrize("is_early", [False, True])
def test_exact_is_bit_identical_to_eagers_timed_call(
    is_early: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a cell that ends before eager does."""

    class Early(Grid):
        def is_open(self, state: State, point: Any, candidate: Any) -> bool:
            return len(state.cell(point, candidate).turns) < (2 if candidate.variant == "grad" and is_early else 3)

        def next_turns(self, state: State) -> Any:
            return [(point, one) for point in state.points for one in state.left(point)]

    monkeypatch.setattr(Forward, "schedule", lambda self: Early(lambda point: Enough(3)))
    found = run_of("forward", tmp_path, tmp_path / "artifacts", backends="eager", grad=True)
    by_variant = {one.candidate.variant: one for one in found.records}
    assert [len(by_variant[name].turns) for name in ("default", "grad")] == [3, 2 if is_early else 3]
    assert (by_variant["default"].verdict, by_variant["grad"].verdict) == ("original", "exact")
    for case in ("timed", "padded"):
        of_eager, of_other = (by_variant[name].parity["cases"][case] for name in ("default", "grad"))
        assert of_eager["identities"] == of_other["identities"]
        assert of_eager["identical_to_eager"] is False  # to what is stored
    again = read_run(tmp_path / "run.jsonl")
    assert {one.candidate.variant: one.verdict for one in again.records} == {"default": "original", "grad": "exact"}


@pytest.mark.usefixtures("strange")
def test_without_eager_in_the_run_exact_is_held_against_its_stored_outputs(tmp_path: Path) -> None:
    found = run_of("forward", tmp_path, tmp_path / "artifacts", backends="eager:grad,null")
    assert found.records[0].verdict == "equivalent"


def test_eager_below_fp32_is_held_against_the_rule(tmp_path: Path, artifacts: Path) -> None:
    """Its own yardstick would call it exact; what the precision loses is a figure of its own."""
    found = run_of("forward", tmp_path, artifacts, precisions="fp32,bf16", backends="eager", rounds=1)
    fp32, bf16 = sorted(found.records, key=lambda one: one.candidate.precision, reverse=True)
    assert (fp32.verdict, bf16.verdict) == ("original", "equivalent")
    assert fp32.parity["loss"] < 1e-6 < 1e-3 < bf16.parity["loss"] < 0.05
    assert bf16.parity["rmse_ratio"] == pytest.approx(1)
    assert "What lower precisions lose" in documents.as_markdown(found)


# Which distinct outputs are kept.

PLAN = InputPlan(1, 4, 10, 0, seed=0, output_width=2)


def outputs(offset: float, shape: tuple[int, ...] = (1, 4, 2)) -> dict[str, Any]:
    return {"y": np.full(shape, 1 + offset, dtype=np.float32)}


def test_the_ones_that_differ_most_from_the_first_are_kept() -> None:
    distinct = Distinct()
    offsets = [0.0, *(1e-3 * number for number in range(1, 9)), 5.0, 2e-6]
    sums = [distinct.take(outputs(offset), PLAN) for offset in offsets]
    assert len(set(sums)) == len(distinct.seen) == len(offsets)
    assert [sums.index(one) for one in distinct.kept] == [0, 7, 8, 9]
    assert len(distinct.kept) == MOST_KEPT
    assert distinct.take(outputs(0.0), PLAN) == sums[0]


@pytest.mark.parametrize(
    "strange", [outputs(float("nan")), outputs(0.0, (1, 4, 3)), outputs(0.0, (1, 3, 2)), {"z": outputs(0.0)["y"]}, {}]
)
def test_what_cannot_be_compared_is_kept_before_all(strange: dict[str, Any]) -> None:
    distinct = Distinct()
    distinct.take(outputs(0.0), PLAN)
    wrong = distinct.take(strange, PLAN)
    for number in range(9):
        distinct.take(outputs(float(number + 1)), PLAN)
    assert wrong in distinct.kept


def test_a_checksum_knows_names_types_and_shapes() -> None:
    array = np.zeros((2, 2), dtype=np.float32)
    others: list[dict[str, Any]] = [
        {"y": array}, {"z": array}, {"y": array.astype(np.int32)}, {"y": array.reshape(4, 1)}, {"y": array + 1},
    ]  # fmt: skip
    assert len({judging.checksum(one) for one in others}) == len(others)


def test_a_slow_call_is_warmed_up_by_the_one_that_is_judged_padded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At calls of seconds none is made twice: the first, the padded one, and those of the turns."""
    from backends.eager import Eager

    usual = run_of("forward", tmp_path, tmp_path / "artifacts", backends="eager", rounds=3)
    calls, run = list[int](), Eager.run
    monkeypatch.setattr(Eager, "run", lambda self, prepared: calls.append(1) or run(self, prepared))
    monkeypatch.setattr(timing, "SLOW_CALL_NS", 0)
    slow = run_of("forward", tmp_path / "slow", tmp_path / "artifacts", backends="eager", rounds=3)
    (record,), (same,) = slow.records, usual.records
    assert len(calls) == 2 + sum(len(turn.times_ns["wall"]) for turn in record.turns)
    assert len(record.once.warmup_ns) == 1 and record.once.is_stable is False
    assert record.parity["cases"].keys() == {"timed", "padded"}
    assert record.parity["cases"] == same.parity["cases"]
    assert record.memory["peak"].keys() == same.memory["peak"].keys()
