"""Flat figures that claims are judged by, and no word of the files that they come from; see bench/study/reading.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import statistics
from bench.statistics import Interval, Ratio

CPU, CUDA = "cpu", "cuda"
#: Kinds of a timed cell: one padded batch of one length, or whole passes over sentences.
SHAPES, CORPUS = "shapes", "corpus"
#: Claims are judged at this precision alone, which is that of the old figures.
PRECISION = "fp32"


@dataclass(frozen=True)
class Source:
    """One file, as far as the page tells of it."""

    path: str
    writer: str
    """The command that wrote it, e.g. "bench compare"."""
    command: str
    started: str
    model: str
    device: str
    threads: int
    fingerprint: Mapping[str, Any] = field(repr=False)
    is_complete: bool

    @property
    def hardware(self) -> str:
        """Name of the card for a run on CUDA, else of the processor."""
        cards = self.fingerprint.get("gpus") or []
        if self.device == CUDA and cards:
            return str(cards[0].get("name", "a GPU without a name"))
        return str(self.fingerprint.get("cpu", "an unknown processor"))


@dataclass(frozen=True)
class Figure:
    """One cell of a run of forward passes."""

    source: Source
    kind: str
    """`SHAPES` or `CORPUS`."""
    model: str
    backend: str
    """`backend` or `backend:variant`."""
    precision: str
    batch: int
    length: int | None
    """In tokens; None for sentences, whose lengths vary."""
    order: str | None
    """Of the sentences; None for a padded batch."""
    status: str
    rounds_ms: tuple[tuple[float, ...], ...] = ()
    """Samples by round: milliseconds of one call, for `CORPUS` of one sentence."""
    is_interleaved: bool = True
    """Timed in turns with the other backends of its source."""
    is_disturbed: bool = False
    fault: str = ""
    """Why no claim may rest on its time; "" if one may."""
    naive_ms: float | None = None
    """Median of a clock that never waited for the device; None if none was read."""
    peak_bytes: int | None = None
    """The most that was held during one call: by the allocator of a GPU, else resident."""

    @property
    def device(self) -> str:
        """Where it ran."""
        return self.source.device

    @property
    def is_usable(self) -> bool:
        """True if it was timed, and its time is that of the same model."""
        return self.status == "ok" and not self.fault and bool(self.rounds_ms)

    @property
    def place(self) -> tuple[int, int | None, str | None]:
        """Batch, length and order."""
        return self.batch, self.length, self.order

    @property
    def ms(self) -> float:
        """Median milliseconds of one call, for `CORPUS` of one sentence."""
        return statistics.median(statistics.pooled(self.rounds_ms))

    @property
    def interval_ms(self) -> Interval | None:
        """Interval of `ms`; None with a single round."""
        return statistics.median_interval(self.rounds_ms)

    @property
    def sample_rounds_ms(self) -> tuple[tuple[float, ...], ...]:
        """Milliseconds a sample, by round."""
        samples = self.batch if self.kind == SHAPES else 1
        return tuple(tuple(ms / samples for ms in round_) for round_ in self.rounds_ms)

    @property
    def ms_per_sample(self) -> float:
        """Median milliseconds a sample."""
        return statistics.median(statistics.pooled(self.sample_rounds_ms))

    @property
    def sample_interval_ms(self) -> Interval | None:
        """Interval of `ms_per_sample`; None with a single round."""
        return statistics.median_interval(self.sample_rounds_ms)


@dataclass(frozen=True)
class Generation:
    """One candidate of `bench generate` at one batch."""

    source: Source
    model: str
    backend: str
    precision: str
    batch: int
    new_tokens: int
    decoding: str
    status: str
    way: str = "cache"
    """Of `bench.process.loop.WAYS`."""
    rounds_ms: tuple[tuple[float, ...], ...] = ()
    """Of a whole generation."""
    step_rounds_ms: tuple[tuple[float, ...], ...] = ()
    """Of one decoding step behind the first token."""
    is_disturbed: bool = False
    fault: str = ""

    @property
    def is_usable(self) -> bool:
        """True if it was timed, and its time is that of the same model."""
        return self.status == "ok" and not self.fault and bool(self.rounds_ms)

    @property
    def is_of_single_steps(self) -> bool:
        """True if a decoding step is a pass over one token of each prompt."""
        return self.way == "cache" and self.decoding != "beam"


@dataclass(frozen=True)
class Held:
    """Bytes of one model on one backend, once it is loaded and before any input."""

    source: Source
    model: str
    backend: str
    precision: str
    parameters_bytes: int
    """Parameters and buffers."""
    process_bytes: int | None = None
    """Of the device's memory on CUDA, else resident; None if it was not read."""
    context_bytes: int | None = None
    """Beside the allocator's reserve: the runtime's own."""


@dataclass(frozen=True)
class Stored:
    """What autograd keeps of one sequence until the backward pass, in bytes."""

    source: Source
    model: str
    length: int
    bytes_per_sequence: float


@dataclass(frozen=True)
class Cached:
    """Keys and values of one sequence in fp32, by formula, in bytes."""

    model: str
    length: int
    bytes_per_sequence: int


@dataclass(frozen=True)
class Figures:
    """All that the files hold and a claim may ask for."""

    sources: tuple[Source, ...] = ()
    cells: tuple[Figure, ...] = ()
    generations: tuple[Generation, ...] = ()
    held: tuple[Held, ...] = ()
    stored: tuple[Stored, ...] = ()
    cached: tuple[Cached, ...] = ()

    def padded(self, model: str, batch: int, length: int, backend: str = "eager", device: str = CUDA) -> Figure | None:
        """The cell of one padded batch, one with a time before one without; None if no run has it."""
        found = [
            cell
            for cell in self.cells
            if (cell.kind, cell.model, cell.batch, cell.length) == (SHAPES, model, batch, length)
            and (cell.backend, cell.device, cell.precision) == (backend, device, PRECISION)
            and not cell.fault
        ]
        return max(found, key=lambda cell: (cell.is_usable, not cell.is_disturbed, len(cell.rounds_ms)), default=None)

    def held_by_eager(self, model: str, device: str | None = None) -> Held | None:
        """What eager holds of `model`; an entry with the runtime's context before one without."""
        found = [
            held
            for held in self.held
            if (held.model, held.backend, held.precision) == (model, "eager", PRECISION)
            and device in (None, held.source.device)
        ]
        known = [(held.context_bytes is not None, held.process_bytes is not None) for held in found]
        return found[known.index(max(known))] if found else None

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.sources + other.sources,
            self.cells + other.cells,
            self.generations + other.generations,
            self.held + other.held,
            self.stored + other.stored,
            self.cached + other.cached,
        )


def times_faster(slow: Figure, fast: Figure) -> Ratio | None:
    """Time a sample of `slow` over that of `fast`; within rounds if both were timed in turns, else of medians apart.

    None if nothing gives an interval.
    """
    in_turns = slow.is_interleaved and fast.is_interleaved
    if slow.source == fast.source and slow.place == fast.place and in_turns:
        ratio = statistics.ratio_within_rounds(slow.sample_rounds_ms, fast.sample_rounds_ms)
    else:
        ratio = statistics.ratio_of_runs(slow.sample_rounds_ms, fast.sample_rounds_ms)
    return None if ratio is None or ratio.interval is None else ratio
