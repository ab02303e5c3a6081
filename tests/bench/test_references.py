"""References: what is written, kept and shared; backends held against them; faults planted in real modules."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import Backend, BackendError, Batch, Options, Spec
from bench.errors import UserError
from bench.parity import judging
from bench.parity.inputs import InputPlan, judged_rows, plan_of
from bench.parity.matrix import Matrix
from bench.parity.reference import Inputs, References, Setting, _Evaluation
from bench.parity.verdict import TOLERANCES, judge
from bench.process.channel import WorkerError
from bench.spec import Shape
from benchmarks import faults
from exporters.sources import ModelSource, resolve
from exporters.store import Artifact, ArtifactStore

FP32 = TOLERANCES["fp32"]
Folders = tuple[Path, str]
TABLE = np.random.default_rng(5).normal(size=(100, 8))
CASES = tuple(Matrix(ids=("random",)).cases(Shape(3, 24)))
PLAN = InputPlan(5, 24, 100, 0, seed=0, output_width=8, cases=CASES, most_rows=2)


class Averaging(Backend):
    """A model to compute by hand: a row of a table for every id, less the mean over what the mask keeps."""

    spec = Spec(name="averaging", format=None)

    def __init__(self, dtype: type = np.float32) -> None:
        self.dtype = dtype
        self.batches: list[int] = []

    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        raise AssertionError("nothing to load")

    def prepare(self, batch: Batch) -> Any:
        return batch["input_ids"], batch["attention_mask"]

    def run(self, prepared: Any) -> Any:
        ids, mask = prepared
        self.batches.append(len(ids))
        kept = mask[..., None].astype(self.dtype)
        values = TABLE[ids].astype(self.dtype)
        return values - (values * kept).sum(axis=1, keepdims=True) / kept.sum(axis=1, keepdims=True)

    def fetch(self, outputs: Any) -> dict[str, Any]:
        return {"y": outputs}


class MaskBlind(Averaging):
    def run(self, prepared: Any) -> Any:
        return super().run((prepared[0], np.ones_like(prepared[1])))


class RowsMixedUp(Averaging):
    """Right for a single row, and gives every row the next one's otherwise."""

    def run(self, prepared: Any) -> Any:
        return np.roll(super().run(prepared), 1, axis=0)


class RightPaddingAssumed(Averaging):
    """Reads a length off the mask, as fused attention kernels have been seen to."""

    def run(self, prepared: Any) -> Any:
        ids, mask = prepared
        counts = mask.sum(axis=1, keepdims=True)
        return super().run((ids, (np.arange(mask.shape[1]) < counts).astype(np.int64)))


def fetching(name: str, fetched: Callable[[Any], dict[str, Any]]) -> type[Averaging]:
    """One that computes right, and copies something else than it computed."""
    return type(name, (Averaging,), {"fetch": lambda self, outputs: fetched(outputs)})


CutShort = fetching("CutShort", lambda outputs: {"y": outputs[:, :-1]})
OneRowShort = fetching("OneRowShort", lambda outputs: {"y": outputs[:-1]})
Renamed = fetching("Renamed", lambda outputs: {"z": outputs})
#: A batch baked into the export: one row, whatever was asked for.
OneRowAlone = fetching("OneRowAlone", lambda outputs: {"y": outputs[: len(judged_rows(PLAN))]})


def write(folder: Path, backend: Callable[[Any], Backend], plan: InputPlan = PLAN, dtypes: Any = np) -> Folders:
    """Write the float64 reference and what eager gives in float32; returns their folders."""
    for name in ("reference", "eager_error"):
        (folder / name).mkdir()
        dtype = dtypes.float64 if name == "reference" else dtypes.float32
        judging.evaluate(backend(dtype), plan, folder / name, None)
    return folder / "reference", str(folder / "eager_error")


@pytest.fixture
def written(tmp_path: Path) -> Folders:
    return write(tmp_path, Averaging)


