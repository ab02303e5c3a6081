"""`verify`: does a certificate belong to an artifact, and does its check come out the same again?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.errors import BenchError, UserError
from bench.parity.certificate import Certificate, Judgement, read
from bench.parity.check import tokenizer_of
from bench.parity.examination import Examination
from bench.parity.matrix import Matrix
from bench.parity.references import Say
from bench.parity.verdict import OUTCOMES
from bench.preparation import Preparation
from bench.run.model import find_source
from bench.spec import check_timeout
from exporters import sources
from exporters.store import Artifact, ArtifactStore, file_checksum


@dataclass
class Verification:
    """What came out when a certificate's check was repeated on an artifact."""

    repeated: Certificate
    """Of the artifact's backends alone, as found now."""
    lines: list[str] = field(default_factory=list)
    """What belongs, what differs, and whether the certificate holds."""
    holds: bool = False
    """True when every verdict is as good as the certificate's, and none is broken or unjudged."""

    @property
    def exit_code(self) -> int:
        """3 when something is broken, 0 when the certificate holds, 1 otherwise."""
        if any(judgement.verdict == "broken" for judgement in self.repeated.judgements):
            return 3
        return 0 if self.holds else 1

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "holds": self.holds,
            "exit_code": self.exit_code,
            "lines": self.lines,
            "repeated": self.repeated.to_json(),
        }


def verify(
    certificate: str | Path,
    artifact: str | Path,
    *,
    model: str | None = None,
    text_tokenizer: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    timeout: float = 900.0,
    artifacts: str | Path = "artifacts",
    say: Say = lambda line: None,
) -> Verification:
    """Repeat the check of `certificate` on the folder (or a file in it) `artifact`, wherever that lies.

    The model is the certificate's, or `model` where that has moved; references are made again unless they are in the
    store under `artifacts`. Raises UserError for a certificate or artifact that cannot be read and for another
    model's weights, and BenchError where the certificate does not belong to the artifact.
    """
    check_timeout(timeout)
    stated = read(Path(certificate))
    store = ArtifactStore(Path(artifacts))
    found = _open(store, Path(artifact))
    certified = [judgement for judgement in stated.judgements if judgement.artifact.get("checksum") == found.checksum]
    if not certified:
        raise BenchError(_stranger(stated, found, str(certificate), str(artifact)))
    if all(judgement.verdict == "unjudged" for judgement in certified):
        raise BenchError(f"certificate {str(certificate)!r} proves nothing of {str(artifact)!r}: {certified[0].reason}")
    source, matrix = _model_of(stated, model, text_tokenizer, store, say)
    grid = replace(
        stated.grid,
        model=source.name,
        contestants=tuple(judgement.contestant for judgement in certified),
        device=machine.settle_device(device or stated.grid.device),
        threads=min(stated.grid.threads, machine.usable_cpus()) if threads is None else machine.thread_budget(threads),
    )
    machine.check_tf32(grid.tf32, grid.device)
    repeated = replace(
        stated,
        grid=grid,
        fingerprint=machine.fingerprint(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        judgements=[],
        notes=[],
    )
    store.prepare()
    with store.in_use():
        prepared = Preparation(grid, source, store, timeout, say, matrix)
        prepared.make(with_artifacts=False)
        for contestant in grid.contestants:
            tolerance = stated.tolerances[contestant.precision]
            repeated.judgements.append(Examination(prepared, contestant, tolerance, found).judgement())
    return _compare(stated, certified, repeated)


def _open(store: ArtifactStore, path: Path) -> Artifact:
    """The artifact in folder `path`, or in that of file `path`, with the checksums that its files have now."""
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise UserError(f"artifact {str(path)!r} does not exist; give the folder that was certified")
    artifact = store.read(folder)
    if artifact is None:
        raise UserError(
            f"artifact {str(path)!r} has no readable artifact.json; give the whole folder that an export wrote"
        )
    files = {
        name: {
            "sha256": file_checksum(folder / name) if (folder / name).is_file() else "missing",
            "bytes": entry["bytes"],
        }
        for name, entry in artifact.files.items()
    }
    return replace(artifact, files=files)


def _stranger(stated: Certificate, found: Artifact, certificate: str, artifact: str) -> str:
    """Why no judgement of the certificate is of this artifact."""
    same_format = [j for j in stated.judgements if j.artifact.get("format") == found.format]
    start = f"certificate {certificate!r} does not belong to {artifact!r}"
    if not same_format:
        formats = ", ".join(dict.fromkeys(str(j.artifact["format"]) for j in stated.judgements if j.artifact)) or "none"
        return f"{start}: that is {found.format}, and it certifies {formats}"
    nearest = same_format[0].artifact["files"]
    differing = [name for name, entry in found.files.items() if nearest.get(name) != entry["sha256"]]
    return f"{start}: {', '.join(differing) or 'its files'} differ{'s' if len(differing) == 1 else ''}; certify it anew"


def _model_of(
    stated: Certificate, model: str | None, text_tokenizer: str | Path | None, store: ArtifactStore, say: Say
) -> tuple[sources.ModelSource, Matrix]:
    """The certificate's model and matrix, from where they lie now."""
    grid = stated.grid
    name = model or grid.model
    source = find_source(name, store, weights=grid.weights, task=grid.task, seed=grid.seed, threads=1, say=say)
    if source.weights_checksum() != stated.weights_checksum:
        raise UserError(f"model {source.name!r} has other weights than the certificate's; --model names the right one")
    file = None
    if stated.tokenizer is not None:
        file = tokenizer_of(source, text_tokenizer)
        if file is None or file_checksum(file) != stated.tokenizer:
            raise UserError("the certificate's tokenizer is not there; --tokenizer names it")
    return source, Matrix(stated.ids, stated.masks, file, stated.new_tokens)


def _compare(stated: Certificate, certified: list[Judgement], repeated: Certificate) -> Verification:
    lines = []
    for before, now in zip(certified, repeated.judgements, strict=True):
        files = ", ".join(before.artifact["files"])
        lines.append(f"belongs: {before.label} was certified as {before.verdict} on {stated.started} ({files})")
        if "unjudged" in (before.verdict, now.verdict) or _rank(now.verdict) > _rank(before.verdict):
            lines.append(f"does not hold: {now.label} is {now.verdict} now: {now.reason}")
    others = machine.same_machine(stated.fingerprint, repeated.fingerprint)
    if others:
        lines.append(f"note: another machine than the certificate's ({', '.join(others)} differ)")
    before_versions, versions = stated.fingerprint["versions"], repeated.fingerprint["versions"]
    changed = [
        f"{name} {before_versions.get(name, 'missing')} → {versions.get(name, 'missing')}"
        for name in sorted({*before_versions, *versions})
        if before_versions.get(name) != versions.get(name)
    ]
    if changed:
        lines.append(f"note: other versions than the certificate's: {', '.join(changed)}")
    holds = not any(line.startswith("does not hold") for line in lines)
    is_broken = any(judgement.verdict == "broken" for judgement in repeated.judgements)
    lines.append("the certificate holds" if holds and not is_broken else "the certificate does not hold")
    return Verification(repeated, lines, holds and not is_broken)


def _rank(verdict: str) -> int:
    """How bad a verdict is; whether rounding errors are eager's bit for bit is the machine's doing."""
    return max(OUTCOMES.index("equivalent"), OUTCOMES.index(verdict))
