"""`verify_bundle`: is a bundle still what was deployed, the same model, and as fast? Needs nothing but the bundle."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import machine, options
from bench.bundle import carried
from bench.bundle import envelope as envelopes
from bench.bundle import manifest as manifests
from bench.bundle.envelope import THRESHOLD, Kept, held
from bench.bundle.manifest import CERTIFICATE, Manifest
from bench.bundle.samples import folder_of, source_from_json, timed_folder
from bench.errors import BROKEN, REGRESSION, UNDECIDED, BenchError, Say, UserError, foremost
from bench.parity.judging import inputs_file
from bench.parity.reference import EAGER_PRECISIONS, REFERENCE_PRECISION
from bench.run.experiment import measure_prepared
from bench.run.file import check_measures, read_run
from bench.run.listener import Listener
from bench.run.preparation import Preparation
from bench.run.record import Run
from bench.spec import Shape, nearest
from bench.verify import again, rank, read_certificate
from bench.workloads.forward import Forward
from bench.workloads.judgements import Judgement, judgement
from exporters.store import Artifact, ArtifactStore

#: What is asked of the envelope: to be kept on the run's machine and told elsewhere; to be kept; nothing.
ENVELOPES = ("auto", "strict", "off")
UNDONE = 1


@dataclass
class BundleVerification:
    """What came out when a bundle was proven again."""

    folder: str
    faults: list[str] = field(default_factory=list)
    """Files that are altered, missing or extra; with any of them nothing of the bundle was run."""
    judgement: Judgement | None = None
    """Parity on the samples, as found now; None if nothing was run."""
    stated: str = ""
    """The certificate's verdict."""
    kept: list[Kept] = field(default_factory=list)
    threshold: float = THRESHOLD
    counts_time: bool = False
    """True if a promise that is not kept makes the verification fail."""
    notes: list[str] = field(default_factory=list)

    @property
    def is_worse(self) -> bool:
        """True if parity is worse than the certificate says, or broken."""
        if self.judgement is None or self.judgement.verdict == "unjudged":
            return False
        return self.judgement.verdict == "broken" or rank(self.judgement.verdict) > rank(self.stated)

    @property
    def exit_code(self) -> int:
        """0 all holds; 3 a file or parity is not what was deployed; 4 slower; 1 something could not be measured or
        judged; 6 the times are undecided.
        """
        if self.faults or self.is_worse:
            return BROKEN
        if self.judgement is None or self.judgement.verdict == "unjudged":
            return UNDONE
        of_verdicts = {"within": 0, "slower": REGRESSION, "undecided": UNDECIDED}
        return foremost(of_verdicts.get(kept.verdict, UNDONE) for kept in self.kept if self.counts_time)

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "exit_code": self.exit_code}


def verify_bundle(
    folder: str | Path,
    *,
    envelope: str = "auto",
    threshold: float = THRESHOLD,
    manifest_sha256: str | None = None,
    trust: bool = False,
    timeout: str | float = 900.0,
    say: Say = lambda line: None,
) -> BundleVerification:
    """Check every file of the bundle in `folder`, then parity on its samples, then the time of each promised shape.

    A median may exceed the promised one by the share `threshold`. With `envelope` "auto" that counts on the machine
    of the run and is a note on another; "strict" makes it count anywhere, "off" measures nothing. A bundle that is
    code (TorchScript) is run only if `manifest_sha256` fits, or with `trust` in its maker. Raises UserError if there is
    no bundle, and for one that is code and not vouched for.
    """
    seconds = options.seconds(example="60s")(timeout, "--timeout")
    if envelope not in ENVELOPES:
        raise UserError(f"unknown --envelope {envelope!r}{nearest(envelope, ENVELOPES)}; use {', '.join(ENVELOPES)}")
    if not 0 < threshold < 100:
        raise UserError(f"--threshold {threshold:g} is not above 0 and below 100; use e.g. 20%")
    if manifest_sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", manifest_sha256):
        raise UserError(
            f"--manifest-sha256 {manifest_sha256[:80]!r} is no SHA-256; give the 64 digits that bench deploy printed"
        )
    place = Path(folder)
    found = BundleVerification(str(folder), threshold=threshold)
    manifest, found.faults = manifests.read(place, manifest_sha256)
    if manifest is not None and not found.faults:
        found.faults = carried.faults(manifest)
    if manifest is None or found.faults:
        return found
    try:
        certificate, promised = _papers(place, manifest)
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        found.faults = [f"altered: certificate or envelope do not fit the manifest ({error})"]
        return found
    carried.check_trusted(manifest, place, trust or manifest_sha256 is not None)
    say(f"every file is as deployed ({len(manifest.files)} files)")
    others = machine.same_machine(manifest.fingerprint, machine.fingerprint())
    found.counts_time = envelope == "strict" or (envelope == "auto" and not others)
    found.notes = _notes(manifest, others, envelope)
    with tempfile.TemporaryDirectory(prefix="bench-verify-") as root:
        opened = Opened(place.resolve(), manifest, ArtifactStore(Path(root)), seconds, say)
        found.stated = judgement(certificate, manifest.candidate).verdict
        found.judgement = opened.judged(certificate)
        say(f"parity: {found.judgement.verdict} (certified {found.stated}): {found.judgement.reason}")
        if envelope != "off" and not found.is_worse and found.judgement.verdict != "unjudged":
            run = opened.measured(promised)
            found.kept = [held(one, run.record(one.point, manifest.candidate), threshold) for one in promised.records]
            found.notes += dict.fromkeys(line for record in run.records for line in run.disturbances(record))
    return found


