"""What `bench memory` found, in memory and on disk.

Schema history
1  (0.1.0)  {"kind": "memory"} header; {"kind": "loaded"} a model on a backend; {"kind": "largest"} its largest batch
            at one length; {"kind": "end"} when everything planned has its line.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bench.damage import damage_told, is_count
from bench.footprint.boundary import Boundary
from bench.linesfile import read_lines
from bench.spec import Candidate
from exporters.sources import BYTES_PER_ELEMENT, KeysAndValues

KIND, SCHEMA, WRITER = "memory", 1, "bench memory"
#: "above-limit": the loaded model alone takes more than the limit.
STATUSES = ("ok", "unsupported", "oom", "failed", "timeout", "above-limit")


@dataclass(frozen=True)
class Subject:
    """One model of the run, and what decides its cache."""

    name: str
    origin: str
    positions: int | None
    lengths: tuple[int, ...]
    """Those that are asked about, in tokens."""
    cached: KeysAndValues | None
    """None for an encoder."""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Subject:
        """The subject that a header holds."""
        cached = KeysAndValues(**data["cached"]) if data["cached"] else None
        return cls(**{**data, "lengths": tuple(data["lengths"]), "cached": cached})


@dataclass(frozen=True)
class Entry:
    """One model on one backend, and what became of it."""

    model: str
    backend: str
    variant: str
    precision: str
    status: str = "ok"
    reason: str = ""
    failure: dict[str, Any] = field(default_factory=dict)
    """Signal, exit code, last lines of stderr, byte counts of an out-of-memory message."""
    copy: int = field(default=1, kw_only=True)
    environment: str = field(default="", kw_only=True)
    """Name behind `@` of the environment that it ran in."""

    @property
    def contestant(self) -> Candidate:
        """Who it is about."""
        return Candidate(self.backend, self.variant, self.precision, self.copy, self.environment)

    @property
    def label(self) -> str:
        """`backend:variant@environment`, as the user writes it."""
        return self.contestant.label


AnyEntry = TypeVar("AnyEntry", bound=Entry)


@dataclass(frozen=True)
class Loaded(Entry):
    """What is held once the model is loaded and before any input, in bytes."""

    load_seconds: float | None = None
    memory: dict[str, int] = field(default_factory=dict)
    """`parameters_bytes`; `allocated_bytes` and `reserved_bytes` of the allocator; `process_bytes`;
    `device_process_bytes` on a GPU; `mapped_bytes` and `mapped_resident_bytes` of the model's files."""
    before: dict[str, int] = field(default_factory=dict)
    """`process_bytes` and the like before loading, with the runtime imported."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries that it ran on."""

    def process_bytes(self, device: str) -> int | None:
        """What the process holds: resident on the CPU, of the device's memory on a GPU."""
        return self.memory.get("process_bytes" if device == "cpu" else "device_process_bytes")

    def unread_bytes(self, device: str) -> int:
        """Weights that are mapped from the file and not in memory yet; a GPU holds all of its weights."""
        if device != "cpu":
            return 0
        return max(0, self.memory.get("mapped_bytes", 0) - self.memory.get("mapped_resident_bytes", 0))

    def context_bytes(self, device: str) -> int | None:
        """What the process holds beside the allocator's reserve and the mapped weights: the runtime's own.

        On the CPU interpreter, libraries and what they map; on a GPU its context and kernels.
        """
        process, reserved = self.process_bytes(device), self.memory.get("reserved_bytes")
        if process is None or reserved is None:
            return None
        return process - reserved - (self.memory.get("mapped_resident_bytes", 0) if device == "cpu" else 0)

    def beside_parameters_bytes(self, device: str) -> int | None:
        """What the process would hold with every weight read, less its parameters and buffers."""
        process, parameters = self.process_bytes(device), self.memory.get("parameters_bytes")
        if process is None or parameters is None:
            return None
        return process + self.unread_bytes(device) - parameters


@dataclass(frozen=True)
class Try:
    """One call on a batch, the first of its worker."""

    batch: int
    fits: bool
    seconds: float
    """With starting the worker and loading."""
    peak_bytes: int | None = None
    """Of the process during the call on the CPU; on a GPU the allocator's, or else of the process."""
    stored_bytes: int | None = None
    """What letting go of the outputs frees; for a backend that also runs with gradients."""


@dataclass(frozen=True)
class Largest(Entry):
    """The largest batch at one length within a limit."""

    length: int = 0
    limit_bytes: int = 0
    taken_bytes: int | None = None
    """Of the limit, by the loaded model alone."""
    boundary: Boundary | None = None
    tries: list[Try] = field(default_factory=list)

    @property
    def peak_bytes_per_sequence(self) -> float | None:
        """By which the peak of a call grows for one more sequence; None where that is not known."""
        return _slope([(one.batch, one.peak_bytes) for one in self.tries if one.fits])

    @property
    def stored_bytes_per_sequence(self) -> float | None:
        """By which what a call's outputs keep allocated grows for one more sequence."""
        return _slope([(one.batch, one.stored_bytes) for one in self.tries if one.fits])

    @property
    def has_gradients(self) -> bool:
        """True for a variant that runs with autograd on."""
        return self.variant == "grad"


def _slope(readings: list[tuple[int, int | None]]) -> float | None:
    """Bytes a sequence between the largest batch and the one next to its half, so that what does not grow cancels."""
    found = {batch: count for batch, count in readings if count is not None}
    larger = max(found, default=0)
    smaller = max((batch for batch in found if 2 * batch <= larger), default=None)
    return None if smaller is None else (found[larger] - found[smaller]) / (larger - smaller)


