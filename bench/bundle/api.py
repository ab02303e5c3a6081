"""`deploy`: the chosen runtime of a run as a folder that runs it alone and can prove itself again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.bundle import envelope, making, manifest, runtimes, triton
from bench.bundle.manifest import CERTIFICATE, Manifest
from bench.bundle.samples import Samples, samples_of, source_to_json
from bench.bundle.selection import Constraints, Selection, check_parity_of, select
from bench.errors import BenchError, UserError
from bench.parity.certificate import Certificate
from bench.parity.check import tokenizer_of, tolerances
from bench.parity.examination import Examination
from bench.parity.references import Say
from bench.preparation import Preparation
from bench.records import Run
from bench.run.model import introduced, notes_on
from bench.runfile import read_run
from bench.spec import check_timeout, nearest
from exporters import checkpoint, sources
from exporters.store import Artifact, ArtifactStore, file_checksum, recipe_key

FORMATS = ("folder", "triton")
ARTIFACT_FOLDER = "model"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written."""

    folder: Path
    manifest: Manifest
    manifest_sha256: str
    """What `bench verify --manifest-sha256` takes, to find a manifest that was made up to fit."""

    @property
    def bytes(self) -> int:
        """Size of all files but the manifest."""
        return sum(int(entry["bytes"]) for entry in self.manifest.files.values())

    @property
    def lines(self) -> list[str]:
        """What was made and why, one line each."""
        made = self.manifest
        samples = sum(int(entry["bytes"]) for name, entry in made.files.items() if name.startswith("samples/"))
        found = [f"{made.model} on {made.label}, {made.device}: {made.verdict}", *made.chosen]
        size = f"{len(made.files) + 1} files, {self.bytes / 2**20:.1f} MiB, of which samples {samples / 2**20:.1f}"
        found += [f"written to {self.folder}: {size}", f"manifest SHA256 {self.manifest_sha256}"]
        if made.model_repository:
            found.append(f"serve it: tritonserver --model-repository={self.folder}/{made.model_repository}")
        return [*found, f"run it: python {self.folder}/run.py", f"prove it: bench verify {self.folder}"]


def deploy(
    run: str | Path | Run,
    output: str | Path,
    *,
    choose: str | None = None,
    min_parity: str = "equivalent",
    traffic: Any = None,
    slo: str | None = None,
    max_memory: str | int | None = None,
    objective: str | None = None,
    requests_per_restart: int | None = None,
    price: Any = None,
    format: str = "folder",
    timeout: float = 900.0,
    artifacts: str | Path = "artifacts",
    say: Say = lambda line: None,
) -> Bundle:
    """Write a runtime of `run`, a file of `bench compare`, into the new folder `output`; returns the Bundle.

    `choose` names it, as `backend[:variant][/precision]`; without a name it is the one that `bench.choice.api.choose`
    takes under the constraints, which are that function's. `format` "triton" lays the artifact out as a model
    repository of Triton Inference Server. What is not at least `min_parity` in the run, and again on the samples, is
    not bundled.

    Raises UserError before anything starts, NotTheSameModelError (exit code 3), NothingQualifiesError (5), and
    BenchError where it cannot be made; nothing is left behind then.
    """
    check_timeout(timeout)
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}{nearest(format, FORMATS)}; use one of {', '.join(FORMATS)}")
    folder = Path(output)
    making.check_output(folder)
    given = {
        "traffic": traffic, "slo": slo, "max_memory": max_memory, "objective": objective,
        "requests_per_restart": requests_per_restart, "price": price,
    }  # fmt: skip
    constraints = Constraints(min_parity, {name: value for name, value in given.items() if value is not None})
    measured = run if isinstance(run, Run) else read_run(Path(run))
    selection = select(measured, choose, constraints)
    runtimes.check(selection.contestant, measured.grid)
    if format == "triton":
        triton.check(selection.contestant)
    pins = runtimes.requirements(selection.contestant, measured.grid.device, versions_of(measured, selection))
    store = ArtifactStore(Path(artifacts))
    source = _source_of(measured, store, say)
    command = _command_of(measured, folder, choose, constraints, format)
    tokenizer = tokenizer_of(source, None)
    samples = samples_of(source, tokenizer)
    store.prepare()
    with store.in_use():
        prepared = _prepared(measured, selection, source, samples, tokenizer, store, timeout, say)
        certificate = _certified(prepared, selection, command)
        judgement = certificate.judgements[0]
        check_parity_of(selection.label, judgement.verdict, min_parity, judgement.reason)
        say(f"{selection.label}: {judgement.verdict} on the samples")
        artifact = prepared.artifacts[selection.contestant]
        with making.aside(folder) as place:
            made = _write(place, measured, selection, prepared, artifact, certificate, samples, pins, format)
            if source.makes_inputs:
                _copy_timed_inputs(place, measured, selection, source, store, timeout, say)
            made = replace(made, files=manifest.checksums(place))
            (place / manifest.FILE).write_text(made.text())
            checksum = file_checksum(place / manifest.FILE)
    return Bundle(folder, made, checksum)


def versions_of(run: Run, selection: Selection) -> Mapping[str, str]:
    """Version of every distribution that the run tells of; the worker's own word counts first."""
    told: dict[str, str] = {}
    for record in selection.records:
        told |= record.facts.get("versions", {})
    return {**run.fingerprint.get("versions", {}), **told}


