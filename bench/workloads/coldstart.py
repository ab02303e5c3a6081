"""From starting a process to its first output: what a service that scales from zero makes its first user wait for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench import options
from bench.columns import Column, Section, percent
from bench.machine import pagecache, threads
from bench.options import CommonOptions, option
from bench.parity import inputs
from bench.parity.cell import Cell
from bench.parity.inputs import InputPlan
from bench.run import columns, sections
from bench.run.record import Record, Run
from bench.run.schedule import Enough, Grid, Schedule
from bench.run.workload import Workload
from bench.spec import Shape, check_lengths

if TYPE_CHECKING:
    from bench.parity.reference import Inputs
    from exporters.sources import ModelSource

CACHES = ("warm", "evicted")
PARTS = ("import", "load", "first")


def caches(value: Any, name: str) -> tuple[str, ...]:
    """`warm,evicted`, or one of them."""
    found = options.names(value, name)
    return tuple(options.one_of(CACHES)(one, name) for one in found)


@dataclass(frozen=True, kw_only=True)
class ColdStartOptions(CommonOptions):
    """Options of `bench coldstart`."""

    command: ClassVar[str] = "coldstart"
    summary: ClassVar[str] = "Time from starting a process to its first output: import, load, first call."

    batch: int = option("Sequences of the first call.", options.whole(1, 100_000, 1), default=1)
    length: int = option("Tokens of each.", options.whole(1, 1_000_000, 16), default=16)
    caches: tuple[str, ...] = option("Page cache at the start: warm, or evicted file by file.", caches, default=CACHES)
    rounds: int = option("Starts of each candidate.", options.whole(1, 1000, 5), default=5)


@dataclass(frozen=True, order=True)
class Start:
    """The state of the page cache when the process starts."""

    cache: str

    def __str__(self) -> str:
        return f"{self.cache} page cache"


class ColdStart(Workload):
    """Every turn starts a process of its own."""

    name = "coldstart"
    Options = ColdStartOptions
    point_type = Start
    point_noun = "cache"
    cell = "bench.workloads.coldstart:ColdStartCell"
    fresh_process = True
    columns: ClassVar[tuple[Column, ...]] = (
        *columns.point_columns(Start),
        *columns.TIMES,
        *(
            Column(f"{part}_ms", columns.median_ms(part), f"{part} ms", columns.ms, help=f"median of {part} alone, ms")
            for part in PARTS
        ),
        *columns.SPEEDUP,
        columns.PARITY,
        columns.MAX_ABS_ERROR,
        Column("cached_share", lambda run, record: cached_share(record), help="of the evicted files, still cached"),
    )

    options: ColdStartOptions

    @classmethod
    def settle(cls, options: ColdStartOptions, source: ModelSource) -> ColdStartOptions:
        check_lengths([Shape(options.batch, options.length)], source.name, source.positions)
        return options

    def points(self) -> Sequence[Start]:
        return [Start(cache) for cache in self.options.caches]

    def schedule(self) -> Schedule:
        return Grid(lambda point: Enough(self.options.rounds))

    def begin(self, point: Start, source: ModelSource) -> dict[str, Any]:
        return {"plan": self._plan(source).to_json()}

    def before_start(self, point: Start, folders: Sequence[Path]) -> dict[str, Any]:
        return dict(pagecache.evict(folders)) if point.cache == "evicted" else {}

    def cases(self, point: Start, source: ModelSource) -> Mapping[str, Inputs]:
        from bench.parity.reference import Inputs

        return {f"{self.options.batch}×{self.options.length}": Inputs(self._plan(source))}

    def _plan(self, source: ModelSource) -> InputPlan:
        return inputs.plan_of(source, self.options.batch, self.options.length, self.options.seed, ("timed",))

    def heading(self, run: Run) -> Iterable[str]:
        yield (
            f"from starting a process to its first output at {self.options.batch}×{self.options.length}, median of "
            "starts; import: interpreter and runtime; evicted: artifact and runtime read from the disk again"
        )

    def sections(self, run: Run) -> Iterable[Section]:
        return (sections.fastest_at(run, point, records) for point, records in sections.iter_points(run))

    def warnings(self, run: Run, record: Record) -> Iterable[str]:
        if (share := cached_share(record)) is not None and share > 0.01:
            yield f"{percent(share)} of the evicted files stayed cached, as a process maps them; end it"


def cached_share(record: Record) -> float | None:
    """What of the files stayed in the page cache although it was asked to drop them; the most of all turns."""
    found = [turn.figures for turn in record.turns if turn.figures.get("file_bytes")]
    return max((one["cached_bytes"] / one["file_bytes"] for one in found), default=None)


class ColdStartCell(Cell):
    """Makes the first call of its process."""

    def begin(self, plan: dict[str, Any]) -> dict[str, Any]:
        batch, called_ns = self.batch(InputPlan.from_json(plan)), time.monotonic_ns()
        call = partial(self.backend.run, self.backend.prepare(batch))
        call()
        self.backend.synchronize()
        ended_ns, args = time.monotonic_ns(), self.args
        parts = {"import": args.import_ns, "load": args.load_ns, "first": ended_ns - called_ns}
        self.times = {"wall": [ended_ns - args.started], **{part: [spent] for part, spent in parts.items()}}
        self.facts_before = self.backend.facts()
        return {"once": {"first_call_ns": parts["first"]}, "facts": self.facts_before}

    def turn(self) -> dict[str, Any]:
        spent = {"cpu_seconds": time.process_time(), "queue_delay_seconds": threads.queue_delay_seconds({})}
        return {"times_ns": self.times, **spent}
