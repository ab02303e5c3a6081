"""References in the store: what is computed, shared, kept and made again, by scripted workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.parity.inputs import plan_of
from bench.parity.reference import Inputs, References, Setting, _Evaluation
from bench.process.channel import WorkerError
from bench.spec import Shape
from exporters.sources import ModelSource, resolve
from exporters.store import Artifact, ArtifactStore

GENERATION = "generation"
SHAPES = (Shape(1, 8), Shape(2, 8))


class Scripted:
    """A worker that writes what it is asked for, and fails as the script of its `kept` says."""

    def __init__(self, kept: Kept, precision: str, device: str) -> None:
        self.kept, self.precision, self.log = kept, precision, list[str]()
        kept.started.append((precision, device))
        kept.alive.append(self)

    def work(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        return self.request(message, timeout_seconds)

    def request(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        assert self in self.kept.alive
        self.precision = message.get("precision", self.precision)
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
        shapes: tuple[Shape, ...] = SHAPES,
        shares: bool = False,
        device: str = "cpu",
    ) -> References:
        source: ModelSource = resolve("gpt2-tiny", weights="random", task="lm", seed=seed)
        setting = Setting(device, threads, seed, False, source.vocab_size, False, tokenizer)
        found = References(setting, self.store, lambda *which: Scripted(self, *which[:2]), 60.0, self.said.append)
        plans = {str(shape): plan_of(source, shape.batch, shape.length, seed, cases) for shape in shapes}
        wanted = {name: Inputs(plan, shares=shares) for name, plan in plans.items()}
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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_shape_is_computed_at_each_precision_and_what_is_kept_is_not_computed_again(
    device: str, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process for all precisions on the CPU; on another device, one each, which import at once. Generation is forced
    by the reference's tokens.
    """
    seen, store = [], _Evaluation._store

    def look(self: _Evaluation, name: str, recipe: Any) -> None:
        seen.append([line for one in kept.alive for line in one.log])
        store(self, name, recipe)

    monkeypatch.setattr(_Evaluation, "_store", look)
    made = kept.make(("bf16", "fp32"), device=device)
    started = [("fp64", "cpu")] + ([("bf16", "cuda"), ("fp32", "cuda")] if device == "cuda" else [])
    assert kept.started == started
    if device == "cuda":
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
    again = kept.make(("bf16", "fp32"), device=device)
    assert kept.started == started
    assert again.pair("fp32", GENERATION) == made.pair("fp32", GENERATION)


def test_shapes_of_one_length_share_what_is_computed_shortest_first(kept: Kept) -> None:
    shapes = tuple(Shape(batch, length) for length in (9, 8) for batch in (1, 2, 32))
    made = kept.make(shapes=shapes, shares=True)
    assert kept.asked_of("fp64") == kept.asked_of("fp32") == ["3×8", GENERATION, "3×9"]
    assert [asked.get("one_by_one") for asked in kept.asked if asked["precision"] == "fp64"] == [True, None, True]
    assert len({made.found["fp64", str(shape)].key for shape in shapes}) == 2
    kept.asked.clear()
    again = kept.make(shapes=(Shape(1, 8), Shape(7, 9)), shares=True)
    assert kept.asked == []
    assert again.pair("fp32", "1×8") == made.pair("fp32", "32×8")
    kept.make(shapes=(Shape(1, 10),), shares=True)
    kept.make(shapes=(Shape(2, 10),), shares=True)  # more rows than there are
    assert kept.asked_of("fp64") == ["1×10", "2×10"]


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
            {("bf16", "1×8"): "bf16 on cuda: no torch", ("fp32", "1×8"): ""},
        ),
    ],
)  # fmt: skip
def test_what_a_lost_or_failing_worker_costs(
    kept: Kept, errors: dict[tuple[str, str], list[WorkerError]], found: dict[tuple[str, str], str]
) -> None:
    kept.errors = {where: list(each) for where, each in errors.items()}
    device = "cuda" if ("bf16", "hello") in errors else "cpu"
    made = kept.make(tuple(dict.fromkeys(precision for precision, _ in found)), device=device)
    for (precision, name), reason in found.items():
        pair = made.pair(precision, name)
        assert (pair if isinstance(pair, str) else "") == (reason and f"there is no reference: eager at {reason}")
    assert kept.alive == []
    if ("fp32", "1×8") in errors:
        assert kept.started == [
            ("fp64", "cpu"),
            *[("fp32", "cpu")] * 2,
        ]  # the first one that was lost was the reference's
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
