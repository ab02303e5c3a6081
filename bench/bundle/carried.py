"""What `deploy` writes into a bundle, so that `verify` refuses whatever else a forged one has."""

from __future__ import annotations

import re
from pathlib import Path

from bench.bundle import envelope, runtimes, triton
from bench.bundle.making import TOKENIZER_FILES, TOKENIZER_FOLDER
from bench.bundle.manifest import CERTIFICATE, Manifest
from bench.bundle.samples import FOLDER, source_from_json
from bench.errors import UserError
from bench.parity.inputs import IDS, MASKS, OWN
from bench.run.record import Run
from bench.spec import MODULE, parse_candidates
from bench.workloads.parity import ParityOptions
from exporters.store import MANIFEST, Artifact

ARTIFACT_FOLDER = "model"
_ONNX = r"model\.onnx(\.data)?"
_CHECKPOINT = r"config\.json|generation_config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
#: An artifact's files, as a pattern, by the backend that loads it.
ARTIFACT_FILES = {
    "onnx": _ONNX, "openvino": _ONNX, "torchscript": r"model\.pt", "eager": _CHECKPOINT, "compile": _CHECKPOINT,
}  # fmt: skip
#: Backends whose artifact is a program, which runs as its maker wrote it.
OF_CODE = {"torchscript": "a TorchScript program"}
#: Options of a certificate that `deploy` sets; it leaves the others alone.
CERTIFIED = (
    "model", "module", "backends", "precisions", "device", "threads", "weights", "task", "seed", "timeout", "shapes",
    "masks", "ids",
)  # fmt: skip


def artifact_folders(model: str) -> tuple[str, str]:
    """Where in a bundle the artifact can lie: by itself, and in a model repository of Triton."""
    return ARTIFACT_FOLDER, f"{triton.folder_in(model)}/{triton.VERSION}"


def faults(manifest: Manifest) -> list[str]:
    """What in a manifest `deploy` never writes, one line each: other files, places, runtimes and devices."""
    candidate = manifest.candidate
    try:
        is_known = parse_candidates(candidate.label, candidate.precision) == (candidate,)
    except UserError:
        is_known = False
    if not is_known or candidate.backend not in ARTIFACT_FILES:
        return [f"forged: no bundle carries {manifest.label!r:.80}"]
    if manifest.artifact_folder not in artifact_folders(manifest.model):
        return [f"forged: the artifact lies in {manifest.artifact_folder!r:.80}, and not in {ARTIFACT_FOLDER}"]
    if manifest.device not in ("cpu", "cuda") or manifest.threads < 1:
        return [f"forged: {manifest.threads} threads on {manifest.device!r:.80} are no machine's"]
    folder, tokenizer = re.escape(manifest.artifact_folder), "|".join(map(re.escape, TOKENIZER_FILES))
    written = re.compile(
        rf"run\.py|requirements\.txt|{re.escape(CERTIFICATE)}|{re.escape(envelope.FILE)}"
        rf"|{folder}/({ARTIFACT_FILES[candidate.backend]}|{re.escape(MANIFEST)})|{TOKENIZER_FOLDER}/({tokenizer})"
        rf"|{FOLDER}/\d+x\d+/(reference|eager)/([a-z-]+(\.inputs)?\.npz|{re.escape(MANIFEST)})"
        rf"|{FOLDER}/timed-\d+x\d+/timed\.inputs\.npz|{re.escape(triton.folder_in(manifest.model))}/config\.pbtxt"
    )
    return [f"forged: no bundle holds {name!r:.80}" for name in manifest.files if not written.fullmatch(name)]


def check(manifest: Manifest, certificate: Run, promised: Run, artifact: Artifact | None) -> None:
    """Raise ValueError or UserError for papers and an artifact that `deploy` never writes, so that following them
    would run code, start an interpreter or read outside the bundle.
    """
    for run in (certificate, promised):
        runtimes.check(manifest.candidate, run)
    certified = certificate.options
    if certified != ParityOptions(**{name: getattr(certified, name) for name in CERTIFIED}):
        raise ValueError("the certificate has options that no bundle's has")
    if not ({*certified.ids} <= {OWN, *IDS} and {*certified.masks} <= {*MASKS}):
        raise ValueError("the certificate is of inputs that bench does not make")
    source_from_json(manifest.source)
    if promised.options != envelope.envelope_of(promised, promised.records).options:
        raise ValueError("the envelope has options that no bundle's has")
    if artifact is None or {f"{manifest.artifact_folder}/{name}" for name in artifact.files} - {*manifest.files}:
        raise ValueError("the artifact's own manifest is unreadable or names files outside the bundle")
    if manifest.candidate.backend not in ("onnx", "openvino", "torchscript") and runs_a_module(artifact):
        raise ValueError("the artifact is a module's, which runs code that no bundle carries")


def check_trusted(manifest: Manifest, place: Path, is_known: bool) -> None:
    """Raise UserError for a bundle that is code, unless `is_known`: its user vouches for whoever made it."""
    if (what := OF_CODE.get(manifest.candidate.backend)) and not is_known:
        raise UserError(
            f"bundle {str(place)!r} holds {what}, which runs as code when it is loaded; give --manifest-sha256 as "
            "bench deploy printed it, or --trust if you trust whoever made the bundle"
        )


def runs_a_module(artifact: Artifact) -> bool:
    """True for a checkpoint that imports the file that it names, or opens a pickle, when it is loaded."""
    return bool(artifact.metadata.get("weights") == MODULE)
