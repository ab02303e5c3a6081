"""Certificates: what becomes of a contestant, the file on disk, what is refused, and how it is shown."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from backends.eager import Eager
from backends.null import Null
from bench.errors import BenchError, UserError
from bench.parity import examination as examination_module
from bench.parity.certificate import Certificate, Judgement, check_writable, exit_code, read
from bench.parity.examination import Examination
from bench.parity.matrix import Matrix
from bench.parity.references import GENERATION
from bench.parity.verdict import TOLERANCES
from bench.process.channel import WorkerError
from bench.report import parity as report
from bench.spec import Candidate, Grid, Shape
from exporters.store import Artifact, files_checksum

SHAPES = (Shape(1, 8), Shape(2, 8), Shape(3, 8))
ONNX = Candidate("onnx", "default", "fp32")


def figures(**changes: Any) -> dict[str, Any]:
    """Of one output that is as good as eager's."""
    return {
        "output": "logits", "compared": 1000, "nonfinite": 0, "reference_nonfinite": 0, "max_abs_error": 2e-6,
        "tokens": 40, "eager_nonfinite": 0, "rmse_of_worst_token": 1e-7,
        "max_abs_at": [0, 1, 2], "max_rel_error": 1e-5, "mean_abs_error": 1e-7, "p99_abs_error": 1e-6,
        "rms_reference": 1.0, "min_cosine": 0.9999999, "out_of_tolerance": 0.1, "identical_to_eager": False,
        "masked_max_abs_error": None, "rmse": 1e-7, "rmse_eager": 1e-7, "rmse_ratio": 1.0, "token_ratio": 1.5,
        "worst_token": [0, 3], "unit_ratio": None, "worst_unit": None, "kl_mean": 1e-12, "kl_max": 1e-11, "top1_n": 10,
        "top1_agreement": 1.0, "top1_flips": 0, "top1_near_ties": 0, "top1_largest_loss": 0.0, "margin_median": 0.5,
        "top_k": 5, "top_k_overlap": 1.0,
    } | changes  # fmt: skip


BROKEN = {"rmse_ratio": 50.0, "token_ratio": 70.0, "rmse": 5e-6}


# What becomes of a contestant.


