"""`deploy`: the chosen runtime of a run as a folder that runs it alone and can prove itself again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine, options
from bench.bundle import envelope, making, manifest, runtimes, triton
from bench.bundle.manifest import CERTIFICATE, Manifest
from bench.bundle.samples import Samples, samples_of, source_to_json
from bench.bundle.selection import Constraints, Selection, check_parity_of, select
from bench.errors import BenchError, Say, UserError
from bench.run.experiment import leaves_translated, measure_prepared, model_of
from bench.run.file import check_measures, check_unaltered, read_run
from bench.run.listener import Listener
from bench.run.model import introduced, tokenizer_of
from bench.run.preparation import Preparation
from bench.run.record import Run
from bench.spec import MODULE, nearest
from bench.workloads.forward import Forward
from bench.workloads.judgements import Judgement, judgement
from bench.workloads.parity import Parity, ParityOptions
from exporters import checkpoint, sources
from exporters.store import ArtifactStore, file_checksum, recipe_key

LAYOUTS = ("folder", "triton")
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
    layout: str = "folder",
    timeout: str | float = 900.0,
    artifacts: str | Path = "artifacts",
    say: Say = lambda line: None,
) -> Bundle:
    """Write a runtime of `run`, a file of `bench compare`, into the new folder `output`; returns the Bundle.

    `choose` names it, as `backend[:variant][/precision]`; without a name it is the one that `bench.choice.api.choose`
    takes under the constraints, which are that function's. `layout` "triton" lays the artifact out as a model
    repository of Triton Inference Server. `timeout` is the silence after which a worker is taken for hung, e.g. "60s".
    What is not at least `min_parity` in the run, and again on the samples, is not bundled.

    Raises UserError before anything starts, NotTheSameModelError (exit code 3), NothingQualifiesError (5), and
    BenchError if it cannot be made; nothing is left behind then.
    """
    seconds = options.seconds(example="60s")(timeout, "--timeout")
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}{nearest(layout, LAYOUTS)}; use one of {', '.join(LAYOUTS)}")
    folder = Path(output)
    making.check_output(folder)
    given = {
        "traffic": traffic, "slo": slo, "max_memory": max_memory, "objective": objective,
        "requests_per_restart": requests_per_restart, "price": price,
    }  # fmt: skip
    constraints = Constraints(min_parity, {name: value for name, value in given.items() if value is not None})
    measured = run if isinstance(run, Run) else read_run(Path(run))
    check_run(measured)
    selection = select(measured, choose, constraints)
    runtimes.check(selection.candidate, measured)
    if layout == "triton":
        triton.check(selection.candidate)
    pins = runtimes.requirements(selection.candidate, measured.options.kind, versions_of(measured, selection))
    store = ArtifactStore(Path(artifacts))
    with leaves_translated():
        source = _source_of(measured, store, say)
        command = _command_of(measured, folder, choose, constraints, layout)
        samples = samples_of(source, tokenizer_of(source, None))
        store.prepare()
        with store.in_use(), making.aside(folder) as place:
            certificate = _certificate(measured, selection, source, samples, seconds)
            certificate.path = place / CERTIFICATE
            prepared = _prepared(certificate, source, store, say)
            judged = judgement(measure_prepared(certificate, prepared, Listener(say=say)), selection.candidate)
            check_parity_of(selection.label, judged.verdict, min_parity, judged.reason)
            say(f"{selection.label}: {judged.verdict} on the samples")
            made = _write(place, measured, selection, prepared, judged, samples, pins, layout)
            made = replace(made, command=command)
            if source.makes_inputs:
                _copy_timed_inputs(place, measured, selection, source, store, seconds, say)
            made = replace(made, files=manifest.checksums(place))
            (place / manifest.FILE).write_text(made.text())
            checksum = file_checksum(place / manifest.FILE)
    return Bundle(folder, made, checksum)


def check_run(run: Run) -> None:
    """Raise UserError for a run that no bundle can be made of: of another command, or altered."""
    check_unaltered(run)
    check_measures(run, Forward)


def versions_of(run: Run, selection: Selection) -> Mapping[str, str]:
    """Version of every distribution that the run knows; the worker's own word counts first."""
    told: dict[str, str] = {}
    for record in selection.records:
        told |= record.facts.get("versions", {})
    return {**run.fingerprint.get("versions", {}), **told}


def _source_of(run: Run, store: ArtifactStore, say: Say) -> sources.ModelSource:
    """The run's model; raises UserError if it, or what exports it, is no longer what was measured."""
    model, settings = run.model, run.options
    weights = MODULE if model.weights == MODULE else settings.weights
    source = sources.resolve(settings.module or model.name, weights=weights, task=model.task, seed=settings.seed)
    if source.origin != model.origin or recipe_key(checkpoint.recipe(source)) != model.checkpoint:
        raise UserError(
            f"the run measured other weights or libraries ({model.origin}; now {source.origin}), and another artifact "
            "would be bundled than was measured; run bench compare again"
        )
    return introduced(source, store, _threads(run), say)


