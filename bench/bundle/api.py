"""`deploy`: the chosen runtime of a run as a folder that runs it alone and can prove itself again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine, options
from bench.bundle import carried, envelope, making, manifest, runtimes, triton
from bench.bundle.manifest import CERTIFICATE, Manifest
from bench.bundle.samples import Samples, samples_of, source_to_json
from bench.bundle.selection import Selection, check_parity_of, select
from bench.choose.constraints import settled_parity
from bench.errors import BenchError, Say, UserError
from bench.run.experiment import leaves_translated, measure_prepared, model_of
from bench.run.file import check_measures, check_unaltered, read_run
from bench.run.listener import Listener
from bench.run.model import introduced, named_module, tokenizer_of
from bench.run.preparation import Preparation
from bench.run.record import Run
from bench.spec import MODULE, Candidate, nearest
from bench.workloads.forward import Forward
from bench.workloads.judgements import judgement
from bench.workloads.parity import Parity, ParityOptions
from exporters import checkpoint, sources
from exporters.store import ArtifactStore, file_checksum, recipe_key

LAYOUTS = ("folder", "triton")


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
        return sum(entry.bytes for entry in self.manifest.files.values())

    @property
    def lines(self) -> list[str]:
        """What was made and why, one line each."""
        made = self.manifest
        samples = sum(entry.bytes for name, entry in made.files.items() if name.startswith("samples/"))
        found = [f"{made.model} on {made.label}, {made.device}: {made.verdict}", *made.chosen]
        size = f"{len(made.files) + 1} files, {self.bytes / 2**20:.1f} MiB, of which samples {samples / 2**20:.1f}"
        found += [f"written to {self.folder}: {size}", f"manifest SHA256 {self.manifest_sha256}"]
        if made.model_repository:
            found.append(f"serve it: tritonserver --model-repository={self.folder}/{made.model_repository}")
        known = f" --manifest-sha256 {self.manifest_sha256}" if made.candidate.backend in carried.OF_CODE else ""
        return [*found, f"run it: python {self.folder}/run.py", f"prove it: bench verify {self.folder}{known}"]


def deploy(
    run: str | Path | Run,
    output: str | Path,
    *,
    choose: str | None = None,
    module: str | None = None,
    min_parity: str | None = None,
    max_loss: str | float | None = None,
    allow_deprecated: bool = False,
    max_regret: str | float | None = None,
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
    takes under the constraints, which are that function's; what it does not decide is refused. `layout` "triton" lays
    the artifact out as a model repository of Triton Inference Server. `timeout` is the silence after which a worker is
    taken for hung, e.g. "60s". `module` names the user's own module again, which no run's name imports.
    What is not at least `min_parity` in the run, and again on the samples, is not bundled.

    Raises UserError before anything starts, NotTheSameModelError (exit code 3), NothingQualifiesError (5),
    UndecidedError (6), and BenchError if it cannot be made; nothing is left behind then.
    """
    seconds = options.seconds(example="60s")(timeout, "--timeout")
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}{nearest(layout, LAYOUTS)}; use one of {', '.join(LAYOUTS)}")
    folder = Path(output)
    making.check_output(folder)
    given = {
        "traffic": traffic, "slo": slo, "max_memory": max_memory, "objective": objective,
        "requests_per_restart": requests_per_restart, "price": price, "max_loss": max_loss, "max_regret": max_regret,
        "allow_deprecated": allow_deprecated or None,
    }  # fmt: skip
    constraints = {name: value for name, value in given.items() if value is not None}
    min_parity = settled_parity(min_parity, max_loss is not None)
    measured = run if isinstance(run, Run) else read_run(Path(run))
    check_unaltered(measured)
    check_measures(measured, Forward)
    selection = select(measured, choose, min_parity, constraints)
    candidate = selection.candidate
    runtimes.check(candidate, measured)
    if layout == "triton":
        triton.check(candidate)
    pins = runtimes.requirements(candidate, measured.options.kind, _versions_of(measured, selection))
    store = ArtifactStore(Path(artifacts))
    with leaves_translated():
        source = _source_of(measured, module, store, say, seconds)
        samples = samples_of(source, tokenizer_of(source, None))
        store.prepare()
        with store.in_use(say), making.aside(folder) as place:
            certificate = _certificate(measured, candidate, source, samples, seconds)
            certificate.path = place / CERTIFICATE
            prepared = Preparation(certificate, source, store, say)
            prepared.make(certificate.workload.points())
            if refusal := prepared.refused.get(candidate):
                raise BenchError(f"{selection.label} cannot be bundled here: {refusal.reason}")
            judged = judgement(measure_prepared(certificate, prepared, Listener(say=say)), candidate)
            check_parity_of(selection.label, judged.verdict, min_parity, judged.reason)
            say(f"{selection.label}: {judged.verdict} on the samples")
            promised = envelope.envelope_of(measured, selection.records)
            made = Manifest(
                **_origin_of(measured, selection, source),
                **_write(place, measured, promised, prepared, samples, pins, layout),
                verdict=judged.verdict,
                command=_command_of(measured, folder, choose, min_parity, constraints, layout),
                requirements=pins,
                samples=samples,
            )
            if source.makes_inputs:
                _copy_timed_inputs(place, promised, source, store, seconds, say)
            made = replace(made, files=manifest.checksums(place))
            (place / manifest.FILE).write_text(made.text())
            checksum = file_checksum(place / manifest.FILE)
    return Bundle(folder, made, checksum)