class Scripted:
    """A worker whose answers are told beforehand, by operation or shape; anything else is answered soundly."""

    answers: ClassVar[dict[str, Any]] = {}
    started: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_killed = False
        Scripted.started.append(self)

    def request(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        assert not self.is_killed, "a worker that is gone was asked again"
        plan = message.get("inputs_plan")
        where = f"{plan['batch']}×{plan['length']}" if message["op"] == "check" else message["op"]
        self.asked.append(where)
        answer = Scripted.answers.get(where)
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else None
        if isinstance(answer, WorkerError):
            raise answer
        if answer is not None:
            return answer
        sound = {"hello": {"versions": {"onnxruntime": "1"}}, "load": {}}
        return sound.get(where, {"cases": {"random-full": [figures()]}, "facts": {"threads": 1}})

    def kill(self) -> None:
        self.is_killed = True


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    Scripted.answers.clear()
    Scripted.started.clear()
    monkeypatch.setattr(examination_module.session, "start", lambda *rest, python, tf32: Scripted())
    return Scripted


ARTIFACT = Artifact("onnx", "0" * 16, Path("store"), {}, {}, {"model.onnx": {"sha256": "ab", "bytes": 1}}, 1.0)


class Judges:
    """References that are there, but for those that `missing` gives a reason for."""

    def __init__(self, new_tokens: int = 0, missing: dict[Any, str] | None = None) -> None:
        self.matrix = Matrix(ids=("random",), new_tokens=new_tokens)
        self.missing = missing or {}

    def pair(self, precision: str, key: Any) -> Any:
        return self.missing.get(key) or (SimpleNamespace(path="reference"), SimpleNamespace(path="yardstick"))

    def inputs(self, shape: Shape) -> dict[str, Any]:
        return asdict(shape)

    def prompts(self) -> dict[str, Any]:
        return {"batch": 1, "length": 16}


def judgement(
    new_tokens: int = 0, precision: str = "fp32", backend: type = Eager, refused: Any = None, missing: Any = None
) -> Judgement:
    contestant = replace(ONNX, precision=precision)
    prepared: Any = SimpleNamespace(
        refused={contestant: refused} if refused else {},
        classes={contestant: backend},
        artifacts={contestant: ARTIFACT},
        grid=Grid("bert-tiny", (contestant,), SHAPES, "cpu", 1),
        judged_by=Judges(new_tokens, missing),
        store=SimpleNamespace(root=Path("store")),
        timeout_seconds=1.0,
        python_of=lambda contestant: None,
        versions=lambda contestant, told: told,
    )
    return Examination(prepared, contestant, TOLERANCES[precision]).judgement()


def verdicts(found: Judgement) -> dict[str, str]:
    return {case["name"]: case["verdict"] for case in found.cases}


def test_a_sound_backend_is_equivalent_with_all_that_was_found(scripted: type[Scripted]) -> None:
    found = judgement()
    assert (found.verdict, len(found.cases), len(scripted.started)) == ("equivalent", 3, 1)
    assert found.artifact == {"format": "onnx", "checksum": ARTIFACT.checksum, "files": {"model.onnx": "ab"}}
    assert (found.versions, found.facts) == ({"onnxruntime": "1"}, {"threads": 1})
    case = found.cases[0]
    assert (case["batch"], case["length"], case["ids"], case["mask"]) == (1, 8, "random", "full")
    assert case["reason"] == "RMSE 1.0e-07 is within 2 times eager's 1.0e-07"
    assert scripted.started[0].is_killed


def test_one_broken_case_breaks_the_backend_and_comes_first(scripted: type[Scripted]) -> None:
    scripted.answers["2×8"] = {"cases": {"random-full": [figures()], "random-left": [figures(**BROKEN)]}, "facts": {}}
    found = judgement()
    assert (found.verdict, found.cases[0]["name"]) == ("broken", "2×8 random, left")
    assert found.reason.startswith("2×8 random, left: RMSE")
    assert sorted(verdicts(found).values()) == ["broken", "equivalent", "equivalent", "equivalent"]


def test_a_worker_that_dies_costs_its_shape_and_is_started_again(scripted: type[Scripted]) -> None:
    died = WorkerError("failed", "the worker was killed by SIGKILL", {"signal": "SIGKILL"}, is_gone=True)
    scripted.answers["2×8"] = died
    found = judgement()
    assert [process.asked for process in scripted.started] == [
        ["hello", "load", "1×8", "2×8"],
        ["hello", "load", "3×8"],
    ]
    assert verdicts(found) == {
        "2×8": "unjudged", "1×8 random, full": "equivalent", "3×8 random, full": "equivalent",
    }  # fmt: skip
    assert (found.verdict, found.reason) == ("unjudged", "2×8: failed: the worker was killed by SIGKILL")
    assert found.cases[0]["failure"] == {"signal": "SIGKILL"}


def test_an_error_that_the_worker_survives_costs_its_shape_and_no_start(scripted: type[Scripted]) -> None:
    scripted.answers["1×8"] = WorkerError("oom", "no memory left")
    found = judgement()
    assert len(scripted.started) == 1
    assert sorted(verdicts(found).values()) == ["equivalent", "equivalent", "unjudged"]


def test_what_is_broken_stays_broken_beside_a_shape_that_was_not_judged(scripted: type[Scripted]) -> None:
    scripted.answers["1×8"] = {"cases": {"random-full": [figures(**BROKEN)]}, "facts": {}}
    scripted.answers["2×8"] = WorkerError("timeout", "no answer", is_gone=True)
    assert judgement().verdict == "broken"


def test_what_is_broken_stays_broken_when_the_worker_never_loads_again(scripted: type[Scripted]) -> None:
    """A crash behind the fault must not hide it: exit code 3, not 1."""
    scripted.answers["1×8"] = {"cases": {"random-full": [figures(**BROKEN)]}, "facts": {}}
    scripted.answers["2×8"] = WorkerError("failed", "the worker was killed by SIGKILL", is_gone=True)
    scripted.answers["load"] = [{}, WorkerError("oom", "no memory left")]
    found = judgement()
    assert (found.verdict, found.cases[0]["name"]) == ("broken", "1×8 random, full")


def test_a_worker_that_is_lost_three_times_in_a_row_is_given_up(scripted: type[Scripted]) -> None:
    """A backend that hangs at every shape would be waited for at every shape."""
    for shape in SHAPES:
        scripted.answers[str(shape)] = WorkerError("timeout", "no answer", is_gone=True)
    found = judgement(new_tokens=8)
    assert len(scripted.started) == 3
    assert found.verdict == "unjudged"
    assert any(
        "given up after 3 dead or hung workers in a row" in entry["reason"]
        for entry in [*found.cases, *found.generation]
    )


@pytest.mark.parametrize("op", ["hello", "load"])
def test_a_backend_that_does_not_load_is_unjudged_and_says_why(scripted: type[Scripted], op: str) -> None:
    scripted.answers[op] = WorkerError("unsupported", "no such provider", {"stderr": ["words"]})
    found = judgement()
    assert (found.verdict, found.cases) == ("unjudged", [])
    assert found.reason.startswith("unsupported: ")
    assert found.reason.endswith("no such provider")
    assert found.failure == {"stderr": ["words"]}
    assert scripted.started[0].is_killed


def test_what_cannot_run_at_all_starts_nothing(scripted: type[Scripted]) -> None:
    refused = judgement(refused=WorkerError("unsupported", "needs a GPU"))
    scripts = judgement(backend=Null)
    assert (refused.verdict, refused.reason) == ("unjudged", "unsupported: needs a GPU")
    assert (scripts.verdict, scripts.reason) == ("unjudged", "unsupported: onnx computes no model")
    assert scripted.started == []
    assert refused.artifact == scripts.artifact == {}


def test_a_shape_without_a_reference_is_unjudged_and_the_others_are_judged(scripted: type[Scripted]) -> None:
    found = judgement(new_tokens=2, missing={SHAPES[1]: "there is no reference: oom", GENERATION: "there is none"})
    assert verdicts(found)["2×8"] == "unjudged"
    assert found.generation == [{"name": GENERATION, "verdict": "unjudged", "reason": "there is none"}]
    assert found.verdict == "unjudged"
    nothing = judgement(missing=dict.fromkeys(SHAPES, "there is no reference"))
    assert (nothing.verdict, len(nothing.cases)) == ("unjudged", 3)


def generated(**changes: Any) -> dict[str, Any]:
    entry = {"figures": [figures()], "steps": 8, "generated": [1] * 8, "diverges_at": None}
    return {"cases": {"random, cache": entry | changes}}


FLIP = {"diverges_at": 3, "margin": 0.25, "eager_error": 0.01}
LOSSY = figures(rmse=5e-3, rmse_eager=1e-3, rmse_ratio=5.0, token_ratio=5.0)


@pytest.mark.parametrize(
    ("precision", "changes", "expected"),
    [
        ("fp32", {}, "equivalent"),
        ("fp32", FLIP, "broken"),
        ("fp32", FLIP | {"eager_error": 0.07}, "equivalent"),
        ("fp32", FLIP | {"eager_error": 0.06}, "broken"),
        ("fp32", {"figures": [figures(**BROKEN)]}, "broken"),
        ("fp16", FLIP, "broken"),
        ("fp16", FLIP | {"figures": [LOSSY]}, "lossy"),
        ("fp16", FLIP | {"figures": [figures(identical_to_eager=True)]}, "broken"),
    ],
    ids=[
        "same",
        "flip",
        "near-tie",
        "almost",
        "forced steps",
        "flip that nothing explains",
        "flip of what is lossy",
        "own flip",
    ],
)
def test_generated_text_is_judged_by_its_forced_steps_and_its_first_flip(
    scripted: type[Scripted], precision: str, changes: dict[str, Any], expected: str
) -> None:
    scripted.answers["check_generation"] = generated(**changes)
    found = judgement(new_tokens=8, precision=precision)
    (entry,) = found.generation
    assert (entry["verdict"], found.verdict) == (expected, expected)
    assert entry["name"] == "random, cache"
    assert "figures" not in entry
    if changes is FLIP:
        assert entry["reason"] == "token 4 is one that eager's own error does not explain"


def test_generation_that_fails_leaves_the_shapes_judged(scripted: type[Scripted]) -> None:
    scripted.answers["check_generation"] = WorkerError("oom", "no memory left")
    found = judgement(new_tokens=8)
    assert [case["verdict"] for case in found.cases] == ["equivalent"] * 3
    assert (found.verdict, found.reason) == ("unjudged", "generation: oom: no memory left")


# The file.


def certificate(*verdicts: str, task: str = "lm", **values: Any) -> Certificate:
    """One of a backend for each verdict, as `check_parity` makes it."""
    judgements = []
    for place, verdict in enumerate(verdicts):
        contestant = replace(ONNX, copy=place + 1)
        share = {"exact": 0.5, "equivalent": 0.8, "lossy": 1.7, "broken": 70.0}.get(verdict)
        case = {"name": "3×128 random, holes", "verdict": verdict, "reason": "because", "share_of_limit": share}
        case |= figures() if verdict != "unjudged" else {}
        artifact = {"format": "onnx", "checksum": files_checksum({"model.onnx": "ab"}), "files": {"model.onnx": "ab"}}
        cases = [case | {"name": f"{batch}×128 random, holes"} for batch in range(1, 9)]
        judgements.append(Judgement(contestant, verdict, "3×128 random, holes: because", cases, artifact=artifact))
    grid = Grid("gpt2-tiny", tuple(j.contestant for j in judgements), SHAPES, "cpu", 2, "random", task, 3)
    given: dict[str, Any] = {
        "grid": grid, "ids": ("random", "zipf"), "masks": ("full", "left"), "tokenizer": None, "new_tokens": 4,
        "overrides": {"max_kl": 0.5}, "tolerances": {"fp32": replace(TOLERANCES["fp32"], max_kl=0.5)},
        "origin": "seeded random (seed 3)", "weights_checksum": "0123456789abcdef",
        "fingerprint": {"cpu": "a CPU", "versions": {"torch": "2"}}, "command": "bench parity --model gpt2-tiny",
        "started": "2026-01-01T00:00:00+00:00", "judgements": judgements, "notes": ["a note"],
    }  # fmt: skip
    return Certificate(**{**given, **values})


def test_a_certificate_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = certificate("exact", "equivalent", "lossy", "unjudged", "broken")
    written.judgements[0].generation = [{"name": "random, cache", "verdict": "exact", "generated": [1, 2]}]
    written.judgements[4].failure = {"stderr": ["last words"]}
    written.write(tmp_path / "c.json")
    assert read(tmp_path / "c.json") == written
    assert json.loads((tmp_path / "c.json").read_text()) == written.to_json()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "c.json"]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["exact"], 0),
        (["exact", "equivalent"], 0),
        (["exact", "lossy"], 1),
        (["equivalent", "unjudged"], 1),
        (["exact", "unjudged", "broken"], 3),
        (["broken"], 3),
        ([], 1),
    ],
)
def test_the_exit_code(verdicts: list[str], expected: int) -> None:
    assert exit_code(verdicts) == certificate(*verdicts).exit_code == expected
    assert certificate(*verdicts).to_json()["exit_code"] == expected


