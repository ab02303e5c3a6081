"""References: what is written, kept and shared; backends held against them; faults planted in real modules."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

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


class CutShort(Averaging):
    def fetch(self, outputs: Any) -> dict[str, Any]:
        return {"y": outputs[:, :-1]}


class OneRowShort(Averaging):
    def fetch(self, outputs: Any) -> dict[str, Any]:
        return {"y": outputs[:-1]}


class Renamed(Averaging):
    def fetch(self, outputs: Any) -> dict[str, Any]:
        return {"z": outputs}


class OneRowAlone(Averaging):
    """A batch baked into the export: one row, whatever was asked for."""

    def fetch(self, outputs: Any) -> dict[str, Any]:
        return {"y": outputs[: len(judged_rows(PLAN))]}


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, str]:
    """The folders of the float64 reference and of eager in float32."""
    for name, dtype in (("reference", np.float64), ("eager_error", np.float32)):
        (tmp_path / name).mkdir()
        judging.evaluate(Averaging(dtype), PLAN, tmp_path / name, None)
    return tmp_path / "reference", str(tmp_path / "eager_error")


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

    class OneWrong(Averaging):
        def fetch(self, outputs: Any) -> dict[str, Any]:
            outputs = outputs.copy()
            outputs[row, 17, 3] += 1
            return {"y": outputs}

    reference, eager_error = written
    row = judged_rows(PLAN)[-1]
    request = {"eager_error": eager_error, "precision": "fp32", "atol": FP32.atol, "rtol": FP32.rtol}
    (figures,) = judging.check(OneWrong(), PLAN, reference, request)["random-full"]
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
    found = verdicts(planted(), PLAN, *written)
    assert {case for case, verdict in found.items() if verdict == "broken"} == broken
    assert {verdict for case, verdict in found.items() if case not in broken} <= {"exact"}


def test_a_backend_is_run_on_the_whole_batch(written) -> None:
    backend = Averaging()
    verdicts(backend, PLAN, *written)
    assert backend.batches == [5] * 4
    assert len(judged_rows(PLAN)) == 2


def test_wide_outputs_are_judged_at_the_same_positions_as_the_reference(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("bench.parity.inputs.JUDGED_ELEMENTS", 8 * 2 * 10)  # 10 positions of two rows
    for name, dtype in (("reference", np.float64), ("eager_error", np.float32)):
        (tmp_path / name).mkdir()
        judging.evaluate(Averaging(dtype), PLAN, tmp_path / name, None)
    with np.load(tmp_path / "reference" / "random-full.npz") as outputs:
        assert outputs["y"].shape == (2, 10, 8)
    folders = tmp_path / "reference", str(tmp_path / "eager_error")
    assert set(verdicts(Averaging(), PLAN, *folders).values()) == {"exact"}
    assert verdicts(MaskBlind(), PLAN, *folders)["left"] == "broken"
    assert set(verdicts(CutShort(), PLAN, *folders).values()) == {"broken"}


# Faults planted in a real module, and the inputs that show them; tests/test_planted_faults.py has the whole set.


class Bench:
    """A tiny model's references, and eager to hold a changed copy of its module against them."""

    def __init__(self, model: str, task: str, folder: Path) -> None:
        import torch

        from exporters import models

        self.source = resolve(model, weights="random", task=task)
        self.module = models.wrap(models.build(self.source))
        width = self.source.vocab_size if task == "lm" else self.source.width
        cases = Matrix(ids=("random",)).cases(Shape(2, 24))
        self.plan = InputPlan(2, 24, self.source.vocab_size, self.source.pad_token_id, 0, width, cases)
        self.output = "logits" if task == "lm" else "last_hidden_state"
        self.reference, self.eager_error = folder / "reference", folder / "eager_error"
        for path, dtype in ((self.reference, torch.float64), (self.eager_error, torch.float32)):
            path.mkdir()
            judging.evaluate(self.backend(deepcopy(self.module).to(dtype)), self.plan, path, None)

    def backend(self, module: Any) -> Backend:
        from backends.eager import Eager

        backend = Eager()
        backend.module, backend.output_names, backend.has_grad = module, [self.output], False
        return backend

    def verdicts(self, module: Any) -> dict[str, str]:
        return verdicts(self.backend(module), self.plan, self.reference, str(self.eager_error))


