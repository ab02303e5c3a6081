"""`verify`: does a certificate belong to an artifact, and does its check come out the same again?

A certificate is a sealed run of `bench parity`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import backends
from bench import machine, options
from bench.errors import BenchError, Say, UserError
from bench.parity.verdict import OUTCOMES
from bench.process.environments.stored import named_interpreters, parse_pythons
from bench.run.experiment import leaves_translated, measure_prepared
from bench.run.file import check_measures, check_unaltered, read_run
from bench.run.listener import Listener
from bench.run.model import find_source, named_module, tokenizer_of
from bench.run.preparation import Preparation
from bench.run.record import Run
from bench.spec import Candidate
from bench.workloads.judgements import Judgement, judgements
from bench.workloads.parity import Parity, ParityOptions
from exporters.sources import MODULE, ModelSource
from exporters.store import Artifact, ArtifactStore, file_checksum

#: Formats of artifacts that hold operators and weights alone, beside a checkpoint's.
OF_DATA = (
    "onnx", "onnx-fused", "onnx-attention23", "onnx-with-past", "optimum", "optimum-o1", "optimum-o2", "optimum-o3",
    "optimum-o4",
)  # fmt: skip


@dataclass
class Verification:
    """What came out when a certificate's check was repeated on an artifact."""

    repeated: Run
    """Of the artifact's candidates alone, as found now."""
    lines: list[str] = field(default_factory=list)
    """What belongs, what differs, and whether the certificate holds."""
    holds: bool = False
    """True if every verdict is as good as the certificate's, and none is broken or unjudged."""

    @property
    def exit_code(self) -> int:
        """3 if something is broken, 0 if the certificate holds, else 1."""
        if any(one.verdict == "broken" for one in judgements(self.repeated)):
            return 3
        return 0 if self.holds else 1

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "holds": self.holds,
            "exit_code": self.exit_code,
            "lines": self.lines,
            "judgements": [one.to_json() for one in judgements(self.repeated)],
            "fingerprint": self.repeated.fingerprint,
        }


def verify(
    certificate: str | Path,
    artifact: str | Path,
    *,
    model: str | None = None,
    module: str | None = None,
    python: str | Iterable[str] = (),
    tokenizer: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    trust: bool = False,
    timeout: str | float = 900.0,
    artifacts: str | Path = "artifacts",
    say: Say = lambda line: None,
) -> Verification:
    """Repeat the check of `certificate` on the folder (or a file in it) `artifact`, wherever that lies.

    The model is the certificate's, or `model` if that has moved; references are made again unless they are in the
    store under `artifacts`. `timeout` is the silence after which a worker is taken for hung, e.g. "60s". What a
    certificate names is never run: `module` names the user's own module again, `python` the interpreters, as
    `bench parity` takes both, and `trust` lets an artifact be loaded that is code and does not lie in the store. Raises
    UserError for a certificate or artifact that cannot be read, for another model's weights and for what has to be
    named so, and BenchError if the certificate does not belong to the artifact.
    """
    seconds = options.seconds(example="60s")(timeout, "--timeout")
    stated = read_certificate(Path(certificate))
    store = ArtifactStore(Path(artifacts))
    with leaves_translated():
        found = _open(store, Path(artifact))
        certified = [one for one in judgements(stated) if one.artifact.get("checksum") == found.checksum]
        if not certified:
            raise BenchError(_stranger(stated, found, str(certificate), str(artifact)))
        if all(one.verdict == "unjudged" for one in certified):
            reason = certified[0].reason
            raise BenchError(f"certificate {str(certificate)!r} proves nothing of {str(artifact)!r}: {reason}")
        candidates, asked = [one.candidate for one in certified], stated.options
        assert isinstance(asked, ParityOptions)
        pythons = named_interpreters(candidates, parse_pythons(python), parse_pythons(asked.python))
        _check_trusted(found, candidates, store, trust)
        source = _model_of(stated, model, module, store, say, seconds)
        fewest = min(asked.settled_threads, machine.usable_cpus())
        settled = replace(
            asked,
            tokenizer=_tokenizer_of(stated, source, tokenizer, asked.tokenizer),
            device=machine.settle_device(device or asked.device),
            threads=fewest if threads is None else machine.thread_budget(threads),
            timeout=seconds,
            artifacts=str(store.root),
            python=pythons,
            bisect=False,
        )
        machine.check_tf32(settled.tf32, settled.kind)
        with tempfile.TemporaryDirectory(prefix="bench-verify-") as folder:
            repeated = again(stated, settled, candidates, Path(folder))
            store.prepare()
            with store.in_use(say):
                prepared = Preparation(repeated, source, store, say)
                prepared.artifacts |= dict.fromkeys(repeated.candidates, found)
                prepared.make(repeated.workload.points())
                measure_prepared(repeated, prepared, Listener(say=say))
        repeated.path = None
        return _compare(stated, certified, repeated)


def read_certificate(path: Path) -> Run:
    """The sealed run of bench parity in a file; raises UserError if it is none, or was cut or altered."""
    run = read_run(path)
    check_measures(run, Parity)
    check_unaltered(run)
    if run.integrity != "sealed" or not run.is_complete:
        raise UserError(f"certificate {str(path)!r} is not complete; go on with bench parity --resume {path}")
    return run