def test_a_certificate_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "c.json"
    certificate("exact").write(path)
    before = path.read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(BenchError, match="cannot be written \\(No space left on device\\)"):
        certificate("broken").write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_where_no_certificate_could_be_written_is_known_beforehand(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.json")
    with pytest.raises(UserError, match="is a folder; give a file"):
        check_writable(tmp_path)
    with pytest.raises(UserError, match="its folder is missing"):
        check_writable(tmp_path / "missing" / "c.json")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="its folder is missing"):
        check_writable(tmp_path / "file" / "c.json")
    if os.geteuid():  # root may write anywhere
        tmp_path.chmod(0o500)
        with pytest.raises(UserError, match="not yours"):
            check_writable(tmp_path / "c.json")
        tmp_path.chmod(0o700)


# Refusals.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "is no certificate"),
        (b"null", "is no certificate"),
        (b'"parity"', "is no certificate"),
        (b"{}", "is no certificate"),
        (b'{"kind": "run", "schema": 1}', "is no certificate"),
        (b'{"kind": "parity"}', "has schema None, and this bench reads 1"),
        (b'{"kind": "parity", "schema": 2}', "has schema 2, and this bench reads 1"),
        (b'{"kind": "parity", "schema": 1}', "was altered or damaged"),
        (b'{"kind": "parity", "schema": 1, "checksum": "no"}', "was altered or damaged"),
    ],
    ids=lambda value: value[:30].decode(errors="replace") if isinstance(value, bytes) else "",
)  # fmt: skip
def test_what_is_no_certificate_of_ours_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        read(tmp_path / "c.json")
    assert "\n" not in str(refused.value)


