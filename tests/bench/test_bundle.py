"""`bench deploy` and `bench verify DIR`: what is chosen, what is refused, what a bundle holds, and what proves it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.onnx import Onnx
from bench import BenchError, UserError, deploy, machine, statistics, verify, verify_bundle
from bench.bundle import envelope as envelopes
from bench.bundle import making, runtimes, selection
from bench.bundle import verify as verify_module
from bench.bundle.api import Bundle
from bench.bundle.envelope import envelope_of, held
from bench.bundle.manifest import CERTIFICATE, FILE, checksums
from bench.bundle.samples import MOST_BYTES, SHAPES, WIDE_SHAPES, samples_of
from bench.bundle.selection import NotTheSameModelError, plain
from bench.bundle.verify import BundleVerification
from bench.process.channel import WorkerError
from bench.report import bundle as report
from bench.run.file import read_run
from bench.run.record import Run
from bench.spec import Candidate, Shape
from bench.verify import read_certificate
from bench.workloads.judgements import Judgement, judgements
from bench.workloads.load import Load, Rate
from exporters.sources import resolve
from exporters.store import MANIFEST
from tests import made as builder
from tests.bench.bundle_cases import EAGER, MS, ONNX, forged, in_this_process, record, resealed, run_of
from tests.in_process import InThisProcess


@pytest.fixture(autouse=True)
def machine_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fingerprints without the fifth of a second for which the machine is watched."""
    monkeypatch.setattr(machine, "busy_share", lambda: 0.0)


# What is bundled, and what is refused.


def selected(run: Run, name: str | None = "onnx", least: str = "equivalent", **constraints: Any) -> selection.Selection:
    return selection.select(run, name, least, constraints)


def test_a_name_is_one_of_the_runs_own_and_without_one_the_choice_decides() -> None:
    half = replace(ONNX, precision="fp16")
    run = run_of(candidates=(EAGER, ONNX, half, replace(EAGER, variant="grad")))
    named = {name: selected(run, name).candidate for name in ("eager", "onnx/fp16", "eager:grad")}
    assert named == {"eager": EAGER, "onnx/fp16": half, "eager:grad": replace(EAGER, variant="grad")}
    run = run_of(candidates=(EAGER, ONNX))
    run.records = [record(EAGER, Shape(1, 16), 9.0), record(ONNX, Shape(1, 16), 3.0)]
    found = selected(run, None)
    assert (found.candidate, found.reasons[0][:15]) == (ONNX, "take onnx: 3.00")
    assert selected(run, None, slo="p50=5ms").candidate == ONNX
    for rounds, remedy in ((1, "at least 2 rounds at 1×16 are lacking"), (2, "at least 1 round at 1×16 are lacking")):
        few = replace(run, records=[replace(one, turns=one.turns[:rounds]) for one in run.records])
        words = f"undecided: onnx leads.*{remedy}.*--until-decided 5m; --choose NAME or --max-regret 10% overrules it"
        with pytest.raises(selection.UndecidedError, match=words) as refused:
            selected(few, None)
        assert refused.value.exit_code == 6
        assert selected(few, "onnx").candidate == ONNX
    run.integrity, run.path = "cut", Path("run.jsonl")
    assert selection.CUT in selected(run).reasons


def changed(place: int, **values: Any) -> Run:
    """A run of onnx at two shapes, one of them with other values."""
    run = run_of()
    run.records[place] = replace(run.records[place], **values)
    return run


def not_the_same(verdict: str) -> Run:
    return changed(1, parity={"verdict": verdict, "reason": "RMSE is too large"})


@pytest.mark.parametrize(
    ("run", "how", "error", "words"),
    [
        *(
            (run_of(candidates=(EAGER, ONNX, replace(ONNX, precision="fp16"))), {"name": name}, UserError, words)
            for name, words in {
                "onnx": "at 2 precisions; write onnx/fp32 or onnx/fp16", "onx/fp32": "did you mean 'onnx/fp32'",
                "onnx/bf16": "none of this run", "": "it has eager/fp32, onnx/fp32",
            }.items()
        ),
        (run_of(), {"max_memory": "2GB"}, UserError, "--max-memory would decide nothing"),
        (run_of(), {"least": "exact"}, NotTheSameModelError, "--min-parity equivalent bundles it all the same"),
        (not_the_same("lossy"), {}, NotTheSameModelError, "4×8: RMSE is too large.*--min-parity lossy bundles it all the"),
        (not_the_same("unjudged"), {}, NotTheSameModelError, "onnx fp32 is unjudged.*4×8: RMSE is too large"),
        (not_the_same("broken"), {"least": "lossy"}, NotTheSameModelError, "broken, and lossy is asked for"),
    ],
)  # fmt: skip
def test_what_is_not_deployed(run: Run, how: dict[str, Any], error: type[BenchError], words: str) -> None:
    with pytest.raises(error, match=words) as refused:
        selected(run, **how)
    assert refused.value.exit_code == (3 if error is NotTheSameModelError else 2)