@pytest.fixture(scope="module", params=[("bert-tiny", "base"), ("gpt2-tiny", "lm")], ids=lambda value: value[0])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(*request.param, tmp_path_factory.mktemp("planted"))


pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch and transformers warn about themselves


def test_the_module_itself_is_exact(bench: Bench) -> None:
    assert set(bench.verdicts(deepcopy(bench.module)).values()) == {"exact"}


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("one weight matrix changed by 1 %", ("full", "right", "left", "holes")),
        ("two layers swapped", ("full", "right", "left", "holes")),
        ("tanh GELU for erf GELU", ("full", "right", "left", "holes")),
        ("mask inverted", ("full",)),
        ("positions off by one under left padding", ("left",)),
        ("dropout left on", ("full", "right", "left", "holes")),
        ("stale artifact, another model", ("full", "right", "left", "holes")),
    ],
)
def test_a_planted_fault_is_broken(bench: Bench, name: str, cases: tuple[str, ...]) -> None:
    (fault,) = (entry for entry in faults.FAULTS if entry.name == name)
    changed, _ = fault.plant(deepcopy(bench.module), random.Random(1), fault.size or 0.0)
    found = bench.verdicts(changed)
    assert [found[case] for case in cases] == ["broken"] * len(cases)


def test_an_ignored_mask_is_broken_wherever_a_token_would_see_padding(bench: Bench) -> None:
    """A causal model's tokens never see what is behind them, so right padding cannot show it there."""
    changed, _ = faults.mask_ignored(deepcopy(bench.module), random.Random(1), 0.0)
    causal = bench.source.config["model_type"] == "gpt2"
    assert bench.verdicts(changed) == {
        "full": "exact", "right": "exact" if causal else "broken", "left": "broken", "holes": "broken",
    }  # fmt: skip


# What is kept in the store.


GENERATION = "generation"


