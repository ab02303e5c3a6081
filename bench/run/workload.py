"""What a workload says of itself; the pipeline knows nothing else of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.columns import Column, Section
from bench.options import CommonOptions
from bench.run import leads
from bench.run.columns import COMMON_COLUMNS
from bench.run.record import WALL, Point, Record, Run, Turn
from bench.run.sections import outcome
from bench.spec import check_lengths

if TYPE_CHECKING:
    from backends.base import Backend
    from bench.machine.roofline import Peaks
    from bench.parity.reference import Inputs
    from bench.parity.verdict import Tolerance
    from bench.process.channel import WorkerError
    from bench.run.preparation import Loading, Preparation
    from bench.run.schedule import Schedule
    from bench.spec import Candidate, Shape
    from exporters.sources import ModelSource


class Workload(ABC):
    """What is measured, at which points, in which order, and how its records read.

    An instance holds the settled options of one run and nothing that changes while it goes on. Its module imports
    nothing heavy, since the parent and workers of other environments import it too.
    """

    name: ClassVar[str]
    Options: ClassVar[type[CommonOptions]] = CommonOptions
    point_type: ClassVar[type]
    """A frozen dataclass with a `__str__`; its fields are columns."""
    columns: ClassVar[tuple[Column, ...]] = ()
    """Beside those that every workload has, in the order of its tables."""
    plotted: ClassVar[tuple[str, ...]] = ()
    """Names of the columns that the page plots over the points; the first with a title if empty."""
    cell: ClassVar[str]
    """The class of its worker side, e.g. "bench.workloads.forward:ForwardCell"."""
    fresh_process: ClassVar[bool] = False
    """True if every turn needs a worker process of its own, with no other one alive."""
    point_noun: ClassVar[str] = "point"
    call_nouns: ClassVar[tuple[str, str]] = ("call", "calls")
    """What a sample times, one and several."""
    point_title: ClassVar[str] = ""
    """Heading of a column of points; the noun if empty."""
    headline: ClassVar[str] = WALL
    """The kind of time by which cells of two runs are compared."""
    moments: ClassVar[tuple[str, ...]] = ()
    """Kinds of time that are moments after a turn's start, which can lie before it; all others are durations."""
    decisive: ClassVar[tuple[str, ...]] = ()
    """Options of its own that two runs must share for their times to be compared."""
    has_roofline: ClassVar[bool] = False
    """True if medians are held against this machine's peaks, which are measured before the run."""
    export_seconds: ClassVar[float] = math.inf
    """Seconds after which an export is given up, if that is sooner than --timeout has it."""
    tells_early: ClassVar[bool] = False
    """True if a first figure is told as soon as a candidate is at hand, and the machine's peaks are measured later."""
    roofline_kind: ClassVar[str] = WALL
    """The kind of time that the roofline bounds."""

    def __init__(self, options: Any) -> None:
        self.options = options

    # Before anything starts.

    @classmethod
    def weighed(cls, options: Any) -> Any:
        """Options with the weights of points that a file of traffic gives, if they name one; raises UserError."""
        return options

    @classmethod
    def settle(cls, options: Any, source: ModelSource) -> Any:
        """Options with what depends on the model in place; raises UserError for what the model cannot do."""
        return options

    @classmethod
    def candidates(cls, options: Any, found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        """The candidates of a run, from those that its options name."""
        return found

    @classmethod
    def variants_of(cls, backend: Any) -> Mapping[str, Any]:
        """Variants of a backend's class that can be asked for."""
        variants: Mapping[str, Any] = backend.spec.variants
        return variants

    def check_unchanged(self, source: ModelSource) -> None:  # noqa: B027 - most inputs come from options alone
        """Raise UserError if a run cannot go on as it was begun, e.g. as a file of its inputs changed."""

    # What is measured.

    @abstractmethod
    def points(self) -> Sequence[Point]:
        """Points that are known before the run begins, in order."""

    def first_points(self) -> Sequence[Point]:
        """Points whose references are made before anything is timed; those of others when they begin."""
        return self.points()

    def in_order(self) -> Sequence[Point]:
        """All points in the order in which they are begun, if no budget thins them."""
        return self.points()

    def referenced_with(self, point: Point) -> Sequence[Point]:
        """Points whose references are made together with those of `point`, as each time starts two processes."""
        return [point]

    @abstractmethod
    def schedule(self) -> Schedule:
        """Which turn comes next; asked for once a run."""

    @abstractmethod
    def begin(self, point: Point, source: ModelSource) -> dict[str, Any]:
        """What a worker prepares and warms up; keywords of the cell's `begin`."""

    def turn(self, point: Point, candidate: Candidate, taken: Sequence[Turn]) -> dict[str, Any]:
        """What a worker times next after the turns `taken`; keywords of the cell's `turn`."""
        return {}

    def is_larger(self, point: Point, than: Point) -> bool:
        """True if a candidate that ran out of memory at `than` will at `point` too."""
        return False

    @property
    def is_open_ended(self) -> bool:
        """True if what is measured decides which points follow, so that their number is not known beforehand."""
        return False

    def guessed_seconds(self, point: Point, source: ModelSource, peaks: Peaks | None) -> float:
        """Rough seconds that one candidate takes at `point`, for the plan, the progress and the budget."""
        return 5.0

    def shape_of(self, point: Point) -> Shape | None:
        """Batch and length of the largest call at `point`, by which its memory is foreseen; None if unknown."""
        return None

    def loading(
        self, candidate: Candidate, backend: type[Backend], source: ModelSource, metadata: Mapping[str, Any]
    ) -> Loading:
        """How a candidate is loaded; `metadata` is the checkpoint's, empty before it is made."""
        from bench.run.preparation import Loading

        return Loading(backend.spec.format_of(candidate.variant))

    def check_positions(self, positions: int | None, model: str) -> None:
        """Raise UserError for a length beyond the positions that only the built model tells."""
        shapes = [shape for point in self.points() if (shape := self.shape_of(point)) is not None]
        if shapes:
            check_lengths(shapes, model, positions)

    def tokenizer(self, source: ModelSource) -> Path | None:
        """File that judged cases of text are tokenised with; None without such cases."""
        return None

    def before_start(self, point: Point, folders: Sequence[Path]) -> dict[str, Any]:
        """What is done before a turn's process starts, which reads `folders`; returns figures of the turn."""
        return {}

    def load_options(self, point: Point, candidate: Candidate) -> dict[str, Any]:
        """Options for the backend's `load`, beside the variant's; asked for if every turn has a process of its own."""
        return {}

    def survived(
        self, point: Point, candidate: Candidate, taken: Sequence[Turn], error: WorkerError
    ) -> dict[str, Any] | None:
        """The reply of a turn that ended in `error`, if that is a finding and not a failure of the cell; else None.

        `taken` are the turns before it; `error.details["during"]` is "load" if the model was not loaded yet.
        """
        return None

    # What it is judged by.

    def cases(self, point: Point, source: ModelSource) -> Mapping[str, Inputs]:
        """What is judged at `point`, by name: all that references are computed on. Equal names mean equal inputs."""
        return {}

    def judged(self, point: Point, candidate: Candidate) -> Mapping[str, Any]:
        """Further keywords of the cell's `judge`."""
        return {}

    def parity(self, reply: Mapping[str, Any], tolerance: Tolerance) -> dict[str, Any]:
        """The record's parity from the reply of the cell's `judge`."""
        from bench.parity.verdict import worst_case

        return worst_case(reply["cases"], tolerance)

    def memory(self, point: Point, candidate: Candidate, source: ModelSource) -> dict[str, Any]:
        """Figures of memory that a formula gives."""
        return {}

    def least_work(self, record: Record) -> tuple[int, int]:
        """Operations, and bytes that must be read, of what the roofline bounds; `record` has counted operations."""
        return record.operations["flops"], record.operations["weight_bytes"]

    def conclude(self, run: Run, prepared: Preparation) -> Mapping[str, Any]:
        """What is found out once every cell has its record and all workers are gone; the run notes it."""
        return {}

    # What is said of it.

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """Columns of CSV and JSON: those of every workload, then its own."""
        own = {column.name for column in self.columns}
        return (*(column for column in COMMON_COLUMNS if column.name not in own), *self.columns)

    def table_title(self, record: Record) -> str | None:
        """Title of the table that a record's row stands in; records of one title share one. None for no row."""
        return str(record.point)

    def row_title(self, point: Point) -> str:
        """How a point is named in a row of a table that has several."""
        return str(point)

    def sections(self, run: Run) -> Iterable[Section]:
        """What its report has beside the common sections."""
        return ()

    def answer(self, run: Run) -> str:
        """The answer of a run in one sentence, as the page begins."""
        return leads.headline(run)

    def heading(self, run: Run) -> Iterable[str]:
        """Lines above the tables, behind model and machine."""
        return ()

    def warnings(self, run: Run, record: Record) -> Iterable[str]:
        """Warnings of its own on one record."""
        return ()

    def unmet(self, record: Record) -> list[str]:
        """Stopping criteria that sampling of a cell ended without."""
        return []

    def notes(self, source: ModelSource) -> Mapping[str, Any]:
        """What a run of it notes of itself before it begins, as JSON types."""
        return {}

    def is_left_out(self, record: Record) -> bool:
        """True for a planned cell that turned out not to be wanted; reports leave it out."""
        return False

    def is_in_tables(self, record: Record) -> bool:
        """False for a record that only sections tell of."""
        return True

    def plan(self, run: Run) -> Iterable[str]:
        """Lines for the plan of a run, beside the number of its cells."""
        return ()

    def progress(self, run: Run, record: Record) -> str:
        """What a record came to, in a few words."""
        return outcome(run, record)

    def repeated(self, point: Point, candidate: Candidate) -> CommonOptions:
        """The options that measure one cell again."""
        options: CommonOptions = self.options
        pythons = tuple(one for one in options.python if one.partition("=")[0] == candidate.place)
        return replace(
            options, backends=(candidate.label,), precisions=(candidate.precision,), python=pythons, budget=None,
            baseline=None, **self.narrowed(point),
        )  # fmt: skip

    def narrowed(self, point: Point) -> dict[str, Any]:
        """The options that differ where one point alone is measured: those that its fields, or their plurals, name."""
        declared = {one.name for one in self.options.declared()}
        values = {field.name: getattr(point, field.name) for field in fields(point)}
        found = {name: value for name, value in values.items() if name in declared}
        for name, value in values.items():
            found |= {plural: (value,) for plural in (f"{name}s", f"{name}es") if plural in declared}
        return found

    def exit_code(self, run: Run) -> int:
        """What the command ends with."""
        return exit_code_of(run.records)


def exit_code_of(records: Sequence[Record]) -> int:
    """3 if something is broken, 0 if all that was measured is equivalent or better, else 1; cells that the machine or
    the runtime cannot do are findings and not failures, as long as some cell was measured.
    """
    if any(record.verdict == "broken" for record in records):
        return 3
    measured = [record for record in records if record.status == "ok"]
    failed = any(record.status in ("failed", "timeout") for record in records)
    sound = all(record.is_comparable or not record.is_judged for record in measured)
    return 0 if measured and not failed and sound else 1