@dataclass
class MemoryRun:
    """All that one call of `bench memory` found."""

    subjects: tuple[Subject, ...]
    device: str
    threads: int
    precisions: tuple[str, ...]
    task: str
    fingerprint: dict[str, Any]
    command: str
    started: str
    limit_bytes: int | None = None
    """None where no largest batch is looked for."""
    tf32: bool = field(default=False, kw_only=True)
    loaded: list[Loaded] = field(default_factory=list)
    largest: list[Largest] = field(default_factory=list)
    path: Path | None = None
    is_complete: bool = False

    @property
    def is_above_every_limit(self) -> bool:
        """True when no loaded model left anything of the limit, so that no batch was tried."""
        return bool(self.largest) and all(entry.status == "above-limit" for entry in self.largest)

    @property
    def exit_code(self) -> int:
        """2 when the limit held no loaded model, 1 when something failed or nothing was measured, else 0."""
        if self.is_above_every_limit:
            return 2
        entries: list[Entry] = [*self.loaded, *self.largest]
        failed = any(entry.status in ("failed", "timeout", "oom") for entry in entries)
        return 1 if failed or not any(entry.status == "ok" for entry in entries) else 0

    def header(self) -> dict[str, Any]:
        """The first line of the file."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "subjects": [asdict(subject) for subject in self.subjects],
            "device": self.device,
            "threads": self.threads,
            "precisions": self.precisions,
            "task": self.task,
            "limit_bytes": self.limit_bytes,
            "tf32": self.tf32,
            "fingerprint": self.fingerprint,
            "command": self.command,
            "started": self.started,
        }


def as_line(entry: Loaded | Largest) -> dict[str, Any]:
    """An entry as its line of the file."""
    return {"kind": "loaded" if isinstance(entry, Loaded) else "largest", **asdict(entry)}


def read_memory(path: Path) -> MemoryRun:
    """The run in a file; a torn last line is left out. Raises UserError when it is none."""
    header, *lines = read_lines(path, KIND, SCHEMA, WRITER)
    with damage_told(path):
        run = MemoryRun(
            subjects=tuple(map(Subject.from_json, header["subjects"])),
            path=path,
            tf32=header.get("tf32", False),
            **{name: header[name] for name in _OF_THE_HEADER},
        )
        run.precisions = tuple(run.precisions)
        _check_header(run)
        for line in lines:
            kind, values = line["kind"], {name: value for name, value in line.items() if name != "kind"}
            if kind == "loaded":
                run.loaded.append(_checked(Loaded(**values), run))
            elif kind == "largest":
                boundary = Boundary(**values["boundary"]) if values["boundary"] else None
                tries = [Try(**one) for one in values["tries"]]
                run.largest.append(_checked(Largest(**{**values, "boundary": boundary, "tries": tries}), run))
            elif kind == "end":
                run.is_complete = True
    return run


_OF_THE_HEADER = ("device", "threads", "precisions", "task", "limit_bytes", "fingerprint", "command", "started")


def _check_header(run: MemoryRun) -> None:
    texts = [run.device, run.task, run.command, run.started, *(subject.name for subject in run.subjects)]
    texts += [subject.origin for subject in run.subjects]
    if not all(isinstance(text, str) for text in texts) or not isinstance(run.fingerprint, dict):
        raise TypeError("a header that holds no text or no fingerprint")
    if not isinstance(run.tf32, bool):
        raise TypeError("a header that says of TF32 neither yes nor no")
    if not run.subjects or not set(run.precisions) <= set(BYTES_PER_ELEMENT):
        raise ValueError("no model, or an unknown precision")
    cached = [asdict(subject.cached).values() for subject in run.subjects if subject.cached]
    numbers = [number for group in cached for number in group] + [n for s in run.subjects for n in s.lengths]
    if not all(map(is_count, numbers)) or not (run.limit_bytes is None or is_count(run.limit_bytes)):
        raise TypeError("a header that holds no numbers")
    if not all(subject.positions is None or is_count(subject.positions) for subject in run.subjects):
        raise TypeError("positions that are no number")


def _checked(entry: AnyEntry, run: MemoryRun) -> AnyEntry:
    """`entry`; raises ValueError or TypeError where it holds what no measurement gives."""
    if entry.model not in {subject.name for subject in run.subjects} or entry.precision not in run.precisions:
        raise ValueError(f"an entry of {entry.model} at {entry.precision}, which is not planned")
    if entry.status not in STATUSES:
        raise ValueError(f"unknown status {entry.status!r}")
    if not all(isinstance(text, str) for text in (entry.backend, entry.variant, entry.reason, entry.environment)):
        raise TypeError("a name or reason that is no text")
    if not is_count(entry.copy) or not entry.copy:
        raise ValueError("a copy without its number")
    counts: list[object] = []
    numbers: list[object] = []
    if isinstance(entry, Loaded):
        counts += [*entry.memory.values(), *entry.before.values()]
        numbers += [entry.load_seconds]
        if not all(isinstance(text, str) for text in entry.versions.values()):
            raise TypeError("a version that is no text")
    elif isinstance(entry, Largest):
        counts += [entry.length, entry.limit_bytes, entry.taken_bytes]
        counts += [entry.boundary.largest, entry.boundary.too_large] if entry.boundary else []
        counts += [count for one in entry.tries for count in (one.batch, one.peak_bytes)]
        numbers += [number for one in entry.tries for number in (one.seconds, one.stored_bytes)]
        if entry.status == "ok" and entry.boundary is None:
            raise ValueError("a search without an outcome")
    if not all(count is None or is_count(count) for count in [*counts, entry.failure.get("requested_bytes")]):
        raise TypeError("bytes or a batch that are no count")
    if not all(number is None or isinstance(number, int | float) for number in numbers):
        raise TypeError("a figure that is no number")
    return entry
