"""Memory: `bench memory` reads what a loaded model holds, and searches for the largest batch that fits beside it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from bench import machine, options
from bench.columns import Column, Section
from bench.errors import UserError
from bench.machine import gpu, memory
from bench.options import CommonOptions, option
from bench.parity import inputs
from bench.parity.cell import Cell
from bench.parity.inputs import InputPlan
from bench.process import abilities
from bench.run import batch_search, columns, held
from bench.run.batch_search import BatchSearch, Boundary
from bench.run.held import GIB, MIB, mebibytes
from bench.run.record import Record, Run, Turn
from bench.run.schedule import OpenCell, Schedule
from bench.run.workload import Workload
from bench.spec import Candidate, Shape, check_lengths
from bench.workloads import published
from bench.workloads.forward import with_gradients

if TYPE_CHECKING:
    from bench.machine.roofline import Peaks
    from bench.process.channel import WorkerError
    from exporters.sources import ModelSource

DEFAULT_LENGTH = 512
MOST_BATCH = 1_000_000
#: Share of what is free that the limit leaves alone unless the user gives one, and the least of it: the system, this
#: process, and on a GPU the context, which no allocator counts.
MARGIN_SHARE, MARGIN_BYTES = 0.1, {"cpu": 512 * MIB, "cuda": GIB}
#: What the limit counts.
LIMITS = {
    "cpu": "The limit bounds the worker's private writable memory (RLIMIT_DATA): heap, mapped weights and stacks, not "
    "the code of libraries",
    "cuda": "The limit bounds what the runtime's allocator takes of the GPU; context and kernels come on top",
}
#: Signals by which a process ends itself; another, such as SIGKILL, came from outside.
ENDED_ITSELF = ("SIGABRT", "SIGSEGV", "SIGBUS")
NO_BATCH_FITS_EXIT_CODE = 2
#: Rough seconds of one try, and tries of one search.
TRY_SECONDS, TRIES = 8.0, 15


def limit(value: Any, name: str) -> int:
    """`8GiB`, or a number of bytes above 0."""
    if (found := options.size_bytes(value, name)) < 1:
        raise UserError(f"{name} {str(value)[:40]!r} must be positive; write e.g. {name} 8GiB")
    return found


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(CommonOptions):
    """Options of `bench memory`."""

    command: ClassVar[str] = "memory"
    summary: ClassVar[str] = (
        "Memory of a loaded model: parameters, allocator, process, runtime context; keys and values; the largest batch."
    )

    lengths: tuple[int, ...] = option(
        "Lengths in tokens, of keys and values and of the search.", options.sizes, default=(), aliases=("--length",),
        default_shown="512 as far as the model goes",
    )  # fmt: skip
    largest_batch: bool = option(
        "Also find the largest batch that fits, with and without gradients.", options.flag, default=False
    )
    memory_limit: int | None = option(
        "What a worker may hold in that search, e.g. 8GiB.", limit, default=None, metavar="SIZE",
        default_shown="what is free, less a margin",
    )  # fmt: skip
    max_batch: int = option(
        "Largest batch that is tried.", options.whole(1, MOST_BATCH, 4096), default=4096, aliases=("--most-batch",)
    )
    max_seconds_per_search: float = option(
        "Time after which no further batch is tried, per backend and length.", options.seconds(example="15m"),
        default=900.0, show=options.shown_seconds,
    )  # fmt: skip


@dataclass(frozen=True)
class Extent:
    """The loaded model before any input, or the search for the largest batch at a length in tokens."""

    length: int | None = None

    def __str__(self) -> str:
        return "loaded" if self.length is None else f"length {self.length}"


def settled_limit(asked: int | None, kind: str) -> int:
    """Bytes that a worker may hold; raises UserError for a limit that this machine cannot grant."""
    if kind == "cuda":
        cards = machine.gpus()
        free = int(cards[0]["free_bytes"]) if cards else 0
    else:
        free = machine.available_memory_bytes()
    if asked is None:
        margin = max(round(free * MARGIN_SHARE), MARGIN_BYTES[kind])
        if free <= margin:
            raise UserError(f"only {free / GIB:.1f} GiB of memory are free; close something, or use --memory-limit")
        return free - margin
    if asked > free:
        raise UserError(
            f"--memory-limit {asked / GIB:.1f} GiB is above the {free / GIB:.1f} GiB that are free now, so the machine "
            "could swap or kill; use less, or leave it out"
        )
    return asked


class Memory(Workload):
    """Every candidate once loaded, then its search at every length."""

    name = "memory"
    Options = MemoryOptions
    point_type = Extent
    cell = "bench.workloads.memory:MemoryCell"
    fresh_process = True
    columns: ClassVar[tuple[Column, ...]] = (
        *columns.point_columns(Extent),
        *held.COLUMNS,
        columns.option("memory_limit"),
        *batch_search.columns(lambda run, record: run.workload.boundary(record)),  # type: ignore[attr-defined]
        Column("key_value_bytes_per_sequence", lambda run, record: record.memory.get("key_value_bytes_per_sequence")),
    )

    options: MemoryOptions

    @classmethod
    def settle(cls, options: MemoryOptions, source: ModelSource) -> MemoryOptions:
        lengths = options.lengths or (min(DEFAULT_LENGTH, source.positions or DEFAULT_LENGTH),)
        check_lengths([Shape(1, length) for length in lengths], source.name, source.positions)
        if options.largest_batch and source.makes_inputs:
            raise UserError(
                f"{source.name} makes its inputs itself, so no batch of them can be chosen; leave --largest-batch out"
            )
        if not options.largest_batch and options.memory_limit is not None:
            raise UserError("--memory-limit bounds the search for the largest batch; add --largest-batch")
        settled = settled_limit(options.memory_limit, options.kind) if options.largest_batch else None
        return replace(options, lengths=lengths, memory_limit=settled)

    @classmethod
    def candidates(cls, options: MemoryOptions, found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        return with_gradients(found) if options.largest_batch else found

    def check_positions(self, positions: int | None, model: str) -> None:
        check_lengths([Shape(1, length) for length in self.options.lengths], model, positions)

    def notes(self, source: ModelSource) -> Mapping[str, Any]:
        cached = source.keys_and_values
        return {"keys_and_values": None if cached is None else asdict(cached)}

    def points(self) -> Sequence[Extent]:
        return [Extent(), *(Extent(length) for length in self.options.lengths if self.options.largest_batch)]

    def schedule(self) -> Schedule:
        return BatchSearch(self._is_done)

    def _is_done(self, point: Extent, cell: OpenCell) -> bool:
        return bool(cell.turns) if point.length is None else isinstance(self._next_step(cell.turns), Boundary)

    def _next_step(self, taken: Sequence[Turn]) -> int | Boundary:
        asked = self.options
        return batch_search.next_step(taken, asked.max_batch, asked.max_seconds_per_search)

    def _batch(self, taken: Sequence[Turn]) -> int:
        step = self._next_step(taken)
        return step if isinstance(step, int) else max(1, step.largest)

    def load_options(self, point: Extent, candidate: Candidate) -> dict[str, Any]:
        """On a GPU the runtime's allocator keeps the limit; on the CPU the kernel does, once the model is loaded."""
        if point.length is None or self.options.kind == "cpu":
            return {}
        import backends

        limits = backends.load_class(candidate.backend).spec.limits_device_memory
        return {"memory_limit_bytes": self.options.memory_limit} if limits else {}

    def begin(self, point: Extent, source: ModelSource) -> dict[str, Any]:
        if point.length is None:
            return {}
        plan = inputs.plan_of(source, 1, point.length, self.options.seed, ("timed",))
        return {"plan": plan.to_json(), "limit_bytes": self.options.memory_limit}

    def turn(self, point: Extent, candidate: Candidate, taken: Sequence[Turn]) -> dict[str, Any]:
        return {} if point.length is None else {"batch": self._batch(taken)}

    def survived(
        self, point: Extent, candidate: Candidate, taken: Sequence[Turn], error: WorkerError
    ) -> dict[str, Any] | None:
        """A try that ran out of memory does not fit. A process that died without saying why is tried once more; if it
        ends itself again, that is taken for want of memory: ONNX Runtime was seen to abort in `free` once an allocation
        was refused.
        """
        if point.length is None:
            return None
        figures = {"batch": self._batch(taken), "reason": error.reason, "failure": error.details}
        if batch_search.ran_out(error):
            is_above = error.details.get("during") == "load" or "taken_bytes" in error.details
            return {"figures": {**figures, "fits": False, "is_above_limit": is_above}}
        if not error.is_gone or error.status == "timeout":
            return None
        if not taken or taken[-1].figures["fits"] is not None:
            return {"figures": {**figures, "fits": None}}
        has_ended_itself = error.details.get("signal") in ENDED_ITSELF
        return {"figures": {**figures, "fits": False}} if has_ended_itself else None

    def is_larger(self, point: Extent, than: Extent) -> bool:
        return than.length is None

    def guessed_seconds(self, point: Extent, source: ModelSource, peaks: Peaks | None) -> float:
        return TRY_SECONDS if point.length is None else min(TRIES * TRY_SECONDS, self.options.max_seconds_per_search)

    def memory(self, point: Extent, candidate: Candidate, source: ModelSource) -> dict[str, Any]:
        cached = None if point.length is None else source.key_value_bytes(point.length, candidate.precision)
        return {} if cached is None else {"key_value_bytes_per_sequence": cached}

    def boundary(self, record: Record) -> Boundary | None:
        """Where the search of a record ended; None for a loaded model."""
        if record.point.length is None:
            return None
        return batch_search.boundary_of(record, self.options.max_batch, self.options.max_seconds_per_search)

    def narrowed(self, point: Extent) -> dict[str, Any]:
        is_loaded = point.length is None
        return {"largest_batch": False, "memory_limit": None} if is_loaded else {"lengths": (point.length,)}

    def exit_code(self, run: Run) -> int:
        """2 if the limit held no loaded model, 1 if something failed or nothing was measured, else 0."""
        ends = [found.ended_by for record in run.records if (found := self.boundary(record)) is not None]
        if ends and set(ends) == {"above-limit"}:
            return NO_BATCH_FITS_EXIT_CODE
        failed = any(record.status in ("failed", "timeout", "oom") for record in run.records)
        return 1 if failed or not any(record.status == "ok" for record in run.records) else 0

    # What is said of it.

    def table_title(self, record: Record) -> None:
        """Its sections have the tables."""

    def progress(self, run: Run, record: Record) -> str:
        found = self.boundary(record)
        if found is not None:
            return f"largest batch: {batch_search.bound(found)}"
        return f"{record.status}: {record.reason}" if record.reason else "loaded"

    def sections(self, run: Run) -> Iterable[Section]:
        loaded = [record for record in run.records if record.point.length is None]
        searched = [(record, found) for record in run.records if (found := self.boundary(record)) is not None]
        positions = run.model.positions
        yield from held.tables(run, loaded)
        yield held.explanation(run, loaded, published.memory_beside(run))
        yield held.keys_and_values(run, sorted({*self.options.lengths, *([positions] if positions else [])}))
        if searched:
            yield from batch_search.tables(run, searched, self.options.memory_limit or 0, LIMITS[self.options.kind])
            yield Section("With and without gradients", items=list(_with_gradients(run, searched)))
            yield batch_search.endings(run, searched)