def test_what_was_not_measured_is_not_promised_and_lossy_can_be_asked_for() -> None:
    assert selected(not_the_same("lossy"), least="lossy").worst.verdict == "lossy"
    lost: dict[str, Any] = {"status": "oom", "reason": "12 GiB were asked for", "turns": (), "parity": {}}
    run = changed(1, **lost)
    found = selected(run)
    assert [entry.point for entry in found.records] == [Shape(1, 16)]
    assert "not promised, as they were not measured: 4×8" in found.reasons
    run.records[0] = replace(run.records[0], **lost)
    with pytest.raises(UserError, match=r"was not measured \(oom: 12 GiB were asked for\)"):
        selected(run)


@pytest.mark.parametrize(
    ("candidate", "weights", "words"),
    [
        (Candidate("numpy_bert", "default", "fp32"), "random", "of another package"),
        (Candidate("eager", "grad", "fp32"), "random", "--choose eager"),
        (EAGER, "module", "--choose onnx or torchscript"),
        (Candidate("compile", "max-autotune", "fp32"), "module", "--choose onnx or torchscript"),
        (Candidate("onnx", "default", "bf16"), "random", "NumPy has no bf16"),
        (Candidate("onnx", "tensorrt", "fp16"), "random", "run.py does not set it up; --choose onnx"),
        (Candidate("onnx", "cuda-graphs", "fp32"), "random", "run.py does not set it up; --choose onnx"),
        (Candidate("aoti", "default", "fp32"), "random", "--choose torchscript or onnx"),
        (Candidate("openvino", "default", "int8"), "random", "--choose openvino/fp32 or openvino/bf16"),
    ],
)
def test_what_a_bundle_cannot_carry_is_refused_with_a_remedy(candidate: Candidate, weights: str, words: str) -> None:
    run = run_of()
    run.model = replace(run.model, weights=weights)
    with pytest.raises(UserError, match=words):
        runtimes.check(candidate, run)


def test_versions_are_pinned_as_they_were_measured() -> None:
    versions = {
        "onnxruntime": "1.32.0", "numpy": "2.4.6", "torch": "2.13.0+cpu", "transformers": "5.23.0",
        "safetensors": "0.8.0", "nvidia-cudnn-cu12": "9.1", "nvidia-ml-py": "13", "rich": "15",
    }  # fmt: skip
    assert runtimes.requirements(ONNX, "cpu", versions) == {"onnxruntime": "1.32.0", "numpy": "2.4.6"}
    on_cuda = runtimes.requirements(ONNX, "cuda", {**versions, "onnxruntime-gpu": "1.31.1"})
    assert on_cuda == {"onnxruntime-gpu": "1.31.1", "numpy": "2.4.6", "nvidia-cudnn-cu12": "9.1"}
    pins = runtimes.requirements(EAGER, "cpu", versions)
    assert list(pins) == ["torch", "transformers", "safetensors", "numpy"]
    text = runtimes.requirements_text(pins, "3.11.7")
    assert "torch==2.13.0  # measured as 2.13.0+cpu\n" in text
    assert "transformers==5.23.0\n" in text
    with pytest.raises(UserError, match="does not say the version of numpy"):
        runtimes.requirements(ONNX, "cpu", {"onnxruntime": "1"})