class Scripted:
    """A worker that writes what it is asked for; `errors` may hold an error for an operation or a shape, once or always."""

    started: ClassVar[list[tuple[str, str]]] = []
    asked: ClassVar[list[dict[str, Any]]] = []
    errors: ClassVar[dict[tuple[str, str], list[WorkerError]]] = {}
    alive: ClassVar[dict[int, list[str]]] = {}
    """What each process that is not ended was asked, by its number."""

    def __init__(self, precision: str, device: str) -> None:
        self.precision, self.is_killed = precision, False
        self.number = len(Scripted.started)
        Scripted.started.append((precision, device))
        Scripted.alive[self.number] = []

    def request(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        assert not self.is_killed
        where, asked = message["op"], message.get("arguments")
        Scripted.alive[self.number].append(f"{self.precision} {where}")
        if asked:
            where = GENERATION if "steps" in asked else f"{asked['plan']['batch']}×{asked['plan']['length']}"
            Scripted.asked.append({"precision": self.precision, "where": where, **asked})
        if errors := Scripted.errors.get((self.precision, where)):
            raise errors.pop(0) if len(errors) > 1 else errors[0]
        if asked:
            (Path(asked["folder"]) / "outputs.npz").write_text(self.precision)
        return {}

    def send(self, message: dict[str, Any]) -> None:
        self.sent = message
        Scripted.alive[self.number].append(f"{self.precision} sent {message['op']}")

    def receive(self, timeout_seconds: float) -> dict[str, Any]:
        return self.request(self.sent, timeout_seconds)

    def kill(self) -> None:
        self.is_killed = True
        Scripted.alive.pop(self.number, None)


@pytest.fixture
def scripted() -> type[Scripted]:
    for log in (Scripted.started, Scripted.asked, Scripted.errors, Scripted.alive):
        log.clear()
    return Scripted


class Kept:
    """References of a tiny decoder in a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.store = ArtifactStore(folder)
        self.said: list[str] = []
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
        found = References(
            setting,
            self.store,
            lambda precision, device, path, tf32: Scripted(precision, device),
            60.0,
            self.said.append,
        )
        wanted = {str(shape): Inputs(plan_of(source, shape.batch, shape.length, seed, cases)) for shape in SHAPES}
        wanted[GENERATION] = Inputs(plan_of(source, 1, 8, seed, cases), steps=steps)
        found.make(self.weights, precisions, wanted)
        return found


SHAPES = (Shape(1, 8), Shape(2, 8))


def asked(precision: str) -> list[str]:
    return [entry["where"] for entry in Scripted.asked if entry["precision"] == precision]


def lost(reason: str, status: Any = "failed") -> WorkerError:
    return WorkerError(status, reason, is_gone=True)


def test_one_worker_a_precision_computes_every_shape_and_what_is_kept_is_not_computed_again(
    tmp_path: Path, scripted: type[Scripted]
) -> None:
    kept = Kept(tmp_path)
    made = kept.make(("bf16", "fp32"))
    assert scripted.started == [("fp64", "cpu"), ("bf16", "cpu"), ("fp32", "cpu")]
    assert [asked(precision) for precision in ("fp64", "bf16", "fp32")] == [["1×8", "2×8", "generation"]] * 3
    reference, eager_error = made.pair("bf16", "2×8")
    assert [(found.path / "outputs.npz").read_text() for found in (reference, eager_error)] == ["fp64", "bf16"]
    assert kept.said[0] == "computing the float64 reference for 1×8, 2×8, generation"
    again = kept.make(("bf16", "fp32"))
    assert len(scripted.started) == 3
    assert again.pair("fp32", GENERATION) == made.pair("fp32", GENERATION)


def test_all_import_at_once_and_one_at_a_time_holds_the_weights(
    tmp_path: Path, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    store = _Evaluation._store

    def look(self: _Evaluation, name: str, recipe: Any) -> None:
        seen.append([list(log) for log in scripted.alive.values()])
        store(self, name, recipe)

    monkeypatch.setattr(_Evaluation, "_store", look)
    Kept(tmp_path).make(("bf16", "fp32"))
    assert seen[0] == [["fp64 sent hello"], ["bf16 sent hello"], ["fp32 sent hello"]]
    assert seen[3] == [["bf16 sent hello"], ["fp32 sent hello"]]
    assert scripted.alive == {}


def test_generation_is_forced_by_the_reference_and_the_reference_by_nothing(
    tmp_path: Path, scripted: type[Scripted]
) -> None:
    made = Kept(tmp_path).make()
    free, forced = (entry for entry in scripted.asked if entry["where"] == GENERATION)
    assert (free["precision"], "forced_by" in free, forced["precision"]) == ("fp64", False, "fp32")
    assert Path(forced["forced_by"]) == made.found["fp64", GENERATION].path.resolve()
    assert forced["steps"] == 2


def test_nothing_is_computed_where_nothing_is_judged(tmp_path: Path, scripted: type[Scripted]) -> None:
    made = Kept(tmp_path).make(())
    assert scripted.started == []
    assert made.pair("fp32", "1×8") == "there is no reference: none was computed"


@pytest.mark.parametrize(
    "changes",
    [{"cases": ("random-full",)}, {"cases": ("random-full", "zipf-full")}, {"steps": 3}, {"seed": 1}, {"threads": 2}],
    ids=lambda value: str(next(iter(value.values()))),
)
def test_other_inputs_are_another_reference(tmp_path: Path, scripted: type[Scripted], changes: dict) -> None:
    kept = Kept(tmp_path)
    keys = {artifact.key for artifact in kept.make().found.values()}
    others = {artifact.key for artifact in kept.make(**changes).found.values()}
    assert len(keys) == len(others) == 6
    assert keys != others


def test_a_damaged_reference_is_made_again_and_said_so(tmp_path: Path, scripted: type[Scripted]) -> None:
    kept = Kept(tmp_path)
    made = kept.make()
    (made.found["fp64", "2×8"].path / "outputs.npz").write_text("fp46")
    scripted.asked.clear()
    again = kept.make()
    assert (asked("fp64"), asked("fp32")) == (["2×8"], [])
    assert any("is damaged (outputs.npz fails its checksum)" in line for line in kept.said)
    (made.found["fp64", GENERATION].path / "outputs.npz").write_text("fp46")
    scripted.asked.clear()
    kept.make()
    assert (asked("fp64"), asked("fp32")) == (["generation"], [])  # eager's own was forced by the same
    assert (again.found["fp64", "2×8"].path / "outputs.npz").read_text() == "fp64"


def test_a_process_that_dies_once_costs_nothing(tmp_path: Path, scripted: type[Scripted]) -> None:
    scripted.errors["fp32", "load"] = [lost("killed by SIGKILL"), WorkerError("failed", "it loads no more")]
    kept = Kept(tmp_path)
    scripted.errors["fp64", "1×8"] = [lost("killed by SIGKILL"), WorkerError("oom", "no memory left")]
    made = kept.make()
    assert any("was lost (killed by SIGKILL); starting another" in line for line in kept.said)
    assert made.pair("fp32", "1×8") == "there is no reference: eager at fp64 on cpu: no memory left"
    assert made.pair("fp32", "2×8") == "there is no reference: eager at fp32 on cpu: it loads no more"


def test_a_worker_that_dies_each_time_costs_its_shape_alone(tmp_path: Path, scripted: type[Scripted]) -> None:
    scripted.errors["fp32", "1×8"] = [lost("killed by SIGKILL")]
    scripted.errors["fp64", "2×8"] = [WorkerError("oom", "no memory left")]
    made = Kept(tmp_path).make()
    assert scripted.started == [("fp64", "cpu"), *[("fp32", "cpu")] * 3]
    assert made.pair("fp32", "1×8") == "there is no reference: eager at fp32 on cpu: killed by SIGKILL"
    assert made.pair("fp32", "2×8") == "there is no reference: eager at fp64 on cpu: no memory left"
    assert not isinstance(made.pair("fp32", GENERATION), str)


def test_a_worker_that_does_not_load_leaves_every_shape_without_a_reference(
    tmp_path: Path, scripted: type[Scripted]
) -> None:
    scripted.errors["fp32", "load"] = [WorkerError("unsupported", "no such precision")]
    made = Kept(tmp_path).make()
    for name in ("1×8", "2×8", GENERATION):
        assert made.pair("fp32", name) == "there is no reference: eager at fp32 on cpu: no such precision"


def test_a_worker_that_does_not_import_costs_its_precision(tmp_path: Path, scripted: type[Scripted]) -> None:
    scripted.errors["bf16", "hello"] = [lost("no torch")]
    made = Kept(tmp_path).make(("bf16", "fp32"))
    assert made.pair("bf16", "1×8") == "there is no reference: eager at bf16 on cpu: no torch"
    assert not isinstance(made.pair("fp32", "1×8"), str)
    assert scripted.alive == {}


def test_the_users_mistake_is_told_as_one(tmp_path: Path, scripted: type[Scripted]) -> None:
    scripted.errors["fp64", "load"] = [WorkerError("user", "the model is another's")]
    with pytest.raises(UserError, match="the model is another's"):
        Kept(tmp_path).make()
    assert scripted.alive == {}


def test_texts_are_sent_as_ids_one_for_each_row(tmp_path: Path, scripted: type[Scripted]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["?", "the", "a", "of", "for"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "tokenizer").mkdir()
    file = tmp_path / "tokenizer" / "tokenizer.json"
    tokenizer.save(str(file))
    kept, cases = Kept(tmp_path), ("random-full", "text-full")
    keys = {artifact.key for artifact in kept.make(cases=cases, tokenizer=file).found.values()}
    texts = {entry["where"]: entry["texts"] for entry in scripted.asked if entry["where"] != GENERATION}
    assert {shape: [len(row) for row in rows] for shape, rows in texts.items()} == {"1×8": [8], "2×8": [8, 8]}
    assert max(max(row) for rows in texts.values() for row in rows) <= 4
    words |= {"the": 0, "?": 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(file))
    assert keys.isdisjoint(artifact.key for artifact in kept.make(cases=cases, tokenizer=file).found.values())