def _with_gradients(run: Run, searched: Sequence[tuple[Record, Boundary]]) -> Iterator[str]:
    """What autograd stores for a sequence, against a call without it, and the published figure."""
    plain = {(record.point, record.candidate): (record, found) for record, found in searched}
    for record, found in searched:
        stored = batch_search.bytes_per_sequence(record, "stored_bytes")
        if record.candidate.variant != "grad" or stored is None:
            continue
        length, precision = record.point.length, record.candidate.precision
        line = f"at {length}, {precision}: with gradients a sequence stores {mebibytes(stored)} MiB"
        other = plain.get((record.point, replace(record.candidate, variant="default")))
        without = None if other is None else batch_search.bytes_per_sequence(other[0], "stored_bytes")
        if other is not None and without is not None:
            fit = f"{batch_search.bound(found)} against {batch_search.bound(other[1])} fit"
            line += f", without {mebibytes(without)}; {fit}"
        yield line + published.gradients_beside(run, length, precision)


class MemoryCell(Cell):
    """Keeps its process within a limit, and makes one call on a batch that may not fit."""

    def begin(self, plan: dict[str, Any] | None = None, limit_bytes: int | None = None) -> dict[str, Any]:
        """Raises OutOfMemoryError with "taken_bytes" if the loaded model leaves nothing of the limit."""
        from backends.base import OutOfMemoryError, UnsupportedError

        if plan is None or limit_bytes is None:
            return {}
        self.plan, on_cpu = InputPlan.from_json(plan), self.args.device == "cpu"
        if not on_cpu and not self.backend.spec.limits_device_memory:
            name = self.backend.spec.name
            raise UnsupportedError(f"{name} cannot be kept within a limit on {self.args.device}; leave it out")
        self.taken_bytes = memory.data_bytes() if on_cpu else abilities.held(self.backend).get("reserved_bytes")
        if self.taken_bytes is not None and self.taken_bytes >= limit_bytes:
            taken = f"{self.taken_bytes / MIB:.0f} MiB, and the limit is {limit_bytes / MIB:.0f} MiB"
            raise OutOfMemoryError(f"the loaded model alone takes {taken}", {"taken_bytes": self.taken_bytes})
        if on_cpu:
            memory.limit_data(limit_bytes)
        return {}

    def turn(self, batch: int | None = None) -> dict[str, Any]:
        """Figures of one call: "peak_bytes" during it, and "stored_bytes", which letting go of its outputs frees."""
        if batch is None:
            return {}
        backend = self.backend
        prepared = backend.prepare(inputs.make_batch(replace(self.plan, batch=batch), "timed"))
        backend.synchronize()
        abilities.reset_peak(backend)
        is_of_this_call = memory.set_peak_back()
        outputs = backend.run(prepared)
        backend.synchronize()
        found = {"taken_bytes": self.taken_bytes, "peak_bytes": self._peak_bytes(is_of_this_call)}
        # Against what is left afterwards and not what was there before: a first call also fills caches of the runtime.
        with_outputs = self._allocated_bytes()
        self.release(outputs)
        del outputs
        gc.collect()
        without = self._allocated_bytes()
        # What outputs hold says something only against a call with gradients.
        if "grad" in backend.spec.variants and with_outputs is not None and without is not None:
            found["stored_bytes"] = with_outputs - without
        figures = {name: count for name, count in found.items() if count is not None}
        return {"figures": {"batch": batch, "fits": True, **figures}}

    def _allocated_bytes(self) -> int | None:
        found = memory.heap_bytes() if self.args.device == "cpu" else abilities.held(self.backend)
        return found.get("allocated_bytes")

    def _peak_bytes(self, is_of_this_call: bool) -> int | None:
        """On the CPU resident bytes; on a GPU the allocator's, or what the driver says that the process holds."""
        if self.args.device == "cpu":
            return memory.resident_bytes().get("peak_process_bytes") if is_of_this_call else None
        own = abilities.held(self.backend).get("peak_allocated_bytes")
        return gpu.process_bytes(os.getpid()) if own is None else own