@pytest.mark.parametrize(
    "text",
    [
        "1.0\n--extra-index-url https://evil.example",
        "1.0\n",
        " 1.0",
        "1.0 --pre",
        "1.0; os_name",
        "1.0#",
        "@ file:/x",
        1,
    ],
)
def test_only_versions_reach_requirements_txt(text: Any) -> None:
    versions = {"onnxruntime": "1.0", "onnxruntime-gpu": "1.0", "numpy": "2.0", "nvidia-cudnn-cu12": "9"}
    for name in ("onnxruntime", "numpy"):
        with pytest.raises(UserError, match=f"as the version of {name}, which is no version"):
            runtimes.requirements(ONNX, "cpu", versions | {name: text})
    with pytest.raises(UserError, match="as the version of nvidia-cudnn-cu12, which is no version"):
        runtimes.requirements(ONNX, "cuda", versions | {"nvidia-cudnn-cu12": text})
    with pytest.raises(UserError, match="as the version of Python, which is no version"):
        runtimes.requirements_text({"numpy": "2.0"}, f"3.13{text}\n")


def test_nothing_of_a_run_reaches_run_py_as_code() -> None:
    """Its strings are names that are known, literals, or cleaned (`programs` has a model's name that is code)."""
    evil = '"""\nimport os'
    metadata = {"outputs": [evil], "class": "BertModel"}
    for candidate in (replace(EAGER, precision=evil), replace(EAGER, variant=evil), replace(EAGER, backend=evil)):
        with pytest.raises(UserError, match=r"no variant or precision|of another package"):
            runtimes.check(candidate, run_of())
    with pytest.raises(UserError, match="is its class, which is no name"):
        runtimes.run_text(EAGER, run_of(), metadata | {"class": "BertModel\nimport os"}, ["ids"], "model")
    text = runtimes.run_text(EAGER, run_of(), metadata, [evil, "ids"], "model")
    assert [line for line in text.splitlines() if line.startswith("import")] == ["import numpy as np", "import torch"]


# run.py.


def programs() -> dict[str, str]:
    """run.py of every runtime, variant and device that a bundle can carry."""
    import backends

    found = {}
    for backend in runtimes.RUNTIMES:
        for variant in backends.load_class(backend).spec.variants:
            if f"{backend}:{variant}" in runtimes.NOT_CARRIED:
                continue
            for device in ("cpu", "cuda"):
                candidate = Candidate(backend, variant, "fp16" if device == "cuda" else "fp32")
                run = run_of(device=device)
                run.model = replace(run.model, name='"""\nimport os # \\')
                metadata = {"outputs": ["a", 'odd "name\\'], "class": "BertModel"}
                name = f"{backend}-{variant}-{device}.py"
                found[name] = runtimes.run_text(candidate, run, metadata, ["ids", "features"], "model")
    return found