def _papers(place: Path, manifest: Manifest) -> tuple[Run, Run]:
    """Certificate and envelope of a bundle whose files are sound; raises if they are of something else."""
    certificate = read_certificate(place / CERTIFICATE)
    loaded = judgement(certificate, certificate.candidates[0]).artifact
    if loaded["checksum"] != manifest.artifact["checksum"] or certificate.candidates != (manifest.candidate,):
        raise ValueError("the certificate is of another artifact")
    for name, checksum in loaded["files"].items():
        if manifest.files[f"{manifest.artifact_folder}/{name}"].sha256 != checksum:
            raise ValueError(f"{name} is not the one that was certified")
    promised = read_run(place / envelopes.FILE)
    check_measures(promised, Forward)
    if promised.integrity != "sealed":
        raise ValueError("the envelope is no sealed run")
    if promised.candidates != (manifest.candidate,) or not all(record.samples for record in promised.records):
        raise ValueError("the envelope is of another runtime, or has cells without times")
    if not promised.records:
        raise ValueError("the envelope promises nothing")
    carried.check(manifest, certificate, promised, ArtifactStore(place).read(place / manifest.artifact_folder))
    return certificate, promised


def _notes(manifest: Manifest, others: Sequence[str], envelope: str) -> list[str]:
    found = []
    if others:
        meanings = {"auto": ": its times are told and not held", "strict": ": its times are held all the same"}
        found.append(f"another machine than the run's ({', '.join(others)} differ){meanings.get(envelope, '')}")
    if envelope == "off":
        found.append("times were not measured (--envelope off)")
    pins, versions = manifest.requirements, machine.versions()
    changed = [
        f"{name} {pin} → {versions.get(name, 'missing')}" for name, pin in pins.items() if versions.get(name) != pin
    ]
    if changed:
        found.append(f"other versions than requirements.txt: {', '.join(changed)}")
    return found


@dataclass(frozen=True)
class Opened:
    """A bundle whose files are sound, from which the pipeline gets what it else takes from a store."""

    place: Path
    manifest: Manifest
    store: ArtifactStore
    """An empty one, for what the pipeline writes."""
    timeout: float
    say: Say

    def judged(self, certificate: Run) -> Judgement:
        """Parity of the bundle's artifact on the bundle's samples."""
        candidate = self.manifest.candidate
        settled = replace(self._settled(certificate), bisect=False)
        prepared = self._prepared(again(certificate, settled, [candidate], self.store.root))
        of_eager = EAGER_PRECISIONS.get(candidate.precision, candidate.precision)
        for point in prepared.workload.points():
            for precision, whose in ((REFERENCE_PRECISION, "reference"), (of_eager, "eager")):
                folder = folder_of(Shape(point.batch, point.length), whose)
                stored = self.store.read(self.place / folder)
                prepared.references.found[precision, str(point)] = stored or f"{folder} is unreadable"
        return judgement(measure_prepared(prepared.run, prepared, Listener(say=self.say)), candidate)

    def measured(self, promised: Run) -> Run:
        """Every promised cell, timed as the run timed it."""
        workload, path = Forward(self._settled(promised)), self.store.root / "measured.jsonl"
        empty: dict[str, Any] = {"records": [], "turns": {}, "notes": {}, "is_complete": False, "integrity": "cut"}
        prepared = self._prepared(replace(promised, workload=workload, fingerprint={}, path=path, **empty))
        for point in workload.points() if prepared.source.makes_inputs else ():
            folder = self.place / timed_folder(point)
            is_there = inputs_file(folder, "timed").is_file()
            stored = replace(self._artifact, path=folder) if is_there else f"{timed_folder(point)} has none"
            for name in workload.cases(point, prepared.source):
                prepared.references.found[REFERENCE_PRECISION, name] = stored
        return measure_prepared(prepared.run, prepared, Listener(say=self.say))

    def _settled(self, run: Run) -> Any:
        """The options of `run` on this machine, with no more threads than it has."""
        threads = min(self.manifest.threads, machine.usable_cpus())
        return replace(run.options, device=self.manifest.device, threads=threads, timeout=self.timeout, python=())

    def _prepared(self, run: Run) -> Preparation:
        prepared = Preparation(run, source_from_json(self.manifest.source), self.store, self.say)
        prepared.artifacts[self.manifest.candidate] = self._artifact
        return prepared

    @cached_property
    def _artifact(self) -> Artifact:
        artifact = self.store.read(self.place / self.manifest.artifact_folder)
        if artifact is None:
            raise BenchError(f"the artifact of {self.place.name!r} has no readable manifest; deploy it again")
        return artifact