def _source_of(run: Run, store: ArtifactStore, say: Say) -> sources.ModelSource:
    """The run's model; raises UserError where it, or what exports it, is no longer what was measured."""
    grid = run.grid
    source = sources.resolve(grid.model, weights=grid.weights, task=grid.task, seed=grid.seed)
    if source.origin != run.origin or recipe_key(checkpoint.recipe(source)) != run.checkpoint:
        raise UserError(
            f"the run measured other weights or libraries ({run.origin}; now {source.origin}), and another artifact "
            "would be bundled than was measured; run bench compare again"
        )
    return introduced(source, store, min(grid.threads, machine.usable_cpus()), say)


def _prepared(
    run: Run, selection: Selection, source: sources.ModelSource, samples: Samples, tokenizer: Path | None,
    store: ArtifactStore, timeout: float, say: Say,
) -> Preparation:  # fmt: skip
    """The artifact, made again where the store has it no more, and references for the samples."""
    grid = replace(
        run.grid,
        contestants=(selection.contestant,),
        shapes=samples.shapes,
        device=machine.settle_device(run.grid.device),
        threads=min(run.grid.threads, machine.usable_cpus()),
    )
    prepared = Preparation(grid, source, store, timeout, say, samples.matrix(tokenizer))
    prepared.make()
    if refusal := prepared.refused.get(selection.contestant):
        raise BenchError(f"{selection.label} cannot be bundled here: {refusal.reason}")
    return prepared


def _certified(prepared: Preparation, selection: Selection, command: str) -> Certificate:
    """The certificate of the artifact on the samples, as `bench verify CERTIFICATE ARTIFACT` reads it too."""
    source, matrix = prepared.source, prepared.judged_by.matrix
    allowed = tolerances([selection.contestant], {})
    judgement = Examination(prepared, selection.contestant, allowed[selection.contestant.precision]).judgement()
    return Certificate(
        grid=prepared.grid,
        ids=matrix.ids,
        masks=matrix.masks,
        tokenizer=file_checksum(matrix.tokenizer) if matrix.tokenizer else None,
        new_tokens=0,
        overrides={},
        tolerances=allowed,
        origin=source.origin,
        weights_checksum=source.weights_checksum(),
        fingerprint=machine.fingerprint(),
        command=command,
        started=_now(),
        judgements=[judgement],
        notes=notes_on(source),
    )


def _write(
    place: Path, run: Run, selection: Selection, prepared: Preparation, artifact: Artifact, certificate: Certificate,
    samples: Samples, pins: Mapping[str, str], format: str,
) -> Manifest:  # fmt: skip
    """Write every file but the manifest; returns that, still without its files."""
    contestant, source = selection.contestant, prepared.source
    grid = replace(run.grid, shapes=tuple(record.shape for record in selection.records))
    is_triton = format == "triton"
    artifact_folder = triton.artifact_folder(grid.model) if is_triton else ARTIFACT_FOLDER
    making.copy_artifact(artifact, place / artifact_folder)
    making.copy_samples(prepared, place)
    making.copy_tokenizer(Path(source.folder) if source.folder else None, place)
    certificate.write(place / CERTIFICATE)
    making.write_json(place / envelope.FILE, envelope.envelope_of(run, selection.records).to_json())
    text = runtimes.run_text(contestant, grid, artifact.metadata, source.inputs, artifact_folder)
    (place / "run.py").write_text(text, encoding="utf-8")
    python = str(run.fingerprint.get("python", "unknown"))
    (place / "requirements.txt").write_text(runtimes.requirements_text(pins, python))
    if is_triton:
        config = triton.config_text(contestant, grid, artifact.metadata, place, samples.shapes)
        (place / triton.config_file(grid.model)).write_text(config)
    return Manifest(
        model=grid.model,
        task=grid.task,
        weights=grid.weights,
        origin=run.origin,
        checkpoint=run.checkpoint,
        weights_checksum=certificate.weights_checksum,
        contestant=contestant,
        device=grid.device,
        threads=grid.threads,
        artifact_folder=artifact_folder,
        artifact={"format": artifact.format, "key": artifact.key, "checksum": artifact.checksum},
        verdict=certificate.judgements[0].verdict,
        chosen=selection.reasons,
        run={
            "file": run.path.name if run.path else None,
            "sha256": file_checksum(run.path) if run.path else None,
            "command": run.command,
            "started": run.started,
            "is_tainted": any(run.taint(record) for record in selection.records),
        },
        command=certificate.command,
        made=_now(),
        fingerprint=run.fingerprint,
        requirements=pins,
        made_with=machine.versions(),
        source=source_to_json(source),
        samples=samples,
        model_repository=triton.FOLDER if is_triton else None,
    )


def _copy_timed_inputs(
    place: Path, run: Run, selection: Selection, source: sources.ModelSource, store: ArtifactStore, timeout: float,
    say: Say,
) -> None:  # fmt: skip
    """Copy the inputs of every promised shape, which lie with the run's references and are made again otherwise."""
    shapes = tuple(record.shape for record in selection.records)
    grid = replace(run.grid, contestants=(selection.contestant,), shapes=shapes)
    timed = Preparation(grid, source, store, timeout, say)
    timed.make(with_artifacts=False)
    for shape in shapes:
        making.copy_timed_inputs(timed, shape, place)


def _command_of(run: Run, folder: Path, choose: str | None, constraints: Constraints, format: str) -> str:
    """The command line that makes such a bundle."""
    words = ["bench", "deploy", str(run.path or "RUN"), "--output", str(folder)]
    words += ["--choose", choose] if choose else []
    for name, value in constraints.others.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--min-parity", constraints.min_parity, "--format", format])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
