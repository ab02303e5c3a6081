"""What a workload says of itself; the pipeline knows nothing else of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from bench.columns import Column, Section
from bench.options import CommonOptions
from bench.run.columns import COMMON_COLUMNS
from bench.run.record import Point, Record, Run, Turn, exit_code_of

if TYPE_CHECKING:
    from bench.parity.reference import Inputs
    from bench.parity.verdict import Tolerance
    from bench.process.channel import WorkerError
    from bench.run.schedule import Schedule
    from bench.spec import Candidate
    from exporters.sources import ModelSource


class Workload(ABC):
    """What is measured, at which points, in which order, and how its records read.

    An instance holds the settled options of one run and nothing that changes while it goes on. It imports nothing heavy,
    since workers of other environments import it too.
    """

    name: ClassVar[str]
    Options: ClassVar[type[CommonOptions]] = CommonOptions
    point_type: ClassVar[type]
    """A frozen dataclass with a `__str__`; its fields are columns."""
    columns: ClassVar[tuple[Column, ...]] = ()
    """Beside those that every workload has, in the order of its tables."""
    cell: ClassVar[str]
    """The class of its worker side, e.g. "bench.workloads.forward:ForwardCell"."""
    fresh_process: ClassVar[bool] = False
    """True if every turn needs a worker process of its own."""
    point_noun: ClassVar[str] = "point"

    def __init__(self, options: Any) -> None:
        self.options = options

    # Before anything starts.

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

    # What is measured.

    @abstractmethod
    def points(self) -> Sequence[Point]:
        """Points that are known before the run begins, in order."""

    @abstractmethod
    def schedule(self) -> Schedule:
        """Which turn comes next; asked for once a run."""

    @abstractmethod
    def begin(self, point: Point, source: ModelSource) -> dict[str, Any]:
        """What a worker prepares and warms up; keywords of the cell's `begin`."""

    @abstractmethod
    def turn(self, point: Point, candidate: Candidate, taken: Sequence[Turn]) -> dict[str, Any]:
        """What a worker times next after the turns `taken`; keywords of the cell's `turn`."""

    def is_larger(self, point: Point, than: Point) -> bool:
        """True if a candidate that ran out of memory at `than` will at `point` too."""
        return False

    def load_options(self, candidate: Candidate) -> dict[str, Any]:
        """Options for the backend's `load`, beside the variant's."""
        return {}

    def survived(self, point: Point, candidate: Candidate, error: WorkerError) -> dict[str, Any] | None:
        """The reply of a turn that ended in `error`, if that is a finding and not a failure of the cell; else None."""
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

    # What is said of it.

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """Columns of CSV and JSON: those of every workload, then its own."""
        own = {column.name for column in self.columns}
        return (*(column for column in COMMON_COLUMNS if column.name not in own), *self.columns)

    def sections(self, run: Run) -> Iterable[Section]:
        """What its report has beside the common sections."""
        return ()

    def heading(self, run: Run) -> Iterable[str]:
        """Lines above the tables, behind model and machine."""
        return ()

    def warnings(self, run: Run, record: Record) -> Iterable[str]:
        """Warnings of its own on one record."""
        return ()

    def progress(self, record: Record) -> str:
        """What a record came to, in a few words."""
        return record.status

    def repeated(self, point: Point, candidate: Candidate) -> CommonOptions:
        """The options that measure one cell again."""
        options: CommonOptions = self.options
        return replace(
            options, backends=(candidate.label,), precisions=(candidate.precision,), budget=None, baseline=None
        )

    def exit_code(self, run: Run) -> int:
        """What the command ends with."""
        return exit_code_of(run.records)
