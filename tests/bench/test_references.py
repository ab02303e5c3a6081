"""References: what is written and shared; backends held against them; faults planted in real modules."""

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
from bench.parity import judging
from bench.parity.inputs import InputPlan, judged_rows
from bench.parity.matrix import Matrix
from bench.parity.verdict import TOLERANCES, judge
from bench.spec import Shape
from benchmarks import faults
from exporters.sources import resolve

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


class LeftPaddingAssumed(Averaging):
    """The same from the end."""

    def run(self, prepared: Any) -> Any:
        ids, mask = prepared
        counts = mask.sum(axis=1, keepdims=True)
        return super().run((ids, (np.arange(mask.shape[1]) >= mask.shape[1] - counts).astype(np.int64)))


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


def test_a_reference_holds_the_judged_rows_alone(written) -> None:
    reference, _ = written
    with np.load(reference / "random-left.inputs.npz") as inputs, np.load(reference / "random-left.npz") as outputs:
        assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 24)
        assert outputs["y"].shape == (2, 24, 8)
        assert outputs["y"].dtype == np.float64
    eager = Averaging(np.float64)
    judging.evaluate(eager, PLAN, reference, None)
    assert eager.batches == [2] * 4
    judging.evaluate(eager, PLAN, reference, None, one_by_one=True)
    assert eager.batches == [2] * 4 + [1] * 8


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_batches_of_one_length_are_judged_by_one_reference(written, batch: int) -> None:
    backend = Averaging()
    assert set(verdicts(backend, replace(PLAN, batch=batch), *written).values()) == {"exact"}
    assert backend.batches == [batch] * 4
    assert set(verdicts(RowsMixedUp(), replace(PLAN, batch=batch), *written).values()) == (
        {"exact"} if batch == 1 else {"broken"}
    )
    assert verdicts(MaskBlind(), replace(PLAN, batch=batch), *written)["left"] == "broken"


def test_a_text_is_judged_at_its_rows_among_random_ones(tmp_path: Path) -> None:
    """The worker of a candidate has no tokenizer: what it knows of texts is what lies with the reference."""
    plan, texts = replace(PLAN, cases=("text-left",)), [list(range(10 + row, 90 + row)) for row in range(2)]
    for name, dtype in (("fp64", np.float64), ("fp32", np.float32)):
        (tmp_path / name).mkdir()
        judging.evaluate(Averaging(dtype), plan, tmp_path / name, texts)
    batch = judging.whole_batch(plan, "text-left", tmp_path / "fp64")
    kept = batch["attention_mask"] == 1
    assert [batch["input_ids"][row][kept[row]][0] for row in judged_rows(plan)] == [10, 11]
    assert len(batch["input_ids"]) == 5
    assert verdicts(Averaging(), plan, tmp_path / "fp64", str(tmp_path / "fp32")) == {"text-left": "exact"}
    assert verdicts(RowsMixedUp(), plan, tmp_path / "fp64", str(tmp_path / "fp32")) == {"text-left": "broken"}


@pytest.mark.parametrize("batch", [1, 5])
def test_one_row_under_every_mask_shows_what_is_wrong_under_each(batch: int, tmp_path: Path) -> None:
    plan = replace(PLAN, batch=batch, cases=("timed", "padded"), padded_rows=1)
    folders = write(tmp_path, Averaging, plan)
    with np.load(folders[0] / "padded.npz") as outputs:
        assert outputs["y"].shape == (1, 24, 8)
    assert verdicts(Averaging(), plan, *folders) == {"timed": "exact", "padded": "exact"}
    for planted in (MaskBlind, RightPaddingAssumed, LeftPaddingAssumed):
        assert verdicts(planted(), plan, *folders) == {"timed": "exact", "padded": "broken"}


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
        assert outputs["y"].shape == (2, 20, 8)  # as many as one row alone is judged at
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
