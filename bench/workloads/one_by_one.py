"""What passes over a corpus are also held against: sentences one by one, in this run and in one on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import statistics
from bench.columns import DASH, Section, Table, factor
from bench.errors import UserError
from bench.packing import UNSORTED, Packing
from bench.run import columns, sections
from bench.run.record import WALL, Record, Run, Turn, is_unsteady, ratio_between
from bench.spec import Candidate

if TYPE_CHECKING:
    from exporters.sources import ModelSource

BATCH_1 = Packing(1, UNSORTED)
#: Ties with the fastest of all that its line names.
MOST_NAMED = 3


@dataclass(frozen=True)
class OneByOne:
    """Eager at batch 1, unsorted, in a run on the CPU over the same sentences."""

    candidate: Candidate
    rounds_ns: tuple[tuple[int, ...], ...]
    """Of whole passes, by turn."""
    verdict: str
    is_judged: bool
    cpu: str
    threads: int
    started: str

    @property
    def record(self) -> Record:
        """As a record."""
        turns = tuple(Turn(number, {WALL: list(round_)}) for number, round_ in enumerate(self.rounds_ns))
        parity = {"verdict": self.verdict} if self.verdict else {}
        return Record(BATCH_1, self.candidate, "ok", turns=turns, parity=parity, is_judged=self.is_judged)


def lengths_in(path: str) -> tuple[int, ...]:
    """Lengths of the sentences of a run, as --lengths-from names it; raises UserError."""
    options: Any = run_in(path, "--lengths-from").options
    lengths: tuple[int, ...] = options.corpus.lengths
    return lengths


def run_in(path: str, option: str) -> Run:
    """The run over a corpus in a file that `option` names; raises UserError for anything else."""
    from bench.run.file import read_run

    found = read_run(path)
    if found.workload.point_type is not Packing:
        raise UserError(f"{option} {path!r} is no run of bench corpus; give a file that it wrote")
    return found


def read(path: str, options: Any, source: ModelSource) -> OneByOne:
    """Eager at batch 1 of a run, held against settled `options`; raises UserError for another corpus or model."""
    other = run_in(path, "--cpu-run")
    theirs: Any = other.options
    if theirs.kind != "cpu":
        raise UserError(f"--cpu-run {path!r} was measured on {theirs.kind}; give a run on the CPU")
    for name, mine, its in (
        ("corpus", options.corpus.checksum, theirs.corpus.checksum),
        ("model", source.name, other.model.name),
        ("task", source.task, other.model.task),
        ("weights", source.origin.partition(";")[0], other.model.origin.partition(";")[0]),
        ("boundary", options.boundary, theirs.boundary),
        ("bucket", options.multiple(UNSORTED), theirs.multiple(UNSORTED)),
        ("precision", options.precisions[0], theirs.precisions[0]),
    ):
        if mine != its:
            raise UserError(f"--cpu-run {path!r} is of another {name} ({its} and {mine}); measure it alike")
    candidate = next((one for one in other.candidates if one.label == "eager"), other.baseline_candidate)
    found = other.record(BATCH_1, candidate)
    if found is None or found.status != "ok":
        raise UserError(
            f"--cpu-run {path!r} has no {candidate.label} at batch 1, unsorted; measure that on the CPU first"
        )
    if found.is_judged and candidate.label != "eager":
        raise UserError(f"--cpu-run {path!r} has no eager, only {candidate.label}; measure eager there too")
    rounds = tuple(map(tuple, found.rounds))
    cpu = str(other.fingerprint.get("cpu", ""))
    return OneByOne(candidate, rounds, found.verdict, found.is_judged, cpu, theirs.settled_threads, other.started)


def _batch_1(run: Run) -> Record | None:
    """The baseline's record of sentences one by one."""
    return run.record(BATCH_1, run.baseline_candidate)


def _on_cpu(run: Run) -> OneByOne | None:
    found: OneByOne | None = getattr(run.options, "one_by_one")  # noqa: B009 - of one workload's options alone
    return found


def ratio_to_batch_1(run: Run, record: Record) -> statistics.Ratio | None:
    """Times faster a sentence than the baseline at batch 1: of medians apart, unless it is the same packing."""
    one = _batch_1(run)
    return ratio_between(one, record) if one is not None and run.may_compare(one, record) else None


def ratio_to_cpu(run: Run, record: Record) -> statistics.Ratio | None:
    """Times faster a sentence than eager at batch 1 on the CPU, from medians apart; None without such a run."""
    found = _on_cpu(run)
    if found is None or not run.may_compare(found.record, record):
        return None
    return statistics.ratio_of_runs(found.record.rounds, record.rounds)


COLUMNS = (
    *columns.ratio_columns("_to_one", ratio_to_batch_1, "times faster a sentence than the baseline at batch 1"),
    *columns.ratio_columns("_to_cpu", ratio_to_cpu, "times faster a sentence than eager at batch 1 on the CPU"),
)


def section(run: Run) -> Section:
    """Speed-ups against batch 1, here and on the CPU, of every cell that can be compared."""
    cpu = _on_cpu(run)
    titles = ["batch", "order", "backend", "here", *(["on the CPU"] if cpu is not None else [])]
    rows = []
    for point, records in run.by_point():
        for record in records:
            found = [ratio_to_batch_1(run, record), *([ratio_to_cpu(run, record)] if cpu is not None else [])]
            if any(found):
                cells = [_shown(ratio) for ratio in found]
                cells[0] = "1×" if record is _batch_1(run) else cells[0]
                rows.append((str(point.batch), point.order, run.name(record.candidate), *cells))
    is_left = (False, *(True for _ in titles[1:]))
    title = f"Times faster a sentence than {run.baseline_candidate.label} at batch 1"
    return Section(title, list(_missing(run)), Table(tuple(titles), tuple(rows), is_left))


def _shown(ratio: statistics.Ratio | None) -> str:
    return DASH if ratio is None else columns.ratio_cell(ratio)


def _missing(run: Run) -> Iterator[str]:
    one, cpu = _batch_1(run), _on_cpu(run)
    if one is None or one.status != "ok":
        label = run.baseline_candidate.label
        yield f"no speed-ups against batch 1, as {label} at batch 1, unsorted, was not measured here"
    if cpu is not None:
        yield f"on the CPU: {cpu.candidate.label} on {cpu.cpu}, {cpu.threads} threads, {cpu.started}"
    elif run.options.kind == "cuda":
        yield "no speed-ups against the CPU; measure --batches 1 with --device cpu, and give that file as --cpu-run"


def fastest_of_all(run: Run) -> Iterator[str]:
    """The fastest cell of all packings."""
    won = sections.winner(run, run.records)
    if won is None:
        return
    best, ratio = won.record, ratio_to_batch_1(run, won.record)
    line = f"of all: {run.name(best.candidate)} at batch {best.point.batch}, {best.point.order}"
    if ratio is not None and ratio.verdict == "faster" and not is_unsteady(ratio):
        line += f", {factor(ratio.value)}× {run.baseline_candidate.label} at batch 1"
    names = [f"{run.name(one.candidate)} at {one.point}" for one in won.ties]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    yield line + (f" (tie with {', '.join(names[:MOST_NAMED])}{more})" if names else "")
