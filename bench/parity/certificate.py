"""A certificate: the verdict on every backend, with all that a reviewer needs to repeat it. JSON on disk.

Schema 1: as in `Certificate`; `checksum` is over everything else in the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError, UserError
from bench.parity.verdict import Tolerance
from bench.spec import Candidate, Grid

SCHEMA = 1
KIND = "parity"


@dataclass
class Judgement:
    """What was found of one backend, variant and precision."""

    contestant: Candidate
    verdict: str
    reason: str
    cases: list[dict[str, Any]] = field(default_factory=list)
    """Worst first: `name`, `verdict`, `reason`, the shape and kinds of its inputs, and the figures of
    `metrics.compare`."""
    generation: list[dict[str, Any]] = field(default_factory=list)
    """For each prompt and way of generating: the tokens, where they leave the reference's, figures of forced steps."""
    artifact: dict[str, Any] = field(default_factory=dict)
    """`format`, `checksum` and `files` (name to SHA-256) of what was loaded."""
    versions: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    bisection: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`onnx fp32`."""
        return f"{self.contestant.label} {self.contestant.precision}"


@dataclass
class Certificate:
    """The verdict on every backend on one matrix of inputs."""

    grid: Grid
    """Model, backends, shapes, device, threads, task and seed."""
    ids: tuple[str, ...]
    masks: tuple[str, ...]
    tokenizer: str | None
    """SHA-256 of the tokenizer's file."""
    new_tokens: int
    overrides: dict[str, float]
    """What the user set in place of the tolerances' own values."""
    tolerances: dict[str, Tolerance]
    """By precision, with the overrides."""
    origin: str
    """Where the weights came from, in one line."""
    weights_checksum: str
    """Of the architecture and its weights, whatever the libraries' versions."""
    fingerprint: dict[str, Any]
    command: str
    started: str
    """UTC, ISO 8601."""
    judgements: list[Judgement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """parity.md rule 10: 3 something is broken, 0 all are equivalent or better, 1 anything else."""
        return exit_code([judgement.verdict for judgement in self.judgements])

    def to_json(self) -> dict[str, Any]:
        """As JSON types, checksum included."""
        body: dict[str, Any] = json.loads(
            json.dumps({"kind": KIND, "schema": SCHEMA, **asdict(self), "exit_code": self.exit_code})
        )
        return body | {"checksum": _checksum(body)}

    def write(self, path: Path) -> None:
        """Write aside and rename, so that no half-written certificate is left; raises BenchError."""
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            try:
                aside.write_text(json.dumps(self.to_json(), indent=1) + "\n")
                aside.replace(path)
            finally:
                aside.unlink(missing_ok=True)
        except OSError as error:
            raise BenchError(
                f"certificate {str(path)!r} cannot be written ({error.strerror}); give another --output"
            ) from None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Certificate:
        """The certificate that `to_json` wrote."""
        values = {name: data[name] for name in cls.__dataclass_fields__}
        values["grid"] = Grid.from_json(data["grid"])
        values["ids"], values["masks"] = tuple(data["ids"]), tuple(data["masks"])
        values["tolerances"] = {name: Tolerance(**entry) for name, entry in data["tolerances"].items()}
        values["judgements"] = [
            Judgement(**{**entry, "contestant": Candidate(**entry["contestant"])}) for entry in data["judgements"]
        ]
        return cls(**values)


def check_writable(path: Path) -> None:
    """Raise UserError where no certificate could be written to `path`."""
    if path.is_dir():
        raise UserError(f"--output {str(path)!r} is a folder; give a file")
    if path.exists() and not path.is_file():
        raise UserError(f"--output {str(path)!r} is no regular file, and would be replaced; give a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"--output {str(path)!r} cannot be written: its folder is missing or not yours; make it first")


def exit_code(verdicts: list[str]) -> int:
    """3 when one is broken, 0 when all are exact or equivalent, 1 otherwise."""
    if "broken" in verdicts:
        return 3
    return 0 if verdicts and set(verdicts) <= {"exact", "equivalent"} else 1


def read(path: Path) -> Certificate:
    """Read a certificate; raises UserError where it is none, is damaged, or was altered."""
    name = repr(str(path))
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"certificate {name} cannot be read ({error.strerror}); give a file of bench parity --output"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"{name} is no JSON; give a file that bench parity --output wrote") from None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UserError(f"{name} is no certificate; give a file that bench parity --output wrote")
    if data.get("schema") != SCHEMA:
        raise UserError(f"{name} has schema {data.get('schema')}, and this bench reads {SCHEMA}; make it again")
    stated = data.pop("checksum", None)
    if stated != _checksum(data):
        raise UserError(f"certificate {name} was altered or damaged: its checksum does not fit; make it again")
    try:
        return Certificate.from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"certificate {name} lacks or mistakes a field ({error!r}); make it again") from None


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
