"""`bench verify`: one certificate of `bench parity`, and what it does and does not belong to."""

from __future__ import annotations

import json
import random
import shlex
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bench import verify
from bench.errors import BenchError, UserError
from bench.run.experiment import measure
from bench.run.file import RunFile
from bench.run.record import SAME_MODEL, Run
from bench.verify import Verification, _compare, read_certificate
from bench.workloads.judgements import judgements
from bench.workloads.parity import Parity, ParityOptions
from exporters.sources import resolve
from exporters.store import MANIFEST, ArtifactStore, _checksum, file_checksum, recipe_key
from tests.in_process import workers_here

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch warns about its own tracing

WORDS = ["?", "the", "a", "of", "and", "was", "in", "before", "water", "key", ",", "."]


@dataclass(frozen=True)
class Certified:
    """What one check left."""

    folder: Path
    store: Path

    @property
    def file(self) -> Path:
        """The certificate."""
        return self.folder / "certificate.jsonl"

    @property
    def certificate(self) -> Run:
        """As read."""
        return read_certificate(self.file)

    @property
    def artifact(self) -> Path:
        """The folder of the TorchScript artifact that was judged."""
        (checksum,) = (one.artifact["checksum"] for one in judgements(self.certificate))
        store = ArtifactStore(self.store)
        (found,) = (path for path in store.paths() if (a := store.read(path)) is not None and a.checksum == checksum)
        return found


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    """A tiny GPT-2 with its head in TorchScript, on random and tokenised ids and greedy text.

    In a store of its own: no other module judges this model, and this one is copied while others may be written.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("certified")
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    made = Certified(folder, folder / "artifacts")
    options = {
        "model": "gpt2-tiny", "task": "lm", "weights": "random", "backends": "torchscript", "batches": [2],
        "lengths": [1, 12], "masks": ["full", "left"], "new_tokens": 3, "tokenizer": str(folder), "device": "cpu",
        "threads": 1, "output": made.file, "artifacts": made.store,
    }  # fmt: skip
    with workers_here():
        measure(Parity, ParityOptions.parsed(options))
    return made


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*rest: Any, **more: Any) -> Any:
        raise AssertionError("a process was started")

    monkeypatch.setattr("bench.process.channel.Worker.__init__", refuse)


def test_a_sound_backend_is_certified(certified: Certified) -> None:
    found, options = certified.certificate, certified.certificate.options
    assert (found.exit_code, options.ids, options.masks, options.new_tokens) == (
        0, ("random", "text"), ("full", "left"), 3,
    )  # fmt: skip
    (one,) = judgements(found)
    assert one.verdict in SAME_MODEL
    assert {case["name"] for case in one.cases} == {
        "2×1 random, full", "2×1 text, full", "2×12 random, full", "2×12 random, left", "2×12 text, full",
        "2×12 text, left",
    }  # fmt: skip
    assert {entry["name"] for entry in one.generation} == {"random, full passes", "text, full passes"}
    assert all(entry["steps"] == entry["top1_n"] == 3 for entry in one.generation)
    assert all(record.facts["threads"] == 1 for record in found.records)
    assert list(one.artifact["files"]) == ["model.pt"]
    assert found.notes["tokenizer_sha256"] == file_checksum(certified.folder / "tokenizer.json")
    assert found.notes["remarks"] == []
    given = dict(zip(*[iter(shlex.split(found.command)[2:])] * 2, strict=True))
    assert given == {
        "--model": "gpt2-tiny", "--backends": "torchscript", "--task": "lm", "--batches": "2", "--lengths": "1,12",
        "--masks": "full,left", "--new-tokens": "3", "--tokenizer": str(certified.folder), "--device": "cpu",
        "--threads": "1", "--weights": "random", "--artifacts": str(certified.store),
    }  # fmt: skip
    # The model is known by its weights.
    sources = [resolve("gpt2-tiny", weights="random", task="lm", seed=seed) for seed in (0, 1)]
    assert [recipe_key(one.recipe()) == found.notes["weights_checksum"] for one in sources] == [True, False]


# What it belongs to.


def test_a_moved_artifact_still_verifies(certified: Certified, cli: Callable[..., Any], tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "under another name"
    shutil.copytree(certified.artifact, moved)
    options = ["--tokenizer", str(certified.folder), "--artifacts", str(certified.store), "--threads", "1"]
    done = cli("verify", str(certified.file), str(moved / "model.pt"), *options)
    assert done.returncode == 2
    assert "runs as code when it is loaded ('torchscript') and lies in no store of yours; give --trust" in done.stderr
    done = cli("verify", str(certified.file), str(moved / "model.pt"), "--trust", *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "the certificate holds"
    assert "belongs: torchscript fp32 was certified as" in done.stderr
    assert "exporting" not in done.stderr
    assert "computing" not in done.stderr  # the references are in the store still
    assert "torchscript fp32: " in done.stdout


def call(certified: Certified, artifact: Path, **options: Any) -> Any:
    given = {"tokenizer": certified.folder, "artifacts": certified.store, "threads": 1}
    return verify(options.pop("certificate", certified.file), artifact, **given | options)


def test_one_flipped_byte_and_a_file_left_behind_do_not_belong(
    certified: Certified, cli_here: Callable[..., Any], nothing_starts: None, tmp_path: Path
) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(certified.artifact, altered)
    data = bytearray((altered / "model.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (altered / "model.pt").write_bytes(data)
    done = cli_here("verify", str(certified.file), str(altered))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "does not belong to" in done.stderr
    assert "model.pt differs; certify it anew" in done.stderr
    (altered / "model.pt").unlink()
    with pytest.raises(BenchError, match=r"does not belong to .*: model\.pt differs") as refused:
        call(certified, altered)
    assert refused.value.exit_code == 1


@pytest.mark.parametrize("what", ["missing", "empty", "no manifest", "altered manifest", "another format"])
def test_what_is_no_artifact_of_the_certificates(
    certified: Certified, nothing_starts: None, tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "artifact"
    kind: type[BenchError] = UserError
    message = "does not exist" if what == "missing" else "has no readable artifact.json"
    if what == "empty":
        folder.mkdir()
    elif what == "another format":
        folder = next(one for one in ArtifactStore(certified.store).paths() if one.name.startswith("checkpoint-"))
        kind, message = BenchError, "that is checkpoint, and it certifies torchscript"
    elif what != "missing":
        shutil.copytree(certified.artifact, folder)
        manifest = folder / MANIFEST
        text = manifest.read_text().replace('"fp32"', '"fp16"')
        manifest.unlink()
        if what == "altered manifest":
            manifest.write_text(text)
    with pytest.raises(kind, match=message):
        call(certified, folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "gpt-tiny"}, "model 'gpt-tiny' has other weights than the certificate's; --model names the right"),
        ({"tokenizer": "nowhere"}, "'nowhere' is no tokenizer.json and has none"),
        ({"tokenizer": "another"}, "the certificate's tokenizer is not there; --tokenizer names it"),
        ({"timeout": -1.0}, "--timeout '-1.0' is not a duration"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"threads": 0}, "--threads 0 is not within"),
    ],
    ids=["model", "tokenizer path", "tokenizer", "timeout", "device", "threads"],
)
def test_what_cannot_be_repeated_is_refused_before_anything_starts(
    certified: Certified, nothing_starts: None, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    if options.get("tokenizer") == "another":
        text = (certified.folder / "tokenizer.json").read_text()
        (tmp_path / "tokenizer.json").write_text(text.replace('"water"', '"wine"'))
        options = {"tokenizer": tmp_path}
    with pytest.raises(UserError, match=message):
        call(certified, certified.artifact, **options)


def rewritten(run: Run, path: Path) -> Path:
    """A sealed file of a run that was changed in memory."""
    run.path = path
    file = RunFile(run)
    file.go_on()
    file.seal()
    return path


def test_a_tokenizer_that_is_where_it_was_is_found_and_one_that_moved_is_asked_for(
    certified: Certified, nothing_starts: None, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="a process was started"):  # so that nothing was wrong until then
        call(certified, certified.artifact, tokenizer=None, artifacts=tmp_path / "store", trust=True)
    run = certified.certificate
    run.workload = Parity(replace(run.options, tokenizer="gone"))  # type: ignore[type-var]
    moved = rewritten(run, tmp_path / "moved.jsonl")
    with pytest.raises(UserError, match="the certificate's tokenizer is not there; --tokenizer names it"):
        verify(moved, certified.artifact, artifacts=certified.store)


def test_no_module_that_a_certificate_names_is_imported(
    certified: Certified, nothing_starts: None, tmp_path: Path
) -> None:
    file, marker = tmp_path / "evil.py", tmp_path / "ran"
    file.write_text(f"import os\nos.mkdir({str(marker)!r})\ndef made(): ...\n")
    choices: list[dict[str, Any]] = [{"module": f"{file}:made"}, {}]
    for changes in choices:
        run = certified.certificate
        run.workload = Parity(replace(run.options, **changes))  # type: ignore[type-var]
        run.model = replace(run.model, name=f"{file}:made", weights="module" if changes else "auto")
        stated = rewritten(run, tmp_path / "c.jsonl")
        with pytest.raises(UserError, match=r"is not imported because a file names it; .* --module .*evil\.py:made"):
            verify(stated, certified.artifact, artifacts=certified.store)
    with pytest.raises(AssertionError, match="a process was started"):  # the user asked for exactly that
        verify(stated, certified.artifact, artifacts=tmp_path / "store", module=f"{file}:made", trust=True)
    assert not marker.exists()


def test_no_interpreter_that_a_certificate_names_is_started(
    certified: Certified, nothing_starts: None, tmp_path: Path
) -> None:
    python, marker = tmp_path / "python", tmp_path / "ran"
    python.write_text(f"#!/bin/sh\nmkdir {marker}\n")
    python.chmod(0o755)
    run = certified.certificate
    run.workload = Parity(replace(run.options, python=(f"torchscript={python}",)))  # type: ignore[type-var]
    stated = rewritten(run, tmp_path / "c.jsonl")
    with pytest.raises(UserError, match=f"give it again: --python torchscript={python}"):
        call(certified, certified.artifact, certificate=stated)
    assert not marker.exists()
    with pytest.raises(UserError, match="that is no Python"):  # the user asked for exactly that
        call(certified, certified.artifact, certificate=stated, python=f"torchscript={python}")
    assert marker.exists()
    with pytest.raises(UserError, match="no onnx is among"):
        call(certified, certified.artifact, certificate=stated, python=f"onnx={python}")


def test_an_artifact_has_no_links_that_leave_it(certified: Certified, nothing_starts: None, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(certified.artifact, folder)
    shutil.move(folder / "model.pt", tmp_path / "elsewhere")
    (folder / "model.pt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"model\.pt of artifact .* is a link out of that folder"):
        call(certified, folder, trust=True)


@pytest.mark.parametrize("how", ["torchscript", "format", "module"])
def test_an_artifact_that_is_code_asks_for_trust(
    certified: Certified, nothing_starts: None, tmp_path: Path, how: str
) -> None:
    """What it says of itself does not count: what the candidate loads does."""
    folder = tmp_path / "artifact"
    shutil.copytree(certified.artifact, folder)
    run = certified.certificate
    if how != "torchscript":
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest.pop("checksum")
        if how == "format":
            manifest["format"] = "onnx"
        else:
            manifest |= {"format": "checkpoint", "metadata": {"weights": "module", "file": ""}}
            run.candidates = (replace(run.candidates[0], backend="eager"),)
            run.records = [replace(record, candidate=run.candidates[0]) for record in run.records]
        (folder / MANIFEST).write_text(json.dumps(manifest | {"checksum": _checksum(manifest)}))
    stated = rewritten(run, tmp_path / "c.jsonl")
    with pytest.raises(UserError, match="lies in no store of yours; give --trust"):
        call(certified, folder, certificate=stated)
    with pytest.raises(AssertionError, match="a process was started"):
        call(certified, folder, certificate=stated, trust=True, artifacts=tmp_path / "store")


def test_what_is_no_sound_certificate_verifies_nothing(
    certified: Certified, nothing_starts: None, root: Path, tmp_path: Path
) -> None:
    text = certified.file.read_text().replace('"seed":0', '"seed":1')
    load = (root / "tests" / "golden" / "runs" / "load.jsonl").read_text()
    for content, message in (
        (text[: len(text) // 2], r"is not complete|is damaged"),
        (text, "was altered after it was written"),
        (load, "is a run of bench load; give one of bench parity"),
    ):
        (tmp_path / "c.jsonl").write_text(content)
        with pytest.raises(UserError, match=message):
            verify(tmp_path / "c.jsonl", certified.artifact, artifacts=certified.store)


# What the lines say of two checks.


def with_verdict(run: Run, verdict: str) -> Run:
    """`run` with each cell of this verdict."""
    parity = {"verdict": verdict, "reason": "because"}
    return replace(run, records=[replace(record, parity=parity) for record in run.records])


def compared(certified: Certified, before: str, now: str, **fingerprint: Any) -> Verification:
    stated, repeated = (with_verdict(certified.certificate, verdict) for verdict in (before, now))
    repeated.fingerprint = {**repeated.fingerprint, **fingerprint}
    return _compare(stated, judgements(stated), repeated)


@pytest.mark.parametrize(
    ("before", "now", "exit_code"),
    [
        ("equivalent", "exact", 0),
        ("equivalent", "equivalent", 0),
        ("lossy", "equivalent", 0),
        ("equivalent", "lossy", 1),
        ("exact", "equivalent", 0),
        ("equivalent", "unjudged", 1),
        ("unjudged", "unjudged", 1),
        ("equivalent", "broken", 3),
        ("broken", "broken", 3),
    ],
)
def test_a_certificate_holds_when_its_check_comes_out_as_good(
    certified: Certified, before: str, now: str, exit_code: int
) -> None:
    found = compared(certified, before, now)
    assert (found.holds, found.exit_code) == (exit_code == 0, exit_code)
    assert found.lines[-1] == ("the certificate holds" if exit_code == 0 else "the certificate does not hold")
    is_worse = (exit_code != 0 and now != "broken") or (before, now) == ("equivalent", "broken")
    start = f"does not hold: torchscript fp32 is {now} now: "
    assert any(line.startswith(start) and "because" in line for line in found.lines) == is_worse


def test_another_machine_and_other_versions_are_told_and_no_reason_against_it(certified: Certified) -> None:
    versions = certified.certificate.fingerprint["versions"]
    other = {**versions, "torch": "9.9"}
    found = compared(certified, "exact", "exact", cpu="another", versions=other)
    assert found.holds
    told = "\n".join(found.lines)
    assert "note: another machine than the certificate's" in told
    assert f"torch {versions['torch']} → 9.9" in told
    assert "note" not in "\n".join(compared(certified, "exact", "exact").lines)


# A fault planted in the stored artifact, whose manifest fits it.


@pytest.fixture(scope="module")
def planted(certified: Certified, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the store in which one weight matrix of the TorchScript artifact is 1 % larger."""
    from benchmarks import faults
    from exporters import torchscript
    from exporters.checkpoint import open_checkpoint

    root = tmp_path_factory.mktemp("planted")
    store = ArtifactStore(root)
    shutil.copytree(certified.store / "store", root / "store", ignore=shutil.ignore_patterns(".*"))
    folder = store.folder / certified.artifact.name
    artifact = store.read(folder)
    assert artifact is not None
    (checkpoint,) = (path for path in store.paths() if path.name == f"checkpoint-{artifact.recipe['checkpoint']}")
    module = open_checkpoint(checkpoint, "cpu", "fp32")
    changed, _ = faults.weight_matrix(deepcopy(module), random.Random(0), 0.01)
    metadata = torchscript.export_module(changed, folder, ["logits"], "cpu")
    assert metadata == artifact.metadata
    manifest = json.loads((folder / MANIFEST).read_text())
    file = folder / "model.pt"
    manifest["files"] = {"model.pt": {"sha256": file_checksum(file), "bytes": file.stat().st_size}}
    manifest.pop("checksum")
    (folder / MANIFEST).write_text(json.dumps(manifest | {"checksum": _checksum(manifest)}))
    assert store.damage(folder) is None
    assert recipe_key(manifest["recipe"]) == artifact.key
    return root