def verdicts(backend: Backend, plan: InputPlan, reference: Path, eager_error: str) -> dict[str, str]:
    request = {"eager_error": eager_error, "precision": "fp32", "atol": FP32.atol, "rtol": FP32.rtol}
    found = judging.check(backend, plan, reference, request)
    return {case.removeprefix("random-"): judge(figures, FP32)["verdict"] for case, figures in found.items()}


def test_an_eager_error_of_other_inputs_is_no_measure(written, tmp_path: Path) -> None:
    """Stored at another time, under a recipe that did not tell the two apart, it would explain any error."""
    reference, _ = written
    (tmp_path / "other").mkdir()
    judging.evaluate(Averaging(), replace(PLAN, seed=9), tmp_path / "other", None)
    with pytest.raises(BackendError, match="of different inputs"):
        verdicts(Averaging(), PLAN, reference, str(tmp_path / "other"))


def test_places_are_those_of_the_batch(written) -> None:
    """The judged rows are not the first ones, and what is told of a place must be found there."""
    row = judged_rows(PLAN)[-1]
    at = np.arange(5 * 24 * 8).reshape(5, 24, 8) == (row * 24 + 17) * 8 + 3
    wrong = fetching("OneWrong", lambda outputs: {"y": outputs + at})
    request = {"eager_error": written[1], "precision": "fp32", "atol": FP32.atol, "rtol": FP32.rtol}
    (figures,) = judging.check(wrong(), PLAN, written[0], request)["random-full"]
    assert figures["max_abs_at"] == [row, 17, 3]
    assert figures["worst_token"] == [row, 17]


def test_a_reference_holds_all_inputs_and_the_judged_rows_outputs(written) -> None:
    reference, _ = written
    with np.load(reference / "random-left.inputs.npz") as inputs, np.load(reference / "random-left.npz") as outputs:
        assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (5, 24)
        assert outputs["y"].shape == (2, 24, 8)
        assert outputs["y"].dtype == np.float64
    eager = Averaging(np.float64)
    judging.evaluate(eager, PLAN, reference, None)
    assert eager.batches == [2] * 4