def again(stated: Run, settled: ParityOptions, candidates: Sequence[Candidate], folder: Path) -> Run:
    """A run without records that checks what `stated` did, with its file in `folder`."""
    return replace(
        stated,
        workload=Parity(settled),
        candidates=tuple(candidates),
        fingerprint=machine.fingerprint(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        records=[],
        turns={},
        notes={name: stated.notes[name] for name in ("weights_checksum", "tokenizer_sha256") if name in stated.notes},
        path=folder / "repeated.jsonl",
        is_complete=False,
        integrity="cut",
    )


def rank(verdict: str) -> int:
    """How bad a verdict is; whether rounding errors are eager's bit for bit depends on the machine."""
    return max(OUTCOMES.index("equivalent"), OUTCOMES.index(verdict))


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
    if elsewhere := [name for name in artifact.files if not (folder / name).resolve().is_relative_to(folder.resolve())]:
        raise UserError(
            f"{elsewhere[0]} of artifact {str(path)!r} is a link out of that folder; put the file itself there"
        )
    now = {name: file_checksum(folder / name) if (folder / name).is_file() else "missing" for name in artifact.files}
    return replace(artifact, files={name: {**entry, "sha256": now[name]} for name, entry in artifact.files.items()})


def _stranger(stated: Run, found: Artifact, certificate: str, artifact: str) -> str:
    """Why no candidate of the certificate loaded this artifact."""
    loaded = [one.artifact for one in judgements(stated) if one.artifact]
    start = f"certificate {certificate!r} does not belong to {artifact!r}"
    same_format = [one for one in loaded if one["format"] == found.format]
    if not same_format:
        formats = ", ".join(dict.fromkeys(one["format"] for one in loaded)) or "none"
        return f"{start}: that is {found.format}, and it certifies {formats}"
    nearest = same_format[0]["files"]
    differing = [name for name, entry in found.files.items() if nearest.get(name) != entry["sha256"]]
    return f"{start}: {', '.join(differing) or 'its files'} differ{'s' if len(differing) == 1 else ''}; certify it anew"


def _check_trusted(found: Artifact, candidates: Sequence[Candidate], store: ArtifactStore, trust: bool) -> None:
    """Raise UserError for an artifact that runs code when it is loaded, unless it lies in the store or is trusted."""
    if trust or found.path.resolve().parent == store.folder.resolve():
        return
    if unknown := [one.label for one in candidates if one.backend not in backends.names()]:
        raise UserError(
            f"the certificate is of {unknown[0]!r:.60}, which this bench does not know; install its package"
        )
    loaded = {backends.load_class(one.backend).spec.format_of(one.variant) for one in candidates}
    is_module = found.metadata.get("weights") == MODULE
    if loaded == {found.format} and (found.format in OF_DATA or (found.format == "checkpoint" and not is_module)):
        return
    raise UserError(
        f"artifact {str(found.path)!r} runs as code when it is loaded ({'a module' if is_module else found.format!r}) "
        "and lies in no store of yours; give --trust if you trust whoever made it"
    )


def _model_of(
    stated: Run, model: str | None, module: str | None, store: ArtifactStore, say: Say, timeout: float
) -> ModelSource:
    """The certificate's model, from where it lies now; raises UserError if it is another one."""
    settings, is_module = stated.options, stated.model.weights == MODULE
    name = model or named_module(stated, module)
    weights = MODULE if is_module or module else settings.weights
    source = find_source(
        name, store, weights=weights, task=stated.model.task, seed=settings.seed, say=say, timeout_seconds=timeout
    )
    if source.weights_checksum() != stated.notes.get("weights_checksum"):
        raise UserError(f"model {source.name!r} has other weights than the certificate's; --model names the right one")
    return source


def _tokenizer_of(stated: Run, source: ModelSource, given: str | Path | None, before: str | None) -> str | None:
    """Path of the tokenizer that the certificate's text was tokenised with; raises UserError if it is not there."""
    wanted = stated.notes.get("tokenizer_sha256")
    if wanted is None:
        return None
    file = tokenizer_of(source, given or (before if before and Path(before).exists() else None))
    if file is None or file_checksum(file) != wanted:
        raise UserError("the certificate's tokenizer is not there; --tokenizer names it")
    return str(file)


def _compare(stated: Run, certified: Sequence[Judgement], repeated: Run) -> Verification:
    lines, now_found = [], judgements(repeated)
    is_sound = True
    for before, now in zip(certified, now_found, strict=True):
        files = ", ".join(before.artifact["files"])
        lines.append(f"belongs: {before.label} was certified as {before.verdict} on {stated.started} ({files})")
        if "unjudged" in (before.verdict, now.verdict) or rank(now.verdict) > rank(before.verdict):
            lines.append(f"does not hold: {now.label} is {now.verdict} now: {now.reason}")
            is_sound = False
        is_sound &= now.verdict != "broken"
    if others := machine.same_machine(stated.fingerprint, repeated.fingerprint):
        lines.append(f"note: another machine than the certificate's ({', '.join(others)} differ)")
    versions = [run.fingerprint["versions"] for run in (stated, repeated)]
    told = {name: [one.get(name, "missing") for one in versions] for name in sorted({*versions[0], *versions[1]})}
    changed = [f"{name} {before} → {now}" for name, (before, now) in told.items() if before != now]
    if changed:
        lines.append(f"note: other versions than the certificate's: {', '.join(changed)}")
    lines.append("the certificate holds" if is_sound else "the certificate does not hold")
    return Verification(repeated, lines, is_sound)