def test_a_certificate_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read \\(No such file"):
        read(tmp_path / "c.json")
    with pytest.raises(UserError, match="cannot be read \\(Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99])
def test_a_truncated_certificate_is_refused(tmp_path: Path, share: float) -> None:
    certificate("exact").write(tmp_path / "c.json")
    whole = (tmp_path / "c.json").read_bytes()
    (tmp_path / "c.json").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="is no JSON"):
        read(tmp_path / "c.json")


def test_one_other_character_anywhere_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """Every 41st character is made another; only white space between the fields may change and mean the same."""
    original = certificate("exact")
    path = tmp_path / "c.json"
    original.write(path)
    text = path.read_text()
    refused = 0
    for place in range(0, len(text), 41):
        path.write_text(text[:place] + ("x" if text[place] == "0" else "0") + text[place + 1 :])
        try:
            found = read(path)
        except UserError:
            refused += 1
        else:
            assert found == original
            assert text[place].isspace()
    assert refused > 100


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data["judgements"][0].update(verdict="exact"),
        lambda data: data["judgements"][0]["cases"][0].update(verdict="exact"),
        lambda data: data["judgements"][0]["artifact"].update(checksum="0" * 64),
        lambda data: data["tolerances"]["fp32"].update(eager_factor=1e9),
        lambda data: data.update(exit_code=0),
        lambda data: data.update(weights_checksum="f" * 16),
        lambda data: data.update(extra=1),
        lambda data: data.pop("notes"),
    ],
    ids=["verdict", "case", "artifact", "tolerance", "exit code", "weights", "new field", "lost field"],
)  # fmt: skip
def test_an_altered_certificate_is_refused(tmp_path: Path, edit: Any) -> None:
    certificate("broken").write(tmp_path / "c.json")
    data = json.loads((tmp_path / "c.json").read_text())
    edit(data)
    (tmp_path / "c.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="was altered or damaged: its checksum does not fit; make it again"):
        read(tmp_path / "c.json")


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data.pop("grid"),
        lambda data: data["grid"].update(shapes=[]),
        lambda data: data["grid"].update(shapes=3),
        lambda data: data.update(judgements=[{}]),
        lambda data: data["tolerances"]["fp32"].update(unknown=1),
        lambda data: data["judgements"][0].update(unknown=1),
    ],
    ids=["no grid", "no shapes", "shapes of another type", "empty judgement", "other tolerance", "other field"],
)  # fmt: skip
def test_a_certificate_whose_fields_are_wrong_is_one_line_though_its_checksum_fits(tmp_path: Path, edit: Any) -> None:
    from bench.parity.certificate import _checksum

    data = certificate("broken").to_json()
    data.pop("checksum")
    edit(data)
    (tmp_path / "c.json").write_text(json.dumps(data | {"checksum": _checksum(data)}))
    with pytest.raises(UserError, match="lacks or mistakes a field"):
        read(tmp_path / "c.json")