@pytest.mark.parametrize(
    ("planted", "broken"),
    [
        (Averaging, set()),
        (MaskBlind, {"right", "left", "holes"}),
        (RightPaddingAssumed, {"left", "holes"}),
        (OneRowAlone, {"full", "right", "left", "holes"}),
        (RowsMixedUp, {"full", "right", "left", "holes"}),
        (CutShort, {"full", "right", "left", "holes"}),
        (OneRowShort, {"full", "right", "left", "holes"}),
        (Renamed, {"full", "right", "left", "holes"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_fault_breaks_the_cases_that_it_touches(written, planted: type[Averaging], broken: set[str]) -> None:
    backend = planted()
    found = verdicts(backend, PLAN, *written)
    assert (backend.batches, len(judged_rows(PLAN))) == ([5] * 4, 2)  # it is run on the whole batch
    assert {case for case, verdict in found.items() if verdict == "broken"} == broken
    assert {verdict for case, verdict in found.items() if case not in broken} <= {"exact"}


def test_wide_outputs_are_judged_at_the_same_positions_as_the_reference(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("bench.parity.inputs.JUDGED_ELEMENTS", 8 * 2 * 10)  # 10 positions of two rows
    folders = write(tmp_path, Averaging)
    with np.load(folders[0] / "random-full.npz") as outputs:
        assert outputs["y"].shape == (2, 10, 8)
    assert set(verdicts(Averaging(), PLAN, *folders).values()) == {"exact"}
    assert verdicts(MaskBlind(), PLAN, *folders)["left"] == "broken"
    assert set(verdicts(CutShort(), PLAN, *folders).values()) == {"broken"}


# Faults planted in a real module, and the inputs that show them; tests/test_planted_faults.py has the whole set.

EVERY = {"full", "right", "left", "holes"}
#: Of each fault, the cases that are broken, whatever the others are.
PLANTED = {
    "one weight matrix changed by 1 %": EVERY,
    "two layers swapped": EVERY,
    "tanh GELU for erf GELU": EVERY,
    "mask inverted": {"full"},
    "positions off by one under left padding": {"left"},
    "dropout left on": EVERY,
    "stale artifact, another model": EVERY,
}


@pytest.mark.filterwarnings("ignore")  # in-process torch and transformers warn about themselves
@pytest.mark.parametrize(("model", "task"), [("bert-tiny", "base"), ("gpt2-tiny", "lm")])
def test_planted_faults_are_broken_and_the_module_itself_is_exact(model: str, task: str, tmp_path: Path) -> None:
    import torch

    from backends.eager import Eager
    from exporters import models

    source = resolve(model, weights="random", task=task)
    module = models.wrap(models.build(source))
    width, output = (source.vocab_size, "logits") if task == "lm" else (source.width, "last_hidden_state")
    cases = Matrix(ids=("random",)).cases(Shape(2, 24))
    plan = InputPlan(2, 24, source.vocab_size, source.pad_token_id, 0, width, cases)

    def eager(changed: Any) -> Backend:
        backend = Eager()
        backend.module, backend.output_names, backend.has_grad = changed, [output], False
        return backend

    folders = write(tmp_path, lambda dtype: eager(deepcopy(module).to(dtype)), plan, torch)
    assert set(verdicts(eager(deepcopy(module)), plan, *folders).values()) == {"exact"}
    for fault in faults.FAULTS:
        if fault.name in PLANTED:
            changed, _ = fault.plant(deepcopy(module), random.Random(1), fault.size or 0.0)
            found = verdicts(eager(changed), plan, *folders)
            assert {case for case in PLANTED[fault.name] if found[case] == "broken"} == PLANTED[fault.name], fault.name
    # A causal model's tokens never see what is behind them, so right padding cannot show an ignored mask there.
    changed, _ = faults.mask_ignored(deepcopy(module), random.Random(1), 0.0)
    right = "exact" if task == "lm" else "broken"
    wanted = {"full": "exact", "right": right, "left": "broken", "holes": "broken"}
    assert verdicts(eager(changed), plan, *folders) == wanted


# What is kept in the store.


GENERATION = "generation"
SHAPES = (Shape(1, 8), Shape(2, 8))


class Scripted:
    """A worker that writes what it is asked for, and fails as the script of its `kept` says."""

    def __init__(self, kept: Kept, precision: str, device: str) -> None:
        self.kept, self.precision, self.log = kept, precision, list[str]()
        kept.started.append((precision, device))
        kept.alive.append(self)

    def request(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        assert self in self.kept.alive
        where, asked = message["op"], message.get("arguments")
        if asked:
            where = GENERATION if "steps" in asked else f"{asked['plan']['batch']}×{asked['plan']['length']}"
            self.kept.asked.append({"precision": self.precision, "where": where, **asked})
        if errors := self.kept.errors.get((self.precision, where)):
            raise errors.pop(0) if len(errors) > 1 else errors[0]
        if asked:
            (Path(asked["folder"]) / "outputs.npz").write_text(self.precision)
        return {}

    def send(self, message: dict[str, Any]) -> None:
        self.sent = message
        self.log.append(f"{self.precision} sent {message['op']}")

    def receive(self, timeout_seconds: float) -> dict[str, Any]:
        return self.request(self.sent, timeout_seconds)

    def kill(self) -> None:
        if self in self.kept.alive:
            self.kept.alive.remove(self)


class Kept:
    """References of a tiny decoder in a store of its own, by scripted workers."""

    def __init__(self, folder: Path) -> None:
        self.store, self.said = ArtifactStore(folder), list[str]()
        self.started: list[tuple[str, str]] = []
        self.asked: list[dict[str, Any]] = []
        self.errors: dict[tuple[str, str], list[WorkerError]] = {}
        """For an operation or a shape; the last of several stays."""
        self.alive: list[Scripted] = []
        recipe = {"format": "checkpoint", "libraries": {"torch": "0"}}
        self.weights: Artifact = self.store.make(recipe, lambda folder: (folder / "weights").write_text("w") and {})

    def make(
        self,
        precisions: tuple[str, ...] = ("fp32",),
        cases: tuple[str, ...] = ("random-full", "random-right"),
        seed: int = 0,
        threads: int = 1,
        steps: int = 2,
        tokenizer: Path | None = None,
    ) -> References:
        source: ModelSource = resolve("gpt2-tiny", weights="random", task="lm", seed=seed)
        setting = Setting("cpu", threads, seed, False, source.vocab_size, False, tokenizer)
        found = References(setting, self.store, lambda *which: Scripted(self, *which[:2]), 60.0, self.said.append)
        wanted = {str(shape): Inputs(plan_of(source, shape.batch, shape.length, seed, cases)) for shape in SHAPES}
        wanted[GENERATION] = Inputs(plan_of(source, 1, 8, seed, cases), steps=steps)
        found.make(self.weights, precisions, wanted)
        return found

    def asked_of(self, precision: str) -> list[str]:
        return [entry["where"] for entry in self.asked if entry["precision"] == precision]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def lost(reason: str) -> WorkerError:
    return WorkerError("failed", reason, is_gone=True)


def test_one_worker_a_precision_computes_every_shape_and_what_is_kept_is_not_computed_again(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All import at once, and one at a time holds the weights. Generation is forced by the reference's tokens."""
    seen, store = [], _Evaluation._store

    def look(self: _Evaluation, name: str, recipe: Any) -> None:
        seen.append([line for one in kept.alive for line in one.log])
        store(self, name, recipe)

    monkeypatch.setattr(_Evaluation, "_store", look)
    made = kept.make(("bf16", "fp32"))
    assert kept.started == [("fp64", "cpu"), ("bf16", "cpu"), ("fp32", "cpu")]
    assert seen[0] == ["fp64 sent hello", "bf16 sent hello", "fp32 sent hello"]
    assert seen[3] == ["bf16 sent hello", "fp32 sent hello"]
    assert kept.alive == []
    assert [kept.asked_of(one) for one in ("fp64", "bf16", "fp32")] == [["1×8", "2×8", GENERATION]] * 3
    reference, eager_error = made.pair("bf16", "2×8")
    assert [(found.path / "outputs.npz").read_text() for found in (reference, eager_error)] == ["fp64", "bf16"]
    assert kept.said[0] == "computing the float64 reference for 1×8, 2×8, generation"
    free, *forced = (entry for entry in kept.asked if entry["where"] == GENERATION)
    assert (free["precision"], "forced_by" in free) == ("fp64", False)
    path = made.found["fp64", GENERATION].path.resolve()
    assert {(Path(one["forced_by"]), one["steps"]) for one in forced} == {(path, 2)}
    again = kept.make(("bf16", "fp32"))
    assert len(kept.started) == 3
    assert again.pair("fp32", GENERATION) == made.pair("fp32", GENERATION)


def test_nothing_is_computed_where_nothing_is_judged(kept: Kept) -> None:
    made = kept.make(())
    assert kept.started == []
    assert made.pair("fp32", "1×8") == "there is no reference: none was computed"


@pytest.mark.parametrize(
    "changes",
    [{"cases": ("random-full",)}, {"cases": ("random-full", "zipf-full")}, {"steps": 3}, {"seed": 1}, {"threads": 2}],
    ids=lambda value: str(next(iter(value.values()))),
)
def test_other_inputs_are_another_reference(kept: Kept, changes: dict) -> None:
    keys = {artifact.key for artifact in kept.make().found.values()}
    others = {artifact.key for artifact in kept.make(**changes).found.values()}
    assert len(keys) == len(others) == 6
    assert keys != others


def test_a_damaged_reference_is_made_again_and_said_so(kept: Kept) -> None:
    made = kept.make()
    for name in ("2×8", GENERATION):
        (made.found["fp64", name].path / "outputs.npz").write_text("fp46")
        kept.asked.clear()
        made = kept.make()
        assert (kept.asked_of("fp64"), kept.asked_of("fp32")) == ([name], [])  # eager's own was forced by the same
        assert (made.found["fp64", name].path / "outputs.npz").read_text() == "fp64"
    assert any("is damaged (outputs.npz fails its checksum)" in line for line in kept.said)


OOM = WorkerError("oom", "no memory left")


@pytest.mark.parametrize(
    ("errors", "found"),
    [
        # A process that dies once costs nothing.
        (
            {("fp32", "load"): [lost("killed by SIGKILL"), WorkerError("failed", "it loads no more")],
             ("fp64", "1×8"): [lost("killed by SIGKILL"), OOM]},
            {("fp32", "1×8"): "fp64 on cpu: no memory left", ("fp32", "2×8"): "fp32 on cpu: it loads no more"},
        ),
        # One that dies each time costs its shape alone.
        (
            {("fp32", "1×8"): [lost("killed by SIGKILL")], ("fp64", "2×8"): [OOM]},
            {("fp32", "1×8"): "fp32 on cpu: killed by SIGKILL", ("fp32", "2×8"): "fp64 on cpu: no memory left",
             ("fp32", "generation"): ""},
        ),
        # One that does not load leaves every shape without a reference, one that does not import its precision.
        (
            {("fp32", "load"): [WorkerError("unsupported", "no such precision")]},
            {("fp32", name): "fp32 on cpu: no such precision" for name in ("1×8", "2×8", "generation")},
        ),
        (
            {("bf16", "hello"): [lost("no torch")]},
            {("bf16", "1×8"): "bf16 on cpu: no torch", ("fp32", "1×8"): ""},
        ),
    ],
)  # fmt: skip
def test_what_a_lost_or_failing_worker_costs(
    kept: Kept, errors: dict[tuple[str, str], list[WorkerError]], found: dict[tuple[str, str], str]
) -> None:
    kept.errors = {where: list(each) for where, each in errors.items()}
    made = kept.make(tuple(dict.fromkeys(precision for precision, _ in found)))
    for (precision, name), reason in found.items():
        pair = made.pair(precision, name)
        assert (pair if isinstance(pair, str) else "") == (reason and f"there is no reference: eager at {reason}")
    assert kept.alive == []
    if ("fp32", "1×8") in errors:
        assert kept.started == [("fp64", "cpu"), *[("fp32", "cpu")] * 3]
    was_lost = any("was lost (killed by SIGKILL); starting another" in line for line in kept.said)
    assert was_lost == any("SIGKILL" in one.reason for each in errors.values() for one in each)


def test_the_users_mistake_is_told_as_one(kept: Kept) -> None:
    kept.errors["fp64", "load"] = [WorkerError("user", "the model is another's")]
    with pytest.raises(UserError, match="the model is another's"):
        kept.make()
    assert kept.alive == []


def test_texts_are_sent_as_ids_one_for_each_row(tmp_path: Path, kept: Kept) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    def save(words: list[str]) -> None:
        tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="?"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(file))

    file = tmp_path / "tokenizer.json"
    save(["?", "the", "a", "of", "for"])
    cases = ("random-full", "text-full")
    keys = {artifact.key for artifact in kept.make(cases=cases, tokenizer=file).found.values()}
    texts = {entry["where"]: entry["texts"] for entry in kept.asked if entry["where"] != GENERATION}
    assert {shape: [len(row) for row in rows] for shape, rows in texts.items()} == {"1×8": [8], "2×8": [8, 8]}
    assert max(max(row) for rows in texts.values() for row in rows) <= 4
    save(["the", "?", "a", "of", "for"])
    assert keys.isdisjoint(artifact.key for artifact in kept.make(cases=cases, tokenizer=file).found.values())