def test_every_run_py_is_clean_short_and_free_of_this_project(tmp_path: Path) -> None:
    made = programs()
    assert len(made) == 2 * (3 + 2 + 4 + 4 + 5)
    for name, text in made.items():
        assert len(text.splitlines()) <= 55, name
        assert "import os" not in text
        assert not any(word in text for word in ("import bench", "import backends", "import exporters"))
        (tmp_path / name).write_text(text)
    clean = ["check", "--isolated", "--line-length=120", "--select=E,F,I,W,B,UP,N,PTH,SIM,RET", str(tmp_path)]
    tidy = ["format", "--check", "--isolated", "--line-length=120", str(tmp_path)]
    for arguments in (clean, tidy):
        done = subprocess.run([sys.executable, "-m", "ruff", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_run_py_has_the_providers_threads_and_settings_of_the_run() -> None:
    made = programs()
    assert "intra_op_num_threads, options.inter_op_num_threads = 1, 1" in made["onnx-default-cpu.py"]
    assert 'PROVIDERS = ["CPUExecutionProvider"]' in made["onnx-default-cpu.py"]
    on_cuda = made["onnx-default-cuda.py"]
    assert '("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"})' in on_cuda
    assert "ort.preload_dlls()" in on_cuda
    assert 'if model.get_providers()[0] != "CUDAExecutionProvider"' in on_cuda
    tuned = made["compile-max-autotune-cuda.py"]
    assert 'requires_grad_(False), dynamic=False, mode="max-autotune")' in tuned
    assert "torch._inductor.config.freezing = True" in tuned
    assert "fail_on_recompile_limit_hit = True" in tuned
    assert "dtype=torch.float16" in tuned
    assert "torch.compile" not in made["eager-default-cpu.py"]
    assert "torch.set_num_threads(1)" in made["torchscript-default-cpu.py"]


# What proves it.


def test_samples_are_few_and_small_and_longer_than_no_model() -> None:
    narrow = samples_of(resolve("bert"), None)
    assert (narrow.shapes, narrow.ids, narrow.masks) == (SHAPES, ("random", "zipf"), ("full", "right", "left", "holes"))
    assert samples_of(resolve("bert"), Path("tokenizer.json")).ids == ("random", "text")
    wide = samples_of(resolve("gpt2", task="lm"), None)
    assert (wide.shapes, wide.masks) == (WIDE_SHAPES, ("full", "left"))
    short = samples_of(replace(resolve("bert"), positions=5), None)
    assert short.shapes == (Shape(1, 5), Shape(2, 5))
    huge = samples_of(replace(resolve("gpt2", task="lm"), vocab_size=262_144), None)
    assert huge.shapes == (Shape(1, 4), Shape(2, 4))
    assert MOST_BYTES < 2**26


def test_the_envelope_is_what_the_run_measured(tmp_path: Path) -> None:
    run = run_of(candidates=(EAGER, ONNX), baseline="eager", output="run.jsonl")
    run.records.append(record(ONNX, Shape(8, 16), status="oom"))
    promised = [one for one in run.records if one.candidate == ONNX and one.samples]
    envelopes.write(envelope_of(run, promised), tmp_path / envelopes.FILE)
    found = read_run(tmp_path / envelopes.FILE)
    assert (found.integrity, found.is_complete, found.candidates) == ("sealed", True, (ONNX,))
    assert found.records == promised
    assert found.workload.points() == (Shape(1, 16), Shape(4, 8))
    assert "--backends onnx --device cpu --threads 1" in found.command
    for word in ("--baseline", "--output"):
        assert word not in found.command


@pytest.mark.parametrize(
    ("now", "verdict", "reason"),
    [
        *(({"ms": ms}, "within", "") for ms in (1.0, 5.0, 5.9)),
        *(({"ms": ms}, "slower", "") for ms in (6.1, 50.0)),
        ({"rounds": [[3], [9], [4], [8], [5], [7]]}, "undecided", ""),
        ({"rounds": [[5]]}, "undecided", "only 1 of 1 rounds were quiet now"),
        (None, "unmeasured", "it has no record"),
        ({"status": "failed", "reason": "killed"}, "unmeasured", "failed: killed"),
    ],
)
def test_a_promise_is_kept_up_to_its_threshold(now: dict[str, Any] | None, verdict: str, reason: str) -> None:
    promise = run_of().records[0]
    found = held(promise, None if now is None else record(ONNX, promise.point, **now), 0.2)
    assert (found.verdict, found.reason, found.promised_ns) == (verdict, reason, 5 * MS)
    if now and "ms" in now:
        assert found.ratio == pytest.approx(now["ms"] / 5)


def found_with(
    *verdicts: str, parity: str = "equivalent", stated: str = "equivalent", **values: Any
) -> BundleVerification:
    kept = [replace(held(record(ONNX, Shape(1, 16)), None, 0.2), verdict=v) for v in verdicts]
    fields: dict[str, Any] = {
        "counts_time": True,
        "kept": kept,
        "stated": stated,
        "judgement": Judgement(ONNX, parity, ""),
    }
    return BundleVerification("bundle", **(fields | values))


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (found_with("within", "within"), 0),
        (found_with("within", "slower"), 4),
        (found_with("undecided", "slower"), 4),
        (found_with("within", "undecided"), 6),
        (found_with("unmeasured", "undecided"), 1),
        (found_with("unmeasured"), 1),
        (found_with("slower", counts_time=False), 0),
        (found_with("slower", parity="broken"), 3),
        (found_with("within", parity="lossy"), 3),
        (found_with("within", parity="lossy", stated="lossy"), 0),
        (found_with("within", parity="equivalent", stated="exact"), 0),
        (found_with("within", parity="broken", stated="broken"), 3),
        (found_with("within", parity="unjudged"), 1),
        (found_with(judgement=None), 1),
        (found_with("within", faults=["missing: run.py"]), 3),
    ],
)
def test_exit_codes(found: BundleVerification, code: int) -> None:
    assert found.exit_code == code
    assert found.to_json()["exit_code"] == code
    text = report.render(found, "table")
    assert report.ENDINGS[code] in text.splitlines()[-1]


# A bundle from end to end, on the tiny model, in this process.