def test_a_planted_fault_is_broken_on_its_whole_way_to_the_exit_code(
    certified: Certified, planted: Path, cli_here: Callable[..., Any], tmp_path: Path
) -> None:
    arguments = shlex.split(certified.certificate.command)[1:]
    with workers_here():
        done = cli_here(*arguments, "--artifacts", str(planted), "--output", "bad.jsonl")
    assert done.returncode == 3, done.stderr
    bad = read_certificate(tmp_path / "bad.jsonl")
    (one,) = judgements(bad)
    assert (one.verdict, bad.exit_code) == ("broken", 3)
    assert {case["verdict"] for case in one.cases} == {"broken"}
    assert one.artifact["checksum"] != judgements(certified.certificate)[0].artifact["checksum"]
    assert "torchscript fp32: broken" in done.stdout
    assert "times eager's; allowed are" in " ".join(done.stdout.split())
    # Neither certificate speaks for the other's artifact.
    with pytest.raises(BenchError, match=r"model\.pt differs; certify it anew"):
        call(certified, ArtifactStore(planted).folder / certified.artifact.name)
    with pytest.raises(BenchError, match=r"model\.pt differs; certify it anew"):
        verify(tmp_path / "bad.jsonl", certified.artifact, artifacts=certified.store)


def test_a_certificate_of_an_artifact_that_is_broken_now_is_exit_code_3(
    certified: Certified, planted: Path, tmp_path: Path
) -> None:
    """As if a library had changed since: the certificate fits the files, and the check comes out otherwise."""
    folder = ArtifactStore(planted).folder / certified.artifact.name
    artifact = ArtifactStore(planted).read(folder)
    assert artifact is not None
    stated = certified.certificate
    files = {name: entry["sha256"] for name, entry in artifact.files.items()}
    stated.notes["artifacts"] = {"0": {"format": "torchscript", "checksum": artifact.checksum, "files": files}}
    file = rewritten(stated, tmp_path / "c.jsonl")
    with workers_here():
        found = verify(file, folder, tokenizer=certified.folder, artifacts=certified.store, threads=1, trust=True)
    assert (found.exit_code, found.holds) == (3, False)
    assert any(line.startswith("does not hold: torchscript fp32 is broken now") for line in found.lines)