# How it is shown.

ALL = ("exact", "equivalent", "lossy", "unjudged", "broken")


@pytest.mark.parametrize("task", ["base", "lm"])
def test_the_table_fits_80_columns_and_says_what_counts(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = report.render(certificate(*ALL, task=task), "table")
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "onnx fp32: exact", "onnx@5 fp32: broken", "3×128 random, holes", "3 more: 3 broken", "× eager", "note: a note",
        "seeded random (seed 3)", "batch 1, 2, 3 × length 8", "2 threads", ">999%", "80%",
    ):  # fmt: skip
        assert words in " ".join(text.split()), words
    assert ("KL" in text.split("onnx fp32")[1].splitlines()[1]) == (task == "lm")
    assert ("mean KL 0.5" in " ".join(text.split())) == (task == "lm")
    assert ("cosine" in text) == (task == "base")


def test_a_sound_backends_reason_is_not_repeated_and_a_bad_ones_is() -> None:
    assert "because" not in report.render(certificate("exact"), "table")
    for verdict in ("lossy", "unjudged", "broken"):
        assert "3×128 random, holes: because" in report.render(certificate(verdict), "table")


def test_the_markdown_is_one_table_whose_rows_are_as_wide_as_its_head() -> None:
    lines = report.render(certificate(*ALL), "markdown").splitlines()
    rows = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 5 * report.PRINTED_CASES
    assert {row.count("|") for row in rows} == {rows[0].count("|")}
    assert "- **onnx@5 fp32: broken**: 3×128 random, holes: because" in lines
    empty = certificate("unjudged")
    empty.judgements[0].cases = []
    bare = [line for line in report.render(empty, "markdown").splitlines() if line.startswith("| onnx")]
    assert bare == ["| onnx fp32 | – | unjudged | – | – | – | – | – | – |"]