def _versions_of(run: Run, selection: Selection) -> dict[str, str]:
    """Version of every distribution that the run knows; the worker's own word counts first."""
    found: dict[str, str] = dict(run.fingerprint.get("versions", {}))
    for record in selection.records:
        found |= record.facts.get("versions", {})
    return found


def _source_of(run: Run, module: str | None, store: ArtifactStore, say: Say, timeout: float) -> sources.ModelSource:
    """The run's model; raises UserError if it, or what exports it, is no longer what was measured."""
    model, settings = run.model, run.options
    weights = MODULE if model.weights == MODULE else settings.weights
    source = sources.resolve(named_module(run, module), weights=weights, task=model.task, seed=settings.seed)
    if source.origin != model.origin or recipe_key(checkpoint.recipe(source)) != model.checkpoint:
        raise UserError(
            f"the run measured other weights or libraries ({model.origin}; now {source.origin}), and another artifact "
            "would be bundled than was measured; run bench compare again"
        )
    return introduced(source, store, _threads(run), say, timeout)


def _threads(run: Run) -> int:
    return min(run.options.settled_threads, machine.usable_cpus())


def _certificate(run: Run, candidate: Candidate, source: sources.ModelSource, samples: Samples, timeout: float) -> Run:
    """The run of parity that checks the candidate on the samples, still without records."""
    settings = run.options
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


def _origin_of(run: Run, selection: Selection, source: sources.ModelSource) -> dict[str, Any]:
    """What of the manifest the run says."""
    model = run.model
    return {
        "model": model.name,
        "task": model.task,
        "weights": model.weights,
        "origin": model.origin,
        "checkpoint": model.checkpoint,
        "weights_checksum": source.weights_checksum(),
        "source": source_to_json(source),
        "candidate": selection.candidate,
        "device": run.options.kind,
        "threads": run.options.settled_threads,
        "chosen": selection.reasons,
        "run": {
            "file": run.path.name if run.path else None,
            "sha256": file_checksum(run.path) if run.path else None,
            "command": run.command,
            "started": run.started,
            "integrity": run.integrity,
            "is_disturbed": any(run.disturbances(record) for record in selection.records),
        },
        "made": _now(),
        "fingerprint": run.fingerprint,
        "made_with": machine.versions(),
    }


def _write(
    place: Path, run: Run, promised: Run, prepared: Preparation, samples: Samples, pins: Mapping[str, str], layout: str
) -> dict[str, Any]:
    """Write every file but certificate and manifest; returns what of the manifest says where the artifact lies."""
    (candidate,), source, is_triton = promised.candidates, prepared.source, layout == "triton"
    artifact = prepared.artifacts[candidate]
    repository = triton.folder_in(run.model.name)
    artifact_folder = carried.artifact_folders(run.model.name)[is_triton]
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
        (place / repository / "config.pbtxt").write_text(config)
    return {
        "artifact_folder": artifact_folder,
        "artifact": {"format": artifact.format, "key": artifact.key, "checksum": artifact.checksum},
        "model_repository": triton.FOLDER if is_triton else None,
    }


def _copy_timed_inputs(
    place: Path, promised: Run, source: sources.ModelSource, store: ArtifactStore, timeout: float, say: Say
) -> None:
    """Copy the inputs of every promised shape, which lie with the run's references or are made again."""
    settled = replace(promised.options, timeout=timeout, artifacts=str(store.root), device=promised.options.kind)
    workload = Forward(replace(settled, threads=_threads(promised)))
    prepared = Preparation(replace(promised, workload=workload), source, store, say)
    shapes = workload.points()
    prepared.make(shapes)
    for shape in shapes:
        for name in workload.cases(shape, source):
            making.copy_timed_inputs(prepared.references.stored_inputs(name), shape, place)


def _command_of(
    run: Run, folder: Path, choose: str | None, min_parity: str, constraints: Mapping[str, Any], layout: str
) -> str:
    """The command line that makes such a bundle."""
    words = ["bench", "deploy", str(run.path or "RUN"), "--output", str(folder)]
    words += ["--choose", choose] if choose else []
    for name, value in constraints.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join([*words, "--min-parity", min_parity, "--layout", layout])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