@pytest.fixture(scope="module")
def made(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("made")
    path = builder.write(run_of(candidates=(EAGER, ONNX)), folder / "run.jsonl")
    with in_this_process():
        return deploy(path, folder / "bundle", choose="onnx", artifacts=artifacts)


@pytest.fixture
def copied(made: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(made.folder, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have every promised shape measured as so many times what was promised."""

    def measure(factor: float) -> None:
        def measured(self: Any, promised: Run) -> Run:
            run = run_of()
            run.records = [
                record(ONNX, one.point, factor * statistics.median(one.samples) / MS) for one in promised.records
            ]
            return run

        monkeypatch.setattr(verify_module.Opened, "measured", measured)

    return measure


def verified(folder: Path, **options: Any) -> BundleVerification:
    with in_this_process():
        return verify_bundle(folder, **options)


def test_a_bundle_holds_what_it_needs_and_says_where_it_came_from(made: Bundle, artifacts: Path) -> None:
    names = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
    wanted = {
        "manifest.json", "run.py", "requirements.txt", "certificate.jsonl", "envelope.jsonl", "model/model.onnx",
        "model/model.onnx.data", "model/artifact.json", "samples/2x37/reference/random-left.npz",
        "samples/2x37/eager/zipf-full.inputs.npz",
    }  # fmt: skip
    assert wanted <= names
    manifest = made.manifest
    assert set(manifest.files) == names - {FILE}
    assert (manifest.verdict, manifest.run["file"]) == ("equivalent", "run.jsonl")
    assert manifest.origin == "seeded random (seed 0)"
    onnxruntime = pytest.importorskip("onnxruntime").__version__
    assert manifest.requirements == {"onnxruntime": onnxruntime, "numpy": np.__version__}
    with np.load(made.folder / "samples/2x37/reference/random-left.npz") as reference:
        assert reference["last_hidden_state"].dtype == np.float64
        assert reference["last_hidden_state"].shape == (2, 37, 64)
    for path in (*made.folder.rglob("*.json"), *made.folder.glob("*.jsonl")):
        assert str(Path.home()) + "/" not in path.read_text().replace(str(made.folder.parent), "")
    assert max(len(line) for line in report.made(made).splitlines() if "/" not in line) <= 80
    (one,) = judgements(read_certificate(made.folder / CERTIFICATE))
    assert one.artifact["checksum"] == manifest.artifact["checksum"]
    assert len(one.cases) == 16
    with in_this_process():  # the certificate holds with the model too
        found = verify(made.folder / CERTIFICATE, made.folder / "model", artifacts=artifacts)
    assert (found.holds, found.exit_code) == (True, 0)


BLOCKED = """
import runpy, sys
sys.modules |= dict.fromkeys({blocked!r})  # as if they were not installed
sys.argv = [{path!r}]
runpy.run_path({path!r}, run_name="__main__")
"""


def test_run_py_needs_neither_this_project_nor_torch(made: Bundle) -> None:
    """In a process that can import none of them, from another folder."""
    blocked = {"bench", "backends", "exporters", "torch", "transformers", "onnx", "safetensors"}
    code = BLOCKED.format(blocked=blocked, path=str(made.folder / "run.py"))
    command = [sys.executable, "-W", "ignore", "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert "last_hidden_state" in line
        assert float(line.split()[-2]) < 1e-5


def test_times_are_really_measured_by_the_runs_plan(made: Bundle) -> None:
    said: list[str] = []
    found = verified(
        made.folder, envelope="strict", threshold=50, manifest_sha256=made.manifest_sha256, say=said.append
    )
    assert [(entry.batch, entry.length) for entry in found.kept] == [(1, 16), (4, 8)]
    assert all(entry.measured_ns and entry.measured_ns > 0 for entry in found.kept)
    assert found.judgement is not None and len(found.judgement.cases) == 16
    assert said[0].startswith("every file is as deployed")
    text = report.render(found, "table")
    assert max(map(len, text.replace(str(made.folder), "").splitlines())) <= 80


def test_slower_is_exit_code_4_on_the_runs_machine_and_a_note_on_another(
    made: Bundle, kept: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, cli_here: Callable[..., Any]
) -> None:
    kept(3.0)
    monkeypatch.setattr(verify_module.Opened, "judged", lambda opened, certificate: judgements(certificate)[0])
    with in_this_process():
        told = json.loads(cli_here("verify", str(made.folder), "--format", "json").stdout)
        assert (told["exit_code"], told["counts_time"], told["kept"][0]["verdict"]) == (4, True, "slower")
        assert cli_here("verify", str(made.folder), "--threshold", "250%").returncode == 0
    assert verified(made.folder, envelope="off").exit_code == 0
    monkeypatch.setattr("bench.machine.cpu_name", lambda *rest: "Another CPU")
    elsewhere = verified(made.folder)
    assert elsewhere.exit_code == 0
    assert any("another machine than the run's (cpu differ)" in note for note in elsewhere.notes)
    assert [entry.verdict for entry in elsewhere.kept] == ["slower", "slower"]
    assert verified(made.folder, envelope="strict").exit_code == 4


@pytest.mark.parametrize("name", ["model/model.onnx.data", "run.py", "samples/1x16/eager/random-full.npz", FILE])
def test_one_altered_byte_is_exit_code_3_and_nothing_is_run(
    copied: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*rest: Any) -> None:
        raise AssertionError("a process was started")

    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    monkeypatch.setattr("bench.process.channel.Worker.__init__", started)
    found = verify_bundle(copied)
    assert (found.exit_code, found.judgement) == (3, None)
    assert any(name in fault for fault in found.faults)


def other_weights(folder: Path) -> dict[str, Any]:
    file = folder / "model" / "model.onnx.data"
    weights = np.frombuffer(file.read_bytes(), np.float32).copy()
    weights[: len(weights) // 2] *= 1.01
    file.write_bytes(weights.tobytes())
    names = {name: entry.sha256 for name, entry in checksums(folder / "model").items() if name != MANIFEST}
    papers = read_certificate(folder / CERTIFICATE)
    papers.notes["artifacts"]["0"] |= {"checksum": "made up", "files": names}
    resealed(papers)
    return {"artifact": {"format": "onnx", "key": "", "checksum": "made up"}}


def other_outputs(folder: Path) -> dict[str, Any]:
    for whose in ("reference", "eager"):
        path = folder / "samples/2x37" / whose / "random-full.npz"
        with np.load(path) as stored:
            np.savez(path, **{name: array * 1.001 for name, array in stored.items()})
    return {}


def no_certificate(folder: Path) -> dict[str, Any]:
    (folder / CERTIFICATE).write_text("{}\n")
    return {}


def no_promise(folder: Path) -> dict[str, Any]:
    run = read_run(folder / envelopes.FILE)
    run.records = []
    envelopes.write(run, folder / envelopes.FILE)
    return {}


def altered_promise(folder: Path) -> dict[str, Any]:
    path = folder / envelopes.FILE
    path.write_text(path.read_text().replace("5000000", "9000000", 1))
    return {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_weights, ""),
        (other_outputs, "2×37 random, full"),
        (lambda folder: {"artifact": {"format": "onnx", "key": "", "checksum": "another"}}, "of another artifact"),
        (lambda folder: {"candidate": EAGER}, "forged: no bundle holds 'model/model.onnx'"),
        (lambda folder: {"candidate": replace(ONNX, variant="fused")}, "of another artifact"),
        (no_certificate, "certificate or envelope do not fit"),
        (no_promise, "promises nothing"),
        (altered_promise, "no sealed run"),
    ],
)
def test_papers_made_up_to_fit_prove_nothing(
    copied: Path, change: Callable[[Path], dict[str, Any]], words: str
) -> None:
    forged(copied, **change(copied))
    found = verified(copied, envelope="off")
    assert found.exit_code == 3
    assert words in (found.judgement.reason if found.judgement else found.faults[0])
    assert (found.judgement is not None) == (change in (other_weights, other_outputs))
    assert found.judgement is None or (found.judgement.verdict, found.faults) == ("broken", [])


def test_what_cannot_be_run_leaves_it_unproven(made: Bundle, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = InThisProcess.request

    def die(self: InThisProcess, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        if message["op"] == "judge":
            raise WorkerError("failed", "the worker was killed by SIGKILL after 1.0 s", {}, is_gone=True)
        return answer(self, message, timeout_seconds)

    with monkeypatch.context() as context:
        context.setattr(InThisProcess, "request", die)
        found = verified(made.folder)
    assert (found.exit_code, found.judgement.verdict, found.kept) == (1, "unjudged", [])
    assert "SIGKILL" in report.render(found, "table")
    monkeypatch.setattr(Onnx, "supports", classmethod(lambda cls, variant, device, precision: f"no {device} here"))
    forged(copied, device="cuda")
    found = verified(copied)
    assert (found.exit_code, found.kept) == (1, [])
    assert found.judgement.reason == "unsupported: no cuda here"


def test_other_versions_are_told(copied: Path) -> None:
    forged(copied, requirements={"onnxruntime": "1.0", "numpy": np.__version__})
    (note,) = [line for line in verified(copied, envelope="off").notes if "versions" in line]
    assert "onnxruntime 1.0 → " in note
    assert "numpy" not in note


# What goes wrong while it is written.


def full(source: Path, target: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def bit_rot(source: Path, target: Path, copy: Callable[[Path, Path], Any] = shutil.copyfile) -> None:
    copy(source, target)
    if target.name == "model.onnx":
        target.write_bytes(b"bit rot")


@pytest.mark.parametrize(
    ("copy", "words"), [(full, "No space left on device"), (bit_rot, "damaged while it was copied")]
)
def test_a_bundle_that_cannot_be_written_leaves_nothing(
    made: Bundle, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: Any, words: str
) -> None:
    monkeypatch.setattr(making.shutil, "copyfile", copy)
    with in_this_process(), pytest.raises(BenchError, match=words) as refused:
        deploy(run_of(), tmp_path / "bundle", choose="onnx", artifacts=artifacts)
    assert refused.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing_and_a_killed_ones_rest_is_removed(tmp_path: Path) -> None:
    abandoned = tmp_path / f".bundle{making.ASIDE}999999999"
    abandoned.mkdir()
    with pytest.raises(KeyboardInterrupt), making.aside(tmp_path / "bundle") as place:
        (place / "half").write_text("")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "bundle").mkdir()  # an empty folder is taken
    with making.aside(tmp_path / "bundle") as place:
        (place / "whole").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "whole"]


def of_other_weights() -> Run:
    run = run_of()
    run.model = replace(run.model, checkpoint="0123456789abcdef")
    return run


def altered() -> Run:
    run = run_of()
    run.integrity = "altered"
    return run


@pytest.mark.parametrize(
    ("run", "output", "words"),
    [
        (run_of, "full", "not empty"),
        (run_of, "full/file", "is no folder"),
        (run_of, "link", "is no folder"),
        (run_of, "no/such/folder", "make it first"),
        (run_of, "here", "the folder that you are in"),
        (of_other_weights, "bundle", "another artifact would be bundled than was measured"),
        (altered, "bundle", "was altered after it was written"),
        (
            lambda: builder.run_of([builder.record("onnx", Rate(0, 1.0))], Load),
            "bundle",
            "a run of bench load; give one of bench compare",
        ),
    ],
)
def test_nothing_is_overwritten_nor_made_of_what_was_not_measured_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[], Run], output: str, words: str
) -> None:
    for name in ("full", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=words):
        deploy(run(), tmp_path / output, choose="onnx", artifacts=tmp_path / "artifacts")
    assert (tmp_path / "full" / "file").read_text() == "mine"
    assert not any(path.name.startswith((".bundle", "bundle")) for path in tmp_path.iterdir())


# The command line.


def test_deploy_and_verify_by_command(
    cli_here: Callable[..., Any], artifacts: Path, tmp_path: Path, kept: Callable[[float], None]
) -> None:
    builder.write(run_of(candidates=(EAGER, ONNX)), tmp_path / "run.jsonl")
    kept(1.0)
    with in_this_process():
        done = cli_here("deploy", "run.jsonl", "--choose", "onnx", "--output", "out", "--artifacts", str(artifacts))
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert "prove it: bench verify out" in done.stdout
        sha256 = next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("manifest SHA256"))
        done = cli_here("verify", "out", "--manifest-sha256", sha256)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "the bundle holds"), done.stderr
    (tmp_path / "out" / "extra").write_text("")
    done = cli_here("verify", "out")
    assert done.returncode == 3
    assert "extra: extra is not in the manifest" in done.stdout
    os.remove(tmp_path / "out" / FILE)
    assert cli_here("verify", "out").returncode == 2


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("bert-tiny", "bert-tiny"), ("path/to/My model/", "My_model"), ("org/name", "name"), ("../..", "model"),
        ('"""\nimport os', "import_os"), ("modèle", "mod_le"), ("x" * 500, "x" * 60),
    ],
)  # fmt: skip
def test_a_models_name_as_a_folder_and_in_a_comment(name: str, shown: str) -> None:
    assert plain(name) == shown