def test_the_json_is_the_certificate() -> None:
    found = certificate(*ALL)
    assert json.loads(report.render(found, "json")) == found.to_json()
    with pytest.raises(UserError, match="unknown format 'jsn'; did you mean 'json'"):
        report.render(found, "jsn")


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"diverges_at": None}, "exact; all 8 greedy tokens are the reference's"),
        (
            FLIP | {"is_near_tie": False, "verdict": "broken", "reason": "why"},
            "token 4 of 8 is another, 2.5e-01 below the reference's own; why",
        ),
        (FLIP | {"is_near_tie": True}, "token 4 of 8 is another, a near-tie (2.5e-01 apart)"),
        (figures() | {"diverges_at": None}, "forced: top-1 100.0% of 10, KL 1.0e-12"),
    ],
    ids=["same", "flip", "near-tie", "figures"],
)
def test_generation_is_told_in_words(entry: dict[str, Any], line: str) -> None:
    found = Judgement(ONNX, "exact", "")
    found.generation = [{"name": "random, cache", "verdict": "exact", "steps": 8} | entry]
    (told,) = report.generation_lines(found)
    assert line in told
    assert told.endswith("; why") == ("reason" in entry)


def test_an_odd_share_of_the_limit_is_readable() -> None:
    assert [report.percent(share) for share in (0.004, 0.5, 1.0, 9.99, 10.0, 1e9)] == [
        "0%", "50%", "100%", "999%", ">999%", ">999%",
    ]  # fmt: skip