def _threads(run: Run) -> int:
    return min(run.options.settled_threads, machine.usable_cpus())


def _certificate(run: Run, selection: Selection, source: sources.ModelSource, samples: Samples, timeout: float) -> Run:
    """The run of parity that checks the candidate on the samples, still without records."""
    settings, candidate = run.options, selection.candidate
    options = ParityOptions(
        model=settings.model,
        module=settings.module,
        backends=(candidate.label,),
        precisions=(candidate.precision,),
        device=machine.settle_device(settings.kind),
        threads=_threads(run),
        weights=settings.weights,
        task=run.model.task,
        seed=settings.seed,
        timeout=timeout,
        shapes=tuple((shape.batch, shape.length) for shape in samples.shapes),
        masks=samples.masks,
        ids=samples.ids,
    )
    workload = Parity(options)
    notes = dict(workload.notes(source))
    return Run(workload, model_of(source), (candidate,), machine.fingerprint(), _now(), notes=notes)


def _prepared(certificate: Run, source: sources.ModelSource, store: ArtifactStore, say: Say) -> Preparation:
    """The artifact, made again if the store has it no more, and references for the samples."""
    (candidate,) = certificate.candidates
    prepared = Preparation(certificate, source, store, say)
    prepared.make(certificate.workload.points())
    if refusal := prepared.refused.get(candidate):
        raise BenchError(f"{candidate.label} cannot be bundled here: {refusal.reason}")
    return prepared


def _write(
    place: Path, run: Run, selection: Selection, prepared: Preparation, judged: Judgement, samples: Samples,
    pins: Mapping[str, str], layout: str,
) -> Manifest:  # fmt: skip
    """Write every file but certificate and manifest; returns the manifest, still without its files and command."""
    candidate, source, model = selection.candidate, prepared.source, run.model
    artifact = prepared.artifacts[candidate]
    promised = envelope.envelope_of(run, selection.records)
    is_triton = layout == "triton"
    artifact_folder = triton.artifact_folder(model.name) if is_triton else ARTIFACT_FOLDER
    making.copy_artifact(artifact, place / artifact_folder)
    making.copy_samples(prepared, place)
    making.copy_tokenizer(Path(source.folder) if source.folder else None, place)
    envelope.write(promised, place / envelope.FILE)
    text = runtimes.run_text(candidate, run, artifact.metadata, source.inputs, artifact_folder)
    (place / "run.py").write_text(text, encoding="utf-8")
    python = str(run.fingerprint.get("python", "unknown"))
    (place / "requirements.txt").write_text(runtimes.requirements_text(pins, python))
    if is_triton:
        config = triton.config_text(candidate, promised, artifact.metadata, place, samples.shapes)
        (place / triton.config_file(model.name)).write_text(config)
    return Manifest(
        model=model.name,
        task=model.task,
        weights=model.weights,
        origin=model.origin,
        checkpoint=model.checkpoint,
        weights_checksum=source.weights_checksum(),
        candidate=candidate,
        device=run.options.kind,
        threads=run.options.settled_threads,
        artifact_folder=artifact_folder,
        artifact={"format": artifact.format, "key": artifact.key, "checksum": artifact.checksum},
        verdict=judged.verdict,
        chosen=selection.reasons,
        run={
            "file": run.path.name if run.path else None,
            "sha256": file_checksum(run.path) if run.path else None,
            "command": run.command,
            "started": run.started,
            "integrity": run.integrity,
            "is_disturbed": any(run.disturbances(record) for record in selection.records),
        },
        command="",
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
    """Copy the inputs of every promised shape, which lie with the run's references or are made again."""
    promised = envelope.envelope_of(run, selection.records)
    settled = replace(promised.options, timeout=timeout, artifacts=str(store.root), device=run.options.kind)
    promised.workload = Forward(replace(settled, threads=_threads(run)))
    prepared = Preparation(promised, source, store, say)
    shapes = promised.workload.points()
    prepared.make(shapes)
    for shape in shapes:
        for name in promised.workload.cases(shape, source):
            making.copy_timed_inputs(prepared.references.stored_inputs(name), shape, place)


def _command_of(run: Run, folder: Path, choose: str | None, constraints: Constraints, layout: str) -> str:
    """The command line that makes such a bundle."""
    words = ["bench", "deploy", str(run.path or "RUN"), "--output", str(folder)]
    words += ["--choose", choose] if choose else []
    for name, value in constraints.others.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--min-parity", constraints.min_parity, "--layout", layout])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
